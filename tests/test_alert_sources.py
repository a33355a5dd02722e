"""`alert run` over several publishers: events of all of them, places, health and silence of each."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from in_time import PATIENCE_S
from made_alerts import Receivers, Site, alerting, until
from made_site import write_settings

from tscc_stream import config
from tscc_stream.apps import alert_run, doctor_site
from tscc_stream.apps.alert_sources import Sources
from tscc_stream.cli import main
from tscc_stream.config import ConfigError
from tscc_stream.edges.alert_journal import FILE, AlertJournal


class Fleet(NamedTuple):
    north: Site
    south: Site
    sources: list[dict[str, Any]]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        sites = [stack.enter_context(Site(tmp_path / name)) for name in ("north", "south")]
        where = [json.loads((tmp_path / name / "endpoints.json").read_text()) for name in ("north", "south")]
        sources = [
            {"name": name, "connect": one["publish"], "replay": one["replay"]}
            for name, one in zip(("north", "south"), where, strict=True)
        ]
        yield Fleet(*sites, sources)


@pytest.fixture
def receivers(tmp_path: Path) -> Iterator[Receivers]:
    with Receivers(tmp_path) as both:
        yield both


def told(receivers: Receivers) -> list[tuple[str, str, str]]:
    """Source, rule and first uid or kind of each alert."""
    documents = [one["document"] for one in receivers.got("webhook")]
    return [(one["cause"]["source"], one["rule"], (one["cause"]["uids"] or [one["kind"]])[0]) for one in documents]


def test_events_of_all_publishers_and_the_silence_of_each(tmp_path: Path, fleet: Fleet, receivers: Receivers) -> None:
    """One is killed amid it all, goes on where it was, and one of the publishers falls silent."""
    rules = [
        {"name": "any", "cooldown_seconds": 0.0},
        {"name": "swarm", "rate": {"count": 3, "seconds": 600.0}, "cooldown_seconds": 0.0},
    ]
    watches = [{"name": "silent", "kind": "daemon", "after_seconds": 3.0}]
    alerts = {"rules": rules, "watches": watches, "sources": fleet.sources, **receivers.actions()}
    path = write_settings(tmp_path, alerts=alerts, state_dir=str(tmp_path / "centre"))
    fleet.north.event("before the first start")
    with alerting(path) as running:
        until((tmp_path / "centre/alerts.sqlite").exists, "the journal of alerts")
        running.wait_for("following north, south")
        until(lambda: _placed(tmp_path, "north") and _placed(tmp_path, "south"), "the places")
        fleet.north.event("one")
        until(lambda: told(receivers) == [("north", "any", "one")], "the first alert")
        fleet.south.network("one-south")
        until(lambda: len(told(receivers)) == 2, "the second one")
        running.stop(signal.SIGKILL)
    fleet.south.detection("weighed", amplitude=70.0)
    fleet.north.network("weighed")
    with alerting(path) as running:
        until(lambda: len(told(receivers)) == 4, "what came meanwhile, and the swarm over both")
        assert told(receivers)[:2] == [("north", "any", "one"), ("south", "any", "one-south")]
        assert sorted(told(receivers)[2:]) == [("north", "any", "weighed"), ("north", "swarm", "weighed")]
        fleet.south.__exit__()
        until(lambda: len(told(receivers)) == 5, "that one of them is silent")
        assert told(receivers)[4] == ("south", "silent", "silence")
        fleet.north.event("two")
        until(lambda: ("north", "any", "two") in told(receivers), "an event of the other one")
        assert running.stop() == 0
    silence, last = (one["document"] for one in receivers.got("webhook")[4:6])
    assert silence["title"].startswith("silent: south: nothing heard from the daemon for ")
    assert "Source:   north\n" in last["text"]
    assert "south: " in last["sensor_health"]["text"]


def _placed(tmp_path: Path, source: str) -> bool:
    """Whether a publisher's place is kept: what comes from then on is told."""
    with AlertJournal(tmp_path / "centre" / FILE, read_only=True) as journal:
        return f"source {source} place" in journal.states()


def test_a_quiet_source_has_a_place_while_another_one_is_busy(fleet: Fleet) -> None:
    """Else what it says while the process is down would be missed."""
    parsed = config.parse(json.dumps({"alerts": {"sources": fleet.sources}}))
    states: dict[str, bytes] = {}
    with ExitStack() as stack:
        sources = Sources(parsed, {}, lambda _sentence: None)
        sources.start(stack)
        deadline_s = time.monotonic() + PATIENCE_S
        while "source south place" not in states and time.monotonic() < deadline_s:
            fleet.north.detection(f"{time.monotonic_ns()}")
            if (heard := sources.receive(1.0)) is not None:
                sources.handled(heard)
            sources.poll(time.monotonic())
            states |= sources.changes()
    assert states.keys() >= {"source north place", "source south place"}


def test_a_file_for_several_shards_needs_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without them the first shard alone would be followed."""
    words = "alerts.sources: none is given, and this file is for 2 shards"
    path = write_settings(tmp_path, shard={"count": 2}, alerts={"rules": [{"name": "any"}]})
    made = config.load(path)
    (tmp_path / "state").mkdir()
    with pytest.raises(ConfigError, match=words):
        alert_run.run(made, tmp_path / "state", tmp_path)
    assert main(["check-config", str(path)]) == 0
    assert words in capsys.readouterr().err
    found = {one.check: one.found for one in doctor_site.people(doctor_site.Site(made, path, {}))}
    assert words in found["alerts"]
    one = {"index": 2, "count": 2}
    for good in ({"shard": one}, {"shard": {"count": 2}, "alerts": {}}):
        quiet = write_settings(tmp_path, **{"alerts": {"rules": [{"name": "any"}]}, **good})
        assert main(["check-config", str(quiet)]) == 0
        assert not capsys.readouterr().err


def test_what_is_the_same_of_many_sources_is_said_once() -> None:
    sources = [
        {"name": f"s{n}", "connect": f"tcp://127.0.0.1:{2 * n + 1000}", "replay": f"tcp://127.0.0.1:{2 * n + 1001}"}
        for n in range(40)
    ]
    parsed = config.parse(json.dumps({"alerts": {"sources": sources}}))
    text = Sources(parsed, {}, lambda _sentence: None).report(0)["text"]
    assert "s0, s1, s2, s3, s4 and 35 more: not known yet" in text
    assert len(text) < 200


@pytest.mark.parametrize(
    ("alerts", "words"),
    [
        ({"sources": [{"name": "a", "connect": "a:1", "replay": "tcp://a:2"}]}, "expected tcp://HOST:PORT"),
        ({"sources": [{"name": "a", "connect": "tcp://a:1", "replay": "tcp://a:2"}] * 2}, "'a' is given twice"),
        (
            {"sources": [{"name": "a", "connect": "tcp://a:1", "replay": "tcp://a:2", "server_key": "key"}]},
            "server_key: expected bus_keys too",
        ),
        (
            {
                "sources": [{"name": "a", "connect": "tcp://a:1", "replay": "tcp://a:2"}],
                "watches": [{"name": "lost", "kind": "gaps"}],
            },
            "expected no such watch beside sources",
        ),
    ],
)
def test_mistakes_of_sources(alerts: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config.parse(json.dumps({"alerts": alerts}))
