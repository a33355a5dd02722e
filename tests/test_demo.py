"""`demo` as a user runs it: the recordings with three known earthquakes, and a simulated mine."""

from __future__ import annotations

import json

from made_site import finished

KNOWN = (
    ("2010-05-27T16:24:31", "2010-05-27T16:24:35"),
    ("2010-05-27T16:26:59", "2010-05-27T16:27:03"),
    ("2010-05-27T16:27:27", "2010-05-27T16:27:33"),
)
"""As obspy's own test of its coincidence trigger states them."""


def test_jsonl_is_messages_alone_and_holds_the_three_known_earthquakes() -> None:
    ended = finished("demo", "--jsonl", "--speed", 60)
    assert ended.returncode == 0, ended.stderr
    messages = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
    last_words = [m for m in messages if m["type"] == "tscc.network_event.v1" and m["data"]["final"]]
    assert len(last_words) == len(KNOWN)
    for event, (earliest, latest) in zip(last_words, KNOWN, strict=True):
        assert earliest <= event["time"] <= latest
    assert [len(event["data"]["channels"]) for event in last_words] == [4, 3, 4]
    assert "3 network events" in ended.stderr


def test_the_simulated_mine_ends_with_a_summary() -> None:
    ended = finished("demo", "--simulate", 3, "--speed", 80)
    assert ended.returncode == 0, ended.stderr
    assert "3 channels, 72,000 samples" in ended.stdout
    assert "last needed sample received to published: p50" in ended.stdout
