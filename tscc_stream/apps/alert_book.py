"""What is to be kept: gathered between two commits, written as one transaction, kept in memory while that fails.

On a full disk nothing can be kept, and that is when alerts matter: after the first failure each alert is handed to its
actions at once, out of memory, and is kept later without those that have it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tscc_stream.apps.alert_delivery import ActionThread
from tscc_stream.apps.alert_metrics import AlertMetrics
from tscc_stream.edges.alert_journal import (
    AlertJournal,
    AlertJournalUnfitError,
    NewAlert,
    NewRound,
    NewWithheld,
    Place,
    StoredAlert,
)
from tscc_stream.edges.alert_journal_file import AlertJournalError
from tscc_stream.seldom import Seldom

_log = logging.getLogger(__name__)

MOST_UNKEPT = 10_000
"""Things that wait to be kept; beyond it no message is taken until they are."""


class Book:
    """actions: by name. states: gives what rules and watches remember, where it changed."""

    def __init__(
        self,
        journal: AlertJournal,
        actions: Mapping[str, ActionThread],
        metrics: AlertMetrics,
        states: Callable[[], dict[str, bytes]],
    ) -> None:
        self._journal, self._actions, self._metrics, self._states_of = journal, actions, metrics, states
        self._alerts: list[NewAlert] = []
        self._withheld: list[NewWithheld] = []
        self._rounds: list[NewRound] = []
        self._states: dict[str, bytes] = {}
        self._handed: set[str] = set()
        self._place: Place | None = None
        self._kept_place: Place | None = journal.place()
        self._seldom = Seldom()

    @property
    def size(self) -> int:
        return len(self._alerts) + len(self._withheld) + len(self._rounds)

    @property
    def full(self) -> bool:
        return self.size >= MOST_UNKEPT

    def alert(self, alert: NewAlert) -> None:
        self._alerts.append(alert)
        self._metrics.made(alert.rule, alert.kind)
        title = alert.title.encode(errors="replace").decode()  # no log takes half a character
        _log.warning("alert %s: %s (%s; sensors: %s)", alert.id, title, alert.severity,
                     alert.document["sensor_health"].get("text", "not known"))  # fmt: skip

    def withhold(self, withheld: NewWithheld) -> None:
        self._withheld.append(withheld)
        self._metrics.withheld(withheld.why)

    def repeat(self, round_: NewRound) -> None:
        self._rounds.append(round_)

    def move(self, place: Place) -> None:
        """Everything up to there was looked at."""
        self._place = place

    def keep(self) -> bool:
        """Write all of it; whether that could be done."""
        self._states |= self._states_of()
        if not self.size and not self._states and self._place in (None, self._kept_place):
            return True
        try:
            self._journal.commit(
                [self._without_delivered(alert) for alert in self._alerts],
                self._withheld,
                self._rounds,
                self._states,
                self._place,
            )
        except AlertJournalUnfitError as error:
            self._cannot(error)
            return self._keep_one_by_one()
        except AlertJournalError as error:
            self._cannot(error)
            return False
        self._kept()
        return True

    def _kept(self) -> None:
        self._metrics.journal_failing.set(0 if self._journal.lasting else 1)
        new = bool(self._alerts or self._rounds)
        self._kept_place = self._place or self._kept_place
        self._alerts, self._withheld, self._rounds, self._states = [], [], [], {}
        self._handed.clear()
        if new:
            self._wake()

    def _keep_one_by_one(self) -> bool:
        """Whatever can be kept; the rest is counted and left out, since no later try could keep it either. Whether the
        file takes anything. An alert that was left out went to its actions out of memory.
        """
        each: list[dict[str, Any]] = [
            *({"alerts": [self._without_delivered(alert)]} for alert in self._alerts),
            *({"withheld": [one]} for one in self._withheld),
            *({"rounds": [one]} for one in self._rounds),
            *({"states": {name: document}} for name, document in self._states.items()),
        ]
        try:
            for one in each:
                self._keep_if_fit(one)
            self._keep_if_fit({"place": self._place})
        except AlertJournalError as error:
            self._cannot(error)
            return False
        self._kept()
        return True

    def _keep_if_fit(self, one: dict[str, Any]) -> None:
        try:
            self._journal.commit(**one)
        except AlertJournalUnfitError as error:
            self._metrics.unreadable.inc()
            _log.error("left out of the journal of alerts: %.300s: %s", one, error)

    def _wake(self) -> None:
        for action in self._actions.values():
            action.wake()

    def _without_delivered(self, alert: NewAlert) -> NewAlert:
        """An alert that was handed over at once: for those who have it, nothing waits any more."""
        if alert.id not in self._handed:
            return alert
        done = [name for name in alert.actions if alert.id in self._actions[name].delivered_at_once]
        document = {**alert.document, "delivered_without_journal": done}
        return replace(alert, document=document, actions=[name for name in alert.actions if name not in done])

    def _cannot(self, error: AlertJournalError) -> None:
        self._metrics.journal_failing.set(1)
        if self._seldom.due("journal", time.monotonic()):
            _log.error("%s; alerts go out all the same, and are kept once that works", error)
        for alert in self._alerts:
            if alert.id not in self._handed:
                self._handed.add(alert.id)
                _hand_over(alert, [self._actions[name] for name in alert.actions])


def _hand_over(alert: NewAlert, actions: Sequence[ActionThread]) -> None:
    stored = StoredAlert(
        0, alert.id, alert.at_ns, alert.rule, alert.kind, alert.severity, alert.title, dict(alert.document)
    )
    for action in actions:
        action.at_once(stored)
