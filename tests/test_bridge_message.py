"""Subjects, ids and headers of the bridge; what its section of a configuration may say; the documented settings."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tscc_stream import config
from tscc_stream.apps.bridge_message import message_id, outgoing, stand_in, subject
from tscc_stream.client import Received
from tscc_stream.config import ConfigError
from tscc_stream.edges.jetstream import covers

DOCUMENT = (Path(__file__).parents[1] / "docs" / "bridge.md").read_text(encoding="utf-8")


def received(body: dict[str, Any], topic: str = "detection.1.BW.UH1..SHZ.", waveform: bytes | None = None) -> Received:
    return Received("an-epoch", 7, 3, topic, body, json.dumps(body).encode(), waveform)


def of(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": f"tscc.{kind}.v1", "id": "u-1", "source": "/tscc-stream/north", **more}


def test_subjects_have_no_empty_part_and_nothing_that_nats_reads_otherwise() -> None:
    assert subject("tscc", "north", "detection.1.BW.UH1..SHZ.") == "tscc.north.detection.1.BW.UH1.--.SHZ"
    assert subject("mines.tscc", "deep.level 3", "network.unknown.") == "mines.tscc.deep_level_3.network.unknown"
    assert subject("tscc", "n", "detection.*.>. .é.") == "tscc.n.detection._._._._"


@given(st.text(max_size=20), st.text(max_size=40))
def test_any_site_and_topic_make_a_subject_that_the_stream_takes(site: str, topic: str) -> None:
    made = subject("tscc", site, topic)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64})+", made)
    assert covers("tscc.*.>", made)


def test_what_makes_an_id() -> None:
    early, last = (of("network_event", data={"final": final}) for final in (False, True))
    assert message_id(received(of("detection")), "north") == "north/u-1"
    assert message_id(received(of("detection")), "south") == "south/u-1"
    assert message_id(received(of("detection"), waveform=b""), "north") == "north/u-1/waveform"
    assert [message_id(received(body), "north") for body in (early, last)] == ["north/u-1/early", "north/u-1"]
    for body in (of("status"), {}, {"id": ""}, {"id": 3}):
        assert message_id(received(body), "north") == "north/an-epoch/7"


def test_headers_say_where_a_message_stood() -> None:
    made = outgoing(received(of("detection")), "tscc", "otherwise")
    assert made.headers == {
        "Nats-Msg-Id": "north/u-1", "Tscc-Site": "north", "Tscc-Epoch": "an-epoch", "Tscc-Seq": "7",
        "Tscc-Topic": "detection.1.BW.UH1..SHZ.",
    }  # fmt: skip
    assert made.payload == received(of("detection")).raw
    assert outgoing(received({}), "tscc", "otherwise").headers["Tscc-Site"] == "otherwise"
    small = stand_in(made, 10)
    assert (small.payload, small.headers["Tscc-Omitted"]) == (b"", f"{made.size} bytes of at most 10")


@given(st.lists(st.text(min_size=1, max_size=400), min_size=2, max_size=2, unique=True))
def test_two_uids_never_make_one_id(uids: list[str]) -> None:
    """Else the second event would be dropped as known."""
    made = [outgoing(received(of("detection") | {"id": uid}), "tscc", "x").headers["Nats-Msg-Id"] for uid in uids]
    assert made[0] != made[1]
    assert all(re.fullmatch(r"[\x20-\x7e]{1,400}", one) and one == one.strip() for one in made)


@pytest.mark.parametrize(
    ("pattern", "wanted", "holds"),
    [
        ("tscc.>", "tscc.>", True), (">", "tscc.>", True), ("tscc.*.>", "tscc.*.>", True), ("*.>", "tscc.*.>", True),
        ("tscc.>", "tscc.*.>", True), ("tscc.north.>", "tscc.*.>", False), ("tscc", "tscc.>", False),
        ("tscc.*", "tscc.>", False), ("other.>", "tscc.>", False), ("tscc.>", "tscc", False), ("*.*", "a.b", True),
    ],
)  # fmt: skip
def test_what_a_subject_with_wildcards_covers(pattern: str, wanted: str, holds: bool) -> None:
    assert covers(pattern, wanted) is holds


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (
            'servers: ["10.0.0.1:4222"], user: a, password_file: b',
            "would cross the network to 10.0.0.1:4222 in the clear",
        ),
        ('servers: ["10.0.0.1:4222"], token_file: b', "would cross the network to 10.0.0.1:4222 in the clear"),
        ("user: a", "expected user and password_file together"),
        ("token_file: a, nkey_file: b", "token_file and nkey_file: expected one of them"),
        ("tls_ca_file: a", "tls_ca_file: expected only together with tls: true"),
        ("tls: true, tls_key: a", "expected tls_certificate and tls_key together"),
        ("servers: []", "servers"),
        ('subject: "a.*"', "subject"),
        ("sources: [{name: a, connect: 'tcp://h:1', replay: 'tcp://h:2', server_key: k}]", "expected bus_keys too"),
        ("limits: {max_age_days: 0.001}", "duplicate_window_seconds 3600: expected at most max_age_days"),
        ("sources: [{name: a, connect: 'tcp://h:1', replay: 'h:2'}]", "expected tcp://HOST:PORT"),
        (
            "sources: [{name: a, connect: 'tcp://h:1', replay: 'tcp://h:2'}, "
            "{name: a, connect: 'tcp://h:1', replay: 'tcp://h:2'}]",
            "sources[1].name: 'a' is given twice",
        ),
    ],
)
def test_mistakes_are_told(section: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(f"bridge: {{{section}}}\n")
    assert sentence in str(caught.value)


def test_the_documented_sections_are_good() -> None:
    blocks = re.findall(r"^    bridge:\n(?:     .*\n)+", DOCUMENT, re.MULTILINE)
    found = [config.parse(textwrap.dedent(block)).bridge for block in blocks]
    assert [bridge is not None and len(bridge.sources) for bridge in found] == [0, 2]
