"""Pictures of a scan: what was found when, and where, and of which times there are data."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import numpy as np
from matplotlib.figure import Figure

from tscc_stream.messages import Float64Array
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.scan.counts import BINS, Counts

MOST_CHANNELS = 40
"""Of which a picture shows lines; those with the most detections, or the first ones by name."""


def over_time(counts: Counts) -> bytes:
    """PNG: detections per hour or day, clusters on top of one another."""
    figure = Figure((10.0, 4.0), layout="constrained")
    axes = figure.subplots()
    bins = [place for of_cluster in counts.by_time.values() for place in of_cluster]
    if bins:
        places = np.arange(min(bins), max(bins) + 2)  # with the end of the last one
        times = [datetime.fromtimestamp(place * counts.bin_ns / NS_PER_SECOND, UTC) for place in places.tolist()]
        below = np.zeros(len(places))
        for name in counts.by_cluster:
            heights = np.array([counts.by_time[name][place] for place in places.tolist()], np.float64)
            axes.fill_between(times, below, below + heights, step="post", label=name)  # type: ignore[arg-type]  # it takes times
            below += heights
        figure.legend(loc="outside right upper", fontsize="small")
    axes.set_ylabel(f"detections per {BINS[counts.bin_ns]}")
    axes.set_xlabel("UTC")
    figure.autofmt_xdate()
    return _png(figure)


def by_channel(counts: Counts) -> bytes:
    """PNG: detections of each channel by cluster."""
    busiest = sorted(counts.by_channel, key=lambda sid: (-counts.by_channel[sid].total(), sid))[:MOST_CHANNELS]
    shown = sorted(busiest)[::-1]
    figure = Figure((8.0, 1.5 + 0.22 * len(shown)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(shown))
    for name in counts.by_cluster:
        widths = np.array([counts.by_channel[sid][name] for sid in shown], np.float64)
        axes.barh(shown, widths, left=left, label=name)
        left += widths
    if shown:
        figure.legend(loc="outside right upper", fontsize="small")
    axes.set_xlabel("detections")
    if len(counts.by_channel) > len(shown):
        axes.set_title(f"the {len(shown)} of {len(counts.by_channel)} channels with the most")
    return _png(figure)


def coverage(channels: list[str], span_ns: tuple[int, int], shares: Float64Array) -> bytes:
    """PNG: the share [channels, columns] of time of which there are data, from when to when."""
    shown = channels[:MOST_CHANNELS]
    figure = Figure((10.0, 1.5 + 0.22 * len(shown)), layout="constrained")
    axes = figure.subplots()
    span = [datetime.fromtimestamp(time_ns / NS_PER_SECOND, UTC) for time_ns in span_ns]
    axes.set_xlim(*span)  # type: ignore[arg-type]  # it takes times
    low, high = axes.get_xlim()
    seen = shares[: len(shown)]
    picture = axes.imshow(seen, vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest", cmap="viridis",
                          extent=(low, high, len(shown) - 0.5, -0.5))  # fmt: skip
    axes.set_yticks(range(len(shown)), shown)
    axes.xaxis_date()
    axes.set_xlabel("UTC")
    figure.autofmt_xdate()
    figure.colorbar(picture, label="share of time with data")
    if len(channels) > len(shown):
        axes.set_title(f"the first {len(shown)} of {len(channels)} channels")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
