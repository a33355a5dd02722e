"""Alerts of a span, what became of them and who answered, for the shift report."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tscc_stream.apps.alert_people import answers_in
from tscc_stream.edges import alert_journal
from tscc_stream.edges.alert_journal import AlertJournal, Outline, StoredAlert
from tscc_stream.edges.alert_journal_file import AlertJournalError
from tscc_stream.edges.people import PeopleError, Said

MOST = 500
"""Alerts that one report lists: first those that are critical or that nobody has answered, then the newest."""


@dataclass(frozen=True, slots=True)
class ToldAlert:
    """at_ns: when it was raised. deliveries: (action, waiting, delivered or failed); answer: None where nobody did."""

    at_ns: int
    severity: str
    kind: str
    title: str
    deliveries: tuple[tuple[str, str], ...]
    answer: Said | None


@dataclass(frozen=True, slots=True)
class Alerts:
    """Of a span. told: at most MOST, by time; total, unanswered: of all; damaged: how many of those to be told
    cannot be read. withheld: how many events were not told by themselves, by why. unreadable: why something of it is
    missing; begin_ns: since when the journal tells of alerts, None where it is not known.
    """

    told: list[ToldAlert] = field(default_factory=list)
    total: int = 0
    unanswered: int = 0
    damaged: int = 0
    withheld: dict[str, int] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    begin_ns: int | None = None


def of_span(state_dir: Path, span_ns: tuple[int, int]) -> Alerts | None:
    """Alerts raised within a span; None where no alerts are set up."""
    path = state_dir / alert_journal.FILE
    if not path.is_file():
        return None
    trouble: list[str] = []
    try:
        answers = answers_in(state_dir)
    except PeopleError as error:
        answers = {}
        trouble.append(f"Answers cannot be read: {error}")
    try:
        with AlertJournal(path, read_only=True) as journal:
            return _of_journal(journal, answers, span_ns, tuple(trouble))
    except AlertJournalError as error:
        return Alerts(unreadable=(f"Alerts cannot be read: {error}", *trouble))


def _of_journal(
    journal: AlertJournal, answers: Mapping[str, Said], span_ns: tuple[int, int], trouble: tuple[str, ...]
) -> Alerts:
    total = Counter(one.id in answers for one in journal.outlines(span_ns))
    shown = heapq.nlargest(MOST, journal.outlines(span_ns), key=lambda one: _weight(one, answers))
    stored = [one for one in map(journal.get, (one.id for one in shown)) if one is not None]
    return Alerts(
        told=[_told(one, answers.get(one.id)) for one in sorted(stored, key=lambda one: (one.at_ns, one.number))],
        total=total.total(),
        unanswered=total[False],
        damaged=len(shown) - len(stored),
        withheld=journal.withheld_counts(*span_ns),
        unreadable=trouble,
        begin_ns=journal.begin_ns(),
    )


def _weight(one: Outline, answers: Mapping[str, Said]) -> tuple[int, int]:
    return (one.severity == "critical") + (one.id not in answers), one.at_ns


def _told(alert: StoredAlert, answer: Said | None) -> ToldAlert:
    deliveries = {one.action: one.state for one in alert.deliveries}  # of the last round
    return ToldAlert(alert.at_ns, alert.severity, alert.kind, alert.title, tuple(deliveries.items()), answer)
