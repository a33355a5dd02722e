"""A thread that does not turn is found, from the times alone; what /healthz says."""

from __future__ import annotations

import pytest

from tscc_stream.data_age import DataAge
from tscc_stream.health import Health

SECOND = 1_000_000_000
LIMIT = 10 * SECOND


def running(**threads: int) -> Health:
    made = Health(DataAge({"mine:1": 5.0}))
    made.ready = True
    for name, at_ns in threads.items():
        made.stamp(name, at_ns)
    return made


def test_stalled_threads_by_name() -> None:
    made = running(front=0, bus=5 * SECOND, back=0)
    assert made.stalled(LIMIT, LIMIT) == []
    assert made.stalled(LIMIT + 1, LIMIT) == ["back", "front"]
    made.stamp("front", LIMIT)
    made.forget("back")
    made.forget("never was")
    assert made.stalled(LIMIT + 1, LIMIT) == []


def test_healthy_is_ready_turning_and_not_stopping() -> None:
    made = running(front=0)
    assert made.healthy(LIMIT, LIMIT)
    assert not made.healthy(LIMIT + 1, LIMIT)
    made.stopping = True
    assert not made.healthy(LIMIT, LIMIT)
    assert not Health().healthy(0, LIMIT)


def test_a_journal_that_cannot_be_written_is_not_healthy_and_says_why() -> None:
    made = running(front=0)
    made.link("server", connected=False)
    made.journal = "no room"
    assert not made.healthy(LIMIT, LIMIT)
    assert (made.summary(0, LIMIT)["state"], made.summary(0, LIMIT)["reason"]) == ("journal", "no room")
    made.journal = ""
    assert made.healthy(LIMIT, LIMIT)
    assert made.summary(0, LIMIT)["state"] == "disconnected"


@pytest.mark.parametrize(
    ("ready", "stopping", "now_ns", "state"),
    [
        (False, False, 0, "starting"),
        (True, False, 0, "ok"),
        (True, True, 0, "stopping"),
        (True, False, LIMIT + 1, "stalled"),
        (True, True, LIMIT + 1, "stalled"),
    ],
)
def test_state(ready: bool, stopping: bool, now_ns: int, state: str) -> None:
    made = running(front=0)
    made.ready, made.stopping = ready, stopping
    assert made.summary(now_ns, LIMIT)["state"] == state


def test_summary() -> None:
    made = running(front=8 * SECOND, back=9_500_000_000)
    made.data.link("mine:1", True, 0)
    made.data.arrived("mine:1", "a", 1 * SECOND)
    made.data.arrived("mine:1", "c", 7 * SECOND)
    made.data.arrived("mine:1", "b", 9 * SECOND)
    assert made.summary(10 * SECOND, LIMIT) == {
        "state": "ok",
        "reason": None,
        "threads": {"back": 0.5, "front": 2.0},
        "stalled": [],
        "servers": {},
        "data": {"mine:1": {"state": "OK", "age_s": 1.0}},
        "channels": 3,
        "newest_record_age_s": 1.0,
        "late_channels": 1,
        "silent_channels": 1,
        "silent": {"a": 9.0},
        "old_channels": 0,
        "old": {},
    }


def test_summary_before_any_record_and_with_many_silent_channels() -> None:
    made = running()
    assert made.summary(0, LIMIT)["newest_record_age_s"] is None
    for number in range(100):
        made.data.arrived("mine:1", f"{number:03}", number)
    summary = made.summary(LIMIT * 2, LIMIT)
    assert summary["silent_channels"] == 100
    assert list(summary["silent"]) == [f"{number:03}" for number in range(20)]


def test_a_site_without_a_connected_server_is_not_ok() -> None:
    health = Health()
    health.ready = True
    health.link("a:1", connected=False)
    health.link("b:1", connected=False)
    assert health.summary(0, LIMIT)["state"] == "disconnected"
    assert health.healthy(0, LIMIT)
    health.link("b:1", connected=True)
    summary = health.summary(0, LIMIT)
    assert (summary["state"], summary["servers"]) == ("ok", {"a:1": "not connected", "b:1": "connected"})
