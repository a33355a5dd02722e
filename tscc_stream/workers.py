"""The daemon's two workers: records to windows in the front thread, windows to published messages in the back thread.

Between them run bounded queues. Who finds one full waits, and shows meanwhile that it lives: a full queue makes the
reader read more slowly, and the server's ring is the buffer.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from tscc_stream.beside import Beside
from tscc_stream.config import Config
from tscc_stream.edges.seedlink_socket import Arrival, Emitted, LinkNotice, LinkState
from tscc_stream.edges.sqlite import TRIM_ROWS, JournalFile
from tscc_stream.edges.zeromq import Bus
from tscc_stream.gap_causes import LOST, GapCauses
from tscc_stream.health import Health
from tscc_stream.inference import Guard, GuardedInfer
from tscc_stream.messages import (
    Committed,
    Detection,
    Gap,
    Message,
    Quarantined,
    Record,
    RecordBatch,
    Refusal,
    Released,
    WindowDropped,
)
from tscc_stream.metrics import Metrics
from tscc_stream.notes import Note
from tscc_stream.overload import Overload
from tscc_stream.patience import Patience
from tscc_stream.pipeline import BackHalf, BackMessage, FrontHalf, FrontMessage
from tscc_stream.recovery import Barrier, Barriers, Floors, snapshot_at
from tscc_stream.sampling import NS_PER_SECOND, offset_ns
from tscc_stream.seedlink.position import Position
from tscc_stream.seldom import Repeats
from tscc_stream.serving import NewLive, NewNames, NewSettings, NewShadow, Order, Served, renewed
from tscc_stream.stages.acquire import Rejected
from tscc_stream.stages.journal import Snapshot
from tscc_stream.stages.publish import Publish

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")

TURN_SECONDS = 0.5
"""Longest sleep of any loop, so that it shows that it lives."""
BYTES_PER_GIB = 2**30
_BROKEN_PACKET = ("frame", "size", "line")
"""Reasons for which a link ends whose next request may step over a packet."""
WARM_SECONDS = 0.1
"""Pause after which an encoder that windows are expected for is called without one: after a second in which others
had the processor's caches, a window takes ten times as long as after a hundredth.
"""
EXPECTED_SECONDS = 10.0
"""After a trigger, how long its window may take to come: its last samples, and records of slow channels to fill."""
COMMIT_TOGETHER = 64
"""Lists from the front thread that go into one transaction at most."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The last item of a queue."""


STOP = Stop()
Inbox = queue.Queue[Emitted | Note | Stop]
Outgoing = FrontMessage | Note | Barrier
Outbox = queue.Queue[list[Outgoing] | Stop]


@dataclass
class Shared:
    """What every worker uses. failure: the first exception of any thread, which ends the daemon.

    given_up: nobody waits any longer for what the journal does not take. windows_until: monotonic s up to which windows
    are expected.
    """

    metrics: Metrics
    health: Health
    stopping: threading.Event = field(default_factory=threading.Event)
    given_up: threading.Event = field(default_factory=threading.Event)
    failure: BaseException | None = None
    windows_until: float = -math.inf

    def fail(self, error: BaseException) -> None:
        self.failure = self.failure or error
        self.stopping.set()

    def put(self, target: queue.Queue[_Item], item: _Item, thread: str, until: float = math.inf) -> None:
        """Wait for room, at most until a monotonic time (s), and show meanwhile that the waiting thread lives."""
        while time.monotonic() < until:
            self.health.stamp(thread, time.monotonic_ns())
            try:
                target.put(item, timeout=TURN_SECONDS)
            except queue.Full:
                if self.failure is not None:
                    return  # whoever should make room has ended
            else:
                return

    def timer(self, stage: str) -> AbstractContextManager[object]:
        return self.metrics.stage_seconds[stage].time()


class FrontWorker:
    """Records to windows, in the front thread."""

    NAME = "front"

    def __init__(
        self,
        shared: Shared,
        front: FrontHalf,
        inbox: Inbox,
        outbox: Outbox,
        positions: Mapping[str, Position],
        had: Mapping[str, int],
    ) -> None:
        """positions: where each reader goes on from, by its entry. had: as in Resume."""
        self._shared = shared
        self._front = front
        self._inbox, self._outbox = inbox, outbox
        self._positions, self._had = dict(positions), dict(had)
        self._barriers = Barriers(time.monotonic_ns())
        self._moved = False  # since the last barrier
        self._causes = GapCauses()
        self._counted: dict[str, float] = {}
        self._links: dict[str, tuple[bool, str]] = {}
        self._rejections = Repeats()

    def run(self) -> None:
        while self._shared.failure is None:
            item = self._next()
            if isinstance(item, Stop):
                break
            out = self._turn(item)
            self._count()
            if self._moved and self._barriers.due(time.monotonic_ns()):
                out.append(self._barrier())
            if out:
                self._shared.put(self._outbox, out, self.NAME)
        last: list[Outgoing] = [self._barrier()]
        self._shared.put(self._outbox, last, self.NAME)
        self._shared.put(self._outbox, STOP, self.NAME)

    def _barrier(self) -> Barrier:
        self._moved = False
        with self._shared.timer("snapshot"):
            silent = self._shared.health.data.told_silent()
            return self._barriers.take(self._front, self._positions, time.monotonic_ns(), silent)

    def _next(self) -> Emitted | Note | Stop | None:
        now_ns = time.monotonic_ns()
        self._shared.health.stamp(self.NAME, now_ns)
        self._shared.metrics.queue_depth["front"].set(self._inbox.qsize())
        deadline = self._front.next_deadline()
        wait = TURN_SECONDS if deadline is None else min(TURN_SECONDS, (deadline - now_ns) / NS_PER_SECOND)
        try:
            return self._inbox.get(timeout=max(wait, 0.001))
        except queue.Empty:
            return None

    def _turn(self, item: Emitted | Note | None) -> list[Outgoing]:
        now_ns = time.monotonic_ns()
        out: list[Outgoing] = []
        if isinstance(item, Arrival):
            out += self._arrival(item, now_ns)
        elif isinstance(item, LinkState):
            out += self._link(item)
        elif isinstance(item, LinkNotice):
            out.append(Note("seedlink-notice", {"server": item.server, "reason": item.reason, "text": item.text}))
        elif item is not None:
            out.append(item)
        out += self._front.poll(now_ns)
        return [self._seen(message) for message in out]

    def _arrival(self, arrival: Arrival, now_ns: int) -> list[FrontMessage]:
        out: list[FrontMessage] = []
        for item in arrival.items:
            if isinstance(item, Rejected):
                self._reject(arrival.server, item)
                continue
            out += self._batch(arrival.server, item, now_ns)
        if arrival.batches:
            self._shared.metrics.seedlink_last_data_timestamp_seconds[arrival.server].set(time.time())
        if arrival.unwanted:
            self._shared.metrics.records_rejected["unwanted"].inc(arrival.unwanted)
        if arrival.elsewhere:  # the server lives, though nothing may come of this shard's stations
            self._shared.metrics.records_of_other_shards[arrival.server].inc(arrival.elsewhere)
            self._shared.health.data.heard(arrival.server, now_ns)
        self._positions[arrival.entry] = arrival.position
        self._moved = True
        return out

    def _batch(self, server: str, batch: RecordBatch, now_ns: int) -> list[FrontMessage]:
        self._causes.batch(server, batch)
        out: list[FrontMessage] = []
        if self._had:
            for place in range(len(batch)):
                out += self._begun(batch.record(place))
        out += self._front.feed_batch(batch, now_ns)
        self._shared.metrics.channels.took_batch(server, batch)
        self._shared.health.data.arrived_batch(server, batch, now_ns, time.time_ns())
        return out

    def _begun(self, record: Record) -> list[Gap]:
        """What is missing since the last process, of a channel whose state was not restored."""
        had_ns = self._had.pop(record.sid, record.start_ns)
        missing = record.start_ns - had_ns > offset_ns(1, record.sample_rate_hz)
        return [Gap(record.sid, had_ns, record.start_ns, "gap")] if missing else []

    def _reject(self, server: str, rejected: Rejected) -> None:
        self._shared.metrics.records_rejected[rejected.reason].inc()
        self._causes.rejected(server, rejected.station)
        untold = self._rejections.due((server, rejected.reason), time.monotonic())
        if untold is not None:
            more = f"; {untold} more ({rejected.reason}) since this was last said" if untold else ""
            _log.warning("%s: packet %d dropped: %s%s", server, rejected.sequence, rejected.text, more)

    def _link(self, state: LinkState) -> list[Note]:
        """A change of a server's link is told once, not with every attempt that fails the same way."""
        metrics, server = self._shared.metrics, state.server
        metrics.seedlink_connected[server].set(state.connected)
        if state.connected:
            self._causes.linked(server, resumed=state.step != "now")
        elif state.reason in _BROKEN_PACKET:
            self._causes.rejected(server, station="")
        self._shared.health.link(server, state.connected)
        self._shared.health.data.link(server, state.connected, time.monotonic_ns())
        if state.connected:
            metrics.seedlink_linked(server, state.actual, state.step or "")
        else:
            metrics.seedlink_unlinked(server)
        before = self._links.get(server)
        if before is not None and before[0] and not state.connected:
            metrics.seedlink_reconnects[server].inc()
        self._links[server] = (state.connected, state.actual if state.connected else state.reason)
        if before == self._links[server]:
            return []
        _log.log(logging.INFO if state.connected else logging.WARNING, "%s: %s", server, state.text)
        return [Note("seedlink", {"server": server, "actual": state.actual, "connected": state.connected,
                                  "reason": state.reason, "step": state.step, "text": state.text})]  # fmt: skip

    def _seen(self, message: Outgoing) -> Outgoing:
        metrics = self._shared.metrics
        if isinstance(message, Gap):
            return replace(message, cause=self._causes.named(message))
        if isinstance(message, WindowDropped):
            metrics.windows_dropped[message.reason].inc()
        elif isinstance(message, Refusal):
            _log.error("channel %s is left out: %s", message.sid, message.reason)
            return Note("channel", {"sid": message.sid, "refused": message.reason})
        elif isinstance(message, Quarantined):
            _log.error("channel %s is quarantined: %s", message.sid, message.reason)
            return Note("channel", {"sid": message.sid, "quarantined": message.reason})
        elif isinstance(message, Released):
            _log.warning("channel %s is back: %s", message.sid, message.reason)
            return Note("channel", {"sid": message.sid, "released": message.reason})
        return message

    def _count(self) -> None:
        metrics, counts = self._shared.metrics, self._front.counts
        self._advance("triggers", counts["triggers"], self._triggered)
        self._advance("suppressed", counts["suppressed"], metrics.windows_dropped["pending"].inc)
        self._advance("refused", counts["refused"], metrics.records_rejected["rate"].inc)
        self._advance("quarantined", counts["quarantined"], metrics.records_rejected["quarantined"].inc)
        self._advance("turned away", counts["turned away"], metrics.records_rejected["channels"].inc)
        for reason, samples in self._front.assemble.left_out.items():
            self._advance(f"samples {reason}", samples, metrics.samples_left_out[reason].inc)
        metrics.channels_quarantined.set(self._front.quarantine.held)

    def _triggered(self, number: float) -> None:
        self._shared.metrics.triggers.inc(number)
        self._shared.windows_until = time.monotonic() + EXPECTED_SECONDS

    def _advance(self, name: str, value: float, add: Callable[[float], None]) -> None:
        """Move a metric on by what a stage has counted since the last time."""
        grown = value - self._counted.get(name, 0.0)
        if grown:
            add(grown)
            self._counted[name] = value


def guarded(served: Served, guard: Guard) -> GuardedInfer:
    """A model's encoder behind the guard."""
    return GuardedInfer(served.encoder, lambda: renewed(served, guard.settings), guard)


class BackWorker:
    """Windows to messages, journal, bus, in the back thread. orders: changes of model, taken between two batches."""

    NAME = "back"

    def __init__(
        self,
        shared: Shared,
        config: Config,
        back: BackHalf,
        served: Served,
        beside: Beside,
        journal: JournalFile,
        bus: Bus,
        outbox: Outbox,
        orders: queue.SimpleQueue[Order],
        guard: Guard,
        overload: Overload,
        made_of: bytes,
        floors: Floors,
    ) -> None:
        """made_of: as snapshots state it."""
        self._shared, self._site, self._retention = shared, config.site, config.retention
        self._back, self._beside, self._journal, self._bus = back, beside, journal, bus
        self._outbox, self._orders = outbox, orders
        self._made_of, self._floors = made_of, floors
        self._gaps: list[Gap] = []
        self._patience = Patience(self.NAME, shared.health, shared.metrics, shared.given_up)
        self._guard, self._overload = guard, overload
        self._fresh: list[Detection] = []
        self._uncommitted: list[Message] = []
        self._serve(served)
        self._remember()

    def _serve(self, served: Served) -> None:
        identity = served.identity
        self._publish = Publish(self._site, identity)
        self._shared.metrics.set_model(identity.name, identity.version, identity.sha256)
        self._shared.metrics.set_clusters(served.package.called)
        self._served = served

    def _remember(self) -> None:
        """What the windows of the model's detections are stays stated in the journal."""
        self._journal.remember_model(self._served.identity.sha256, self._served.package.document)

    def run(self) -> None:
        ended = False
        while not ended and self._shared.failure is None:
            lists = self._take()
            self._uncommitted += self._obey()
            for item in lists:
                if isinstance(item, Stop):
                    ended = True
                else:
                    self._feed(item)
            if not lists:
                self._idle()
            self._hold(self._back.flush())
            self._note()
            self._commit()

    def _take(self) -> list[list[Outgoing] | Stop]:
        """What is queued, at least one list where one comes in time."""
        self._shared.health.stamp(self.NAME, time.monotonic_ns())
        self._shared.metrics.queue_depth["back"].set(self._outbox.qsize())
        self._overload.look()
        taken: list[list[Outgoing] | Stop] = []
        try:
            taken.append(self._outbox.get(timeout=self._pause()))
            while len(taken) < COMMIT_TOGETHER:
                taken.append(self._outbox.get_nowait())
        except queue.Empty:
            pass
        return taken

    def _pause(self) -> float:
        """Longest wait for something new (s)."""
        if self._overload.waiting:
            return 0.0
        return WARM_SECONDS if self._expecting() else TURN_SECONDS

    def _expecting(self) -> bool:
        return time.monotonic() < self._shared.windows_until

    def _obey(self) -> list[Message]:
        """Changes of model that were ordered. Every turn ends with a flush: nothing is held between two turns."""
        messages: list[Message] = []
        while True:
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return messages
            messages += self._change(order)

    def _change(self, order: Order) -> list[Message]:
        if isinstance(order, NewLive):
            return self._swap(order.served)
        if isinstance(order, NewShadow):
            self._beside.shadow.use(order.served)
            state = "active" if order.served else "off"
            return [
                self._model_status({"role": "shadow", "state": state, **(order.served.told() if order.served else {})})
            ]
        if isinstance(order, NewSettings):
            return self._settle(order.config)
        if isinstance(order, NewNames):
            return self._rename(order)
        return [self._publish.status(order.kind, order.data, time.time_ns())]

    def _rename(self, order: NewNames) -> list[Message]:
        """Names that came while another model took over are that one's no longer."""
        loaded = self._served.package
        if loaded.sha256 != order.sha256:
            return []
        loaded.given = order.given
        called = loaded.called
        self._shared.metrics.set_clusters(called)
        _log.info("clusters are called %s from now on", ", ".join(called.values()))
        return [self._model_status({"role": "live", "state": "named", **self._served.told(), "names": called})]

    def _settle(self, config: Config) -> list[Message]:
        """What may change while running: reload.CHANGEABLE."""
        self._retention = config.retention
        self._guard.settings = config.inference
        self._overload.use(config)
        self._beside.retune(config)
        return self._written(self._back.retune(config.novelty.alpha))

    def _swap(self, served: Served) -> list[Message]:
        before = self._served.package.sha256
        infer = guarded(served, self._guard)
        held = self._written(self._back.use(infer, served.package.name_of, served.scores))
        self._beside.use(served)
        self._serve(served)
        self._patience.until_done(self._remember)
        _log.info("model %s %s (%s) from now on", *served.told().values())
        status = self._model_status({"role": "live", "state": "active", **served.told(), "before": before})
        return [*held, status]

    def _model_status(self, data: dict[str, Any]) -> Message:
        return self._publish.status("model", data, time.time_ns())

    def _feed(self, items: list[Outgoing]) -> None:
        """Every batch that has gone through is committed at once, however much is queued behind it."""
        for item in self._overload.relieve(items):
            if isinstance(item, Note):
                self._uncommitted.append(self._noted(item))
            elif isinstance(item, Gap):
                self._enter(item)
            elif isinstance(item, Barrier):
                self._at_barrier(item)
            elif not isinstance(item, Refusal | Quarantined | Released):
                self._hold(self._back.feed(item))
            if self._back.batch_sizes:
                self._commit()

    def _enter(self, gap: Gap) -> None:
        """For the ledger, with the next commit."""
        metrics = self._shared.metrics
        self._gaps.append(gap)
        if gap.cause == "clock":
            self._floors = self._floors.without(gap.sid)
        if gap.to_ns is not None:
            metrics.gaps[gap.sid].inc()
            metrics.gaps_by_cause[gap.cause].inc()
            if gap.cause in LOST:
                metrics.lost_seconds[gap.sid].inc((gap.to_ns - gap.from_ns) / NS_PER_SECOND)

    def _at_barrier(self, barrier: Barrier) -> None:
        """Everything before it is committed and published, then what a restart goes on from: it may be megabytes."""
        self._hold(self._back.flush())
        self._commit()
        unsettled_ns = min(barrier.unsettled_ns, self._back.unsettled_ns())
        self._floors = self._floors.after(barrier, unsettled_ns)
        vote = self._back.snapshot(barrier.named)
        self._commit(snapshot_at(barrier, vote, unsettled_ns, self._made_of, self._floors))

    def _idle(self) -> None:
        """Nothing else waits."""
        if not self._overload.waiting and self._expecting():
            self._back.keep_warm()
        self._catch_up()

    def _catch_up(self) -> None:
        """One batch of what was spilled."""
        results: list[BackMessage] = []
        for item in self._overload.late():
            if isinstance(item, Gap):
                self._enter(item)
            else:
                results += self._back.feed(item)
        results += self._back.flush()
        late = [replace(one, late=True) if isinstance(one, Detection) else one for one in results]
        self._uncommitted += self._messages(late)  # what was told of a spilled window has the same uid, and is refused

    def _note(self) -> None:
        """What guard and overload have to tell."""
        notes = [*self._guard.quarantine.take_notes(), *self._overload.take_notes()]
        self._uncommitted += [self._noted(note) for note in notes]

    def _noted(self, note: Note) -> Message:
        return self._publish.status(note.kind, note.data, time.time_ns(), note.about)

    def _hold(self, results: list[BackMessage]) -> None:
        self._uncommitted += self._written(results)

    def _written(self, results: list[BackMessage]) -> list[Message]:
        """A warm-up restart makes again what the journal may hold under an onset that was another then."""
        return self._messages([result for result in results if not self._floors.hold_back(result)])

    def _messages(self, results: list[BackMessage]) -> list[Message]:
        self._fresh += [result for result in results if isinstance(result, Detection)]
        return [message for result in results for message in self._publish.feed(result)]

    def _commit(self, snapshot: Snapshot | None = None) -> None:
        """Journal before publish."""
        self._shared.health.stamp(self.NAME, time.monotonic_ns())
        for size in self._back.batch_sizes:
            self._shared.metrics.batch_size.observe(size)
        self._back.batch_sizes.clear()
        messages, self._uncommitted = self._uncommitted, []
        gaps, self._gaps = self._gaps, []
        if messages or gaps or snapshot:
            with self._shared.timer("journal"):
                committed = self._patience.until_done(lambda: self._journal.append(messages, gaps, snapshot))
            self._bus.publish(committed)
            self._count(committed)
        self._trim(len(messages))

    def _trim(self, added: int) -> None:
        """Some of what retention no longer covers, after every turn: never a long pause, yet faster than it grows."""
        retention = self._retention
        most = max(TRIM_ROWS, 2 * added)
        self._patience.until_done(lambda: self._journal.trim(retention.days, retention.max_gib * BYTES_PER_GIB, most))

    def _count(self, committed: list[Committed]) -> None:
        metrics = self._shared.metrics
        metrics.journal_head_seq.set(self._journal.head)
        uids = set()
        for entry in committed:
            if entry.message.kind == "network" and entry.message.final:
                metrics.network_events[entry.message.topic.split(".")[1]].inc()
            if entry.message.kind == "detection":
                uids.add(entry.message.uid)
                cluster = entry.message.topic.split(".")[1]
                metrics.detections[cluster].inc()
                if cluster == "unknown":
                    metrics.unknown.inc()
        self._beside.saw([detection for detection in self._fresh if detection.assignment.window.uid in uids])
        self._fresh.clear()
