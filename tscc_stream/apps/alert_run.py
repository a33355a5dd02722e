"""`alert run`: a process of its own that reads the daemon's messages, asks the rules, and hands alerts to actions.

One thread takes messages in order; each action has a thread, and one more asks the daemon how the sensors are. Alerts,
what was not told, what rules remember and the place in the daemon's messages go into the journal of alerts in one
transaction: after kill -9 the process goes on exactly there.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any
from zoneinfo import ZoneInfo

from tscc_stream.alerts_in_vain import doubts
from tscc_stream.apps import alert_text
from tscc_stream.apps.alert_book import Book
from tscc_stream.apps.alert_delivery import ActionThread, senders
from tscc_stream.apps.alert_events import UNREADABLE, EventReader
from tscc_stream.apps.alert_file import IN_MEMORY, journal_of, told_of_damage
from tscc_stream.apps.alert_listening import Heard, Listening
from tscc_stream.apps.alert_metrics import AlertMetrics
from tscc_stream.apps.alert_names import names_in_use, without_cluster
from tscc_stream.apps.alert_own_daemon import OwnDaemon
from tscc_stream.apps.alert_people import PeopleNews
from tscc_stream.apps.alert_rules import Rules
from tscc_stream.apps.alert_sources import Sources
from tscc_stream.apps.alert_told import Alert, Repetition, Withheld, alert_id
from tscc_stream.client import SubscriberError
from tscc_stream.config import Config, ConfigError
from tscc_stream.config_alerts import Told
from tscc_stream.edges.alert_journal import FILE, Delivery, NewAlert, NewRound, NewWithheld
from tscc_stream.edges.alert_journal_file import AlertJournalError
from tscc_stream.edges.http import HttpServer
from tscc_stream.edges.people import PeopleError
from tscc_stream.edges.supervision import Notifier
from tscc_stream.seldom import Seldom
from tscc_stream.sharded import alerts_unheard

_log = logging.getLogger(__name__)

TURN_SECONDS = 0.2
POLL_SECONDS = 1.0
CATCHING_UP_SECONDS = 10.0
"""While messages come without a pause, watches are looked at only so often: what they say may be of the past."""
GROUP_SECONDS = 0.2
MOST_IN_GROUP = 100
TRIM_SECONDS = 3600.0
MOVE_SECONDS = 60.0
"""How often it is tried to go from memory into the file."""
STALLED_SECONDS = 30.0
DRAIN_SECONDS = 10.0
FAILURES_TOLD = "action failed"
_NAMES = Told(name="names of clusters", severity="critical", cooldown_seconds=0.0)
_JOURNAL = Told(name="journal of alerts", severity="critical", cooldown_seconds=0.0)
_UNDELIVERED = Told(name=FAILURES_TOLD, severity="critical", cooldown_seconds=0.0)


class AlertProcess:
    """Raises AlertJournalError, SubscriberError, ConfigError or HttpError where it cannot start. run: 0, or 1 where a
    thread has failed.
    """

    def __init__(self, config: Config, state_dir: Path, folder: Path) -> None:
        """folder: what a relative model path starts from."""
        self._config, self._state_dir, self._folder, self._alerts = config, state_dir, folder, config.alerts
        self._zone = ZoneInfo(config.time_zone)
        self._metrics = AlertMetrics()
        self._stopping = threading.Event()
        self._notifier = Notifier.from_environment(os.environ)
        self._reader, self._seldom = EventReader(), Seldom()
        self._turned_s = self._polled_s = self._watched_s = self._trimmed_s = self._grouped_s = time.monotonic()
        self._moved_s = self._turned_s
        self._told_by_name: dict[str, Told] = {one.name: one for one in (*self._alerts.rules, *self._alerts.watches)}

    def request_stop(self) -> None:
        """From a signal handler."""
        self._stopping.set()

    def run(self) -> int:
        self._nameless = self._asked_in_vain() or {}
        for sentence in self._nameless.values():
            _log.warning("%s", sentence)
        with ExitStack() as stack:
            self._journal, missing = journal_of(self._state_dir / FILE)
            stack.enter_context(self._journal)
            states = self._journal.states()
            shifts = self._config.shifts
            self._rules = Rules(self._alerts, shifts, self._zone, states)
            self._people = PeopleNews(self._state_dir)
            stack.callback(self._people.close)
            self._start_actions()
            self._book = Book(self._journal, self._actions, self._metrics, self._states)
            self._listening = self._listen(states)
            for title, sentence in missing:
                self._tell_of_journal(title, sentence)
            self._listening.start(stack)
            self._start_http(stack)
            return self._serve()

    def _listen(self, states: Mapping[str, bytes]) -> Listening:
        if self._alerts.sources:
            return Sources(self._config, states, self._notice)
        return OwnDaemon(
            self._config, self._state_dir, self._journal, self._book, self._reader, self._tell_of_journal, self._notice
        )

    def _tell_of_journal(self, title: str, sentence: str) -> None:
        """People must know what is not kept, or forgotten."""
        now_ns = time.time_ns()
        _log.critical("%s", sentence)
        cause = {"uids": [], "sentences": [sentence]}
        self._put(Alert(alert_id(_JOURNAL.name, "silence", f"{now_ns}"), _JOURNAL, "silence", now_ns, title, cause))
        self._book.keep()

    def _start_actions(self) -> None:
        seconds = self._alerts.give_up_after_seconds
        self._actions = {
            name: ActionThread(name, send, self._journal.for_thread, seconds, self._metrics.tried)
            for name, send in senders(self._alerts).items()
        }
        if gone := self._journal.give_up_on(list(self._actions)):
            _log.error("%d deliveries are given up: the configuration has their actions no longer", gone)
        for action in self._actions.values():
            action.start()

    def _start_http(self, stack: ExitStack) -> None:
        if self._alerts.metrics is None:
            return
        server = HttpServer(self._alerts.metrics, self._metrics.registry, self._healthz)
        server.start()
        stack.callback(server.stop)
        _log.info("metrics on %s/metrics", server.url)

    def _healthz(self) -> tuple[bool, dict[str, Any]]:
        quiet_s = time.monotonic() - self._turned_s
        well = quiet_s < STALLED_SECONDS and self._threads_live() and not self._stopping.is_set()
        kept_in = "file" if self._journal.lasting else "memory"
        state = "ok" if well else "stalled"
        return well, {"state": state, "last_turn_s": round(quiet_s, 3), "journal": kept_in}

    def _threads_live(self) -> bool:
        return not self._dead()

    def _dead(self) -> list[str]:
        silent = [f"action {name}" for name, action in self._actions.items() if not action.alive]
        return [*self._listening.dead(), *silent]

    def _notice(self, sentence: str) -> None:
        if self._seldom.due(sentence, time.monotonic()):
            _log.warning("%s", sentence)

    def _serve(self) -> int:
        self._look_at_people()
        rules, actions = len(self._alerts.rules), ", ".join(self._actions) or "no action: alerts are only journalled"
        ready = f"{rules} rules, {len(self._alerts.watches)} watches; {actions}"
        self._notifier.ready(ready if self._journal.lasting else f"{ready}; {IN_MEMORY}")
        _log.info("ready: %s", ready)
        while not self._stopping.is_set() and self._threads_live():
            self._turned_s = time.monotonic()
            self._notifier.watchdog(self._turned_s)
            self._turn()
        return self._end()

    def _end(self) -> int:
        self._notifier.stopping()
        self._book.keep()
        deadline_s = time.monotonic() + DRAIN_SECONDS
        slow = [name for name, action in self._actions.items() if not action.stop(deadline_s)]
        if slow:
            _log.warning("still at work: %s; what they were sending is sent again at the next start", ", ".join(slow))
        if not self._stopping.is_set():
            _log.error("a thread has failed: %s", ", ".join(self._dead()))
            return 1
        if not self._journal.lasting:
            self._move_into_file()
        left = sum(self._journal.waiting().values())
        if self._journal.lasting:
            _log.info("stopped; %d deliveries wait for the next start", left)
        else:
            _log.error("stopped; with the memory, %d deliveries that wait and what was told are forgotten", left)
        return 0

    def _turn(self) -> None:
        """One message, if one comes; then whatever time brings."""
        heard = None if self._book.full else self._receive()
        if heard is not None:
            self._take(heard)
        elif not self._book.full:
            self._listening.idle()
        now_s = time.monotonic()
        if now_s - self._polled_s >= POLL_SECONDS:
            self._poll(now_s)
        if now_s - self._watched_s >= (POLL_SECONDS if heard is None else CATCHING_UP_SECONDS):
            self._watch(now_s)
        urgent = self._book.size >= MOST_IN_GROUP or heard is None
        if urgent or now_s - self._grouped_s >= GROUP_SECONDS:
            self._grouped_s = now_s
            if not self._book.keep():
                self._stopping.wait(TURN_SECONDS)

    def _receive(self) -> Heard | None:
        try:
            return self._listening.receive(TURN_SECONDS)
        except SubscriberError as error:
            self._notice(str(error))
            self._stopping.wait(POLL_SECONDS)
            return None

    def _take(self, heard: Heard) -> None:
        now_ns, received = time.time_ns(), heard.received
        try:
            if heard.looked_at:  # network events to come may name it
                self._reader.read(received.body)
            else:
                self._look_at(heard, now_ns)
        except UNREADABLE as error:
            self._metrics.unreadable.inc()
            self._notice(f"message {received.topic} cannot be read: {type(error).__name__}: {str(error)[:200]}")
            _log.debug("message %d: %r", received.seq, received.raw[:500])
        self._listening.handled(heard)

    def _look_at(self, heard: Heard, now_ns: int) -> None:
        received, body = heard.received, heard.received.body
        if body["type"] == "tscc.status.v1":
            kind = received.topic.split(".")[1]
            self._listening.status(heard, kind, body["data"], now_ns)
            if kind == "model" and body["data"].get("role") == "live":
                self._look_at_names(f"{received.epoch} {received.seq}", now_ns)
            return
        event = self._reader.read(body)
        if event is None:
            return
        if event.kind == "detection":
            self._listening.detection(heard, event.channels[0], "clipped" in body["data"]["quality"], now_ns)
        for outcome in self._rules.feed(replace(event, source=heard.source), now_ns):
            self._put(outcome)

    def _asked_in_vain(self) -> dict[str, str] | None:
        """Who asks for which name that no cluster has -> the same with what there is; None where it cannot be told."""
        if self._alerts.sources:  # their models and names lie elsewhere
            return None
        known = names_in_use(self._config, self._state_dir, self._folder)
        if known is None:
            return None
        return {sentence.partition(";")[0]: sentence for sentence in without_cluster(self._config, known)}

    def _look_at_names(self, occasion: str, now_ns: int) -> None:
        """A cluster that was given another name, or a model without it, would silence a rule and nobody would know."""
        nameless = self._asked_in_vain()
        if nameless is None:
            return
        new = [sentence for who, sentence in nameless.items() if who not in self._nameless]
        self._nameless = nameless
        if new:
            cause = {"uids": [], "sentences": new[:10]}
            self._put(Alert(alert_id(_NAMES.name, "silence", occasion), _NAMES, "silence", now_ns, new[0], cause))

    def _put(self, outcome: Alert | Withheld | Repetition) -> None:
        every = tuple(self._actions)
        if isinstance(outcome, Withheld):
            self._book.withhold(
                NewWithheld(outcome.at_ns, outcome.onset_ns, outcome.rule, outcome.uid, outcome.why, outcome.reason)
            )
        elif isinstance(outcome, Repetition):
            actions = alert_text.actions_of(outcome.told, every, escalated=True)
            self._book.repeat(NewRound(outcome.alert, outcome.round, time.time_ns(), actions))
        else:
            self._book.alert(self._stored(outcome, alert_text.actions_of(outcome.told, every)))

    def _stored(self, alert: Alert, actions: Sequence[str]) -> NewAlert:
        return alert_text.stored(alert, self._config.site, self._zone, self._listening.report(alert.at_ns), actions)

    def _states(self) -> dict[str, bytes]:
        return self._rules.changes() | self._listening.changes()

    def _poll(self, now_s: float) -> None:
        self._polled_s = now_s
        now_ns = time.time_ns()
        self._look_at_people()
        self._listening.poll(now_s)
        for told in self._rules.poll(now_ns):
            self._put(told)
        try:
            self._tell_failures(now_ns)
            self._count_waiting()
            if now_s - self._trimmed_s >= TRIM_SECONDS:
                self._trimmed_s = now_s
                self._journal.trim(now_ns)
        except AlertJournalError as error:
            self._notice(str(error))
        if not self._journal.lasting and now_s - self._moved_s >= MOVE_SECONDS:
            self._moved_s = now_s
            self._move_into_file()

    def _move_into_file(self) -> None:
        """Out of memory, once the folder takes it."""
        if not self._book.keep():
            return
        try:
            damage = self._journal.make_lasting(time.time_ns())
        except AlertJournalError as error:
            _log.warning("%s; %s", error, IN_MEMORY)
            return
        self._metrics.journal_failing.set(0)
        self._notifier.status("the journal of alerts is in its file again")
        _log.warning("%s can be written again: what was told meanwhile is in it", self._state_dir / FILE)
        if damage:
            self._tell_of_journal(*told_of_damage(damage))

    def _watch(self, now_s: float) -> None:
        self._watched_s = now_s
        for told in self._listening.silences(time.time_ns(), now_s):
            self._put(told)

    def _look_at_people(self) -> None:
        try:
            answered, windows = self._people.look()
        except PeopleError as error:
            self._notice(str(error))
            return
        for alert in answered:
            self._rules.acknowledge(alert)
            self._listening.acknowledge(alert)
        if windows is not None:
            self._rules.announce(windows)

    def _count_waiting(self) -> None:
        waiting = self._journal.waiting()
        for name in self._actions:
            self._metrics.waiting(name, waiting.get(name, 0))

    def _tell_failures(self, now_ns: int) -> None:
        """What an action could not deliver is told by the others of its rules, once for all that failed."""
        failures = self._journal.untold_failures()
        by_action: dict[str, list[Delivery]] = {}
        for one in failures:
            by_action.setdefault(one.action, []).append(one)
        alerts = [alert for action, those in by_action.items() if (alert := self._undelivered(action, those, now_ns))]
        if failures:
            self._journal.tell_failures(failures, alerts)
        for alert in alerts:
            _log.error("alert %s: %s", alert.id, alert.title)
            for name in alert.actions:
                self._actions[name].wake()

    def _undelivered(self, action: str, failures: Sequence[Delivery], now_ns: int) -> NewAlert | None:
        others: dict[str, None] = {}
        lost: list[str] = []
        for failure in failures:
            stored = self._journal.get(failure.alert)
            if (
                stored is None or stored.kind == "undelivered"
            ):  # else two dead actions would tell of one another for ever
                continue
            told = self._told_by_name.get(stored.rule, _UNDELIVERED)
            others |= dict.fromkeys(alert_text.actions_of(told, tuple(self._actions), escalated=True))
            lost.append(stored.title)
        if not lost:
            return None
        title = f"{action} could not deliver {len(lost)} alerts: {failures[0].outcome}"
        identity = alert_id(action, "undelivered", str(failures[0].number))
        cause = {"uids": [], "sentences": lost[:10], "action": action}
        alert = Alert(identity, _UNDELIVERED, "undelivered", now_ns, title, cause)
        return self._stored(alert, [name for name in others if name != action and name in self._actions])


def run(config: Config, state_dir: Path, folder: Path) -> int:
    """The process until SIGTERM or SIGINT. folder: what a relative model path starts from."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if (why := alerts_unheard(config)) is not None:
        raise ConfigError([why])
    if config.alerts.sources:
        state_dir.mkdir(parents=True, exist_ok=True)
    if not state_dir.is_dir():
        raise ConfigError([f"state_dir {state_dir}: no such folder; expected that of a daemon that has run"])
    for sentence in doubts(config.alerts):
        _log.warning("%s", sentence)
    process = AlertProcess(config, state_dir, folder)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        process.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return process.run()
