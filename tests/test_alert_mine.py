"""The simulated mine through a real daemon and a real alert process: silent in the blast window, loud on the swarm.

What the rules should say is worked out here from the messages, with nothing of the engine. Names of clusters are those
of the demo model, which come from simulated mines and are often wrong; that is why the rule names several.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_time import PATIENCE_S
from made_alerts import Receivers, alerting, until
from made_site import finished, serving, write_settings
from test_daemon import daemon, listen

from tscc_stream.client import Received
from tscc_stream.edges.alert_journal import FILE, AlertJournal
from tscc_stream.serve.mine import DAY_NS, START_NS, simulate

SEED, SECONDS = 1001, 180.0
SWARMING = ("microseismic", "microseismic or test pulse", "blast or microseismic")
LARGE, COUNT, WITHIN_S = 2500.0, 3, 10.0
BEGIN_NS = START_NS + SEED * DAY_NS
BLAST_NS = BEGIN_NS, BEGIN_NS + 60 * 10**9
"""The first minute: 02:00 to 02:01 in Johannesburg."""
ALERTS = {
    "rules": [
        {
            "name": "swarm",
            "kind": "detection",
            "clusters": list(SWARMING),
            "rate": {"count": COUNT, "seconds": WITHIN_S},
            "cooldown_seconds": 0.0,
            "advice": "clear the section",
        },
        {"name": "any", "cooldown_seconds": 0.0, "severity": "critical"},
        {"name": "always", "always": True, "cooldown_seconds": 0.0},
    ],
    "watches": [{"name": "daemon silent", "kind": "daemon", "after_seconds": 3.0}],
    "suppression": [{"reason": "blast", "hours": ["02:00-02:01"]}],
    "suppress_below_amplitude": LARGE,
}


class Expected:
    """What becomes of each event, as the documentation says it."""

    def __init__(self, messages: list[Received]) -> None:
        self.told: dict[str, set[str]] = {"any": set(), "always": set(), "swarm": set()}
        self.hidden: dict[str, set[str]] = {"any": set(), "swarm": set()}
        amplitudes: dict[str, float] = {}
        swarm: list[int] = []
        for message in messages:
            data, uid = message.body["data"], message.body["id"]
            if message.topic.startswith("detection."):
                amplitudes[uid] = data["peak_amplitude"]
                self._detection(uid, data, swarm)
            elif message.topic.startswith("network."):
                self.told["always"].add(uid)
                largest = max(amplitudes[one] for one in data["detections"])
                known = data["cluster"]["id"] is not None
                self._network(uid, hidden=_blasting(data["onset_ns"]) and known and largest < LARGE)

    def _network(self, uid: str, hidden: bool) -> None:
        (self.hidden if hidden else self.told)["any"].add(uid)
        if not hidden:
            self.hidden["any"].discard(uid)  # its early notice was

    def _detection(self, uid: str, data: dict[str, Any], swarm: list[int]) -> None:
        onset_ns, cluster = data["onset_ns"], data["cluster"]
        if not cluster["known"] or cluster["name"] not in SWARMING:
            return
        if _blasting(onset_ns) and data["peak_amplitude"] < LARGE:
            self.hidden["swarm"].add(uid)
            return
        swarm.append(onset_ns)
        if sum(0 <= onset_ns - other < WITHIN_S * 1e9 for other in swarm) >= COUNT:
            self.told["swarm"].add(uid)


def _blasting(onset_ns: int) -> bool:
    return BLAST_NS[0] <= onset_ns < BLAST_NS[1]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    simulate(folder, channels=4, seconds=SECONDS, rate_hz=100.0, seed=SEED, events_per_hour=600.0)
    return folder


@pytest.fixture
def receivers(tmp_path: Path) -> Iterator[Receivers]:
    with Receivers(tmp_path) as both:
        yield both


def test_silent_in_the_blast_window_loud_on_the_swarm_and_every_alert_once(
    mine: Path, receivers: Receivers, tmp_path: Path
) -> None:
    """The receivers are away while alerts are made, and the alert process is killed meanwhile."""
    server, address = serving(mine, "--speed", "20", "--once", "--wait-for-client")
    site = {"streams": ["SM_*"], "server": address}
    settings = {"seedlink": [site], "time_zone": "Africa/Johannesburg", "alerts": {**ALERTS, **receivers.actions()}}
    path = write_settings(tmp_path, **settings)
    (tmp_path / "state").mkdir()
    with server:
        first = alerting(path)
        with first, daemon(path) as (running, where):
            first.wait_for("the daemon listens on")
            receivers.stop()
            messages = _everything(where)
            expected = Expected(messages)
            with AlertJournal(tmp_path / "state" / FILE, read_only=True) as journal:
                _await_alerts(journal, expected)
                assert first.stop(signal.SIGKILL) == -signal.SIGKILL
                assert journal.waiting().keys() == {"control room", "boss"}
            with alerting(path) as second:
                receivers.start()
                _check(receivers, expected)
                assert running.stop() == 0
                until(lambda: any("daemon silent" in one["subject"] for one in receivers.got("mail")), "the silence")
                assert second.stop() == 0
    _check_story(tmp_path, path, expected, receivers)


def _everything(where: dict[str, Any]) -> list[Received]:
    """All messages until the server is gone and nothing more comes."""
    messages, played = [], False
    with listen(where) as everything:
        while True:
            received = everything.receive(10.0 if played else PATIENCE_S)
            if received is None:
                assert played
                return messages
            messages.append(received)
            played |= received.topic == "status.seedlink." and received.body["data"]["connected"] is False


def _await_alerts(journal: AlertJournal, expected: Expected) -> None:
    wanted = sum(map(len, expected.told.values()))
    until(lambda: len(journal.recent(1000)) >= wanted, f"{wanted} alerts")
    assert {
        rule: {one.document["cause"]["uids"][0] for one in journal.recent(1000) if one.rule == rule}
        for rule in expected.told
    } == expected.told


def _check(receivers: Receivers, expected: Expected) -> None:
    wanted = sum(map(len, expected.told.values()))
    for by in ("webhook", "mail"):
        until(lambda by=by: len(set(receivers.keys(by))) >= wanted, f"{wanted} deliveries by {by}")


def _check_story(tmp_path: Path, path: Path, expected: Expected, receivers: Receivers) -> None:
    with AlertJournal(tmp_path / "state" / FILE, read_only=True) as journal:
        alerts = {one.id: one for one in journal.recent(1000)}
        states = [one.state for alert in alerts.values() for one in alert.deliveries]
        assert set(states) == {"delivered"}
        hidden = {rule: {one.uid for one in journal.withheld(1000) if one.rule == rule} for rule in ("any", "swarm")}
        assert {rule: uids - expected.told[rule] for rule, uids in hidden.items()} == expected.hidden
        assert {one.reason for one in journal.withheld(1000)} == {"blast"}
    for by in ("webhook", "mail"):
        keys = receivers.keys(by)
        assert sorted(keys) == sorted(set(keys)), "each once"
        assert set(keys) == set(alerts)
    assert expected.hidden["swarm"], "the blast window hid a swarm"
    assert expected.told["swarm"], "a swarm was told"
    swarms = [one for one in receivers.got("webhook") if one["document"]["rule"] == "swarm"]
    assert all(one["document"]["advice"] == "clear the section" for one in swarms)
    assert all(one["document"]["sensor_health"]["channels"] == 4 for one in swarms)
    assert all(len(one["document"]["cause"]["uids"]) == COUNT for one in swarms)
    assert "SAST" in swarms[0]["document"]["cause"]["onset_local"]
    replayed = finished("alert", "replay", "--config", path, "--since", "0", "--jsonl")
    assert replayed.returncode == 0, replayed.stderr
    lines = [json.loads(line) for line in replayed.stdout.splitlines()]
    again = {
        rule: {one["uid"] for one in lines if one["rule"] == rule and one["what"] == "event"} for rule in expected.told
    }
    assert again == expected.told, "replay says what the rules did"
    listed = finished("alert", "list", "--config", path, "--most", "1000")
    assert listed.stdout.count("not acknowledged") == len(alerts)
