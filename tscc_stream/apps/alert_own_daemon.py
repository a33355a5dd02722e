"""What `alert run` hears where it follows the daemon of its own state folder."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from tscc_stream.apps.alert_book import Book
from tscc_stream.apps.alert_events import UNREADABLE, EventReader
from tscc_stream.apps.alert_health import SensorHealth
from tscc_stream.apps.alert_listening import REMEMBERED, Heard
from tscc_stream.apps.alert_probe import Probe
from tscc_stream.apps.alert_told import Alert, Repetition
from tscc_stream.apps.alert_watches import Watches
from tscc_stream.apps.bus_keys import curve_keys
from tscc_stream.client import Subscriber
from tscc_stream.config import Config
from tscc_stream.edges.alert_journal import AlertJournal, Place
from tscc_stream.edges.sqlite import JournalError, JournalReader

_log = logging.getLogger(__name__)


class OwnDaemon:
    """Listening, to one daemon on this machine. tell: a title and a sentence for people; notice: for the log."""

    def __init__(
        self,
        config: Config,
        state_dir: Path,
        journal: AlertJournal,
        book: Book,
        reader: EventReader,
        tell: Callable[[str, str], None],
        notice: Callable[[str], None],
    ) -> None:
        self._config, self._state_dir, self._journal, self._book = config, state_dir, journal, book
        self._reader, self._tell, self._notice = reader, tell, notice
        self._health = SensorHealth()
        zone = ZoneInfo(config.time_zone)
        self._watches = Watches(config.alerts, config.shifts, zone, time.monotonic(), journal.states())
        self._where: tuple[str, str] = ("", "")
        self._begun: Place | None = None
        self._probe = Probe(config, state_dir)

    def start(self, stack: ExitStack) -> None:
        self._probe.start()
        stack.callback(self._probe.stop)
        self._remember_amplitudes()
        self._subscriber = self._subscribe()
        stack.callback(lambda: self._subscriber.close())  # noqa: PLW0108  # it may be another by then

    def _subscribe(self) -> Subscriber:
        self._begun = self._journal.place() or self._begun or self._beginning()
        where, place = self._probe.where, self._begun
        self._where = (where["publish"], where["replay"])
        return Subscriber(
            *self._where,
            since=None if place is None else place.through,
            epoch=None if place is None else place.epoch or None,
            notice=self._notice,
            any_body=True,
            curve=curve_keys(self._config.alerts.bus_keys),
        )

    def _beginning(self) -> Place | None:
        """The first start goes on after what the daemon's journal holds now; None: after what the bus says next."""
        path = self._state_dir / "journal.sqlite"
        if not path.is_file():
            return Place("", 0)
        try:
            reader = JournalReader(path)
            try:
                place = Place(reader.epoch, reader.head())
            finally:
                reader.close()
        except JournalError as error:
            title = "the daemon's journal cannot be read: events before now are not told"
            self._tell(title, f"{title}; messages are taken from now on. {error}")
            return None
        self._book.move(place)
        self._book.keep()
        return place

    def _remember_amplitudes(self) -> None:
        """Of detections that were looked at before this start, since network events to come may name them."""
        path, place = self._state_dir / "journal.sqlite", self._journal.place()
        if place is None or not path.is_file():
            return
        try:
            reader = JournalReader(path)
            try:
                page = reader.since(max(0, place.through - REMEMBERED), "detection.", REMEMBERED)
            finally:
                reader.close()
        except JournalError as error:
            self._notice(str(error))
            return
        for one in page.messages if reader.epoch == place.epoch else ():
            if one.seq <= place.through:
                with suppress(*UNREADABLE):  # it was counted when it came
                    self._reader.read(json.loads(one.message.body))

    def receive(self, seconds: float) -> Heard | None:
        received = self._subscriber.receive(seconds)
        return None if received is None else Heard("", received)

    def handled(self, heard: Heard) -> None:
        self._book.move(Place(heard.received.epoch, heard.received.seq))

    def idle(self) -> None:
        if self._subscriber.epoch is not None and self._subscriber.through is not None:
            self._book.move(Place(self._subscriber.epoch, self._subscriber.through))

    def status(self, heard: Heard, kind: str, data: Mapping[str, Any], now_ns: int) -> None:
        self._health.status(kind, data)
        self._watches.status(kind, data, now_ns)

    def detection(self, heard: Heard, channel: str, clipped: bool, now_ns: int) -> None:
        self._health.detection(heard.received.body["subject"], clipped, now_ns)
        self._watches.detection(channel, time.monotonic())

    def poll(self, now_s: float) -> None:
        self._health.learn(self._probe.facts, now_s, self._subscriber.heard_s)
        self._follow()

    def silences(self, now_ns: int, now_s: float) -> list[Alert | Repetition]:
        return self._watches.poll(now_ns, now_s, self._subscriber.heard_s, self._probe.facts)

    def acknowledge(self, alert: str) -> None:
        self._watches.acknowledge(alert)

    def report(self, now_ns: int) -> dict[str, Any]:
        return self._health.report(now_ns)

    def changes(self) -> dict[str, bytes]:
        return self._watches.changes()

    def dead(self) -> list[str]:
        return [] if self._probe.alive else ["probe"]

    def _follow(self) -> None:
        """A daemon that listens elsewhere since its restart is followed there."""
        where = self._probe.where
        if (where["publish"], where["replay"]) == self._where or self._book.size:
            return
        heard_s, place = self._subscriber.heard_s, self._journal.place()
        self._subscriber.close()
        self._subscriber = self._subscribe()
        self._subscriber.heard_s = heard_s
        _log.info("the daemon listens on %s now; going on after %s", self._where[0], place)
