"""The order in which an archive is read: chunks of time, within them unbroken runs of one channel each.

Works on the columns of an index alone, some thousand rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tscc_stream.messages import AnyArray, Int64Array
from tscc_stream.sampling import NS_PER_SECOND

_SAME_TIME_NS = 1_000  # version 2 rounds to a microsecond
_ROWS = 1_024
"""Looked at together, or as many more as a chunk holds."""
_ALIKE = ("sid", "rate", "encoding", "quality")

Rows = Mapping[str, AnyArray]


@dataclass(frozen=True, slots=True)
class Chunk:
    """rows [n]: run after run, in order of their start; run i is rows[begin[i]:begin[i + 1]]. Of row k come the samples
    from samples[k] to samples[k + 1], counted through the chunk.
    """

    rows: Int64Array
    begin: Int64Array
    samples: Int64Array

    def run(self, i: int) -> Int64Array:
        """Rows of one run."""
        return self.rows[self.begin[i] : self.begin[i + 1]]

    def __len__(self) -> int:
        return len(self.begin) - 1


def chunks(rows: Rows, chunk_seconds: float, first_seconds: float | None = None) -> Iterator[Chunk]:
    """Of an index's columns, which are ordered by start time; the first chunk may be shorter, the next ones double."""
    edges = [0]
    chunk_ns, first_ns = (
        max(1, int(seconds * NS_PER_SECOND)) for seconds in (chunk_seconds, first_seconds or chunk_seconds)
    )
    for edge in _edges(rows["start_ns"], chunk_ns, first_ns):
        edges.append(edge)
        if edge - edges[0] >= _ROWS:
            yield from _planned(rows, np.array(edges))
            edges = [edge]
    if len(edges) > 1:
        yield from _planned(rows, np.array(edges))


def _edges(starts: Int64Array, chunk_ns: int, length_ns: int) -> Iterator[int]:
    """Rows before which a chunk ends; empty time is jumped over."""
    edge = 0
    while edge < len(starts):
        edge = int(np.searchsorted(starts, starts[edge] + length_ns))
        length_ns = min(chunk_ns, 2 * length_ns)
        yield edge


def _planned(rows: Rows, edges: Int64Array) -> Iterator[Chunk]:
    """The chunks between these edges."""
    some = {name: rows[name][edges[0] : edges[-1]] for name in (*_ALIKE, "start_ns", "samples")}
    chunk = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    order = np.lexsort((some["sid"], chunk))  # still by start within a channel
    some = {name: column[order] for name, column in some.items()}
    firsts = np.flatnonzero(_breaks(some, chunk))
    lasts = np.append(firsts[1:], len(order))
    sorting = np.lexsort((some["start_ns"][firsts], chunk[firsts]))
    firsts, lasts = firsts[sorting], lasts[sorting]
    begin = np.concatenate(([0], np.cumsum(lasts - firsts)))
    within = np.arange(len(order)) - np.repeat(begin[:-1] - firsts, lasts - firsts)
    runs = np.searchsorted(chunk[firsts], np.arange(len(edges)))
    samples = some["samples"][within].astype(np.int64)
    for first, last in pairwise(runs.tolist()):
        inside = slice(begin[first], begin[last])
        yield Chunk(
            edges[0] + order[within[inside]],
            begin[first : last + 1] - begin[first],
            np.concatenate(([0], np.cumsum(samples[inside]))),
        )


def _breaks(some: Rows, chunk: Int64Array) -> AnyArray:
    """Whether a row [n] begins a run: it is of another chunk or channel than the row before, or does not follow it."""
    starts, samples = some["start_ns"], some["samples"]
    periods_ns = NS_PER_SECOND / some["rate"]
    breaks = np.ones(len(starts), dtype=bool)
    breaks[1:] = chunk[1:] != chunk[:-1]
    for name in _ALIKE:
        breaks[1:] |= some[name][1:] != some[name][:-1]
    lasts = np.rint(samples[:-1] * periods_ns[:-1]).astype(np.int64)
    breaks[1:] |= np.abs(starts[1:] - starts[:-1] - lasts) > _SAME_TIME_NS
    _break_at_drift(breaks, starts, samples, periods_ns)
    return breaks


def _break_at_drift(breaks: AnyArray, starts: Int64Array, samples: AnyArray, periods_ns: AnyArray) -> None:
    """Also wherever a run's stated times have wandered off its first record's sampling grid."""
    counted = np.concatenate(([0], np.cumsum(samples[:-1], dtype=np.int64)))
    from_row = 0
    while True:
        firsts = from_row + np.flatnonzero(breaks[from_row:])
        grid = np.repeat(firsts, np.diff(firsts, append=len(starts)))
        here = slice(from_row, None)
        since = np.rint((counted[here] - counted[grid]) * periods_ns[grid]).astype(np.int64)
        off = np.flatnonzero(np.abs(starts[here] - starts[grid] - since) > _SAME_TIME_NS)
        if not off.size:
            return
        breaks[from_row + off[0]] = True
        from_row += int(off[0])
