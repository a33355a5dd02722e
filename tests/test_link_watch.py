"""What the daemon's turn says of its links, and what it asks of their readers."""

from __future__ import annotations

import math
import queue
from dataclasses import dataclass, field

import numpy as np
from prometheus_client import CollectorRegistry

from tscc_stream.data_age import DataAge
from tscc_stream.health import Health
from tscc_stream.link_watch import LinkWatch
from tscc_stream.messages import Record, RecordBatch
from tscc_stream.metrics import Metrics
from tscc_stream.workers import Inbox, Note, Shared

SECOND = 1_000_000_000
MINE = "mine:1"


@dataclass
class FakeReader:
    waiting: bool = False
    waited_seconds: float = 0.0
    ring_left: float | None = None
    asked: list[str] = field(default_factory=list)

    holds: dict[str, int | None] | None = None
    questions: int = 0

    def reconnect(self, reason: str) -> None:
        self.asked.append(reason)

    def ask_held(self) -> None:
        self.questions += 1

    def held(self) -> dict[str, int | None] | None:
        answer, self.holds = self.holds, None
        return answer


def made(size: int = 10, readers: int = 1) -> tuple[LinkWatch, Shared, Inbox, list[FakeReader]]:
    shared = Shared(Metrics(CollectorRegistry()), Health(DataAge({MINE: 60.0})))
    inbox, fakes = Inbox(size), [FakeReader() for _ in range(readers)]
    shared.health.data.link(MINE, True, 0)
    return LinkWatch(shared, inbox, [(MINE, fake) for fake in fakes]), shared, inbox, fakes


def notes(inbox: queue.Queue[object]) -> list[object]:
    found = []
    while not inbox.empty():
        item = inbox.get_nowait()
        assert isinstance(item, Note)
        assert item.kind == "data"
        found.append((item.data.get("sid"), item.data["state"]))
    return found


def test_silence_is_told_and_the_server_is_connected_to_anew() -> None:
    watch, shared, inbox, (one, two) = made(readers=2)
    shared.health.data.arrived(MINE, "a", SECOND)
    watch.turn(60 * SECOND)
    assert (notes(inbox), one.asked) == ([], [])
    watch.turn(61 * SECOND)
    assert notes(inbox) == [(None, "SILENT")]
    assert one.asked == two.asked == ["connected, but no data on any stream for 60 s"]
    shared.health.data.arrived(MINE, "a", 62 * SECOND)
    watch.turn(62 * SECOND)
    assert notes(inbox) == [(None, "OK")]


def test_a_late_server_is_asked_what_it_holds_and_old_data_are_told() -> None:
    watch, shared, inbox, (reader,) = made()
    record = Record("a", 1000 * SECOND, 100.0, np.zeros(100))
    shared.health.data.arrived_batch(MINE, RecordBatch.of([record]), SECOND)
    for second in range(2, 150):
        watch.turn(second * SECOND)
        assert reader.questions == (second > 31) + (second > 62) + (second > 124)
        if second == 40:
            reader.holds = {"a": 1000 * SECOND, "b": None}  # all that it holds was read
        elif second == 50:
            reader.holds = {"a": 900 * SECOND, "b": None}
        assert notes(inbox) == ([(None, "OLD")] if second == 51 else [])
    assert shared.health.data.servers(150 * SECOND) == {MINE: ("OLD", 149.0)}
    record = Record("a", 1001 * SECOND, 100.0, np.zeros(100))
    shared.health.data.arrived_batch(MINE, RecordBatch.of([record]), 151 * SECOND)
    watch.turn(152 * SECOND)
    assert notes(inbox) == [(None, "OK")]


def test_a_reader_that_waits_for_room_blames_nobody() -> None:
    watch, _, inbox, (reader,) = made()
    reader.waiting = True
    for second in range(1, 300):
        watch.turn(second * SECOND)
    assert (notes(inbox), reader.asked) == ([], [])


def test_what_there_is_no_room_for_is_told_later() -> None:
    watch, shared, inbox, _ = made(size=3)
    for number in range(8):
        shared.health.data.arrived(MINE, str(number), 0)
    told: list[object] = []
    for second in range(1, 70):
        shared.health.data.arrived(MINE, "0", second * SECOND)
        watch.turn(second * SECOND)
        assert inbox.qsize() <= 3
        told += notes(inbox)
    assert told == [(str(number), "SILENT") for number in range(1, 8)]


def test_waiting_and_the_ring_are_measured() -> None:
    watch, shared, _, (one, two) = made(readers=2)
    one.waited_seconds, two.waited_seconds, two.ring_left = 2.0, 0.5, 0.25
    watch.turn(0)
    watch.turn(SECOND)
    one.waited_seconds = 3.0
    watch.turn(2 * SECOND)
    value = shared.metrics.registry.get_sample_value
    assert value("tscc_seedlink_waiting_seconds_total", {"server": MINE}) == 3.5
    assert value("tscc_seedlink_ring_left", {"server": MINE}) == 0.25
    two.ring_left = None
    watch.turn(3 * SECOND)
    assert math.isnan(value("tscc_seedlink_ring_left", {"server": MINE}) or 0.0)
