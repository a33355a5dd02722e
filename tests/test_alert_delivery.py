"""How long a delivery waits before it is given up: by a clock that nobody sets."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tscc_stream.apps import alert_delivery
from tscc_stream.apps.alert_delivery import ActionThread
from tscc_stream.edges.alert_journal import FILE, AlertJournal, Delivery, NewAlert, NewRound, StoredAlert
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


def handed_over(action: ActionThread, alert: NewAlert) -> None:
    action.at_once(StoredAlert(0, alert.id, alert.at_ns, alert.rule, alert.kind, alert.severity, alert.title, {}))


@pytest.mark.parametrize("while_it_is_sent", [True, False])
def test_what_the_journal_takes_after_it_was_handed_over_goes_out_once(tmp_path: Path, while_it_is_sent: bool) -> None:
    """One commit fails, and the next one, a moment later, succeeds."""
    alert = NewAlert("id", time.time_ns(), "rule", "event", "warning", "t", {}, ("a",))
    sent: list[str] = []
    with AlertJournal(tmp_path / FILE) as journal:

        def send(stored: StoredAlert, _delivery: Delivery) -> str:
            sent.append(stored.id)
            if journal.get("id") is None:
                journal.commit([alert])
            return "taken"

        action = ActionThread("a", send, journal.for_thread, 100.0, lambda *_: None)
        handed_over(action, alert)
        if not while_it_is_sent:
            journal.commit([alert])
        for _ in range(3):
            action._turn(journal)
            action._turn_in_memory(journal)
        assert sent == ["id"]
        assert state_of(journal) == "delivered"


def test_a_repetition_of_what_went_out_without_the_journal_is_sent(tmp_path: Path) -> None:
    alert = NewAlert("id", time.time_ns(), "rule", "event", "warning", "t", {}, ("a",))
    sent: list[int] = []
    with AlertJournal(tmp_path / FILE) as journal:

        def send(_stored: StoredAlert, delivery: Delivery) -> str:
            sent.append(delivery.round)
            return "taken"

        action = ActionThread("a", send, journal.for_thread, 100.0, lambda *_: None)
        handed_over(action, alert)
        assert action._turn_in_memory(None), "nor can the journal be opened"
        journal.commit([alert], rounds=[NewRound("id", 1, time.time_ns(), ("a",))])
        while action._turn(journal):
            pass
        assert sent == [0, 1]


def test_what_went_out_without_the_journal_is_not_remembered_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_delivery, "MOST_REMEMBERED", 3)
    with AlertJournal(tmp_path / FILE) as journal:
        action = ActionThread("a", lambda *_: "taken", journal.for_thread, 100.0, lambda *_: None)
        for number in range(5):
            handed_over(action, NewAlert(f"{number}", 0, "rule", "event", "warning", "t", {}, ("a",)))
            assert action._turn_in_memory(journal)
    assert list(action.delivered_at_once) == ["2", "3", "4"]
