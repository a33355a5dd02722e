"""Quantiles of a histogram of Prometheus."""

from __future__ import annotations

from collections.abc import Sequence


def quantiles_of(buckets: Sequence[tuple[float, float]], wanted: tuple[float, ...]) -> dict[float, float]:
    """buckets: (upper bound, how many up to it), ascending, the last bound infinite. Empty where there are none.

    Linear within a bucket, and the highest finite bound beyond it, as Prometheus computes them
    (https://prometheus.io/docs/prometheus/latest/querying/functions, histogram_quantile).
    """
    total = buckets[-1][1] if buckets else 0
    found = {}
    for quantile in wanted if total else ():
        rank = quantile * total
        below = 0.0, 0.0
        for bound, count in buckets:
            if count >= rank:
                share = (rank - below[1]) / (count - below[1]) if count > below[1] else 0.0
                found[quantile] = below[0] if bound == float("inf") else below[0] + share * (bound - below[0])
                break
            below = bound, count
    return found
