"""Drift: are recent windows still like those that the model was calibrated with? No label is needed.

The score is the two-sample Kolmogorov-Smirnov statistic, the largest distance between two cumulative distributions,
0 (the same) to 1 (apart): of the squared distance to the nearest centre and, where the package states them, of the
largest membership; the larger of the two counts. Recent windows (the last `window`) are compared with the package's
calibration windows, overall and for each cluster with its own.

How to read it: with 500 recent and 1,000 calibration windows of one distribution the statistic stays below 0.12 in more
than 999 of 1,000 cases (Smirnov's limit for p = 0.001 is 0.107 for one of the two); a fifth on every distance gives
about 0.2 to 0.4. `ALARM` is therefore 0.2. It tells *that* the mine has moved, or a sensor has, not what to do.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tscc_stream.messages import Float64Array, read_only

ALL = "all"
ALARM = 0.2
LEAST = 100
"""Windows, recent and of calibration, below which nothing is said: the statistic of fewer is mostly chance."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Calibration windows of a package: nearest squared distance [n], and with newer packages cluster and largest
    membership of each [n].
    """

    scores: Float64Array
    clusters: npt.NDArray[np.int64] | None = None
    memberships: Float64Array | None = None


def statistic(reference: Float64Array, recent: Float64Array) -> float:
    """Two-sample Kolmogorov-Smirnov statistic. reference: ascending."""
    recent = np.sort(recent)
    every = np.concatenate((reference, recent))
    below_reference = np.searchsorted(reference, every, side="right") / reference.size
    below_recent = np.searchsorted(recent, every, side="right") / recent.size
    return float(np.abs(below_reference - below_recent).max())


def _ascending(values: Float64Array) -> Float64Array:
    return read_only(np.sort(values))


class Drift:
    """reference: None for an uncalibrated package, of which nothing can be said. window: recent windows compared."""

    def __init__(self, reference: Reference | None, clusters: int, window: int) -> None:
        self._window = window
        self._expected: dict[str, tuple[Float64Array, ...]] = {}
        if reference is not None:
            self._expected[ALL] = self._parts(reference, slice(None))
            if reference.clusters is not None:
                for cluster in range(clusters):
                    self._expected[str(cluster)] = self._parts(reference, reference.clusters == cluster)
        self._recent: defaultdict[str, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=window))
        self._names = (ALL, *map(str, range(clusters)))
        self._scores = dict.fromkeys(self._names, float("nan"))
        self._changed: set[str] = set()

    @staticmethod
    def _parts(reference: Reference, rows: slice | npt.NDArray[np.bool_]) -> tuple[Float64Array, ...]:
        parts = (reference.scores, reference.memberships)
        return tuple(_ascending(part[rows]) for part in parts if part is not None)

    def feed(self, cluster: int, nearest: float, membership: float) -> None:
        """One classified window: its cluster, the squared distance to that centre, and its membership there."""
        for name in (ALL, str(cluster)):
            self._recent[name].append((nearest, membership))
            self._changed.add(name)

    def scores(self) -> dict[str, float]:
        """By cluster, and overall under `all`; NaN where there are too few windows."""
        for name in self._changed:
            self._scores[name] = self._score(name)
        self._changed.clear()
        return dict(self._scores)

    def _score(self, name: str) -> float:
        expected, recent = self._expected.get(name, ()), self._recent[name]
        if not expected or expected[0].size < LEAST or len(recent) < min(LEAST, self._window):
            return float("nan")
        columns = np.array(recent, np.float64).T
        return max(statistic(part, column) for part, column in zip(expected, columns, strict=False))
