"""The back worker without threads: what is queued is committed batch by batch, and the worker shows that it lives."""

from __future__ import annotations

import queue
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry

from tscc_stream.config import Config
from tscc_stream.health import Health
from tscc_stream.messages import Message, NetworkEvent, WindowDropped
from tscc_stream.metrics import Metrics
from tscc_stream.notes import Note
from tscc_stream.stages.publish import ModelIdentity
from tscc_stream.workers import STOP, BackWorker, Shared


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

    def append(self, messages: list[Message]) -> list[Any]:
        self.groups.append([message.uid for message in messages])
        self.alive.append(self._health.stalled(1 << 62, 0))
        return []

    def trim(self, *_: object) -> None: ...

    def remember_model(self, *_: object) -> None: ...


def test_a_long_queue_is_committed_batch_by_batch_and_in_order() -> None:
    shared = Shared(Metrics(CollectorRegistry()), Health())
    journal, outbox = FakeJournal(shared.health), queue.Queue[Any]()
    served = SimpleNamespace(identity=ModelIdentity("m", "1", "0" * 64), package=SimpleNamespace(document="{}"))
    windows = [WindowDropped(f"uid-{i}", "FDSN:XX_A__H_H_Z", i, "gap") for i in range(12)]
    outbox.put([*windows[:7]])
    outbox.put([*windows[7:], Note("daemon", {"state": "stopping"})])
    outbox.put(STOP)
    bus, beside = SimpleNamespace(publish=lambda _: None), SimpleNamespace(saw=lambda _: None)
    guard = SimpleNamespace(quarantine=SimpleNamespace(take_notes=list))
    overload = SimpleNamespace(waiting=0, look=lambda: None, relieve=list, late=list, take_notes=list)
    arguments: Any = (FakeBack(), served, beside, journal, bus, outbox, queue.SimpleQueue(), guard, overload)
    BackWorker(shared, Config(), *arguments).run()
    assert journal.groups[:12] == [[window.uid] for window in windows]
    assert len(journal.groups) == 13
    assert journal.groups[12][0].startswith("status-daemon-")
    assert all(names == ["back"] for names in journal.alive)  # it had stamped before every commit
