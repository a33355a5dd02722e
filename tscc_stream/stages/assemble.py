"""Records to contiguous blocks: order, duplicates, gaps, clock jumps, rate changes, dead sensors, invalid samples.

A segment is a run of samples without a break. A record continues the segment when it starts within half a sample of
where the last one ended; every break is announced by a Gap before the next segment's first block.

A record that leaves a gap is held until what is missing has come, or the channel has gone on by more than
`reorder_seconds` of data since, or has been silent for as long. Any order of arrival in which no record comes after one
that starts more than that later gives what the order of start times gives; a channel's first record begins it.

A record far ahead (FAR_NS) may bear a wrong date. It is taken only once another one lies near it, or time went on
beyond it and nothing came for the time before; if the channel goes on where it was instead, it is dropped ("clock").
Samples that lie behind are duplicates or too late, unless nothing else comes for a while: then the clock was set back.
Of each channel a mark a second is remembered of the last half minute or more. Records behind that bring other samples
than those of the same time show at once that the clock was set back, and are taken; what is left out although it was
other data, or came before that was clear, is told: a Gap "conflict", which breaks nothing.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter

import numpy as np

from tscc_stream.config import AssembleConfig
from tscc_stream.kernels.front import (
    FEWEST_MARKED,
    MARK_FACTOR,
    MARK_NS,
    MARK_SAMPLES,
    MARK_SLACK,
    MOST_MARKS,
)
from tscc_stream.messages import AnyArray, Block, EndOfStream, Float64Array, Gap, Int64Array, Record, read_only
from tscc_stream.sampling import NS_PER_SECOND, offset_ns, samples_in, seconds_to_ns

LARGEST_VALID = 1e15
"""Counts. No recorder reaches it, and its square is still finite through every later stage."""
FEWEST_FLAT_SAMPLES = 32
"""Healthy recordings hold runs of up to 7 equal samples."""
RATE_TOLERANCE = 1e-4
"""Relative. Headers of one stream state its rate with differing precision."""
FAR_NS = 600 * NS_PER_SECOND
"""Farther ahead than this, a record needs another one beside it. For so much data of the time before, it waits."""
LONGEST_RESEND_NS = 600 * NS_PER_SECOND
"""In files, duplicates of this duration, one after the other, are no resend: the clock was set back."""
SET_BACK_NS = 30 * NS_PER_SECOND
"""In a stream it was where duplicates have come for so long (monotonic), or for three records where these last longer,
at the pace at which a wrong clock stamps. What a recorder sends again of an outage comes between new records."""
RESEND_PACE = 3
"""Times as fast as recorded, at least, is what a server sends again, be it a ring of hours."""
FEWEST_OTHERS = 3
"""Records behind, one after the other, with other samples than before: so many are no second recorder of one name."""
MOST_BEHIND = 32
"""Records behind that are kept until marks tell what they are."""
MOST_HELD = 256
"""Records of one channel that are held."""
MOST_HELD_SAMPLES = 65_536
MOST_GAPS = 16
"""Gaps of a channel that are remembered, to tell late data from duplicates."""
CONFLICT = "conflict"
"""Cause of a Gap that tells of data lost, and is no break: other data had come for their time."""
LEFT_OUT = ("duplicate", "overlap", "late", "clock")

_start_of = attrgetter("start_ns")


@dataclass(slots=True)
class ChannelState:
    """next_ns: where the next sample is expected. run: how often last_value came in a row.

    behind_ns: duration of what lay behind since the last new sample, from behind_since_ns on. held: records after a
    gap, suspects: records far ahead, both in order of start. doubt_ns: duration of new samples of the time before
    since the suspects came. heard_ns: when the last record came. gaps: the latest, from and to. behind_since_ns and
    heard_ns are monotonic, 0 where unknown.

    marks_ns, marks: times, ascending, and what the samples there come to. behind: records of the time of marks that lie
    behind, since the last new sample. span: from and to of all that lay behind since; differs: some of it is known to
    be other data.
    """

    rate_hz: float
    next_ns: int
    behind_ns: int = 0
    behind_since_ns: int = 0
    index: int = 0
    last_value: float = float("nan")
    run: int = 0
    break_from: int | None = None
    break_cause: str = ""
    heard_ns: int = 0
    held: list[Record] = field(default_factory=list)
    suspects: list[Record] = field(default_factory=list)
    doubt_ns: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    marks_ns: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    marks: Float64Array = field(default_factory=lambda: np.empty(0))
    behind: list[Record] = field(default_factory=list)
    span: tuple[int, int] | None = None
    differs: bool = False

    def begin(self, rate_hz: float, start_ns: int) -> None:
        """Start afresh with what comes next."""
        self.rate_hz, self.next_ns = rate_hz, start_ns
        self.behind_ns = self.behind_since_ns = self.index = self.run = 0
        self.last_value, self.break_from, self.break_cause = float("nan"), None, ""


AssembleState = dict[str, ChannelState]
"""By source id."""


class Assemble:
    """Feeds on records of any channel in any interleaving; each channel on its own. Times passed in are monotonic.

    counts: samples that were left out, once that is clear, by (reason, source id): "duplicate", "overlap" (of a record
    that also brings new ones), "late" (for a gap that was announced) and "clock" (with a date that nothing confirmed).
    left_out: the same by reason, also of channels that are forgotten.
    """

    def __init__(self, config_of: Callable[[str], AssembleConfig]) -> None:
        self._config_of = config_of
        self._channels: dict[str, ChannelState] = {}
        self._holding: dict[str, ChannelState] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        self.left_out: Counter[str] = Counter()

    def feed(self, record: Record | EndOfStream, now_ns: int = 0) -> list[Block | Gap]:
        """Blocks and gaps that a record completes, in time order; the end of a channel, what is held, and forgets it.

        now_ns: 0 throughout for archives, whose time does not pass.
        """
        if isinstance(record, EndOfStream):
            out = self.release(record.sid)
            ended = self._channels.pop(record.sid, None)
            return out if ended is None else [*out, *self._end_behind(ended, record.sid)]
        channel = self._channels.get(record.sid)
        if channel is None:
            channel = self._channels[record.sid] = ChannelState(record.sample_rate_hz, record.start_ns)
        channel.heard_ns = now_ns
        out = self._arrive(channel, record, now_ns)
        if channel.held:
            out += self._settle(channel, self._tolerance_ns(record.sid))
        self._note(record.sid, channel)
        return out

    def release(self, sid: str) -> list[Block | Gap]:
        """What is held of a channel, since nothing more is to be waited for."""
        channel = self._holding.pop(sid, None)
        return [] if channel is None else self._take_held(channel)

    def poll(self, now_ns: int) -> list[Block | Gap]:
        """What is held of channels that have been silent for longer than it waits; one record with a far date stays."""
        out: list[Block | Gap] = []
        for sid, channel in list(self._holding.items()):
            until_ns = self._until_ns(sid, channel)
            if until_ns is not None and now_ns >= until_ns:
                out += self._take_held(channel) if len(channel.suspects) > 1 else self._settle(channel, 0)
                self._note(sid, channel)
        return out

    def next_deadline(self) -> int | None:
        """When `poll` may release something."""
        until = [self._until_ns(sid, channel) for sid, channel in self._holding.items()]
        return min((at_ns for at_ns in until if at_ns is not None), default=None)

    def forget(self, sid: str) -> None:
        """Nothing of a channel is kept, nor what was counted of it."""
        self._channels.pop(sid, None)
        self._holding.pop(sid, None)
        for reason in LEFT_OUT:
            self.counts.pop((reason, sid), None)

    def snapshot(self) -> AssembleState:
        """Every channel's state, to be written down before the next `feed`."""
        return self._channels

    def restore(self, state: AssembleState, now_ns: int) -> None:
        """Go on from a snapshot. Monotonic times in it are those of another process: what is held waits anew, from now.

        now_ns: 0 for archives.
        """
        self._channels = state
        for sid, channel in state.items():
            channel.heard_ns, channel.behind_since_ns = now_ns, 0
            self._note(sid, channel)

    def rate_hz(self, sid: str) -> float | None:
        """Of a channel's segment; None where the channel is not known."""
        channel = self._channels.get(sid)
        return None if channel is None else channel.rate_hz

    def reached_ns(self, sid: str) -> int:
        """Where the next sample of a known channel is expected, be it within a break; before what is held."""
        return self._channels[sid].next_ns

    def ordinary(self, sid: str) -> ChannelState | None:
        """The state of a channel of which nothing is held or in doubt, amid a segment; whoever takes the records over
        that simply continue it moves it on.
        """
        channel = self._channels.get(sid)
        if channel is None or channel.held or channel.suspects or channel.break_from is not None:
            return None
        return channel if channel.index and channel.span is None else None

    def oldest_held_ns(self) -> int:
        """Start of the earliest record that is held; far in the future where none is."""
        return min((r.start_ns for c in self._holding.values() for r in (*c.held, *c.suspects)), default=1 << 62)

    def _tolerance_ns(self, sid: str) -> int:
        return seconds_to_ns(self._config_of(sid).reorder_seconds)

    def _note(self, sid: str, channel: ChannelState) -> None:
        if channel.held or channel.suspects:
            self._holding[sid] = channel
        elif sid in self._holding:
            del self._holding[sid]

    def _until_ns(self, sid: str, channel: ChannelState) -> int | None:
        waits = channel.held or len(channel.suspects) > 1
        return channel.heard_ns + self._tolerance_ns(sid) if waits and channel.heard_ns else None

    # Order

    def _arrive(self, channel: ChannelState, record: Record, now_ns: int) -> list[Block | Gap]:
        """What a record gives at once."""
        ahead = _ahead(channel, record)
        if -ahead >= record.samples.size:
            return self._behind(channel, record, now_ns)
        if ahead <= 0:
            return self._take(channel, record)
        newest_ns = max(channel.next_ns, channel.held[-1].start_ns) if channel.held else channel.next_ns
        if record.start_ns - newest_ns > FAR_NS:
            return self._settle(channel, 0) + self._suspect(channel, record, now_ns)
        insort(channel.held, record, key=_start_of)
        return []

    def _settle(self, channel: ChannelState, tolerance_ns: int) -> list[Block | Gap]:
        """Of what is held: what continues by now, and what has been waited for for long enough."""
        out: list[Block | Gap] = []
        held = channel.held
        while held and (_ahead(channel, held[0]) <= 0 or not tolerance_ns or _exceeds(held, tolerance_ns)):
            out += self._take(channel, held.pop(0))
        return out

    def _suspect(self, channel: ChannelState, record: Record, now_ns: int) -> list[Block | Gap]:
        """A record far ahead: together with others near it, it is held as after any gap."""
        suspects = channel.suspects
        if suspects and not -FAR_NS <= record.start_ns - suspects[-1].start_ns <= FAR_NS:
            if len(suspects) > 1 or (not channel.doubt_ns and record.start_ns > suspects[0].start_ns):
                return self._take_held(channel) + self._arrive(channel, record, now_ns)
            self._drop_suspects(channel)
        if any(other.start_ns == record.start_ns for other in suspects):
            self._leave_out("duplicate", record, record.samples.size)
            return []
        insort(suspects, record, key=_start_of)
        if len(suspects) > 1 and _exceeds(suspects, self._tolerance_ns(record.sid)):
            channel.held = sorted([*channel.held, *suspects], key=_start_of)
            channel.suspects, channel.doubt_ns = [], 0
        return []

    def _take_held(self, channel: ChannelState) -> list[Block | Gap]:
        """Everything that is held, in order; but no single suspect that the channel went on without."""
        if channel.doubt_ns and len(channel.suspects) == 1:
            self._drop_suspects(channel)
        held = [*channel.held, *channel.suspects]
        channel.held, channel.suspects, channel.doubt_ns = [], [], 0
        return [part for record in held for part in self._take(channel, record)]

    def _drop_suspects(self, channel: ChannelState) -> None:
        for record in channel.suspects:
            self._leave_out("clock", record, record.samples.size)
        channel.suspects.clear()
        channel.doubt_ns = 0

    def _leave_out(self, reason: str, record: Record, samples: int) -> None:
        if samples:
            self.counts[reason, record.sid] += samples
            self.left_out[reason] += samples

    def _behind(self, channel: ChannelState, record: Record, now_ns: int) -> list[Block | Gap]:
        """A record that brings nothing new: left out, unless it shows that the clock was set back."""
        same = _is_same(channel, record, record.samples.size)
        if same:
            self._leave_out_behind(channel, record, record.samples.size)
            return list(self._end_behind(channel, record.sid))
        lasts_ns = offset_ns(record.samples.size, record.sample_rate_hz)
        channel.behind_ns += lasts_ns
        channel.differs |= same is False
        _spread(channel, record.start_ns, record.start_ns + lasts_ns)
        self._keep_behind(channel, record)
        if channel.differs and len(channel.behind) >= FEWEST_OTHERS:
            return self._set_back(channel, sorted(channel.behind, key=_start_of))
        if not self._outlasts(channel, lasts_ns, now_ns):
            return []
        return self._set_back(channel, [record])

    @staticmethod
    def _outlasts(channel: ChannelState, lasts_ns: int, now_ns: int) -> bool:
        """Whether records behind have come for longer than anything is sent again. lasts_ns: of the last."""
        since_ns = channel.behind_since_ns = channel.behind_since_ns or now_ns
        passed_ns = now_ns - since_ns
        if now_ns:
            longest = max(SET_BACK_NS, 3 * lasts_ns)
            return passed_ns > longest and channel.behind_ns < RESEND_PACE * passed_ns
        return channel.behind_ns > LONGEST_RESEND_NS

    def _keep_behind(self, channel: ChannelState, record: Record) -> None:
        """Until it is clear what it is, where a mark may tell."""
        if not channel.marks_ns.size or record.start_ns < channel.marks_ns[0]:
            self._leave_out_behind(channel, record, record.samples.size)
            return
        channel.behind.append(record)
        if len(channel.behind) > MOST_BEHIND or sum(one.samples.size for one in channel.behind) > MOST_HELD_SAMPLES:
            oldest = channel.behind.pop(0)
            self._leave_out_behind(channel, oldest, oldest.samples.size)

    def _set_back(self, channel: ChannelState, records: list[Record]) -> list[Block | Gap]:
        """The channel goes on with records of a time that it has passed; what lay behind before them is lost."""
        first, span = records[0], channel.span
        channel.behind = [one for one in channel.behind if all(one is not other for other in records)]
        channel.differs = False
        self._end_behind(channel, first.sid)
        self._drop_suspects(channel)
        out = self._settle(channel, 0)
        out += self._restart(channel, first, first.start_ns, "clock")
        if span is not None and span[0] < first.start_ns:
            out.append(Gap(first.sid, span[0], first.start_ns, CONFLICT))
        out += self._blocks(channel, first, first.start_ns, first.samples)
        return out + [part for record in records[1:] for part in self._take(channel, record)]

    def _end_behind(self, channel: ChannelState, sid: str) -> list[Gap]:
        """What lay behind is left out; it is told where it was other data than had come for that time."""
        lost = [Gap(sid, *channel.span, CONFLICT)] if channel.differs and channel.span else []
        for record in channel.behind:
            self._leave_out_behind(channel, record, record.samples.size)
        channel.behind, channel.span, channel.differs = [], None, False
        channel.behind_ns = channel.behind_since_ns = 0
        return lost

    def _leave_out_behind(self, channel: ChannelState, record: Record, samples: int) -> None:
        """The first `samples` of a record lie behind: late where they would have filled a gap, else there already."""
        end_ns = record.start_ns + offset_ns(samples, record.sample_rate_hz)
        late_ns = sum(max(0, min(to_ns, end_ns) - max(from_ns, record.start_ns)) for from_ns, to_ns in channel.gaps)
        late = min(samples, samples_in(late_ns, record.sample_rate_hz))
        self._leave_out("late", record, late)
        self._leave_out("duplicate" if samples == record.samples.size else "overlap", record, samples - late)

    # Blocks

    def _take(self, channel: ChannelState, record: Record) -> list[Block | Gap]:
        """A record's new samples, whatever lies before them."""
        ahead = _ahead(channel, record)
        skip = min(max(0, -ahead), record.samples.size)
        start_ns = record.start_ns + offset_ns(skip, record.sample_rate_hz)
        if skip:
            self._leave_out_behind(channel, record, skip)
            channel.differs |= _is_same(channel, record, skip) is False
            if channel.differs:
                _spread(channel, record.start_ns, start_ns)
        if skip == record.samples.size:
            return []
        out: list[Block | Gap] = [*self._end_behind(channel, record.sid)]
        changed = abs(record.sample_rate_hz - channel.rate_hz) > RATE_TOLERANCE * channel.rate_hz
        if ahead > 0 or changed:
            out += self._restart(channel, record, start_ns, "rate" if changed else "gap")
        out += self._blocks(channel, record, start_ns, record.samples[skip:])
        if channel.suspects:
            channel.doubt_ns += channel.next_ns - start_ns
            if channel.doubt_ns > FAR_NS:
                self._drop_suspects(channel)
        return out

    @staticmethod
    def _restart(channel: ChannelState, record: Record, start_ns: int, cause: str) -> list[Gap]:
        """The channel begins anew at `start_ns`."""
        gaps = []
        if channel.break_from is not None:
            gaps.append(Gap(record.sid, channel.break_from, channel.next_ns, channel.break_cause))
        gaps.append(Gap(record.sid, channel.next_ns, start_ns, cause))
        channel.gaps = [] if cause == "clock" else [*channel.gaps[1 - MOST_GAPS :], (channel.next_ns, start_ns)]
        if cause == "clock":
            earlier = channel.marks_ns < start_ns
            channel.marks_ns, channel.marks = channel.marks_ns[earlier], channel.marks[earlier]
        channel.begin(record.sample_rate_hz, start_ns)
        return gaps

    def _blocks(self, channel: ChannelState, record: Record, start_ns: int, samples: AnyArray) -> list[Block | Gap]:
        """New samples that begin at `start_ns`, without those that are dead or invalid."""
        out: list[Block | Gap] = []
        for part in self._split(channel, record.sid, start_ns, samples):
            if isinstance(part, Gap):
                out.append(part)
            else:
                index, first_ns, values = part
                out.append(
                    Block(record.sid, index, first_ns, channel.rate_hz, values, record.quality, record.received_ns)
                )
        channel.next_ns = start_ns + offset_ns(samples.size, channel.rate_hz)
        _note_mark(channel, start_ns, samples)
        return out

    def _split(
        self, channel: ChannelState, sid: str, start_ns: int, samples: AnyArray
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
    def _open_break(channel: ChannelState, sid: str, from_ns: int, cause: str) -> Gap:
        channel.break_from, channel.break_cause, channel.index = from_ns, cause, 0
        return Gap(sid, from_ns, None, cause)

    @staticmethod
    def _live_pieces(channel: ChannelState, config: AssembleConfig, values: Float64Array) -> Iterator[tuple[int, int]]:
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


def _mark(samples: AnyArray, end: int) -> float:
    """What the samples before `end` come to; other samples hardly come to the same."""
    value = 0.0
    with np.errstate(invalid="ignore"):  # a signalling NaN
        for sample in samples[end - MARK_SAMPLES : end].astype(np.float64).tolist():
            value = value * MARK_FACTOR + sample
    return value


def _note_mark(channel: ChannelState, start_ns: int, samples: AnyArray) -> None:
    """The mark of samples that were taken, unless the one before is near."""
    if samples.size < FEWEST_MARKED:
        return
    at_ns = start_ns + offset_ns(samples.size - 1 - MARK_SLACK, channel.rate_hz)
    if channel.marks_ns.size and at_ns - channel.marks_ns[-1] < MARK_NS:
        return
    mark = _mark(samples, samples.size - MARK_SLACK)
    if np.isfinite(mark):
        channel.marks_ns = np.append(channel.marks_ns[1 - MOST_MARKS :], at_ns)
        channel.marks = np.append(channel.marks[1 - MOST_MARKS :], mark)


def _is_same(channel: ChannelState, record: Record, samples: int) -> bool | None:
    """Whether the first samples of a record are those that were taken for their time; None where no mark tells.

    Times that were stated again may differ by MARK_SLACK samples.
    """
    rate_hz, same = record.sample_rate_hz, None
    end_ns = record.start_ns + offset_ns(samples, rate_hz)
    first, last = np.searchsorted(channel.marks_ns, (record.start_ns, end_ns)).tolist()
    for at_ns, mark in zip(channel.marks_ns[first:last].tolist(), channel.marks[first:last].tolist(), strict=True):
        end = samples_in(at_ns - record.start_ns, rate_hz) + 1
        if MARK_SAMPLES + MARK_SLACK <= end <= samples - MARK_SLACK:
            near = range(end - MARK_SLACK, end + MARK_SLACK + 1)
            if all(_mark(record.samples, one) != mark for one in near):
                return False
            same = True
    return same


def _spread(channel: ChannelState, from_ns: int, to_ns: int) -> None:
    """What lay behind reaches from and to there as well."""
    begin, end = channel.span or (from_ns, to_ns)
    channel.span = min(begin, from_ns), max(end, to_ns)


def _ahead(channel: ChannelState, record: Record) -> int:
    """Samples between where a channel is and where a record starts; half a sample is none."""
    return -samples_in(channel.next_ns - record.start_ns, record.sample_rate_hz)


def _exceeds(held: list[Record], tolerance_ns: int) -> bool:
    """Whether the first of the records has been waited for for long enough, or there are too many."""
    if held[-1].start_ns - held[0].start_ns > tolerance_ns or len(held) > MOST_HELD:
        return True
    return sum(record.samples.size for record in held) > MOST_HELD_SAMPLES


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
