"""Alerts of a span, what became of them and who answered, for the shift report.

Read out of alerts.sqlite, which the alert program writes, on a connection that cannot write; answers are in
people.sqlite under kind "acknowledgement".
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from tscc_stream.edges import people
from tscc_stream.edges.people import PeopleFile, Said

FILE = "alerts.sqlite"
MOST = 500
"""Alerts of one report, the earliest."""
_BUSY_MS = 5_000


class AlertsError(RuntimeError):
    """Alerts that cannot be read, and why."""


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
    """withheld: how many events were not told by themselves, by why."""

    told: list[ToldAlert] = field(default_factory=list)
    withheld: dict[str, int] = field(default_factory=dict)


def of_span(state_dir: Path, span_ns: tuple[int, int]) -> Alerts | None:
    """Alerts raised within a span; None where no alerts are set up. Raises AlertsError, PeopleError."""
    path = state_dir / FILE
    if not path.is_file():
        return None
    answers = _answers(state_dir / people.FILE)
    with _explained(path), closing(_connected(path)) as db:
        deliveries: defaultdict[str, dict[str, str]] = defaultdict(dict)
        query = """SELECT d.alert, d.action, d.state FROM delivery d JOIN alert a ON a.id = d.alert
                   WHERE a.at_ns >= ? AND a.at_ns < ? ORDER BY d.number"""
        for alert, action, state in db.execute(query, span_ns):
            deliveries[alert][action] = state  # of the last round
        query = """SELECT id, at_ns, severity, kind, title FROM alert WHERE at_ns >= ? AND at_ns < ?
                   ORDER BY at_ns LIMIT ?"""
        told = [
            ToldAlert(at_ns, severity, kind, title, tuple(deliveries[uid].items()), answers.get(uid))
            for uid, at_ns, severity, kind, title in db.execute(query, (*span_ns, MOST))
        ]
        query = "SELECT why, count(*) FROM withheld WHERE at_ns >= ? AND at_ns < ? GROUP BY why"
        return Alerts(told, dict(db.execute(query, span_ns)))


def _answers(path: Path) -> dict[str, Said]:
    if not path.is_file():
        return {}
    with closing(PeopleFile(path)) as file:
        return file.latest("acknowledgement")


def _connected(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, isolation_level=None)
    db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    return db


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise AlertsError(f"{path}: cannot be read: {error}") from error
