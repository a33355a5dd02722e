"""Channels in their ordinary state, side by side in arrays, so that one compiled call takes a batch of records through
assembly, filter, ratio and trigger.

A channel moves in once the stages have it amid a segment with nothing held, pending or in doubt but windows and open
triggers, and moves out, into the stages' own objects, as soon as a record does anything else than continue it. What is
rare (a gap, a flat line, a quarantine) is so decided in one place only, and the compiled code has no say in it. Raw
samples and ratios are kept in rings as long as a window may need them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from tscc_stream.config import AssembleConfig, ConditionConfig, TriggerConfig
from tscc_stream.kernels import front as kernel
from tscc_stream.kernels.columns import SECTIONS
from tscc_stream.messages import (
    QUALITIES,
    AnyArray,
    Float64Array,
    Int64Array,
    RecordBatch,
    Trigger,
    Window,
    WindowDropped,
)
from tscc_stream.sampling import NS_PER_SECOND, exact_rate, seconds_to_ns, seconds_to_samples
from tscc_stream.stages.assemble import FEWEST_FLAT_SAMPLES, Assemble, ChannelState
from tscc_stream.stages.condition import Condition, FilterState, RatioMemory, bandpass
from tscc_stream.stages.detect import Detect, TriggerState
from tscc_stream.stages.extract import Extract, History

_SLACK = 512
"""Samples, at least, by which a channel moves on before its events are looked at."""
_RING_STEP = 64
"""Rings have a length of a multiple of this, so that channels of one kind share arrays."""
_FIRST_LANES, _GROWTH = 128, 4
"""Pages of the rings that nobody has written cost nothing; to move the others costs much."""
_EVENTS = 2 * kernel.FEWEST_EVENTS
_MOST_NUMERATOR = 1 << 62
_SHORTEST_LONGEST = 2048
STAYS_OUT = 16
"""Batches for which a channel that had to move out stays out."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """What a batch came to. windows: complete now, or never. left: places of the records that are the stages' to take,
    ascending. reached: of the other channels, source id and the time before which every trigger is known.
    """

    windows: list[Window | WindowDropped]
    left: list[int]
    reached: list[tuple[str, int]]


OnTriggers = Callable[[list[Trigger]], object]
Sections = tuple[AssembleConfig, ConditionConfig, TriggerConfig]


@dataclass(slots=True)
class _Lane:
    """A channel's place, and the stages' own objects of it.

    valid_from: first sample of the segment that is in the ring. least_ns: how long a trigger lasts to be announced.
    """

    group: _Group
    row: int
    sid: str
    rate_hz: float
    lookback: int
    least_ns: int
    valid_from: int
    assembled: ChannelState
    filtered: FilterState
    triggered: TriggerState
    kept: History


class _Group:
    """Lanes whose rings have one length. Rows that are free are used again."""

    def __init__(self, ring: int) -> None:
        self.ring = ring
        self.lanes: list[_Lane | None] = []
        self._free: list[int] = []
        self.state = np.zeros(0, kernel.LANE)
        self.sections = np.zeros((0, SECTIONS, 5))
        self.memory = np.zeros((0, SECTIONS, 2))
        self.history = np.zeros((0, ring))
        self.ratios = np.zeros((0, ring))
        self.marks_ns = np.zeros((0, kernel.MOST_MARKS), np.int64)
        self.marks = np.zeros((0, kernel.MOST_MARKS))
        self.events = np.zeros((_EVENTS, kernel.EVENT_COLUMNS), np.int64)
        self.flights, self.columns, self.tile, self.ratio = kernel.room()

    def take(self) -> int:
        """A free row, whatever it holds."""
        if self._free:
            return self._free.pop()
        if len(self.lanes) == len(self.state):
            self._grow(max(_FIRST_LANES, _GROWTH * len(self.state)))
        self.lanes.append(None)
        return len(self.lanes) - 1

    def give(self, row: int) -> None:
        self.lanes[row] = None
        self._free.append(row)

    def _grow(self, size: int) -> None:
        for name in ("state", "sections", "memory", "history", "ratios", "marks_ns", "marks"):
            old: AnyArray = getattr(self, name)
            new = np.empty((size, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)

    def lane(self, row: int) -> _Lane:
        lane = self.lanes[row]
        assert lane is not None  # noqa: S101 rows that a call touches are taken
        return lane

    def cut(self, row: int, first: int, end: int) -> tuple[Float64Array, Float64Array]:
        """Copies of samples and ratios [end - first] out of the rings."""
        return self._cut(self.history[row], first, end), self._cut(self.ratios[row], first, end)

    def _cut(self, values: Float64Array, first: int, end: int) -> Float64Array:
        begin = first % self.ring
        beyond = begin + end - first - self.ring
        if beyond <= 0:
            return values[begin : begin + end - first].copy()
        return np.concatenate((values[begin : self.ring], values[:beyond]))


def warm_up() -> None:
    """Compile what a batch goes through, or load it, before anything waits for it."""
    kernel.warm_up()


class Lanes:
    """The channels that have moved in. Their triggers go to `on_triggers`, in order for each channel."""

    def __init__(
        self,
        assemble: Assemble,
        condition: Condition,
        detect: Detect,
        extract: Extract,
        sections_of: Callable[[str], Sections],
        on_triggers: OnTriggers,
    ) -> None:
        self._assemble, self._condition, self._detect, self._extract = assemble, condition, detect, extract
        self._sections_of, self._on_triggers = sections_of, on_triggers
        self._lanes: dict[str, _Lane] = {}
        self._groups: dict[int, _Group] = {}
        self._waiting: dict[str, _Lane] = {}
        self._stays_out: dict[str, int] = {}

    def __contains__(self, sid: str) -> bool:
        return sid in self._lanes

    def reached_ns(self, sid: str) -> int:
        """Where the next sample of a channel is expected that has moved in."""
        lane = self._lanes[sid]
        return int(lane.group.state["next_ns"][lane.row])

    # A batch

    def advance(self, batch: RecordBatch) -> Advanced:
        """Take the records that simply continue their channels; the others' channels move out."""
        windows: list[Window | WindowDropped] = []
        reached: list[tuple[str, int]] = []
        groups, left = self._by_group(batch)
        for group, places, rows in groups:
            touched = np.array(sorted(set(rows.tolist())))  # numpy's unique gives the lock away, and waits for it
            taken = self._through(group, batch, places, rows, touched, windows)
            if not taken.all():
                left += places[~taken].tolist()
            reached += self._reached(group, touched)
            for row in touched[group.state["odd"][touched]].tolist():
                self._move_out(group.lane(row))
        return Advanced(windows, sorted(left), reached)

    def _by_group(self, batch: RecordBatch) -> tuple[list[tuple[_Group, Int64Array, Int64Array]], list[int]]:
        """The records of each group's lanes, by their places in the batch, with their rows; and the other places."""
        sids, known = batch.sids, self._lanes
        lanes = [known.get(sids[channel]) for channel in batch.channel.tolist()]
        found: dict[int, tuple[_Group, list[int], list[int]]] = {}
        left: list[int] = []
        for place, lane in enumerate(lanes):
            if lane is None:
                left.append(place)
                continue
            _, places, rows = found.setdefault(lane.group.ring, (lane.group, [], []))
            places.append(place)
            rows.append(lane.row)
        return [(group, np.array(places), np.array(rows)) for group, places, rows in found.values()], left

    def _through(
        self,
        group: _Group,
        batch: RecordBatch,
        places: Int64Array,
        rows: Int64Array,
        touched: Int64Array,
        windows: list[Window | WindowDropped],
    ) -> AnyArray:
        """The compiled call, as often as events have to be looked at in between; which records it took."""
        if batch.quality[places].any():
            self._flag(group, batch, places, rows)
        group.state["odd"][touched] = False
        taken = np.zeros(len(places), np.bool_)
        at, flights = 0, group.flights
        flights[:] = -1
        while at < len(places) or (flights[:, 0] >= 0).any():
            group.state["moved"][touched] = 0
            at, found = kernel.advance(
                *(places, rows, batch.start_ns, batch.sample_rate_hz, batch.begin, batch.samples),
                *(group.state, group.sections, group.memory, group.history, group.ratios),
                *(group.marks_ns, group.marks),
                slack=_SLACK,
                taken=taken,
                events=group.events,
                flights=flights,
                columns=group.columns,
                tile=group.tile,
                ratio=group.ratio,
                place=at,
            )
            if found:
                self._look(group, found)
            if self._waiting:
                windows += self._complete(group, batch.received_ns)
        return taken

    def _flag(self, group: _Group, batch: RecordBatch, places: Int64Array, rows: Int64Array) -> None:
        """What records say against their samples, as if all of them were taken; `_move_out` takes back what was not.

        None of the batch's windows is cut yet: whatever their samples in the ring say is still asked for.
        """
        index = {row: int(group.state["index"][row]) for row in set(rows.tolist())}
        for row, first in index.items():
            kept = group.lane(row).kept
            kept.flags = [flag for flag in kept.flags if flag[1] > first - group.ring]
        for place, row in zip(places.tolist(), rows.tolist(), strict=True):
            first, samples = index[row], int(batch.begin[place + 1] - batch.begin[place])
            index[row] += samples
            if batch.quality[place]:
                group.lane(row).kept.flags.append((first, index[row], QUALITIES[batch.quality[place]]))

    def _look(self, group: _Group, found: int) -> None:
        """Tell of the triggers that opened and closed, in their order."""
        for row, kind, on_index, on_ns, last, last_ns in group.events[:found].tolist():
            lane = group.lane(row)
            trigger = Trigger(lane.sid, lane.rate_hz, on_index, on_ns)
            if kind == kernel.CLOSED:
                trigger = replace(trigger, off_index=last, off_ns=last_ns)
            self._on_triggers([trigger])
            group.state["waiting"][row] = bool(lane.kept.pending)
            if lane.kept.pending:
                self._waiting[lane.sid] = lane

    def _complete(self, group: _Group, received_ns: int) -> list[Window | WindowDropped]:
        out: list[Window | WindowDropped] = []
        for sid, lane in list(self._waiting.items()):
            end, pending = int(lane.group.state["index"][lane.row]), lane.kept.pending
            if lane.group is group and pending and pending[0].needed_end < end:
                first = max(lane.valid_from, pending[0].onset_index - lane.lookback)
                out += self._extract.complete(sid, first, *group.cut(lane.row, first, end), received_ns)
            if not lane.kept.pending:
                lane.group.state["waiting"][lane.row] = False
                del self._waiting[sid]
        return out

    def _reached(self, group: _Group, touched: Int64Array) -> list[tuple[str, int]]:
        next_ns = group.state["next_ns"][touched].tolist()
        lanes = [group.lane(row) for row in touched.tolist()]
        return [(lane.sid, at_ns - lane.least_ns) for lane, at_ns in zip(lanes, next_ns, strict=True)]

    # In and out

    def move_in(self, sid: str) -> None:
        """Take a channel over from the stages, where it is in its ordinary state and compiled code covers it.

        One that had to move out stays out for some batches, so that nobody moves to and fro.
        """
        stays_out = self._stays_out.pop(sid, 0)
        if stays_out > 1:
            self._stays_out[sid] = stays_out - 1
            return
        assembled = self._assemble.ordinary(sid)
        if assembled is None:
            return
        config = self._sections_of(sid)
        filtered, triggered, kept = self._condition.written(sid), self._detect.state(sid), self._extract.history(sid)
        if not _covered(config, assembled, filtered, kept):
            return
        rate = assembled.rate_hz
        lookback = self._extract.lookback(sid)
        need = lookback + kept.plan.reach + seconds_to_samples(config[2].min_seconds, rate) + 2 + _SLACK
        ring = -(-need // _RING_STEP) * _RING_STEP
        if assembled.index < ring // 4:  # rings are not for channels that send next to nothing
            return
        group = self._groups.get(ring) or self._groups.setdefault(ring, _Group(ring))
        lane = _Lane(
            *(group, group.take(), sid, rate, lookback, seconds_to_ns(config[2].min_seconds)),
            max(kept.origin, assembled.index - ring),
            *(assembled, filtered, triggered, kept),
        )
        group.lanes[lane.row] = self._lanes[sid] = lane
        _fill(lane, config)
        if kept.pending:
            self._waiting[sid] = lane

    def move_out(self, sid: str) -> None:
        """Give a channel back to the stages, as if they had done all the work."""
        if sid in self._lanes:
            self._move_out(self._lanes[sid])

    def _move_out(self, lane: _Lane) -> None:
        self._write_back(lane)
        del self._lanes[lane.sid]
        self._waiting.pop(lane.sid, None)
        lane.group.give(lane.row)
        self._stays_out[lane.sid] = STAYS_OUT

    def forget(self, sid: str) -> None:
        """A channel that nobody will hear of any more, and that has moved out."""
        self._stays_out.pop(sid, None)

    @contextmanager
    def written(self) -> Iterator[None]:
        """While it is open, the stages' states hold what the lanes do, to be written down."""
        for lane in self._lanes.values():
            self._write_back(lane)
        yield
        for lane in self._lanes.values():
            lane.kept.history = lane.kept.ratios = np.empty(0)

    def _write_back(self, lane: _Lane) -> None:
        state, row = lane.group.state[lane.row], lane.row
        assembled, triggered, kept = lane.assembled, lane.triggered, lane.kept
        assembled.next_ns, assembled.index = int(state["next_ns"]), int(state["index"])
        assembled.last_value, assembled.run = float(state["last"]), int(state["run"])
        noted = int(state["marks"])
        order = np.arange(max(0, noted - kernel.MOST_MARKS), noted) % kernel.MOST_MARKS
        assembled.marks_ns, assembled.marks = lane.group.marks_ns[row, order], lane.group.marks[row, order]
        filtered = lane.filtered
        ratio = RatioMemory(int(state["index"]), state["sta"].reshape(1), state["lta"].reshape(1))
        memory = lane.group.memory[row, : len(filtered.memory)].copy()
        self._condition.take(lane.sid, FilterState(filtered.rate_hz, memory, filtered.first_value, ratio))
        triggered.last_index, triggered.last_ns = int(state["index"]) - 1, int(state["last_ns"])
        triggered.above_on = bool(state["ratio"] >= state["on"])
        triggered.above_off = bool(state["ratio"] >= state["off"])
        opened = int(state["open"])
        triggered.open = None if opened < 0 else Trigger(lane.sid, lane.rate_hz, opened, int(state["open_ns"]))
        triggered.announced, triggered.earliest = bool(state["announced"]), int(state["earliest"])
        end = assembled.index
        onsets = [p.onset_index for p in kept.pending]
        first = max(lane.valid_from, end - lane.group.ring, min([end, *onsets]) - lane.lookback)
        kept.origin, (kept.history, kept.ratios) = first, lane.group.cut(row, first, end)
        asked_for = min([end - 1, *onsets, *([opened] if opened >= 0 else [])])  # the ring holds no others
        kept.ratios[: max(0, asked_for - first)] = 0.0
        kept.ratios[-1] = state["ratio"]
        kept.flags = [flag for flag in kept.flags if flag[0] < end]


def _covered(config: Sections, assembled: ChannelState, filtered: FilterState, kept: History) -> bool:
    """Whether the compiled code does what the stages would, and they agree on where they are."""
    _, condition, trigger = config
    rate, index = assembled.rate_hz, assembled.index
    agreed = filtered.rate_hz == kept.plan.stream_rate_hz == rate
    agreed &= filtered.ratio.seen == index == kept.origin + kept.history.size
    fits = condition.corners <= SECTIONS and _longest_record(rate) >= _SHORTEST_LONGEST
    return agreed and fits and trigger.method == "recursive"


def _longest_record(rate_hz: float) -> int:
    """Samples of a record up to which its duration is computed without overflow."""
    rate = exact_rate(rate_hz)
    return (_MOST_NUMERATOR - rate.numerator) // (2 * NS_PER_SECOND * rate.denominator)


def _fill(lane: _Lane, config: Sections) -> None:
    """A row out of what the stages remember."""
    group, row, rate_hz = lane.group, lane.row, lane.rate_hz
    assembled, triggered = lane.assembled, lane.triggered
    assemble, condition, trigger = config
    rate = exact_rate(rate_hz)
    half, over = divmod(NS_PER_SECOND * rate.denominator, 2 * rate.numerator)
    nsta, nlta = (seconds_to_samples(s, rate_hz) for s in (trigger.sta_seconds, trigger.lta_seconds))
    opened = triggered.open
    values = {
        "rate": rate_hz,
        "next_ns": assembled.next_ns,
        "early_ns": half if over else half - 1,
        "late_ns": half,
        "longest_record": _longest_record(rate_hz),
        "rate_up": rate.numerator,
        "rate_down": rate.denominator,
        "index": assembled.index,
        "last": assembled.last_value,
        "run": assembled.run,
        "flat_run": max(FEWEST_FLAT_SAMPLES, round(assemble.flat_seconds * rate_hz)),
        "clip": np.inf if assemble.clip_counts is None else assemble.clip_counts,
        "first": lane.filtered.first_value,
        "blank": nlta,
        "sta_share": 1.0 / nsta,
        "lta_share": 1.0 / nlta,
        "sta": lane.filtered.ratio.sta[0],
        "lta": lane.filtered.ratio.lta[0],
        "on": trigger.trigger_on,
        "off": trigger.trigger_off,
        "minimum": seconds_to_samples(trigger.min_seconds, rate_hz),
        "longest": int(trigger.max_seconds * rate_hz + 0.5),
        "dead": seconds_to_samples(trigger.dead_seconds, rate_hz),
        "ratio": lane.kept.ratios[-1],
        "open": -1 if opened is None else opened.on_index,
        "open_ns": 0 if opened is None else opened.on_ns,
        "announced": triggered.announced,
        "earliest": triggered.earliest,
        "last_ns": triggered.last_ns,
        "marks": assembled.marks.size,
        "marked_ns": assembled.marks_ns[-1] if assembled.marks.size else 0,
        "waiting": bool(lane.kept.pending),
        "moved": 0,
        "odd": False,
    }
    group.state[row] = tuple(values[name] for name in kernel.LANE.fields or ())
    sections = bandpass(*condition.band_hz, condition.corners, rate_hz)
    group.sections[row] = (1.0, 0.0, 0.0, 0.0, 0.0)
    group.sections[row, : len(sections)] = sections[:, [0, 1, 2, 4, 5]]
    group.marks_ns[row, : assembled.marks.size], group.marks[row, : assembled.marks.size] = (
        assembled.marks_ns,
        assembled.marks,
    )
    group.memory[row] = 0.0
    group.memory[row, : len(sections)] = lane.filtered.memory
    first = lane.valid_from - lane.kept.origin
    places = np.arange(lane.valid_from, assembled.index) % group.ring
    group.history[row, places] = lane.kept.history[first:]
    if opened is not None or lane.kept.pending:
        group.ratios[row, places] = lane.kept.ratios[first:]
    lane.kept.history = lane.kept.ratios = np.empty(0)
