"""The latest samples of one channel on its sampling grid, and what a page draws of them. Pure: times are passed in.

Samples lie in a ring by their number on the grid, so that a record that comes late, or twice, lands where it belongs;
what is missing is NaN.
"""

from __future__ import annotations

import math

import numpy as np

from tscc_stream.config import AssembleConfig
from tscc_stream.data_age import NEWER_NS
from tscc_stream.messages import AnyArray, Float32Array, Float64Array, Record
from tscc_stream.sampling import exact_rate, offset_ns, samples_in
from tscc_stream.stages.assemble import FEWEST_FLAT_SAMPLES, LARGEST_VALID, RATE_TOLERANCE

LONGEST_SECONDS = 310
"""The longest span that a page shows, and a little more."""
MOST_SAMPLES = 400_000
"""Of one channel: 1.6 MB."""
BEHIND_RECORDS = 3
"""So many records in a row from before everything that is kept: the recorder's clock was set back."""


class Trace:
    """Of one channel. newest_ns: time of the newest sample (None before the first); heard_s: when a record came last
    (monotonic seconds); record_seconds: what the last record lasted. ahead_seconds: of a record dated in the future,
    which was left out. heard_ns: time of the last sample of the last record; old_since_s: since when all records lay
    before what was already seen (monotonic; None: the last did not).
    """

    def __init__(self, config: AssembleConfig) -> None:
        self._config = config
        self._ring: Float32Array = np.zeros(0, np.float32)
        self._origin_ns = self._first = self._next = self._behind = 0
        self._changed: int | None = None
        self._run, self._last, self._clipped = 0, math.nan, -(1 << 62)
        self.rate_hz = 0.0
        self.newest_ns: int | None = None
        self.heard_s = -math.inf
        self.record_seconds = 0.0
        self.ahead_seconds = 0.0
        self.heard_ns = self._seen_ns = 0
        self.old_since_s: float | None = None

    @property
    def clip_counts(self) -> float | None:
        return self._config.clip_counts

    @property
    def flat(self) -> bool:
        """Whether the newest samples are one value for as long as makes a sensor dead (`assemble.flat_seconds`)."""
        longest = max(FEWEST_FLAT_SAMPLES, round(self._config.flat_seconds * self.rate_hz))
        return self._run >= longest and abs(self._last) < (self.clip_counts or math.inf)

    def clipped_within(self, seconds: float) -> bool:
        """Whether one of the latest samples reached `assemble.clip_counts`, or its record says that it was clipped."""
        return self._next - self._clipped <= seconds * self.rate_hz

    def take(self, record: Record, now_s: float) -> bool:
        """Whether it brought anything that is kept."""
        self.heard_s, self.ahead_seconds = now_s, 0.0
        values = record.samples
        self.record_seconds = values.size / record.sample_rate_hz
        self._compare(record, now_s)
        if self.newest_ns is None or abs(record.sample_rate_hz - self.rate_hz) > RATE_TOLERANCE * self.rate_hz:
            self._begin(record)
        number = samples_in(record.start_ns - self._origin_ns, self.rate_hz)
        if number + values.size <= self._next - self._ring.size:
            self._behind += 1
            if self._behind < BEHIND_RECORDS:
                return False
            self._begin(record)
            number = 0
        elif number > self._next + self._ring.size:
            self._begin(record)
            number = 0
        self._behind = 0
        if number + values.size > self._next:
            self._watch(values[max(0, self._next - number) :], number == self._next, number, record)
        self._write(number, values)
        return True

    def _compare(self, record: Record, now_s: float) -> None:
        """Whether it brings anything newer than all before it."""
        self.heard_ns = record.start_ns + offset_ns(record.samples.size - 1, record.sample_rate_hz)
        if self.heard_ns > self._seen_ns + NEWER_NS:
            self._seen_ns, self.old_since_s = self.heard_ns, None
        elif self.old_since_s is None:
            self.old_since_s = now_s

    def take_changed(self) -> int | None:
        """First sample that was written since the last call; None where none was."""
        changed, self._changed = self._changed, None
        return changed

    def _begin(self, record: Record) -> None:
        self.rate_hz = record.sample_rate_hz
        size = min(MOST_SAMPLES, max(2, math.ceil(LONGEST_SECONDS * self.rate_hz)))
        if self._ring.size != size:
            self._ring = np.empty(size, np.float32)
        self._ring.fill(np.nan)
        self._origin_ns, self._first, self._next, self._changed = record.start_ns, 0, 0, 0
        self._run, self._last, self._clipped = 0, math.nan, -(1 << 62)

    def _watch(self, values: AnyArray, goes_on: bool, number: int, record: Record) -> None:
        """What the newest samples say of the sensor."""
        others = np.flatnonzero(values != values[-1])
        if others.size:
            self._run = int(values.size - 1 - others[-1])
        else:
            self._run = int(values.size) + (self._run if goes_on and values[0] == self._last else 0)
        self._last = float(values[-1])
        beyond = np.flatnonzero(np.abs(values) >= (self.clip_counts or math.inf))
        if beyond.size:
            self._clipped = number + record.samples.size - values.size + int(beyond[-1])
        elif "clipped" in record.quality:
            self._clipped = number + record.samples.size - 1

    def _write(self, number: int, values: AnyArray) -> None:
        end, size = number + values.size, self._ring.size
        if number > self._next:
            self._fill(self._next, np.full(number - self._next, np.nan, np.float32))
        oldest = max(number, end - size, self._next - size)
        with np.errstate(over="ignore", invalid="ignore"):
            good = np.where(np.abs(values) <= LARGEST_VALID, values, np.nan).astype(np.float32)
        self._fill(oldest, good[oldest - number :])
        self._first = min(self._first, oldest)
        first = min(oldest, self._next)
        self._changed = first if self._changed is None else min(first, self._changed)
        if end > self._next:
            self._next = end
            self.newest_ns = self.time_ns(end - 1)

    def _fill(self, number: int, values: Float32Array) -> None:
        values = values[-self._ring.size :] if values.size else values
        at = number % self._ring.size
        whole = min(values.size, self._ring.size - at)
        self._ring[at : at + whole] = values[:whole]
        self._ring[: values.size - whole] = values[whole:]

    def time_ns(self, number: int) -> int:
        """Of a sample by its number."""
        return self._origin_ns + offset_ns(number, self.rate_hz)

    def columns(self, column_ns: int, since: int | None = None, most: int = 1 << 30) -> tuple[int, Float32Array] | None:
        """Smallest and largest sample of each column of `column_ns`, from the one that holds sample `since` on.

        (number of the first column, counted from 1970; [columns, 2], NaN where there is no sample), at most the `most`
        latest ones; None where there is nothing.
        """
        oldest = max(self._first, self._next - self._ring.size)
        begin = oldest if since is None else max(oldest, since)
        if self.newest_ns is None or begin >= self._next:
            return None
        last = self.newest_ns // column_ns
        first = max(self.time_ns(begin) // column_ns, last - most + 1)
        bounds = self._first_samples(first, last, column_ns).clip(oldest, self._next)
        bounds[-1] = self._next
        values, starts = self._between(int(bounds[0]), self._next), bounds - bounds[0]
        if not values.size:
            return None
        at = np.minimum(starts[:-1], values.size - 1)
        out = np.stack([np.fmin.reduceat(values, at), np.fmax.reduceat(values, at)], axis=1)
        out[starts[1:] == starts[:-1]] = np.nan
        return first, out

    def _first_samples(self, first: int, last: int, column_ns: int) -> AnyArray:
        """Number of the first sample of each column, and of the one after the last [columns + 1]."""
        edges: Float64Array = (np.arange(last - first + 2) * column_ns + (first * column_ns - self._origin_ns)).astype(
            np.float64
        )
        return np.ceil(edges * (float(exact_rate(self.rate_hz)) / 1e9) - 1e-6).astype(np.int64)

    def _between(self, begin: int, end: int) -> Float32Array:
        size = self._ring.size
        begin_at, count = begin % size, end - begin
        if begin_at + count <= size:
            return self._ring[begin_at : begin_at + count]
        return np.concatenate([self._ring[begin_at:], self._ring[: begin_at + count - size]])
