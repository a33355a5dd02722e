"""`alert replay`: what the rules would have done over the journal. Reads only, sends nothing.

The time is that of the events: `now` is the latest onset so far. Watches over silence and repetitions are left out, and
so is the age of events, since all of them are old; blasts that were announced count as they stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec

from tscc_stream.apps.alert_events import UNREADABLE, Event, EventReader
from tscc_stream.apps.alert_rules import Rules
from tscc_stream.apps.alert_times import Announced
from tscc_stream.apps.alert_told import Alert, Withheld
from tscc_stream.config_alerts import AlertsConfig
from tscc_stream.edges.sqlite import JournalReader

PAGE = 500


@dataclass(frozen=True, slots=True)
class Replayed:
    """One outcome.

    what: an alert's kind, or why it was withheld. onset_ns: of the event; of `more`, when it is told.
    """

    onset_ns: int
    rule: str
    what: str
    severity: str
    uid: str
    text: str


def replay(
    journal: Path,
    alerts: AlertsConfig,
    shifts: Mapping[str, str],
    zone: ZoneInfo,
    *,
    since_seq: int = 0,
    since_ns: int | None = None,
    announced: Sequence[Announced] = (),
) -> Iterator[Replayed]:
    """Everything in order. since_seq: events after it; since_ns: events with a later onset. Raises JournalError."""
    rules = Rules(alerts.model_copy(update={"stale_after_seconds": None}), shifts, zone)
    rules.announce(announced)
    severity = {rule.name: rule.severity for rule in alerts.rules}
    now_ns = 0
    for event in _events(journal, since_seq, since_ns):
        now_ns = max(now_ns, event.onset_ns)
        for outcome in (*_more(rules, now_ns), *rules.feed(event, now_ns)):
            yield _replayed(outcome, severity)
    for outcome in _more(rules, None):
        yield _replayed(outcome, severity)


def _more(rules: Rules, until_ns: int | None) -> Iterator[Alert]:
    """What cool-downs held back, each at its end. until_ns None: all of them."""
    while (at_ns := rules.next_more_ns()) is not None and (until_ns is None or at_ns <= until_ns):
        yield from (one for one in rules.poll(at_ns) if isinstance(one, Alert))


def _replayed(outcome: Alert | Withheld, severity: Mapping[str, str]) -> Replayed:
    if isinstance(outcome, Withheld):
        rule = outcome.rule
        return Replayed(outcome.onset_ns, rule, outcome.why, severity[rule], outcome.uid, outcome.reason)
    name, uid = outcome.told.name, outcome.cause["uids"][0]
    at_ns = int(outcome.cause.get("onset_ns", outcome.at_ns))
    return Replayed(at_ns, name, outcome.kind, severity[name], uid, outcome.title)


def _events(journal: Path, since_seq: int, since_ns: int | None) -> Iterator[Event]:
    """Detections before `since` are read as well, a page of them: network events name them."""
    reader, events = JournalReader(journal), EventReader()
    try:
        through = max(0, since_seq - PAGE)
        while True:
            page = reader.since(through, limit=PAGE)
            for one in page.messages:
                event = _read(events, one.message.body)
                late_enough = since_ns is None or (event is not None and event.onset_ns >= since_ns)
                if event is not None and one.seq > since_seq and late_enough:
                    yield event
            through = page.through
            if through >= page.head:
                return
    finally:
        reader.close()


def _read(events: EventReader, body: bytes) -> Event | None:
    try:
        return events.read(msgspec.json.decode(body))
    except UNREADABLE:  # of another version: no rule could read it
        return None
