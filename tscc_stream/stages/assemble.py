"""Records to contiguous blocks: duplicates, overlaps, gaps, rate changes, dead sensors and invalid samples.

A segment is a run of samples without a break. A record continues the segment when it starts within half a sample of
where the last one ended; every break is announced by a Gap before the next segment's first block. Samples that lie
behind are duplicates, unless nothing else comes for a while: then the recorder's clock was set back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tscc_stream.config import AssembleConfig
from tscc_stream.messages import AnyArray, Block, EndOfStream, Float64Array, Gap, Record, read_only
from tscc_stream.sampling import NS_PER_SECOND, offset_ns, samples_in

LARGEST_VALID = 1e15
"""Counts. No recorder reaches it, and its square is still finite through every later stage."""
FEWEST_FLAT_SAMPLES = 32
"""Healthy recordings hold runs of up to 7 equal samples."""
RATE_TOLERANCE = 1e-4
"""Relative. Headers of one stream state its rate with differing precision."""
LONGEST_RESEND_NS = 600 * NS_PER_SECOND
"""Duplicates of this duration, one after the other, are no resend: without a limit, one record with a date in the far
future would deafen its channel until then."""


@dataclass(slots=True)
class _Channel:
    """behind_ns: duration of the duplicates since the last new sample. run: how often last_value came in a row."""

    rate_hz: float
    next_ns: int
    behind_ns: int = 0
    index: int = 0
    last_value: float = float("nan")
    run: int = 0
    break_from: int | None = None
    break_cause: str = ""


class Assemble:
    """Feeds on records of any channel in any interleaving; each channel on its own.

    counts: what was left out, by (reason, source id): "duplicate" and "overlap" in samples.
    """

    def __init__(self, config_of: Callable[[str], AssembleConfig]) -> None:
        self._config_of = config_of
        self._channels: dict[str, _Channel] = {}
        self.counts: Counter[tuple[str, str]] = Counter()

    def feed(self, record: Record | EndOfStream) -> list[Block | Gap]:
        """Blocks and gaps that a record completes, in time order; the end of a channel forgets it."""
        if isinstance(record, EndOfStream):
            self._channels.pop(record.sid, None)
            return []
        channel = self._channels.get(record.sid)
        if channel is None:
            channel = self._channels[record.sid] = _Channel(record.sample_rate_hz, record.start_ns)
        samples, start_ns, gaps = self._place(channel, record)
        if samples.size == 0:
            return []
        channel = self._channels[record.sid]
        out: list[Block | Gap] = list(gaps)
        for part in self._split(channel, record.sid, start_ns, samples):
            if isinstance(part, Gap):
                out.append(part)
            else:
                index, first_ns, values = part
                out.append(
                    Block(record.sid, index, first_ns, channel.rate_hz, values, record.quality, record.received_ns)
                )
        channel.next_ns = start_ns + offset_ns(samples.size, channel.rate_hz)
        return out

    def reached_ns(self, sid: str) -> int:
        """Where the next sample of a known channel is expected, be it within a break."""
        return self._channels[sid].next_ns

    def _place(self, channel: _Channel, record: Record) -> tuple[AnyArray, int, list[Gap]]:
        """What of a record is new, when that starts, and the gap before it."""
        ahead = -samples_in(channel.next_ns - record.start_ns, record.sample_rate_hz)  # half a sample is no gap
        skip = max(0, -ahead)
        if skip >= record.samples.size:
            channel.behind_ns += offset_ns(record.samples.size, record.sample_rate_hz)
            if channel.behind_ns > LONGEST_RESEND_NS:
                return record.samples, record.start_ns, self._restart(channel, record, record.start_ns, "clock")
            self.counts["duplicate", record.sid] += record.samples.size
            return record.samples[:0], record.start_ns, []
        channel.behind_ns = 0
        if skip:
            self.counts["overlap", record.sid] += skip
        start_ns = record.start_ns + offset_ns(skip, record.sample_rate_hz)
        gaps = []
        changed = abs(record.sample_rate_hz - channel.rate_hz) > RATE_TOLERANCE * channel.rate_hz
        if ahead > 0 or changed:
            gaps = self._restart(channel, record, start_ns, "rate" if changed else "gap")
        return record.samples[skip:], start_ns, gaps

    def _restart(self, channel: _Channel, record: Record, start_ns: int, cause: str) -> list[Gap]:
        """The channel begins anew at `start_ns`."""
        gaps = []
        if channel.break_from is not None:
            gaps.append(Gap(record.sid, channel.break_from, channel.next_ns, channel.break_cause))
        gaps.append(Gap(record.sid, channel.next_ns, start_ns, cause))
        self._channels[record.sid] = _Channel(record.sample_rate_hz, start_ns)
        return gaps

    def _split(
        self, channel: _Channel, sid: str, start_ns: int, samples: AnyArray
    ) -> Iterator[Gap | tuple[int, int, Float64Array]]:
        """Gaps and (segment index, start, values) of the good runs within new samples."""
        config = self._config_of(sid)
        with np.errstate(invalid="ignore"):  # a signalling NaN, which is sorted out below as any other
            values = samples.astype(np.float64)
        for begin, end, good in _validity_runs(values):
            if not good:
                if channel.break_from is None:
                    yield self._open_break(channel, sid, start_ns + offset_ns(begin, channel.rate_hz), "invalid")
                channel.last_value, channel.run = float("nan"), 0
                continue
            for piece_begin, piece_end in self._live_pieces(channel, config, values[begin:end]):
                first_ns = start_ns + offset_ns(begin + piece_begin, channel.rate_hz)
                if piece_end == piece_begin:
                    yield self._open_break(channel, sid, first_ns, "flat")
                    continue
                if channel.break_from is not None:
                    yield Gap(sid, channel.break_from, first_ns, channel.break_cause)
                    channel.break_from, channel.index = None, 0
                piece = values[begin + piece_begin : begin + piece_end]
                yield channel.index, first_ns, read_only(piece)
                channel.index += piece.size

    @staticmethod
    def _open_break(channel: _Channel, sid: str, from_ns: int, cause: str) -> Gap:
        channel.break_from, channel.break_cause, channel.index = from_ns, cause, 0
        return Gap(sid, from_ns, None, cause)

    @staticmethod
    def _live_pieces(channel: _Channel, config: AssembleConfig, values: Float64Array) -> Iterator[tuple[int, int]]:
        """Ranges (begin, end) of `values` that are not flat; an empty range marks where a flat run is recognised.

        A run at the recorder's rail is a clipped signal, not a dead sensor.
        """
        limit = max(FEWEST_FLAT_SAMPLES, round(config.flat_seconds * channel.rate_hz))
        begins = np.flatnonzero(values[1:] != values[:-1]) + 1
        carried = channel.run if values[0] == channel.last_value else 0
        begins = np.concatenate(([0], begins))
        lengths = np.diff(begins, append=values.size)
        lengths[0] += carried
        clip = np.inf if config.clip_counts is None else config.clip_counts
        flat_runs = np.flatnonzero((lengths >= limit) & (np.abs(values[begins]) < clip))
        channel.last_value, channel.run = float(values[-1]), int(lengths[-1])
        cursor = 0
        for run in flat_runs:
            begin, end = int(begins[run]), int(begins[run]) + int(lengths[run]) - (carried if run == 0 else 0)
            flat_from = max(begin, end - int(lengths[run]) + limit - 1)
            already = run == 0 and carried >= limit
            if flat_from > cursor and not already:
                yield cursor, flat_from
            if not already:
                yield flat_from, flat_from
            cursor = end
        if cursor < values.size:
            yield cursor, values.size


def _validity_runs(values: Float64Array) -> Iterator[tuple[int, int, bool]]:
    """Ranges (begin, end, good) of finite, possible samples and of the others."""
    good = np.abs(values) <= LARGEST_VALID
    if good.all():
        yield 0, values.size, True
        return
    edges = np.flatnonzero(good[1:] != good[:-1]) + 1
    bounds = [0, *edges.tolist(), values.size]
    for begin, end in pairwise(bounds):
        yield begin, end, bool(good[begin])
