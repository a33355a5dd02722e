"""`alert test`: a marked alert through the real actions, delivered by the running process, else by this one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zoneinfo import ZoneInfo

from tscc_stream.apps import alert_text
from tscc_stream.apps.alert_delivery import ActionThread, senders
from tscc_stream.apps.alert_told import Alert, alert_id
from tscc_stream.config import Config
from tscc_stream.config_alerts import Told
from tscc_stream.edges.alert_journal import FILE, AlertJournal, StoredAlert
from tscc_stream.edges.alert_journal_file import AlertJournalError

TURN_SECONDS = 0.1
_HEALTH = {"text": "not looked at in a rehearsal"}


class RehearsalError(RuntimeError):
    """There is nothing to rehearse, and why, in one sentence."""


def rehearse(config: Config, state_dir: Path, rule: str | None, seconds: float) -> StoredAlert:
    """Send one alert of a rule (None: to every action), and wait so long for its deliveries.

    The alert with what became of each delivery. Raises RehearsalError and AlertJournalError.
    """
    told, actions = _whom(config, rule)
    now_ns = time.time_ns()
    alert = Alert(alert_id(told.name, "rehearsal", str(now_ns)), told, "rehearsal", now_ns, "so would an alert look")
    new = alert_text.stored(alert, config.site, ZoneInfo(config.time_zone), _HEALTH, actions)
    with AlertJournal(state_dir / FILE) as journal:
        journal.commit([new])
        with _delivering(config, journal):
            return _await(journal, new.id, time.monotonic() + seconds)


def _whom(config: Config, rule: str | None) -> tuple[Told, tuple[str, ...]]:
    alerts = config.alerts
    if not alerts.actions:
        raise RehearsalError("alerts: no action to rehearse; expected at least one under webhooks, mails or commands")
    if rule is None:
        return Told(name="rehearsal", severity="info"), alerts.actions
    told = next((one for one in (*alerts.rules, *alerts.watches) if one.name == rule), None)
    if told is None:
        names = ", ".join(one.name for one in (*alerts.rules, *alerts.watches))
        raise RehearsalError(f"--rule {rule}: no such rule or watch; there are: {names or 'none'}")
    return told, alert_text.actions_of(told, alerts.actions, escalated=True)


@contextmanager
def _delivering(config: Config, journal: AlertJournal) -> Iterator[None]:
    """Where no alert process runs, this one delivers meanwhile."""
    try:
        journal.hold()
    except AlertJournalError:
        yield
        return
    threads = [
        ActionThread(
            name, send, journal.for_thread, config.alerts.give_up_after_seconds, lambda _action, _outcome: None
        )
        for name, send in senders(config.alerts).items()
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.stop(time.monotonic() + 1.0)


def _await(journal: AlertJournal, alert: str, deadline_s: float) -> StoredAlert:
    while True:
        found = journal.get(alert)
        if found is None:
            raise AlertJournalError(f"alert {alert}: it is no longer in the journal")
        if all(one.state != "waiting" for one in found.deliveries) or time.monotonic() >= deadline_s:
            return found
        time.sleep(TURN_SECONDS)
