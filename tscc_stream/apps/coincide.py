"""`coincide`: a process of its own that follows the detections of many daemons and publishes their network events.

One thread takes detections, merged in time, and asks the coincidence (coincide_detections.py); the bus has its own, as
in the daemon. Network events go into a journal of this process before they go out, together with its state and its
place in every source, so that after kill -9 it goes on exactly there. To those who listen it is a publisher like any.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge

from tscc_stream import __version__, activation
from tscc_stream.apps.bus_keys import curve_keys
from tscc_stream.apps.coincide_detections import FleetCoincidence, FleetState, UnreadableError
from tscc_stream.client import Received
from tscc_stream.client_merged import DEAF_SECONDS, MergedSubscriber, Source
from tscc_stream.config import Config, ConfigError, NetworkConfig
from tscc_stream.credentials import CredentialError
from tscc_stream.edges.http import HttpServer
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.edges.supervision import Notifier
from tscc_stream.edges.zeromq import Bus
from tscc_stream.messages import Message
from tscc_stream.seldom import Seldom
from tscc_stream.stages.journal import JournalBlockedError, Snapshot
from tscc_stream.stages.publish import ModelIdentity, Publish

_log = logging.getLogger(__name__)

FORMAT = 1
"""Of the state: to be raised whenever it changes its form or meaning."""
TURN_SECONDS = 0.2
KEEP_SECONDS = 30.0
"""How often the place is kept though there is no network event; a restart reads again what came since."""
MOST_AT_ONCE = 500
"""Detections between two looks at the time."""
AGAIN_SECONDS = 1.0
STALLED_SECONDS = 30.0
BYTES_PER_GIB = 2**30


class CoincideMetrics:
    """What is measured, for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.detections = Counter(
            "tscc_coincide_detections", "Detections taken, by source.", ["source"], registry=self.registry
        )
        self.left_out = Counter(
            "tscc_coincide_left_out",
            "Detections that came late (they may make no event), ahead of time, repeated, unreadable, turned away.",
            ["reason"],
            registry=self.registry,
        )
        self.heard = Gauge(
            "tscc_coincide_source_heard",
            "1 while something is heard from a source.",
            ["source"],
            registry=self.registry,
        )
        self.events = Counter(
            "tscc_network_events",
            "Network events committed to the journal, their last words, by the winning cluster.",
            ["cluster"],
            registry=self.registry,
        )
        self.journal_failing = Gauge(
            "tscc_journal_failing", "1 while the journal cannot be written, else 0.", registry=self.registry
        )


class CoincideProcess:
    """Raises ConfigError, JournalError, BusError, SubscriberError or HttpError where it cannot start."""

    def __init__(self, config: Config, network: NetworkConfig) -> None:
        self._config, self._network, self._settings = config, network, config.coincide
        self._state_dir = Path(config.state_dir)
        self._metrics, self._seldom = CoincideMetrics(), Seldom()
        self._notifier = Notifier.from_environment(os.environ)
        self._stopping = threading.Event()
        self._publish = Publish(config.site, ModelIdentity("", "", ""))
        self._coincidence = FleetCoincidence(network, self._settings.early_seconds, self._settings.settle_seconds)
        self._places: dict[str, tuple[str, int]] = {}
        self._counted: dict[str, int] = {}
        self._messages: list[Message] = []
        self._silent: set[str] = set()
        self._moved = False
        self._journal_says = ""
        self._turned_s = self._kept_s = time.monotonic()

    def request_stop(self) -> None:
        """From a signal handler."""
        self._stopping.set()

    def run(self) -> int:
        """0 after a clean end."""
        with ExitStack() as stack:
            self._state_dir.mkdir(parents=True, exist_ok=True)
            self._journal = stack.enter_context(JournalFile(self._state_dir / "journal.sqlite"))
            self._go_on()
            self._start_bus(stack)
            server = HttpServer(self._config.metrics, self._metrics.registry, self._healthz)
            server.start()
            stack.callback(server.stop)
            host, port = server.address
            activation.write_endpoints(self._state_dir, self._bus.endpoint, self._bus.replay_endpoint, f"{host}:{port}")
            self._subscriber = MergedSubscriber(
                [self._source(name) for name in self._sources],
                topic="detection.",
                since=0 if self._settings.start == "oldest" else None,
                patience_seconds=self._settings.early_seconds,
                notice=self._notice,
                any_body=True,
            )
            stack.callback(self._subscriber.close)
            self._say("daemon", {"state": "started", "version": __version__})
            _log.info("publishing on %s, replay on %s", self._bus.endpoint, self._bus.replay_endpoint)
            self._notifier.ready(f"following {', '.join(self._sources)}")
            _log.info("ready: following %s", ", ".join(self._sources))
            while not self._stopping.is_set():
                self._turn()
            return self._end()

    @property
    def _sources(self) -> list[str]:
        return [source.name for source in self._settings.sources]

    def _source(self, name: str) -> Source:
        one = next(source for source in self._settings.sources if source.name == name)
        epoch, since = self._places.get(name, (None, None))
        curve = curve_keys(self._settings.bus_keys, one.server_key)
        return Source(name, one.connect, one.replay, curve, since, epoch)

    def _start_bus(self, stack: ExitStack) -> None:
        reader = JournalReader(self._journal.path)
        stack.callback(reader.close)
        try:
            self._bus = Bus(self._config.publish, self._config.site, reader)
        except CredentialError as error:
            raise ConfigError([str(error)]) from error
        self._bus.start()
        stack.callback(self._bus.stop)

    def _made_of(self) -> bytes:
        return json.dumps([self._network.min_channels, self._network.association_seconds]).encode()

    def _go_on(self) -> None:
        """From the snapshot, where there is one of these settings; its places hold in any case."""
        stored = self._journal.snapshot()
        if stored is None:
            return
        if not stored.intact:
            _log.error("the state in the journal is damaged: every source is begun as at a first start")
            return
        self._places = {name: (epoch, seq) for name, (epoch, seq) in json.loads(stored.snapshot.positions).items()}
        if (stored.snapshot.format, stored.snapshot.made_of) != (FORMAT, self._made_of()):
            _log.warning("what was not settled yet is forgotten: it was made with another version or section network")
            return
        state = msgspec.msgpack.decode(stored.snapshot.state, type=FleetState)
        self._coincidence.restore(state, time.monotonic_ns())
        _log.info("going on after seq %d", stored.head)

    def _turn(self) -> None:
        self._turned_s = time.monotonic()
        self._notifier.watchdog(self._turned_s)
        given = self._subscriber.receive(TURN_SECONDS)
        for _ in range(MOST_AT_ONCE):
            if given is None:
                break
            self._take(*given)
            given = self._subscriber.receive(0.0)
        if given is not None:
            self._take(*given)
        self._write_down(self._coincidence.poll(time.monotonic_ns(), time.time_ns()))
        self._look_at_sources()
        self._count()
        if self._messages or (self._moved and time.monotonic() - self._kept_s >= KEEP_SECONDS):
            self._keep()

    def _take(self, name: str, received: Received) -> None:
        self._metrics.detections.labels(name).inc()
        try:
            self._write_down(self._coincidence.feed(received.raw, time.monotonic_ns(), time.time_ns()))
        except UnreadableError as error:
            self._metrics.left_out.labels("unreadable").inc()
            self._notice(f"{name}: message {received.topic} cannot be read: {error}")
        self._places[name] = received.epoch, received.seq
        self._moved = True

    def _write_down(self, events: Sequence[Any]) -> None:
        self._messages += [self._publish.network_event(event) for event in events]

    def _say(self, kind: str, data: dict[str, Any]) -> None:
        self._messages.append(self._publish.status(kind, data, time.time_ns()))

    def _look_at_sources(self) -> None:
        """Who says nothing makes network events incomplete, and those who read them must know."""
        now_s = time.monotonic()
        silent = {name for name in self._sources if now_s - self._subscriber.heard_s(name) >= DEAF_SECONDS}
        for name in sorted(silent ^ self._silent):
            self._say("source", {"source": name, "state": "SILENT" if name in silent else "OK"})
        for name in self._sources:
            self._metrics.heard.labels(name).set(name not in silent)
        self._silent = silent

    def _count(self) -> None:
        for reason, number in self._coincidence.counts.items():
            self._metrics.left_out.labels(reason).inc(number - self._counted.get(reason, 0))
            self._counted[reason] = number

    def _snapshot(self) -> Snapshot:
        state = msgspec.msgpack.encode(self._coincidence.snapshot())
        return Snapshot(FORMAT, self._made_of(), json.dumps(self._places).encode(), b"{}", state)

    def _keep(self) -> None:
        """Journal, then bus. While the journal cannot be written nothing is taken, and it is tried again."""
        snapshot = self._snapshot()
        while True:
            try:
                committed = self._journal.append(self._messages, snapshot=snapshot)
                break
            except JournalBlockedError as error:
                self._blocked(str(error))
                if self._stopping.wait(AGAIN_SECONDS):
                    raise
        self._journal_says = ""
        self._metrics.journal_failing.set(0)
        self._messages, self._moved, self._kept_s = [], False, time.monotonic()
        self._bus.publish(committed)
        for one in committed:
            if one.message.kind == "network" and one.message.final:
                self._metrics.events.labels(one.message.topic.split(".")[1]).inc()
        self._trim()

    def _trim(self) -> None:
        """On a full disk not even this can be done, and what is kept is sent all the same."""
        retention = self._config.retention
        try:
            self._journal.trim(retention.days, retention.max_gib * BYTES_PER_GIB)
        except JournalBlockedError as error:
            self._notice(str(error))

    def _blocked(self, sentence: str) -> None:
        self._turned_s = time.monotonic()
        self._notifier.watchdog(self._turned_s)
        self._journal_says = sentence
        self._metrics.journal_failing.set(1)
        self._notice(f"{sentence}; network events wait, and it is tried again")

    def _notice(self, sentence: str) -> None:
        if self._seldom.due(sentence, time.monotonic()):
            _log.warning("%s", sentence)

    def _end(self) -> int:
        """What is not settled yet is kept, and settled after the next start."""
        self._notifier.stopping()
        self._say("daemon", {"state": "stopping"})
        self._keep()
        _log.info("stopped")
        return 0

    def _healthz(self) -> tuple[bool, dict[str, Any]]:
        well = time.monotonic() - self._turned_s < STALLED_SECONDS and not self._journal_says
        state = "ok" if well else "journal" if self._journal_says else "stalled"
        servers = {name: "silent" if name in self._silent else "connected" for name in self._sources}
        reason = {"reason": self._journal_says} if self._journal_says else {}
        return well, {"state": state, "servers": servers, **reason}


def run(config: Config) -> int:
    """The process until SIGTERM or SIGINT."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    wrong = []
    if not config.coincide.sources:
        wrong.append("coincide.sources: none is given; expected the daemons whose detections are to be followed")
    if config.network is None:
        wrong.append(
            "network: not given; expected it, with min_channels, since network events are all that is made here"
        )
    if wrong or config.network is None:
        raise ConfigError(wrong)
    process = CoincideProcess(config, config.network)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        process.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return process.run()
