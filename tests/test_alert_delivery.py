"""How long a delivery waits before it is given up: by a clock that nobody sets."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tscc_stream.apps import alert_delivery
from tscc_stream.apps.alert_delivery import ActionThread
from tscc_stream.edges.alert_journal import FILE, AlertJournal, Delivery, NewAlert, StoredAlert
from tscc_stream.edges.alert_webhook import WebhookError

DAY_NS = 86_400 * 10**9


class Clocks:
    """wall: set by people; mono: counts on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_ns, self.mono_ns = time.time_ns(), 5 * 10**9
        clock = SimpleNamespace(
            time_ns=lambda: self.wall_ns,
            monotonic_ns=lambda: self.mono_ns,
            monotonic=lambda: self.mono_ns / 1e9,
        )
        monkeypatch.setattr(alert_delivery, "time", clock)

    def pass_(self, seconds: float) -> None:
        self.wall_ns += round(seconds * 1e9)
        self.mono_ns += round(seconds * 1e9)


def refused(_alert: StoredAlert, _delivery: Delivery) -> str:
    raise WebhookError("refused")


def state_of(journal: AlertJournal) -> str:
    (alert,) = journal.recent()
    return alert.deliveries[0].state


@pytest.mark.parametrize("before_the_start", [False, True])
def test_a_clock_that_is_set_ahead_gives_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_the_start: bool
) -> None:
    clocks = Clocks(monkeypatch)
    with AlertJournal(tmp_path / FILE) as journal:
        alert = NewAlert("id", clocks.wall_ns, "rule", "event", "warning", "t", {}, ("a",))
        if before_the_start:
            journal.commit([alert])
            clocks.pass_(50.0)
        action = ActionThread("a", refused, journal.for_thread, 100.0, lambda *_: None)
        if not before_the_start:
            clocks.pass_(1.0)
            journal.commit([alert])
        clocks.wall_ns += DAY_NS
        assert action._turn(journal)
        assert state_of(journal) == "waiting", "a day by the wall clock, no time at all by the other"
        clocks.pass_(49.0)
        assert action._turn(journal)
        assert state_of(journal) == "waiting"
        clocks.pass_(52.0)
        assert action._turn(journal)
        assert state_of(journal) == "failed"
