"""What looks on beside the live path: drift of the live model, and a candidate that classifies the same windows.

Neither ever makes the live path wait: drift is arithmetic on some hundred numbers, and the candidate runs in a thread
of the lowest priority behind a short queue; windows that find it full are skipped and counted.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from tscc_stream.aside import TURN_SECONDS, Aside, last_line
from tscc_stream.config import Config
from tscc_stream.drift import Drift
from tscc_stream.health import Health
from tscc_stream.messages import Assignment, Detection
from tscc_stream.metrics import Metrics
from tscc_stream.package import Package
from tscc_stream.priority import lower_this_thread
from tscc_stream.serving import Served
from tscc_stream.stages.interpret import UNKNOWN, Interpret

_log = logging.getLogger(__name__)

MOST_BATCHES = 16
"""Batches that may wait for the candidate."""
MOST_SECONDS = 60.0
"""Longest that the candidate may take for a batch, at the lowest priority."""

Failed = Callable[[Package, str], None]
"""Told, from the candidate's thread, that this one is tried no longer, and why."""


def _nobody(_candidate: Package, _reason: str) -> None:
    pass


def label_of(cluster: int, known: bool) -> str:
    """A detection's cluster in metrics: its id, or `unknown`."""
    return str(cluster) if known else UNKNOWN


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """Windows and what the live model said of them. round: which pair of models they belong to."""

    round: int
    detections: tuple[Detection, ...]


class ShadowRun:
    """A candidate beside the live model: agreement is counted per pair of clusters."""

    NAME = "shadow"

    def __init__(
        self, metrics: Metrics, health: Health, alpha: float, most_together: int, failed: Failed = _nobody
    ) -> None:
        self._metrics, self._health, self._most_together = metrics, health, most_together
        self._failed = failed
        self.alpha = alpha
        self._waiting: queue.Queue[_Work | None] = queue.Queue(MOST_BATCHES)
        self._lock = threading.Lock()
        self._served: Served | None = None
        self._round = 0
        self._aside = Aside("candidate", begin=lower_this_thread)

    def use(self, served: Served | None) -> None:
        """Another candidate, or none; the counts begin anew."""
        with self._lock:
            self._begin(served)

    def begin_anew(self) -> None:
        """The live model has changed: the same candidate, counts from zero."""
        with self._lock:
            self._begin(self._served)

    def _begin(self, served: Served | None) -> None:
        """With the lock."""
        self._served = served
        self._round += 1
        self._metrics.forget_shadow()

    def offer(self, detections: Sequence[Detection]) -> None:
        """Windows to classify as well, if there is room; returns at once."""
        if self._served is None:
            return
        for first in range(0, len(detections), self._most_together):
            some = tuple(detections[first : first + self._most_together])
            try:
                self._waiting.put_nowait(_Work(self._round, some))
            except queue.Full:
                self._metrics.shadow_skipped.inc(len(some))

    def stop(self) -> None:
        """End the thread after what it is at; what waits is dropped."""
        with suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        self._waiting.put(None)

    def run(self) -> None:
        """Until `stop`."""
        while True:
            self._alive()
            try:
                work = self._waiting.get(timeout=TURN_SECONDS)
            except queue.Empty:
                continue
            if work is None:
                return
            self._classify(work)

    def _alive(self) -> None:
        self._health.stamp(self.NAME, time.monotonic_ns())

    def _classify(self, work: _Work) -> None:
        with self._lock:
            served, current = self._served, work.round == self._round
        if served is None or not current:
            return
        try:
            told = self._told(served, work)
        except Exception as error:  # noqa: BLE001  # whatever a candidate does must not end the daemon; it is told
            self._give_up(served, last_line(error))
            return
        self._count(work, told)

    def _told(self, served: Served, work: _Work) -> list[Detection]:
        """What the candidate says of the same windows. Raises whatever its program does, and StuckError."""
        windows = [detection.assignment.window for detection in work.detections]
        normalised = np.stack([window.normalised for window in windows])
        encoder = served.encoder
        encoded = self._aside.call(lambda: encoder.encode(normalised), MOST_SECONDS, self._alive)
        interpret = Interpret(served.package.name_of, served.scores, self.alpha)
        results = zip(
            windows, encoded.embedding, encoded.membership, encoded.cluster, encoded.squared_distance, strict=True
        )
        return [interpret.feed(Assignment(w, e, m, int(c), d))[0] for w, e, m, c, d in results]

    def _give_up(self, served: Served, reason: str) -> None:
        """One that was replaced meanwhile takes nothing from the one that is tried now."""
        self._aside = Aside("candidate", begin=lower_this_thread)
        with self._lock:
            tried = self._served is served
            if tried:
                self._begin(None)
        if tried:
            _log.error("the candidate %s failed and is tried no longer: %s", served.identity.name, reason)
            self._failed(served.package, reason)
        else:
            _log.warning("the candidate %s, which was replaced, failed: %s", served.identity.name, reason)

    def _count(self, work: _Work, told: Sequence[Detection]) -> None:
        with self._lock:
            if work.round != self._round:
                return
            for live, shadow in zip(work.detections, told, strict=True):
                self._metrics.shadow(*(label_of(d.assignment.cluster, d.known) for d in (live, shadow))).inc()


class Beside:
    """Told of every detection once it is committed. Used by the back thread."""

    def __init__(
        self, metrics: Metrics, health: Health, config: Config, served: Served, failed: Failed = _nobody
    ) -> None:
        self._metrics, self._window = metrics, config.drift.window
        self.shadow = ShadowRun(metrics, health, config.novelty.alpha, config.inference.max_batch, failed)
        self._adopt(served)

    def _adopt(self, served: Served) -> None:
        self._served = served
        self._drift = self._fresh_drift(served)

    def _fresh_drift(self, served: Served) -> Drift:
        drift = Drift(served.reference, served.package.spec.clusters, self._window)
        self._metrics.set_drift(drift.scores())
        return drift

    def use(self, served: Served) -> None:
        """Another live model: drift and agreement begin anew."""
        self._adopt(served)
        self.shadow.begin_anew()

    def retune(self, config: Config) -> None:
        """Other settings from now on. Drift begins anew where its window changes."""
        self.shadow.alpha = config.novelty.alpha
        if self._window != config.drift.window:
            self._window = config.drift.window
            self._adopt(self._served)

    def saw(self, detections: Sequence[Detection]) -> None:
        """Committed detections of the live model."""
        for detection in detections:
            assignment = detection.assignment
            cluster = assignment.cluster
            self._drift.feed(cluster, float(assignment.squared_distance.min()), float(assignment.membership[cluster]))
        if detections:
            self._metrics.set_drift(self._drift.scores())
            self.shadow.offer(detections)
