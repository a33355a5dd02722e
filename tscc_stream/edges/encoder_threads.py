"""A batch in several threads: each takes the next piece of it, and none waits for another before the end.

Torch's own threads share every single product and wait for one another after each, which on a busy core costs a
hundredfold (measured: 560 ms instead of 5 ms a window with two threads on two cores that two other programs use). Here
a thread that gets no core takes no piece, and the others do the work.
"""

from __future__ import annotations

import queue
import statistics
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")

CLEARLY = 1.3
"""How many times as fast more threads must be than fewer to be chosen."""
ROUNDS, TRIAL_SECONDS = 5, 0.5
"""Rounds of a choice, and the time after which it begins no further one."""


class _Shared(Generic[_Piece, _Result]):
    """Pieces of one batch, and what has come of them."""

    def __init__(self, work: Callable[[_Piece], _Result], pieces: Sequence[_Piece]) -> None:
        self._work, self._count = work, len(pieces)
        self._waiting = deque(enumerate(pieces))
        self._results: dict[int, _Result] = {}
        self._errors: list[BaseException] = []
        self._done = threading.Semaphore(0)

    def take(self) -> None:
        """Work at pieces until none waits."""
        while True:
            try:
                at, piece = self._waiting.popleft()
            except IndexError:
                return
            try:
                self._results[at] = self._work(piece)
            except BaseException as error:  # noqa: BLE001 handed to the one that waits, who raises it
                self._errors.append(error)
            finally:
                self._done.release()

    def results(self) -> list[_Result]:
        """Of all pieces in their order, when the last is done. Raises what the work raised first."""
        for _ in range(self._count):
            self._done.acquire()
        if self._errors:
            raise self._errors[0]
        return [self._results[at] for at in range(self._count)]


_Jobs = queue.SimpleQueue["_Shared[object, object] | None"]


def _help(jobs: _Jobs) -> None:
    while (shared := jobs.get()) is not None:
        shared.take()
        del shared  # else it keeps a batch until the next one comes


class EncoderThreads:
    """`count` threads: the one that calls, and others that end with this object and do not keep the process alive."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._jobs: _Jobs = queue.SimpleQueue()
        for number in range(1, count):
            threading.Thread(target=_help, args=(self._jobs,), name=f"encoder {number}", daemon=True).start()
        weakref.finalize(self, _end, self._jobs, count - 1)

    def each(self, work: Callable[[_Piece], _Result], pieces: Sequence[_Piece]) -> list[_Result]:
        """What the work gives for each piece, in order. Raises what it raised first, when no piece is worked at."""
        shared = _Shared(work, pieces)
        for _ in range(min(self.count, len(pieces)) - 1):
            self._jobs.put(shared)  # type: ignore[arg-type]  # a queue of shares, whatever their pieces
        shared.take()
        return shared.results()


def _end(jobs: _Jobs, helpers: int) -> None:
    for _ in range(helpers):
        jobs.put(None)


def piece_size(batch: int, threads: int, most: int) -> int:
    """Windows a piece: two pieces a thread, so that a slow one costs little, of at most what a cache holds."""
    return batch if threads == 1 else max(1, min(most, -(-batch // (2 * threads))))


def counts_to_try(cores: int) -> list[int]:
    """1, 2, 4 and so on, and all cores."""
    return sorted({min(2**power, cores) for power in range(cores.bit_length() + 1)})


def choose(
    trial: Callable[[int], object], counts: Sequence[int], clock: Callable[[], float] = time.perf_counter
) -> tuple[int, dict[int, float]]:
    """How many threads to use, and the median seconds of the trial with each number that was tried.

    More of them are taken only while each step is CLEARLY faster: on a machine that is busy now, one thread is. All
    take their turn in every round, so that what else the machine does falls on all alike.
    """
    spent: dict[int, list[float]] = {}
    end = clock() + TRIAL_SECONDS
    for count in [*counts] * ROUNDS:
        begin = clock()
        if begin > end:
            break
        trial(count)
        spent.setdefault(count, []).append(clock() - begin)
    median = {count: statistics.median(some) for count, some in spent.items()}
    chosen = counts[0]
    for count in counts[1:]:
        if count not in median or median[chosen] < CLEARLY * median[count]:
            break
        chosen = count
    return chosen, median
