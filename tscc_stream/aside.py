"""A thread of its own for work that may raise, or never end."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

_Result = TypeVar("_Result")

TURN_SECONDS = 0.5
"""How often the one that waits shows that it lives."""
_REASON_LENGTH = 200

_at_work: set[int] = set()


def at_work() -> bool:
    """Whether any such thread is in the middle of something, stuck or not."""
    return bool(_at_work)


class StuckError(RuntimeError):
    """Work that did not end in time."""


def last_line(error: Exception) -> str:
    """What torch's errors come down to: a traceback of the compiled program comes before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:_REASON_LENGTH]


@dataclass(frozen=True, slots=True)
class _Job(Generic[_Result]):
    work: Callable[[], _Result]
    done: Future[_Result]

    def run(self) -> None:
        _at_work.add(id(self))
        try:
            self.done.set_result(self.work())
        except BaseException as error:  # noqa: BLE001 handed to the one that waits, who raises it
            self.done.set_exception(error)
        finally:
            _at_work.discard(id(self))


_Jobs = queue.SimpleQueue[_Job[object] | None]


def _work(jobs: _Jobs, begin: Callable[[], None] | None) -> None:
    if begin is not None:
        begin()
    while (job := jobs.get()) is not None:
        job.run()
        del job  # else it keeps what it worked on until the next one comes


class Aside:
    """Used by one thread at a time. The thread ends with this object.

    A thread that is stuck in compiled code cannot be ended: after a StuckError it is left to itself, and this object
    is of no more use. It does not keep the process from ending. begin: called first of all, in the thread.
    """

    def __init__(self, name: str, begin: Callable[[], None] | None = None) -> None:
        self._jobs: _Jobs = queue.SimpleQueue()
        threading.Thread(target=_work, args=(self._jobs, begin), name=name, daemon=True).start()
        weakref.finalize(self, self._jobs.put, None)

    def call(self, work: Callable[[], _Result], seconds: float, alive: Callable[[], None]) -> _Result:
        """What the work gives, or raises. Raises StuckError after so many seconds.

        alive: called meanwhile, every half second, never after the time is over.
        """
        done: Future[_Result] = Future()
        self._jobs.put(_Job(work, done))  # type: ignore[arg-type]  # a queue of jobs, whatever they give
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            alive()
            if wait([done], min(left, TURN_SECONDS)).done:
                return done.result()
        raise StuckError(f"did not end within {seconds:g} s")
