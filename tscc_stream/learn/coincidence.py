"""What other sensors say of a window: the share of them that triggered at about the same time. No label, no location.

Sources that matter are seen by several sensors, what only one sees is its own noise; trained to foresee this from one
window, the encoder learns what sets the two apart. By chance, sensors trigger together too: `reach_ns` finds up to
which lag they do so more often than by chance, and the share is counted within it.
"""

from __future__ import annotations

import numpy as np

from tscc_stream.learn.dataset import DataSet, Int64Array, distance_ns
from tscc_stream.messages import AnyArray, Float32Array

_BINS = 40
"""Of the histogram of lags, over the length of a window; the later half says how often lags occur by chance."""
_FEWEST_PAIRS = 200
_LEAST_SHARE = 0.05  # of the triggers
"""Pairs in excess of chance, below which nothing is concluded."""


def shares(data: DataSet) -> Float32Array | None:
    """For each window [n] the share of the other sensors that triggered within `reach_ns`, 0 for windows at random
    times; None where the data cannot tell: one sensor alone, or no more triggers together than by chance.
    """
    reach = reach_ns(data)
    if reach == 0:
        return None
    triggered, sensor = _triggered(data), data.sensor
    names = np.unique(sensor)
    count = np.zeros(len(data), np.int64)
    for name in names:
        other = np.sort(data.onset_ns[triggered & (sensor == name)])
        count += (sensor != name) & (distance_ns(data.onset_ns, other) <= reach)
    found: Float32Array = (np.where(triggered, count, 0) / (len(names) - 1)).astype(np.float32)
    return found


def reach_ns(data: DataSet) -> int:
    """The lag from which on triggers of different sensors come together no more often than by chance; 0: they never do.

    That is where a bin of the histogram first lies within two standard deviations of the median of the later half.
    """
    triggered = _triggered(data)
    counts = _lags(data.onset_ns[triggered], data.sensor[triggered], data.span_ns)
    chance = float(np.median(counts[_BINS // 2 :]))
    bins = int(np.argmax(counts[: _BINS // 2 + 1] <= chance + 2.0 * np.sqrt(chance)))
    enough = counts[:bins].sum() - bins * chance >= max(_FEWEST_PAIRS, _LEAST_SHARE * float(triggered.sum()))
    return bins * data.span_ns // _BINS if enough else 0


def _triggered(data: DataSet) -> AnyArray:
    return np.ones(len(data), bool) if data.triggered is None else data.triggered


def _lags(onset_ns: Int64Array, sensor: AnyArray, span_ns: int) -> Int64Array:
    """Histogram of the lags, shorter than span_ns, between onsets at different sensors."""
    order = np.argsort(onset_ns, kind="stable")
    onset_ns, sensor = onset_ns[order], sensor[order]
    counts = np.zeros(_BINS, np.int64)
    for apart in range(1, len(onset_ns)):
        lag = onset_ns[apart:] - onset_ns[:-apart]
        if lag.min() >= span_ns:
            break
        pairs = (lag < span_ns) & (sensor[apart:] != sensor[:-apart])
        counts += np.bincount(lag[pairs] * _BINS // span_ns, minlength=_BINS)
    return counts
