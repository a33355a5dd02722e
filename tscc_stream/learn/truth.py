"""What a simulated mine's truth.csv says of windows: the kind of source behind each."""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tscc_stream.learn.dataset import DataSetError, Int64Array
from tscc_stream.messages import AnyArray

NAME = "truth.csv"
NOISE = "noise"
_EARLY_NS = 50_000_000  # a trigger may open as early: half a sample of a slow channel, and the filter's first swing


def kinds(tables: Sequence[Path], nslc: AnyArray, onset_ns: Int64Array) -> tuple[tuple[str, ...], Int64Array]:
    """Names of the kinds, in alphabetical order with noise last, and each window's kind as an index into them.

    A window belongs to the strongest source (by snr) whose signal at its channel lasts from before its onset until
    after it, and is noise where there is none. Raises DataSetError where a table cannot be read.
    """
    spans = [_spans(table) for table in tables]
    names = (*sorted({span[3] for by_channel in spans for some in by_channel.values() for span in some}), NOISE)
    y = [
        names.index(_kind([s for by_channel in spans for s in by_channel.get(str(channel), [])], int(onset)))
        for channel, onset in zip(nslc, onset_ns, strict=True)
    ]
    return names, np.array(y, np.int64)


_Span = tuple[int, int, float, str]


def _spans(table: Path) -> dict[str, list[_Span]]:
    """Channel -> (onset ns, end ns, snr, kind), by onset."""
    spans: dict[str, list[_Span]] = {}
    try:
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                span = (int(row["onset_ns"]), int(row["end_ns"]), float(row["snr"]), row["kind"])
                spans.setdefault(row["channel"], []).append(span)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataSetError(f"{table}: not a truth table of a simulated mine: {error}") from error
    return {channel: sorted(some) for channel, some in spans.items()}


def _kind(spans: list[_Span], onset_ns: int) -> str:
    begun = spans[: bisect_right(spans, (onset_ns + _EARLY_NS, 0, 0.0, ""))]
    alive = [span for span in begun if span[1] >= onset_ns]
    return max(alive, key=lambda span: span[2])[3] if alive else NOISE
