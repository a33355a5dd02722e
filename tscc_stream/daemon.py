"""The daemon: start, supervise, drain. Everything it decides is decided in the stages.

One reader per server -> inbox -> front thread (records to windows) -> outbox -> back thread (windows to messages, in
the journal, then on the bus) -> bus thread. While the inbox is full nothing is read: the server's ring is the
buffer. Every thread stamps each turn of its loop; systemd's watchdog is fed only while all of them turn.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from prometheus_client import CollectorRegistry

from tscc_stream import __version__, lanes, package, recovery, windows
from tscc_stream.activation import write_endpoints
from tscc_stream.beside import Beside
from tscc_stream.config import Config, ConfigError, SeedLinkConfig
from tscc_stream.credentials import CredentialError
from tscc_stream.data_age import DataAge
from tscc_stream.edges import crash_report
from tscc_stream.edges.http import HttpServer
from tscc_stream.edges.in_flight import InFlight
from tscc_stream.edges.seedlink_socket import Emitted, LinkNotice, SeedLinkReader
from tscc_stream.edges.sqlite import JournalError, JournalFile, JournalReader
from tscc_stream.edges.supervision import Notifier, name_this_thread
from tscc_stream.edges.zeromq import STOP_SECONDS, Bus, BusObserver
from tscc_stream.health import Health
from tscc_stream.inference import Guard
from tscc_stream.link_watch import LinkWatch
from tscc_stream.metrics import Metrics
from tscc_stream.notes import Note
from tscc_stream.overload import Overload
from tscc_stream.packed_window import cut_of
from tscc_stream.patience import Patience
from tscc_stream.pipeline import BackHalf, FrontHalf
from tscc_stream.recovery import Resume
from tscc_stream.reload import ConfigFile
from tscc_stream.sampling import seconds_to_ns
from tscc_stream.seedlink.position import Position
from tscc_stream.seedlink.streams import StreamFilter, parse_pattern
from tscc_stream.serving import ModelKeeper, Served
from tscc_stream.shard import Shard
from tscc_stream.sharded import own_servers
from tscc_stream.stages import acquire
from tscc_stream.window_quarantine import WindowQuarantine
from tscc_stream.workers import STOP, TURN_SECONDS, BackWorker, FrontWorker, Inbox, Outbox, Shared, guarded

_log = logging.getLogger(__name__)

INBOX_BATCHES = 64
INBOX_SPARE = 16
"""Places more, per server, for what a reader says of its link while it has no room for data."""
OUTBOX_LISTS = 256
STALLED_NS = seconds_to_ns(10.0)
"""A thread that has not turned for as long is stuck."""
SWITCH_SECONDS = 0.0005
"""How long a thread may keep the interpreter from another: a window changes hands some ten times, and Python's own 5 ms
would be waited for each time while the front thread is busy."""
CRASH_FILE = "crash-report"
IN_FLIGHT_FILE = "in-flight"
DRAIN_SECONDS = 20.0
ONLOOKER_SECONDS = 5.0
"""How long the end waits for what is not needed any more."""
GIVING_UP_SECONDS = 1.0
"""How long each worker is waited for, for a reason why something was needed and did not come."""
END_SECONDS = DRAIN_SECONDS + 2 * GIVING_UP_SECONDS + 2 * STOP_SECONDS + ONLOOKER_SECONDS
"""Longest that an end waits in all; a bus that hangs is waited for twice. TimeoutStopSec of both units is longer."""


class Daemon:
    """Start, supervise, drain.

    model_folder, shadow_folder: the configuration's packages, which count where none was activated; state_dir:
    resolved, like those; file: the configuration's, to be read again on SIGHUP. `run` returns the exit status. What
    cannot be started is said by one of PackageError, ActivationError, JournalError, InFlightError, BusError and
    HttpError.
    """

    def __init__(
        self,
        config: Config,
        model_folder: Path,
        state_dir: Path,
        shadow_folder: Path | None = None,
        file: ConfigFile | None = None,
    ) -> None:
        self._config = config
        self._state_dir = state_dir
        self._servers = own_servers(config)
        data = DataAge({server.server: server.stale_seconds for server, _ in self._servers})
        self._shared = Shared(Metrics(CollectorRegistry()), Health(data))
        self._keeper = ModelKeeper(config, state_dir, model_folder, shadow_folder, self._shared.health, file)
        self._inbox: Inbox = queue.Queue(INBOX_BATCHES + INBOX_SPARE * len(self._servers))
        self._outbox: Outbox = queue.Queue(OUTBOX_LISTS)
        self._asked_for_keys = threading.Event()
        self._back: threading.Thread | None = None
        self._notifier = Notifier.from_environment(os.environ)

    def request_stop(self) -> None:
        """From a signal handler: end once everything that was received is published."""
        self._shared.stopping.set()

    def request_reload(self) -> None:
        """From a signal handler: look again at the configuration, and which models are to be served and tried."""
        self._keeper.ask()

    def request_keys(self) -> None:
        """From a signal handler: read again who may connect to the bus."""
        self._asked_for_keys.set()

    def run(self) -> int:
        """0 after a clean drain, 1 where a thread failed."""
        with ExitStack() as stack:
            self._make_state_dir()
            journal = self._open_journal()
            stack.callback(self._close, journal)
            in_flight = self._in_flight(stack)
            served = self._keeper.start()
            bus = self._start_bus(stack)
            self._measure()
            http = HttpServer(self._config.metrics, self._shared.metrics.registry, self._health_report)
            http.start()
            stack.callback(http.stop)
            acquire.warm_up()
            lanes.warm_up()
            windows.warm_up(served.package.spec)
            failed = self._keeper.shadow_failed
            beside = Beside(self._shared.metrics, self._shared.health, self._config, served, failed)
            resume = self._resume(journal, served)
            workers = self._workers(served, beside, journal, bus, in_flight, resume)
            onlookers = self._onlookers(beside, stack)
            readers = [self._reader(server, entry, resume.positions.get(entry)) for server, entry in self._servers]
            self._write_endpoints(bus, http)
            started = {"state": "started", "version": __version__}
            self._inbox.put(Note("daemon", started if self._shard is None else {**started, "shard": str(self._shard)}))
            if journal.renewed:
                _log.warning("journal %s: new epoch %s: %s", journal.path, journal.epoch, journal.renewed)
                self._inbox.put(Note("journal", {"epoch": journal.epoch, "reason": journal.renewed}))
            _tune_interpreter()
            for thread in (*workers, *onlookers, *(thread for _, thread in readers)):
                thread.start()
            self._ready()
            watched = [(server.server, reader) for (server, _), (reader, _) in zip(self._servers, readers, strict=True)]
            self._supervise(LinkWatch(self._shared, self._inbox, watched), bus)
            return self._drain(workers, readers, bus, in_flight)

    def _measure(self) -> None:
        """What is looked at when somebody asks."""
        metrics = self._shared.metrics
        metrics.healthy.set_function(lambda: float(self._shared.health.healthy(time.monotonic_ns(), STALLED_NS)))
        metrics.state_free_bytes.set_function(lambda: _free_bytes(self._state_dir))
        shard = self._shard or Shard(1, 1)
        metrics.set_shard(shard.index, shard.count)

    @property
    def _shard(self) -> Shard | None:
        return None if self._config.shard is None else self._config.shard.one

    def _open_journal(self) -> JournalFile:
        """While one of an earlier version is copied, systemd waits."""

        def copying(copied: int, size: int) -> None:
            told = (
                f"copying the journal, which this version brings to a newer format: {copied >> 20} of {size >> 20} MiB"
            )
            self._notifier.extend(time.monotonic(), told)

        journal = JournalFile(self._state_dir / "journal.sqlite", copying=copying)
        if journal.kept is not None:
            _log.warning(
                "journal %s was brought to a newer format; as it was, it is kept as %s (%d MiB): remove that once "
                "nobody wants to go back to the version before",
                journal.path,
                journal.kept,
                journal.kept.stat().st_size >> 20,
            )
        return journal

    def _close(self, journal: JournalFile) -> None:
        """Left open where the back thread is still in it: the end of the process closes it as safely as kill -9."""
        if self._back is None or not self._back.is_alive():
            journal.close()

    def _make_state_dir(self) -> None:
        try:
            self._state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError([f"state_dir {self._state_dir}: cannot be made: {error.strerror}"]) from error

    def _in_flight(self, stack: ExitStack) -> InFlight:
        """What the process before this one left of itself, if it did not end as it should."""
        report = crash_report.last(self._state_dir / CRASH_FILE)
        if report:
            _log.error("the process before this one crashed: %s", report)
        in_flight = InFlight(self._state_dir / IN_FLIGHT_FILE, crashed=bool(report))
        stack.callback(in_flight.end)
        try:
            crash_report.begin(self._state_dir / CRASH_FILE)
        except OSError as error:
            _log.warning("%s: a crash cannot be reported: %s", self._state_dir / CRASH_FILE, error.strerror)
        return in_flight

    def _start_bus(self, stack: ExitStack) -> Bus:
        reader = JournalReader(self._state_dir / "journal.sqlite")
        stack.callback(reader.close)
        metrics, health = self._shared.metrics, self._shared.health
        observer = BusObserver(
            alive=lambda: health.stamp("bus", time.monotonic_ns()),
            replayed=metrics.replay_requests.inc,
            replay_refused=lambda reason: metrics.replay_refused[reason].inc(),
            refused=lambda reason: metrics.bus_refused[reason].inc(),
            sent=metrics.sample_to_publish_seconds.observe,
        )
        try:
            bus = Bus(self._config.publish, self._config.site, reader, observer=observer)
        except CredentialError as error:
            raise ConfigError([str(error)]) from error
        bus.start()
        stack.callback(bus.stop)
        return bus

    def _workers(
        self, served: Served, beside: Beside, journal: JournalFile, bus: Bus, in_flight: InFlight, resume: Resume
    ) -> list[threading.Thread]:
        config, shared = self._config, self._shared
        front_half = FrontHalf(config, served.package.spec, shared.timer)
        guard, overload = self._against_trouble(served, journal, in_flight)
        back_half = BackHalf(guarded(served, guard), served.package.name_of, served.scores, config, shared.timer)
        if resume.front is not None and resume.vote is not None:
            front_half.restore(resume.front, time.monotonic_ns())
            back_half.restore(resume.vote)
        now_ns, reached_ns = time.time_ns(), resume.reached_ns
        shared.health.data.seen_before({sid: ns for sid, ns in reached_ns.items() if ns <= now_ns})
        awaited = awaited_streams(config, [*reached_ns, *resume.silent])
        shared.health.data.await_again(awaited, resume.silent, time.monotonic_ns(), now_ns)
        shared.metrics.channels.awaited({sid: min(reached_ns.get(sid, now_ns), now_ns) for sid in awaited})
        _log.info("%s", resume.told)
        front = FrontWorker(shared, front_half, self._inbox, self._outbox, resume.positions, resume.had)
        made_of = recovery.made_of(config, served.package.spec)
        back = BackWorker(
            shared,
            config,
            back_half,
            served,
            beside,
            journal,
            bus,
            self._outbox,
            self._keeper.orders,
            guard,
            overload,
            made_of,
            resume.floors,
        )
        self._back = self._thread(back.NAME, back.run)
        return [self._thread(front.NAME, front.run), self._back]

    def _resume(self, journal: JournalFile, served: Served) -> Resume:
        """What to go on from; breaks that nobody can end any more end here."""
        resume = recovery.resume(journal.snapshot(), self._config, served.package.spec, journal.latest_onsets)
        if resume.front is None:
            journal.close_gaps(resume.had)
        return resume

    def _against_trouble(self, served: Served, journal: JournalFile, in_flight: InFlight) -> tuple[Guard, Overload]:
        """What the back thread has against an encoder that fails, and one that is too slow."""
        config, shared, cut = self._config, self._shared, cut_of(served.package.spec)

        def alive() -> None:
            shared.health.stamp(BackWorker.NAME, time.monotonic_ns())

        until_done = Patience(BackWorker.NAME, shared.health, shared.metrics, shared.given_up).until_done
        quarantine = WindowQuarantine(journal, shared.metrics, cut, until_done)
        guard = Guard(config.inference, alive, in_flight, quarantine, shared.metrics)

        def crowded() -> float:
            return self._outbox.qsize() / OUTBOX_LISTS

        return guard, Overload(config, journal, shared.metrics, cut, crowded, until_done)

    def _onlookers(self, beside: Beside, stack: ExitStack) -> list[threading.Thread]:
        """Threads that the live path never waits for: models being loaded, and the candidate."""
        keeper, shadow = self._keeper, beside.shadow
        threads = [self._thread(keeper.NAME, keeper.run), self._thread(shadow.NAME, shadow.run)]

        def end() -> None:
            keeper.stop()
            shadow.stop()
            deadline = time.monotonic() + ONLOOKER_SECONDS
            for thread in threads:
                if thread.ident is not None:
                    thread.join(max(0.0, deadline - time.monotonic()))

        stack.callback(end)
        return threads

    def _reader(
        self, server: SeedLinkConfig, entry: str, position: Position | None
    ) -> tuple[SeedLinkReader, threading.Thread]:
        name, shared = f"seedlink {server.server}", self._shared
        shared.metrics.seedlink_connected[server.server].set(0)
        shared.health.link(server.server, connected=False)

        def emit(item: Emitted) -> None:
            if isinstance(item, LinkNotice):  # at once: behind a full inbox it would come late
                _log.warning("%s: %s", item.server, item.text)
            shared.put(self._inbox, item, name)

        def room() -> bool:
            return self._inbox.qsize() < INBOX_BATCHES

        def alive() -> None:
            shared.health.stamp(name, time.monotonic_ns())

        reader = SeedLinkReader(
            server,
            emit,
            position=position,
            heartbeat=alive,
            room=room,
            entry=entry,
            agent=f"tscc-stream/{__version__}",
            shard=self._shard,
        )
        return reader, self._thread(name, reader.run)

    def _thread(self, name: str, target: Callable[[], None]) -> threading.Thread:
        """A thread whose failure ends the daemon."""

        def guarded() -> None:
            name_this_thread(name)
            try:
                target()
            except BaseException as error:  # noqa: BLE001 kept and raised by the main thread
                self._shared.fail(error)
            finally:
                self._shared.health.forget(name)

        return threading.Thread(target=guarded, name=name, daemon=True)

    def _write_endpoints(self, bus: Bus, http: HttpServer) -> None:
        """Where everything listens, for programs on this machine: with port 0 the system chose."""
        host, port = http.address
        try:
            write_endpoints(self._state_dir, bus.endpoint, bus.replay_endpoint, f"{host}:{port}")
        except OSError as error:
            raise JournalError(f"state_dir {self._state_dir}: cannot be written to: {error.strerror}") from error
        _log.info("journal in %s", self._state_dir.resolve())
        _log.info("publishing on %s, replay on %s, metrics on %s/metrics", bus.endpoint, bus.replay_endpoint, http.url)

    def _ready(self) -> None:
        self._shared.health.ready = True
        servers = ", ".join(server.server for server, _ in self._servers)
        if self._shard is not None:
            servers = f"shard {self._shard} of {servers}"
        self._notifier.ready(f"running: {servers}")
        _log.info("ready: %s", servers)

    def _supervise(self, links: LinkWatch, bus: Bus) -> None:
        """Until somebody wants an end: feed the watchdog while every thread turns, and look at the links."""
        reported: list[str] = []
        while not self._shared.stopping.wait(TURN_SECONDS):
            stalled = self._shared.health.stalled(time.monotonic_ns(), STALLED_NS)
            if not stalled:
                self._notifier.watchdog(time.monotonic())
            if stalled != reported:
                told = f"stuck threads: {', '.join(stalled) or 'none'}"
                _log.log(logging.ERROR if stalled else logging.INFO, told)
                self._notifier.status(told)
            reported = stalled
            links.turn(time.monotonic_ns())
            if self._asked_for_keys.is_set():
                self._asked_for_keys.clear()
                self._reload_keys(bus)

    def _reload_keys(self, bus: Bus) -> None:
        try:
            _log.info("%s", bus.reload_keys())
        except CredentialError as error:
            _log.error("%s: who could connect so far still can", error)

    def _health_report(self) -> tuple[bool, dict[str, Any]]:
        health, now_ns = self._shared.health, time.monotonic_ns()
        return health.healthy(now_ns, STALLED_NS), health.summary(now_ns, STALLED_NS)

    def _drain(
        self,
        workers: list[threading.Thread],
        readers: list[tuple[SeedLinkReader, threading.Thread]],
        bus: Bus,
        in_flight: InFlight,
    ) -> int:
        """Readers first, then whatever they handed over, stage by stage."""
        self._shared.health.stopping = True
        self._notifier.stopping()
        if self._shared.failure is None:
            waiting = self._inbox.qsize() + self._outbox.qsize()
            _log.info("stopping: everything received is being published, %d lists wait", waiting)
        deadline = time.monotonic() + DRAIN_SECONDS
        for reader, _ in readers:
            reader.stop()
        for _, thread in readers:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._shared.failure is None:
            self._shared.put(self._inbox, Note("daemon", {"state": "stopping"}), "main", deadline)
            self._shared.put(self._inbox, STOP, "main", deadline)
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        stuck = [worker.name for worker in workers if worker.is_alive()]
        self._give_up(workers)
        in_flight.end()  # before anything else that takes time: a SIGKILL from here on is nobody's fault
        left = self._inbox.qsize() + self._outbox.qsize()
        bus.stop()
        if self._shared.failure is not None:
            raise self._shared.failure
        if stuck:
            _log.error("not everything could be published within %g s: %d lists were left, and thread %s did not end; "
                       "the next start goes on from there", DRAIN_SECONDS, left, " and ".join(stuck))  # fmt: skip
            return 1
        _log.info("stopped")
        return 0

    def _give_up(self, workers: list[threading.Thread]) -> None:
        """Whoever still waits for the journal fails with its reason; the server's ring has what it held."""
        self._shared.given_up.set()
        for worker in workers:
            worker.join(GIVING_UP_SECONDS)


def _free_bytes(folder: Path) -> float:
    """NaN where the disk does not say: a scrape is of use without."""
    try:
        return float(shutil.disk_usage(folder).free)
    except OSError:
        return math.nan


def _tune_interpreter() -> None:
    """What start-up made stays, and is never looked at again: a full collection would stop every thread for 0.2 s."""
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_SECONDS)


def awaited_streams(config: Config, sids: Iterable[str]) -> dict[str, str]:
    """Of streams that an earlier process had, those that the configuration still asks for: source id -> its server.

    What it asks for no longer is forgotten. Of several servers with one stream it is the first.
    """
    shard = None if config.shard is None else config.shard.one
    filters = [(one.server, StreamFilter(tuple(map(parse_pattern, one.streams)))) for one, _ in own_servers(config)]
    wanted = {sid: next((name for name, one in filters if one.wants(sid)), None) for sid in sids}
    return {
        sid: server for sid, server in wanted.items() if server is not None and (shard is None or shard.holds_sid(sid))
    }


def run(
    config: Config, folder: Path, file: Path | None = None, made: Callable[[Config], Config] = lambda config: config
) -> int:
    """The daemon in this process until SIGTERM or SIGINT. folder: what a relative model path starts from; file: the
    configuration's, read again on SIGHUP; made: what is made of what it says, as was `config`.
    """
    for warning in config.metrics.warnings():
        _log.warning("%s", warning)
    shadow = None if config.shadow is None else package.find(config.shadow, folder)
    source = None if file is None else ConfigFile(file, config, made)
    daemon = Daemon(config, package.find(config.model, folder), Path(config.state_dir), shadow, source)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        daemon.request_stop()

    def on_hangup(_number: int, _frame: FrameType | None) -> None:
        daemon.request_reload()
        daemon.request_keys()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    signal.signal(signal.SIGHUP, on_hangup)
    return daemon.run()
