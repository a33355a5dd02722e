"""Actions, each on a thread of its own: what waits in the journal of alerts is delivered, tried again, or given up.

A dead or slow action holds up nobody but itself. What was tried least goes first, so that a new alert does not wait
behind those that failed. Whatever an attempt came to is in the journal before the next one begins.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from tscc_stream.apps import alert_text
from tscc_stream.config_alerts import AlertsConfig
from tscc_stream.edges import alert_command, alert_mail, alert_webhook
from tscc_stream.edges.alert_command import CommandError
from tscc_stream.edges.alert_journal import AlertJournal, Delivery, StoredAlert
from tscc_stream.edges.alert_journal_file import AlertJournalError
from tscc_stream.edges.alert_mail import MailError
from tscc_stream.edges.alert_webhook import WebhookError
from tscc_stream.edges.supervision import name_this_thread
from tscc_stream.sampling import NS_PER_SECOND, seconds_to_ns
from tscc_stream.seldom import Seldom

_log = logging.getLogger(__name__)

SHORTEST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
IDLE_S = 1.0
"""How often the journal is looked at where nobody says that there is something new."""
MOST_IN_MEMORY = 100
"""Alerts that one action tries out of memory while the journal cannot take them."""
MOST_REMEMBERED = 20_000
"""Alerts that are known to have gone out of memory: more than what may wait to be kept."""
Send = Callable[[StoredAlert, Delivery], str]
"""Deliver it; what came of it. Raises one of FAILURES."""
FAILURES = (WebhookError, MailError, CommandError)


def senders(alerts: AlertsConfig) -> dict[str, Send]:
    """Every action of the configuration, by name."""
    return {
        **{name: _webhook(name, alerts) for name in alerts.webhooks},
        **{name: _mail(name, alerts) for name in alerts.mails},
        **{name: _command(name, alerts) for name in alerts.commands},
    }


def key_of(delivery: Delivery) -> str:
    """The same for every try of one delivery: receivers may drop what they have under it."""
    return f"{delivery.alert}.{delivery.round}" if delivery.round else delivery.alert


def _webhook(name: str, alerts: AlertsConfig) -> Send:
    config = alerts.webhooks[name]

    def send(alert: StoredAlert, delivery: Delivery) -> str:
        words = alert_text.text(alert.document, delivery.round)
        document = {**alert.document, "repetition": delivery.round, "text": words}
        return alert_webhook.post(config, document, key_of(delivery))

    return send


def _mail(name: str, alerts: AlertsConfig) -> Send:
    config = alerts.mails[name]

    def send(alert: StoredAlert, delivery: Delivery) -> str:
        subject = alert_text.subject(alert.document, delivery.round)
        words = alert_text.text(alert.document, delivery.round)
        at = datetime.fromtimestamp(delivery.made_ns // NS_PER_SECOND, UTC)
        message = alert_mail.letter(config, subject, words, key_of(delivery), at, alert.severity)
        return alert_mail.send(config, message)

    return send


def _command(name: str, alerts: AlertsConfig) -> Send:
    config = alerts.commands[name]

    def send(alert: StoredAlert, delivery: Delivery) -> str:
        words = alert_text.text(alert.document, delivery.round)
        return alert_command.execute(config, {**alert.document, "repetition": delivery.round, "text": words})

    return send


class ActionThread:
    """Delivers what waits for one action. open_journal: for its thread, which closes it. tried: is told
    (action, outcome: delivered, failed or retried).

    `at_once` is for alerts that the journal cannot take, as on a full disk: they are tried out of memory, and
    `delivered_at_once` names the latest of those that went out. Both are looked at by the action's own thread before it
    sends, since the journal may take an alert while it goes out of memory.
    """

    def __init__(
        self,
        name: str,
        send: Send,
        open_journal: Callable[[], AlertJournal],
        give_up_after_seconds: float,
        tried: Callable[[str, str], None],
    ) -> None:
        self.name = name
        self.delivered_at_once: dict[str, None] = {}
        self._send = send
        self._open = open_journal
        self._give_up_ns = seconds_to_ns(give_up_after_seconds)
        self._tried = tried
        self._in_memory: deque[tuple[StoredAlert, int]] = deque(maxlen=MOST_IN_MEMORY)  # with when, monotonic ns
        self._started_ns, self._started_wall_ns = time.monotonic_ns(), time.time_ns()
        self._since: dict[int, int] = {}  # delivery that waits -> monotonic ns since when
        self._unkept: tuple[Delivery, str, int] | None = None
        self._hasten = True
        self._seldom = Seldom()
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"action {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There may be something new."""
        self._news.set()

    def at_once(self, alert: StoredAlert) -> None:
        """Deliver an alert that is not in the journal."""
        self._in_memory.append((alert, time.monotonic_ns()))
        self._news.set()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self, deadline_s: float) -> bool:
        """Deliver what has not been tried yet, and end; whether it did by then (monotonic)."""
        self._stopping.set()
        self._news.set()
        self._thread.join(max(0.0, deadline_s - time.monotonic()))
        return not self._thread.is_alive()

    def _run(self) -> None:
        name_this_thread(f"action {self.name}")
        journal: AlertJournal | None = None
        while True:
            try:
                journal = journal or self._open()
                worked = self._turn(journal)
            except AlertJournalError as error:  # a full or locked disk: later
                self._say(str(error))
                worked = False
            worked |= self._turn_in_memory(journal)
            if self._stopping.is_set() and not worked:
                break
            if not worked:
                self._news.wait(IDLE_S)
                self._news.clear()
        if journal is not None:
            journal.close()

    def _say(self, sentence: str) -> None:
        if self._seldom.due(sentence, time.monotonic()):
            _log.error("action %s: %s", self.name, sentence)

    def _turn(self, journal: AlertJournal) -> bool:
        """One try; whether there is more to do at once. While stopping, only what was never tried is."""
        self._keep(journal)
        if self._hasten:
            journal.hasten(self.name)
            self._hasten = False
        delivery = journal.due(self.name, time.time_ns(), seconds_to_ns(2 * LONGEST_WAIT_S))
        if delivery is None or (self._stopping.is_set() and delivery.attempts):
            return False
        self._age_ns(delivery)
        alert = journal.get(delivery.alert)
        if alert is None:
            journal.tried(
                delivery, "failed", "the alert is no longer in the journal, or cannot be read there", time.time_ns()
            )
            return True
        if delivery.round == 0 and delivery.alert in self.delivered_at_once:
            journal.tried(delivery, "delivered", "it went out before the journal could take it", time.time_ns())
            self._since.pop(delivery.number, None)
            return True
        outcome, delivered = self._try(alert, delivery)
        if delivered:
            self._unkept = delivery, outcome, time.time_ns()
            self._hasten = delivery.attempts > 0
            self._since.pop(delivery.number, None)
            self._tried(self.name, "delivered")
            _log.info("action %s: alert %s delivered: %s", self.name, key_of(delivery), outcome)
            self._keep(journal)
        else:
            self._failed(journal, delivery, outcome)
        return True

    def _age_ns(self, delivery: Delivery) -> int:
        """For how long it has waited. Within this run a clock that is set ahead makes nothing older."""
        now_ns = time.monotonic_ns()
        if delivery.number not in self._since:
            before_ns = self._started_wall_ns - delivery.made_ns
            self._since[delivery.number] = self._started_ns - before_ns if before_ns > 0 else now_ns
        return now_ns - self._since[delivery.number]

    def _keep(self, journal: AlertJournal) -> None:
        """What was delivered is in the journal before anything else is taken from it: it would go out twice."""
        if self._unkept is not None:
            delivery, outcome, at_ns = self._unkept
            journal.tried(delivery, "delivered", outcome, at_ns)
            self._unkept = None

    def _try(self, alert: StoredAlert, delivery: Delivery) -> tuple[str, bool]:
        """What came of one try, and whether it is delivered."""
        try:
            return self._send(alert, delivery), True
        except FAILURES as error:
            return str(error), False
        except Exception as error:  # noqa: BLE001  # a mistake of ours in one action must not end the others
            _log.exception("action %s: alert %s", self.name, alert.id)
            return f"{type(error).__name__}: {error}", False

    def _turn_in_memory(self, journal: AlertJournal | None) -> bool:
        """One try of an alert that the journal could not take; whether there is more to do at once."""
        if not self._in_memory:
            return False
        alert, since_ns = self._in_memory.popleft()
        if journal is not None and _holds(journal, alert.id):
            return True  # it waits there by now
        delivery = Delivery(0, alert.id, self.name, 0, alert.at_ns, "waiting", 0, 0, "")
        outcome, delivered = self._try(alert, delivery)
        if delivered:
            self._remember(alert.id)
            self._tried(self.name, "delivered")
            _log.warning("action %s: alert %s delivered without the journal: %s", self.name, alert.id, outcome)
            return True
        self._say(f"alert {alert.id}: {outcome}")
        if time.monotonic_ns() - since_ns < self._give_up_ns and not self._stopping.is_set():
            self._in_memory.append((alert, since_ns))
        return False

    def _remember(self, alert: str) -> None:
        self.delivered_at_once[alert] = None
        if len(self.delivered_at_once) > MOST_REMEMBERED:
            del self.delivered_at_once[next(iter(self.delivered_at_once))]

    def _failed(self, journal: AlertJournal, delivery: Delivery, why: str) -> None:
        now_ns, attempt, age_ns = time.time_ns(), delivery.attempts + 1, self._age_ns(delivery)
        if age_ns >= self._give_up_ns:
            del self._since[delivery.number]
            journal.tried(delivery, "failed", why, now_ns)
            self._tried(self.name, "failed")
            _log.error("action %s: alert %s could not be delivered, given up after %d attempts: %s",
                       self.name, key_of(delivery), attempt, why)  # fmt: skip
            return
        wait_s = min(LONGEST_WAIT_S, SHORTEST_WAIT_S * 2.0 ** min(delivery.attempts, 10))
        next_ns = now_ns + min(seconds_to_ns(wait_s), self._give_up_ns - age_ns)
        journal.tried(delivery, "waiting", why, now_ns, next_ns)
        self._tried(self.name, "retried")
        _log.warning("action %s: alert %s: attempt %d failed: %s", self.name, key_of(delivery), attempt, why)


def _holds(journal: AlertJournal, alert: str) -> bool:
    """Whether it is certain that the journal has an alert."""
    try:
        return journal.get(alert) is not None
    except AlertJournalError:
        return False
