"""`bench fanout`: ten subscribers, each a process; what nine of them notice of the tenth, which stops reading.

The variants take their turn in every round, in turning order: nine alone; all ten read; the tenth is stopped (SIGSTOP)
before the first message and goes on (SIGCONT) after the last. Latency is from the moment that a committed group of
messages is handed to the bus until a subscriber's own code has one of them. A round sends more than the queues to the
tenth hold, so that it must ask the journal for the rest.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from tscc_stream.bench import fanout_reader
from tscc_stream.bench.fanout_reader import MARK
from tscc_stream.bench.measure import FIELD, Figure, Results, lower_is_better
from tscc_stream.config import PublishConfig
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.edges.zeromq import Bus, BusObserver
from tscc_stream.messages import Message

MESSAGES, ROUNDS, SUBSCRIBERS = 4_000, 5, 10
GROUP, GROUPS_PER_SECOND = 5, 80
BODY_BYTES = 4_000
SEND_QUEUE = 1_000
NINE, TEN, STALLED = FIELD, "all_read", "one_stalled"
VARIANTS = (NINE, TEN, STALLED)
_ANY = "tcp://127.0.0.1:0"
Received = list[tuple[int, int]]
"""Pairs of seq and monotonic time of receipt (ns)."""


class FanoutError(RuntimeError):
    """A subscriber ended before its time, or missed something."""


class _Reader:
    """A subscriber's process."""

    def __init__(self, bus: Bus) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", fanout_reader.__name__, bus.endpoint, bus.replay_endpoint], stdout=subprocess.PIPE
        )
        self._line()

    def _line(self) -> bytes:
        line = self.process.stdout.readline() if self.process.stdout else b""
        if not line:
            raise FanoutError(f"a subscriber ended with status {self.process.wait()}")
        return line

    def received(self) -> Received:
        """What came up to the next mark; waits for it."""
        return msgspec.json.decode(self._line(), type=Received)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class _Publisher:
    """Journal and bus of one daemon. replays: requests so far."""

    def __init__(self, journal: JournalFile, reader: JournalReader, messages: int) -> None:
        self._journal = journal
        observer = BusObserver(replayed=self._count)
        config = PublishConfig(bind=_ANY, replay_bind=_ANY)
        self.bus = Bus(config, "bench", reader, observer=observer, send_queue=SEND_QUEUE)
        self.replays = 0
        self._messages = messages
        self._number = 0
        self._body = b'{"filler":"' + b"x" * BODY_BYTES + b'"}'

    def play(self) -> dict[int, int]:
        """Publish at a steady pace, then a mark; when each seq was handed over (ns)."""
        published: dict[int, int] = {}
        begin = time.monotonic()
        for group in range(-(-self._messages // GROUP)):
            time.sleep(max(0.0, begin + group / GROUPS_PER_SECOND - time.monotonic()))
            count = min(GROUP, self._messages - group * GROUP)
            committed = self._journal.append([self._message("status.bench.", self._body) for _ in range(count)])
            now_ns = time.monotonic_ns()
            self.bus.publish(committed)
            published.update((one.seq, now_ns) for one in committed)
        self.bus.publish(self._journal.append([self._message(MARK, b"{}")]))
        return published

    def _count(self) -> None:
        self.replays += 1

    def _message(self, topic: str, body: bytes) -> Message:
        self._number += 1
        return Message(f"bench-{self._number}", "status", topic, body, self._number)


def run(messages: int = MESSAGES, rounds: int = ROUNDS, subscribers: int = SUBSCRIBERS) -> Results:
    """p99 of the latencies of all but one, the median over rounds; and what the stalled one recovered.

    Raises FanoutError where anybody missed a message.
    """
    turns: dict[str, list[_Turn]] = {name: [] for name in VARIANTS}
    with _running(messages) as publisher, _readers(publisher.bus, subscribers - 1) as nine:
        _p99_s(publisher.play(), nine)  # to warm up
        for number in range(rounds):
            first = number % len(VARIANTS)
            for name in VARIANTS[first:] + VARIANTS[:first]:
                turns[name].append(_turn(publisher, nine, name))
    sent, received = messages * rounds, sum(turn.received for turn in turns[STALLED])
    replays = sum(turn.replays for turn in turns[STALLED])
    return {
        "fanout_p99": lower_is_better({name: [turn.p99_s for turn in some] for name, some in turns.items()}, 1e3, "ms"),
        "fanout_stalled_one": {
            FIELD: Figure(sent, "sent", 1.0),
            "received": Figure(received, "received", received / sent),
            "replays": Figure(replays, "replay requests", 1.0),
        },
    }


@contextmanager
def _running(messages: int) -> Iterator[_Publisher]:
    with tempfile.TemporaryDirectory() as folder, JournalFile(Path(folder) / "journal.sqlite") as journal:
        reader = JournalReader(journal.path)
        publisher = _Publisher(journal, reader, messages)
        publisher.bus.start()
        try:
            yield publisher
        finally:
            publisher.bus.stop()
            reader.close()


@contextmanager
def _readers(bus: Bus, count: int) -> Iterator[list[_Reader]]:
    readers: list[_Reader] = []
    try:
        readers.extend(_Reader(bus) for _ in range(count))
        yield readers
    finally:
        for reader in readers:
            reader.end()


@dataclass(frozen=True, slots=True)
class _Turn:
    """p99_s: of the nine; received: by the tenth, in the end; replays: requests meanwhile."""

    p99_s: float
    received: int = 0
    replays: int = 0


def _turn(publisher: _Publisher, nine: Sequence[_Reader], variant: str) -> _Turn:
    if variant == NINE:
        with _readers(publisher.bus, 1):
            pass  # every turn begins with the start of a process
        return _Turn(_p99_s(publisher.play(), nine))
    with _readers(publisher.bus, 1) as [tenth]:
        before = publisher.replays
        if variant == STALLED:
            tenth.process.send_signal(signal.SIGSTOP)
        published = publisher.play()
        p99_s = _p99_s(published, nine)
        tenth.process.send_signal(signal.SIGCONT)
        received = _latencies(published, tenth.received())
        return _Turn(p99_s, len(received), publisher.replays - before)


def _p99_s(published: dict[int, int], readers: Sequence[_Reader]) -> float:
    latencies = [_latencies(published, reader.received()) for reader in readers]
    return float(np.percentile(np.concatenate(latencies), 99)) / 1e9


def _latencies(published: dict[int, int], received: Received) -> list[int]:
    """Nanoseconds, in order. Raises FanoutError unless everything was received once."""
    if [seq for seq, _ in received] != list(published):
        missed = len(published.keys() - {seq for seq, _ in received})
        raise FanoutError(f"a subscriber missed {missed} of {len(published)} messages, or had them out of order")
    return [now_ns - published[seq] for seq, now_ns in received]
