"""What `alert run` hears where it follows many publishers (`alerts.sources`).

Each has a place, a health and watches of its own, so that one that is silent is told by its name, and holds up nobody.

Places are kept with what watches remember, in the transaction of the alerts that the messages made. Messages of
different sources are taken as they come: an alert does not wait for order.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any
from zoneinfo import ZoneInfo

from tscc_stream.apps.alert_health import SHOWN, SensorHealth
from tscc_stream.apps.alert_listening import REMEMBERED, Heard
from tscc_stream.apps.alert_probe import Probe
from tscc_stream.apps.alert_told import Alert, Repetition
from tscc_stream.apps.alert_watches import Watches
from tscc_stream.apps.bus_keys import curve_keys
from tscc_stream.client_merged import MergedSubscriber, Source
from tscc_stream.config import Config
from tscc_stream.config_alerts import AlertSource

_log = logging.getLogger(__name__)

_PLACE = "place"
MOST_NAMED = 5
"""Sources of which an alert says the same."""


class _Publisher:
    """One source. place: epoch and seq up to which its messages were looked at; None before the first start's first."""

    def __init__(self, source: AlertSource, config: Config, states: Mapping[str, bytes]) -> None:
        self.name = source.name
        self._prefix = f"source {source.name} "
        mine = {key.removeprefix(self._prefix): value for key, value in states.items() if key.startswith(self._prefix)}
        self.place: tuple[str, int] | None = None
        if (kept := mine.get(_PLACE)) is not None:
            epoch, through = json.loads(kept)
            self.place = epoch, through
        self._kept = self.place
        self.health = SensorHealth()
        zone = ZoneInfo(config.time_zone)
        self.watches = Watches(config.alerts, config.shifts, zone, time.monotonic(), mine, source.name)
        at = {"publish": source.connect, "replay": source.replay, "metrics": source.metrics or ""}
        self.probe = Probe(config, None, at)

    def changes(self) -> dict[str, bytes]:
        changed = self.watches.changes()
        if self.place != self._kept:
            self._kept = self.place
            changed[_PLACE] = json.dumps(self.place).encode()
        return {self._prefix + key: value for key, value in changed.items()}


class Sources:
    """Listening, to the publishers under `alerts.sources`. states: what `changes` gave in the process before."""

    def __init__(self, config: Config, states: Mapping[str, bytes], notice: Callable[[str], None]) -> None:
        self._config, self._notice = config, notice
        self._publishers = {one.name: _Publisher(one, config, states) for one in config.alerts.sources}

    def start(self, stack: ExitStack) -> None:
        for publisher in self._publishers.values():
            publisher.probe.start()
            stack.callback(publisher.probe.stop)
        sources = [self._source(one) for one in self._config.alerts.sources]
        self._subscriber = MergedSubscriber(sources, patience_seconds=0.0, notice=self._notice, any_body=True)
        stack.callback(self._subscriber.close)
        _log.info("following %s", ", ".join(self._publishers))

    def _source(self, source: AlertSource) -> Source:
        """From where it was looked at, and some more, whose detections network events may name; a first start: now."""
        place = self._publishers[source.name].place
        return Source(
            source.name,
            source.connect,
            source.replay,
            curve=curve_keys(self._config.alerts.bus_keys, source.server_key),
            since=None if place is None else max(0, place[1] - REMEMBERED),
            epoch=None if place is None else place[0],
        )

    def receive(self, seconds: float) -> Heard | None:
        given = self._subscriber.receive(seconds)
        if given is None:
            return None
        name, received = given
        place = self._publishers[name].place
        looked_at = place is not None and place[0] == received.epoch and received.seq <= place[1]
        return Heard(name, received, looked_at)

    def handled(self, heard: Heard) -> None:
        if not heard.looked_at:
            self._publishers[heard.source].place = heard.received.epoch, heard.received.seq

    def idle(self) -> None:
        for name, publisher in self._publishers.items():
            place = self._subscriber.place(name)
            if place is not None and not _goes_back(place, publisher.place):
                publisher.place = place

    def status(self, heard: Heard, kind: str, data: Mapping[str, Any], now_ns: int) -> None:
        publisher = self._publishers[heard.source]
        publisher.health.status(kind, data)
        publisher.watches.status(kind, data, now_ns)

    def detection(self, heard: Heard, channel: str, clipped: bool, now_ns: int) -> None:
        publisher = self._publishers[heard.source]
        publisher.health.detection(heard.received.body["subject"], clipped, now_ns)
        publisher.watches.detection(channel, time.monotonic())

    def poll(self, now_s: float) -> None:
        """After `handled`: a source that says nothing has its place also while another one leaves no pause."""
        self.idle()
        for name, publisher in self._publishers.items():
            publisher.health.learn(publisher.probe.facts, now_s, self._subscriber.heard_s(name))

    def silences(self, now_ns: int, now_s: float) -> list[Alert | Repetition]:
        return [
            told
            for name, one in self._publishers.items()
            for told in one.watches.poll(now_ns, now_s, self._subscriber.heard_s(name), one.probe.facts)
        ]

    def acknowledge(self, alert: str) -> None:
        for publisher in self._publishers.values():
            publisher.watches.acknowledge(alert)

    def report(self, now_ns: int) -> dict[str, Any]:
        """Of all sources together, and in words of each."""
        each = {name: publisher.health.report(now_ns) for name, publisher in self._publishers.items()}
        channels, blind = (sum(one[key] for one in each.values()) for key in ("channels", "blind"))
        told = _in_words({name: one["text"] for name, one in each.items()})
        kinds = {key for one in each.values() for key, value in one.items() if isinstance(value, list)}
        named = {key: [sid for one in each.values() for sid in one.get(key, ())][:SHOWN] for key in sorted(kinds)}
        return {"channels": channels, "blind": blind, "text": f"{blind} of {channels} blind; {told}", **named}

    def changes(self) -> dict[str, bytes]:
        return {key: value for one in self._publishers.values() for key, value in one.changes().items()}

    def dead(self) -> list[str]:
        return [f"probe {name}" for name, one in self._publishers.items() if not one.probe.alive]


def _in_words(texts: Mapping[str, str]) -> str:
    """What is the same of many sources is said once: with a dozen sites away, people must still see the rest."""
    names: dict[str, list[str]] = {}
    for name, text in texts.items():
        names.setdefault(text, []).append(name)
    return "; ".join(f"{_few(those)}: {text}" for text, those in names.items())


def _few(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _goes_back(place: tuple[str, int], before: tuple[str, int] | None) -> bool:
    return before is not None and before[0] == place[0] and place[1] < before[1]
