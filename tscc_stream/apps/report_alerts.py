"""Alerts of a span, what became of them and who answered, for the shift report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tscc_stream.apps.alert_people import answers_in
from tscc_stream.edges import alert_journal
from tscc_stream.edges.alert_journal import AlertJournal, StoredAlert
from tscc_stream.edges.alert_journal_file import AlertJournalError
from tscc_stream.edges.people import PeopleError, Said

MOST = 500
"""Alerts of one report, the earliest."""


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
    """withheld: how many events were not told by themselves, by why. unreadable: why something of it is missing."""

    told: list[ToldAlert] = field(default_factory=list)
    withheld: dict[str, int] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()


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
            told = [_told(alert, answers.get(alert.id)) for alert in journal.between(span_ns, MOST)]
            return Alerts(told, journal.withheld_counts(*span_ns), tuple(trouble))
    except AlertJournalError as error:
        return Alerts(unreadable=(f"Alerts cannot be read: {error}", *trouble))


def _told(alert: StoredAlert, answer: Said | None) -> ToldAlert:
    deliveries = {one.action: one.state for one in alert.deliveries}  # of the last round
    return ToldAlert(alert.at_ns, alert.severity, alert.kind, alert.title, tuple(deliveries.items()), answer)
