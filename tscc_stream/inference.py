"""The encoder behind a guard: what it raises, and what never ends, costs one window and nothing else.

Batches run in a thread of their own. Where one fails, thread and encoder are replaced by fresh ones, and its windows
are tried again one by one; one that fails again is quarantined. A thread that is stuck in compiled code cannot be
ended: it is left to itself. Failures beyond a limit end the process, which then starts again with nothing stuck.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from tscc_stream.aside import Aside, StuckError, last_line
from tscc_stream.config import InferenceConfig
from tscc_stream.edges.in_flight import InFlight
from tscc_stream.edges.supervision import name_this_thread
from tscc_stream.messages import Assignment, Batch, Window, WindowDropped
from tscc_stream.metrics import Metrics
from tscc_stream.stages.gather import batch_of
from tscc_stream.stages.infer import Encoder, Infer
from tscc_stream.window_quarantine import WindowQuarantine

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

NAME = "inference"
LOAD_SECONDS = 120.0
"""Longest that loading and warming up a model may take."""
_TOO_OFTEN = "it was in the encoder, alone, each time the process died"


class InferenceError(RuntimeError):
    """Inference failed too often, or cannot go on: the process has to start afresh."""


class _FailedError(Exception):
    """One attempt. kind: "error" or "timeout"."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def _aside() -> Aside:
    return Aside(NAME, partial(name_this_thread, NAME))


@dataclass
class Guard:
    """What guarded encoders share. alive: shows that the waiting thread lives; settings may be replaced at any time.

    clock: monotonic seconds.
    """

    settings: InferenceConfig
    alive: Callable[[], None]
    in_flight: InFlight
    quarantine: WindowQuarantine
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    _failures: deque[float] = field(default_factory=deque, init=False)

    def count(self, failure: _FailedError) -> None:
        """One more failure. Raises InferenceError where that makes too many."""
        self.metrics.inference_restarts[failure.kind].inc()
        settings, now = self.settings, self.clock()
        self._failures.append(now)
        while now - self._failures[0] > settings.restart_window_seconds:
            self._failures.popleft()
        if len(self._failures) > settings.most_restarts:
            raise InferenceError(
                f"inference failed {len(self._failures)} times within {settings.restart_window_seconds:g} s "
                f"(most_restarts: {settings.most_restarts}), last: {failure}"
            )


class GuardedInfer:
    """Batches to assignments, or to WindowDropped for windows that the encoder cannot take. Used by one thread.

    renew: the same encoder, loaded and warmed up afresh. Raises InferenceError where the process has to start afresh.
    """

    def __init__(self, encoder: Encoder, renew: Callable[[], Encoder], guard: Guard) -> None:
        self._infer, self._renew, self._guard = Infer(encoder), renew, guard
        self._aside = _aside()

    def feed(self, batch: Batch) -> list[Assignment | WindowDropped]:
        """A result per window, in the batch's order."""
        results: dict[int, Assignment | WindowDropped] = {}
        for group in self._groups(batch.windows):
            windows = [batch.windows[i] for i in group]
            results.update(zip(group, self._together(windows), strict=True))
        return [results[i] if i in results else self._kept_out(window) for i, window in enumerate(batch.windows)]

    def keep_warm(self) -> None:
        """A call for nothing; one that fails counts as any that fails does."""
        try:
            self._called(self._infer.keep_warm)
        except _FailedError as failure:
            _log.warning("a call without windows failed: %s", failure)
            self._start_afresh(failure)

    def _groups(self, windows: Sequence[Window]) -> Iterator[list[int]]:
        """Which windows go through together: suspects each alone; some not at all."""
        in_flight, innocent = self._guard.in_flight, []
        for i, window in enumerate(windows):
            if self._guard.quarantine.holds(window.uid) or in_flight.is_condemned(window.uid):
                continue
            if in_flight.is_suspect(window.uid):
                yield [i]
            else:
                innocent.append(i)
        if innocent:
            yield innocent

    def _kept_out(self, window: Window) -> WindowDropped:
        quarantine = self._guard.quarantine
        if quarantine.holds(window.uid):
            return quarantine.refuse(window)
        dropped = quarantine.add(window, _TOO_OFTEN)
        self._guard.in_flight.forget(window.uid)
        return dropped

    def _together(self, windows: Sequence[Window]) -> Sequence[Assignment | WindowDropped]:
        try:
            return self._attempt(windows)
        except _FailedError as failure:
            _log.warning("a batch of %d window(s) failed: %s; each is tried alone", len(windows), failure)
            self._start_afresh(failure)
        return [self._alone(window) for window in windows]

    def _alone(self, window: Window) -> Assignment | WindowDropped:
        try:
            return self._attempt([window])[0]
        except _FailedError as failure:
            dropped = self._guard.quarantine.add(window, str(failure))  # stored first: the next line may be the end
            self._start_afresh(failure)
            return dropped

    def _attempt(self, windows: Sequence[Window]) -> list[Assignment]:
        infer, batch = self._infer, batch_of(windows)
        with self._guard.in_flight.holding([window.uid for window in windows]):
            return self._called(lambda: infer.feed(batch))

    def _called(self, work: Callable[[], _Result]) -> _Result:
        seconds = self._guard.settings.timeout_seconds
        try:
            return self._aside.call(work, seconds, self._guard.alive)
        except StuckError as error:
            raise _FailedError("timeout", f"the encoder did not answer within {seconds:g} s") from error
        except Exception as error:
            raise _FailedError("error", f"the encoder failed: {last_line(error)}") from error

    def _start_afresh(self, failure: _FailedError) -> None:
        self._guard.count(failure)
        self._aside = _aside()
        try:
            self._infer = Infer(self._aside.call(self._renew, LOAD_SECONDS, self._guard.alive))
        except Exception as error:
            raise InferenceError(
                f"inference failed ({failure}), and its model cannot be loaded afresh: {error}"
            ) from error
        _log.info("inference goes on with a fresh encoder")
