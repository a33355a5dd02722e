"""The workers without threads.

What is queued for the back is committed batch by batch, and the worker shows that it lives; what the front half says of
a channel becomes messages and metrics.
"""

from __future__ import annotations

import math
import queue
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_streams import SID, T0, batch_of, package_spec
from prometheus_client import CollectorRegistry, generate_latest

from tscc_stream.config import Config
from tscc_stream.data_age import DataAge
from tscc_stream.edges.seedlink_socket import Arrival
from tscc_stream.health import Health
from tscc_stream.messages import Float64Array, Message, NetworkEvent, Quarantined, Record, Released, WindowDropped
from tscc_stream.metrics import Metrics
from tscc_stream.notes import Note
from tscc_stream.pipeline import FrontHalf
from tscc_stream.recovery import Barrier, Floors
from tscc_stream.sampling import offset_ns
from tscc_stream.seedlink.position import Position
from tscc_stream.stages.acquire import Rejected
from tscc_stream.stages.interpret import VoteState
from tscc_stream.stages.journal import Snapshot
from tscc_stream.stages.publish import ModelIdentity
from tscc_stream.workers import EXPECTED_SECONDS, STOP, BackWorker, FrontWorker, Shared


class FakeBack:
    """Every window makes one event and fills a batch of its own."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def feed(self, dropped: WindowDropped) -> list[NetworkEvent]:
        self.batch_sizes.append(1)
        return [NetworkEvent(dropped.uid, dropped.onset_ns, 1.0, (dropped.sid,), (), {}, None, "unknown", True)]

    def flush(self) -> list[NetworkEvent]:
        return []


class FakeJournal:
    head = 0

    def __init__(self, health: Health) -> None:
        self.groups: list[list[str]] = []
        self._health = health
        self.alive: list[list[str]] = []

    def append(self, messages: list[Message], *_: object) -> list[Any]:
        self.groups.append([message.uid for message in messages])
        self.alive.append(self._health.stalled(1 << 62, 0))
        return []

    def trim(self, *_: object) -> None: ...

    def remember_model(self, *_: object) -> None: ...


_QUIET_BUS = SimpleNamespace(publish=lambda _: None)


def back_worker(shared: Shared, back: object, journal: object, outbox: object, bus: object = _QUIET_BUS) -> BackWorker:
    served = SimpleNamespace(
        identity=ModelIdentity("m", "1", "0" * 64), package=SimpleNamespace(document="{}", called={})
    )
    beside = SimpleNamespace(saw=lambda _: None)
    guard = SimpleNamespace(quarantine=SimpleNamespace(take_notes=list))
    overload = SimpleNamespace(waiting=0, look=lambda: None, relieve=list, late=list, take_notes=list)
    arguments: Any = (back, served, beside, journal, bus, outbox, queue.SimpleQueue(), guard, overload)
    return BackWorker(shared, Config(), *arguments, b"{}", Floors())


def test_a_long_queue_is_committed_batch_by_batch_and_in_order() -> None:
    shared = Shared(Metrics(CollectorRegistry()), Health())
    journal, outbox = FakeJournal(shared.health), queue.Queue[Any]()
    windows = [WindowDropped(f"uid-{i}", "FDSN:XX_A__H_H_Z", i, "gap") for i in range(12)]
    outbox.put([*windows[:7]])
    outbox.put([*windows[7:], Note("daemon", {"state": "stopping"})])
    outbox.put(STOP)
    back_worker(shared, FakeBack(), journal, outbox).run()
    assert journal.groups[:12] == [[window.uid] for window in windows]
    assert len(journal.groups) == 13
    assert journal.groups[12][0].startswith("status-daemon-")
    assert all(names == ["back"] for names in journal.alive)  # it had stamped before every commit


def test_the_encoder_is_kept_warm_only_while_windows_are_expected() -> None:
    calls: list[float] = []

    class Back(FakeBack):
        def keep_warm(self) -> None:
            calls.append(shared.windows_until)
            shared.windows_until = -math.inf
            outbox.put(STOP)

    shared, outbox = Shared(Metrics(CollectorRegistry()), Health()), queue.Queue[Any]()
    shared.windows_until = math.inf
    back_worker(shared, Back(), FakeJournal(shared.health), outbox).run()
    assert calls == [math.inf]
    outbox.put(STOP)
    back_worker(shared, Back(), FakeJournal(shared.health), outbox).run()
    assert calls == [math.inf]


class HoldingBack:
    """What it is fed comes out with the next flush, as from a batch that is not full."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []
        self._held: list[NetworkEvent] = []

    def feed(self, dropped: WindowDropped) -> list[NetworkEvent]:
        self._held += FakeBack().feed(dropped)
        return []

    def flush(self) -> list[NetworkEvent]:
        held, self._held = self._held, []
        self.batch_sizes += [1] * bool(held)
        return held

    def snapshot(self, _: frozenset[str]) -> VoteState:
        return VoteState([], [], [])

    def unsettled_ns(self) -> int:
        return 1 << 62


def test_what_lies_before_a_barrier_is_published_before_the_snapshot_is_written() -> None:
    """Which may be megabytes."""
    shared, outbox, done = Shared(Metrics(CollectorRegistry()), Health()), queue.Queue[Any](), list[str]()

    class Journal(FakeJournal):
        def append(self, messages: list[Message], _gaps: object, snapshot: Snapshot | None) -> list[Any]:  # type: ignore[override]  # by place
            done.extend([message.uid for message in messages] + ["snapshot"] * (snapshot is not None))
            return []

    barrier = Barrier(b"", b"{}", {}, 1 << 62)
    outbox.put([WindowDropped("before", SID, 1, "gap"), barrier, WindowDropped("after", SID, 2, "gap")])
    outbox.put(STOP)
    bus = SimpleNamespace(publish=lambda _: done.append("published"))
    back_worker(shared, HoldingBack(), Journal(shared.health), outbox, bus).run()
    assert done == ["before", "published", "snapshot", "published", "after", "published"]


def test_a_channel_that_breaks_all_the_time_is_told_once_and_counted() -> None:
    shared = Shared(Metrics(CollectorRegistry()), Health(DataAge({"server": 60.0})))
    inbox, outbox = queue.Queue[Any](), queue.Queue[Any]()
    front = FrontHalf(Config(), package_spec())
    rng = np.random.default_rng(0)

    def arrival(first: int, samples: int) -> Arrival:
        values = rng.normal(0, 9, samples)
        record = Record(SID, T0 + offset_ns(first, 100.0), 100.0, values)
        return Arrival("server", (batch_of([record]),), 0, Position())

    for k in range(500):
        inbox.put(arrival(2 * k, 1))
    for k in range(70):
        inbox.put(arrival(2000 + 100 * k, 100))
    inbox.put(STOP)
    FrontWorker(shared, front, inbox, outbox, {}, {}).run()
    items = [item for items in list(outbox.queue)[:-1] for item in items]
    notes = [item for item in items if isinstance(item, Note)]
    assert not any(isinstance(item, Quarantined | Released) for item in items)
    why = "more than 60 breaks in 60 s; left out until 60 s of it came without a break"
    assert notes == [
        Note("channel", {"sid": SID, "quarantined": why}),
        Note("channel", {"sid": SID, "released": "60 s of it came without a break"}),
    ]
    exposed = generate_latest(shared.metrics.registry).decode()
    assert "tscc_channels_quarantined 0.0" in exposed
    assert 'tscc_records_rejected_total{reason="quarantined"}' in exposed


def test_a_trigger_announces_that_a_window_will_come() -> None:
    shared = Shared(Metrics(CollectorRegistry()), Health(DataAge({"server": 60.0})))
    inbox, outbox = queue.Queue[Any](), queue.Queue[Any]()
    values = np.random.default_rng(0).normal(0, 9, 6000)

    def run(samples: Float64Array) -> None:
        inbox.put(Arrival("server", (batch_of([Record(SID, T0, 100.0, samples)]),), 0, Position()))
        inbox.put(STOP)
        FrontWorker(shared, FrontHalf(Config(), package_spec()), inbox, outbox, {}, {}).run()

    run(values)
    assert shared.windows_until == -math.inf
    burst = values.copy()
    burst[3000:3400] *= 50.0
    run(burst)
    assert 0.0 < shared.windows_until - time.monotonic() <= EXPECTED_SECONDS


def test_packets_that_cannot_be_used_are_counted_one_by_one_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A recorder that sends nothing but nonsense must not fill the disk with lines."""
    shared = Shared(Metrics(CollectorRegistry()), Health(DataAge({"server": 60.0})))
    inbox, outbox = queue.Queue[Any](), queue.Queue[Any]()
    reasons = ["malformed"] * 500 + ["format"] * 500
    items = tuple(Rejected(reason, f"nonsense: {reason}", k, "BW_UH1") for k, reason in enumerate(reasons))
    inbox.put(Arrival("server", items, 0, Position()))
    inbox.put(STOP)
    FrontWorker(shared, FrontHalf(Config(), package_spec()), inbox, outbox, {}, {}).run()
    assert [line for line in caplog.messages if "dropped" in line] == [
        "server: packet 0 dropped: nonsense: malformed",
        "server: packet 500 dropped: nonsense: format",
    ]
    exposed = generate_latest(shared.metrics.registry).decode()
    assert 'tscc_records_rejected_total{reason="malformed"} 500.0' in exposed
