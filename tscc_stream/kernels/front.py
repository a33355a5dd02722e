"""Band-pass, STA/LTA and trigger of many channels in one call, sample by sample, bitwise what the stages compute.

The stages are the reference (stages/assemble, condition, detect); tests compare. Arrays of the state have one row per
channel, here called a lane. A record is taken only where it simply continues what came before; any other is left, with
all that follow it in its lane, to the stages.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tscc_stream.kernels.compiled import compiled, inlined
from tscc_stream.messages import AnyArray, Float64Array, Int64Array

SECTIONS = 4
"""Second-order sections of the filter; fewer are filled up with ones that change nothing."""
OPENED, CLOSED = 0, 1
EVENT_COLUMNS = 6
"""row, OPENED or CLOSED, index and time (ns) of the onset, index and time of the last sample (of CLOSED)."""
WIDE = 8
"""Lanes that go on together, sample by sample, in the widest registers there are."""
STRETCH = 128
"""Samples by which they do so at a time; at most three events a sample."""
FEWEST_EVENTS = 3 * STRETCH * WIDE
_PER_SECTION, _CENTRE, _STATES = 5, 0, 1 + 5 * SECTIONS
_STA, _LTA = _STATES + 2 * SECTIONS, _STATES + 2 * SECTIONS + 1
_STA_SHARE, _LTA_SHARE, _STA_KEPT, _LTA_KEPT = _LTA + 1, _LTA + 2, _LTA + 3, _LTA + 4
COLUMN_ROWS = _LTA_KEPT + 1
"""Of a column: centre, sections, memories, averages, their shares and what is kept of them."""
_ROW = tuple(np.uint64(WIDE * row) for row in range(COLUMN_ROWS))
_LARGEST = 1e15
_STRIDE = 16

LANE = np.dtype(
    [
        # As stages.assemble has them. early_ns, late_ns: a start from early_ns before to late_ns after is no break.
        ("rate", np.float64),
        ("next_ns", np.int64),
        ("early_ns", np.int64),
        ("late_ns", np.int64),
        ("longest_record", np.int64),
        ("rate_up", np.int64),
        ("rate_down", np.int64),
        ("index", np.int64),
        ("last", np.float64),
        ("run", np.int64),
        ("flat_run", np.int64),
        ("clip", np.float64),
        # As stages.condition has them.
        ("first", np.float64),
        ("blank", np.int64),
        ("sta_share", np.float64),
        ("lta_share", np.float64),
        ("sta", np.float64),
        ("lta", np.float64),
        # As stages.detect has them. open: index of the onset, -1 where none is. ratio: of the last sample.
        ("on", np.float64),
        ("off", np.float64),
        ("minimum", np.int64),
        ("longest", np.int64),
        ("dead", np.int64),
        ("ratio", np.float64),
        ("open", np.int64),
        ("open_ns", np.int64),
        ("announced", np.bool_),
        ("earliest", np.int64),
        ("last_ns", np.int64),
        # The call's own. waiting: its windows or events have to be looked at in time; moved: samples since the last
        # call began, while it waits; odd: left to the stages.
        ("waiting", np.bool_),
        ("moved", np.int64),
        ("odd", np.bool_),
    ],
    align=True,
)


@inlined
def _offset_ns(samples: Any, up: Any, down: Any) -> Any:
    """sampling.offset_ns of the rate up / down."""
    return (2 * samples * 1_000_000_000 * down + up) // (2 * up)


@inlined
def _flat(samples: Float64Array, begin: Any, end: Any, last: Any, run: Any, lane: Any) -> bool:
    """Whether the value before, which came `run` times, and the samples hold a flat run as stages.assemble has it."""
    for k in range(begin, end):
        x = samples[k]
        run = run + 1 if x == last else 1
        last = x
        if run >= lane.flat_run and abs(x) < lane.clip:
            return True
    return False


@inlined
def _continues(lane: Any, start_ns: Any, rate: Any, samples: Float64Array, begin: Any, end: Any) -> bool:
    """Whether a record brings samples after those before, none of them invalid, and no flat run; notes its last run."""
    ahead_ns = start_ns - lane.next_ns
    if rate != lane.rate or not 0 < end - begin <= lane.longest_record:
        return False
    if ahead_ns < -lane.early_ns or ahead_ns > lane.late_ns:
        return False
    first, valid = np.uint64(begin), True  # unsigned places are not looked at whether they count from the end
    for k in range(end - begin):
        valid &= abs(samples[first + np.uint64(k)]) <= _LARGEST
    if not valid:
        return False
    # A flat run has FEWEST_FLAT_SAMPLES or more: within the record it holds two samples of every STRIDE-th.
    suspicious = samples[begin] == lane.last
    for k in range(begin, end - _STRIDE, _STRIDE):
        suspicious |= samples[k] == samples[k + _STRIDE]
    final = samples[end - 1]
    run = 1
    while run < end - begin and samples[end - 1 - run] == final:
        run += 1
    if run == end - begin and final == lane.last:
        run += lane.run
    suspicious |= run >= _STRIDE
    if suspicious and _flat(samples, begin, end, lane.last, lane.run, lane):
        return False
    lane.last, lane.run = final, run
    return True


@inlined
def _load(columns: Float64Array, j: int, lane: Any, sections: Float64Array, memory: Float64Array) -> None:
    """A lane's filter and averages into column j."""
    columns[WIDE * _CENTRE + j] = lane.first
    for section in range(SECTIONS):
        for i in range(_PER_SECTION):
            columns[WIDE * (1 + _PER_SECTION * section + i) + j] = sections[section, i]
        columns[WIDE * (_STATES + 2 * section) + j] = memory[section, 0]
        columns[WIDE * (_STATES + 2 * section + 1) + j] = memory[section, 1]
    columns[WIDE * _STA + j], columns[WIDE * _LTA + j] = lane.sta, lane.lta
    columns[WIDE * _STA_SHARE + j], columns[WIDE * _LTA_SHARE + j] = lane.sta_share, lane.lta_share
    columns[WIDE * _STA_KEPT + j], columns[WIDE * _LTA_KEPT + j] = -(lane.sta_share - 1.0), -(lane.lta_share - 1.0)


@inlined
def _store(columns: Float64Array, j: int, lane: Any, memory: Float64Array) -> None:
    for section in range(SECTIONS):
        memory[section, 0] = columns[WIDE * (_STATES + 2 * section) + j]
        memory[section, 1] = columns[WIDE * (_STATES + 2 * section + 1) + j]
    lane.sta, lane.lta = columns[WIDE * _STA + j], columns[WIDE * _LTA + j]


@compiled
def filter_columns(c: Float64Array, x: Float64Array, ratio: Float64Array, stretch: Any, wide: int) -> None:
    """Samples x [stretch, wide] to ratios [stretch, wide], column by column; the columns c go on.

    All three are flat, rows are WIDE numbers apart and places unsigned: only so does LLVM see that the inner loop may
    be taken in a few instructions on whole rows (3 times as fast). wide is WIDE; a constant would be unrolled.
    """
    for k in range(stretch):
        at = np.uint64(k) * np.uint64(WIDE)
        for column in range(wide):
            j = np.uint64(column)
            v = x[at + j] - c[_ROW[0] + j]
            w = c[_ROW[1] + j] * v + c[_ROW[21] + j]
            c[_ROW[21] + j] = c[_ROW[2] + j] * v - c[_ROW[4] + j] * w + c[_ROW[22] + j]
            c[_ROW[22] + j] = c[_ROW[3] + j] * v - c[_ROW[5] + j] * w
            v = c[_ROW[6] + j] * w + c[_ROW[23] + j]
            c[_ROW[23] + j] = c[_ROW[7] + j] * w - c[_ROW[9] + j] * v + c[_ROW[24] + j]
            c[_ROW[24] + j] = c[_ROW[8] + j] * w - c[_ROW[10] + j] * v
            w = c[_ROW[11] + j] * v + c[_ROW[25] + j]
            c[_ROW[25] + j] = c[_ROW[12] + j] * v - c[_ROW[14] + j] * w + c[_ROW[26] + j]
            c[_ROW[26] + j] = c[_ROW[13] + j] * v - c[_ROW[15] + j] * w
            v = c[_ROW[16] + j] * w + c[_ROW[27] + j]
            c[_ROW[27] + j] = c[_ROW[17] + j] * w - c[_ROW[19] + j] * v + c[_ROW[28] + j]
            c[_ROW[28] + j] = c[_ROW[18] + j] * w - c[_ROW[20] + j] * v
            square = v * v
            sta = c[_ROW[31] + j] * square + c[_ROW[29] + j]
            lta = c[_ROW[32] + j] * square + c[_ROW[30] + j]
            ratio[at + j] = sta / lta if lta > 0.0 else 0.0
            c[_ROW[29] + j] = c[_ROW[33] + j] * sta
            c[_ROW[30] + j] = c[_ROW[34] + j] * lta


@inlined
def _walk(
    lane: Any,
    row: Any,
    ratio: Float64Array,
    j: int,
    stretch: Any,
    start_ns: Any,
    done: Any,
    events: Int64Array,
    found: Any,
) -> Any:
    """One lane's ratios through the trigger, as stages.detect has it; how many events there are by now."""
    before, opened = lane.ratio, lane.open
    for k in range(stretch):
        r = ratio[WIDE * k + j]
        if r >= lane.on or opened >= 0:
            index = lane.index + k
            if opened >= 0 and ((before >= lane.off and r < lane.off) or index == opened + lane.longest + 1):
                if lane.announced:
                    last_ns = start_ns + _offset_ns(done + k - 1, lane.rate_up, lane.rate_down)
                    events[found] = (row, CLOSED, opened, lane.open_ns, index - 1, last_ns)
                    found += 1
                lane.earliest = index + (lane.dead if lane.announced else 0)
                opened = np.int64(-1)
            if opened < 0 and r >= lane.on and before < lane.on and index >= lane.earliest:
                opened = index
                lane.open_ns = start_ns + _offset_ns(done + k, lane.rate_up, lane.rate_down)
                lane.announced = False
            if opened >= 0 and not lane.announced and index - opened >= lane.minimum:
                lane.announced = True
                events[found] = (row, OPENED, opened, lane.open_ns, -1, 0)
                found += 1
        before = r
    lane.open = opened
    return found


@inlined
def _keep(
    lane: Any,
    ratio: Float64Array,
    j: int,
    stretch: Any,
    samples: Float64Array,
    first: Any,
    kept: Float64Array,
    kept_ratios: Float64Array,
) -> bool:
    """Samples and ratios into their rings, a segment's first LTA length blanked; whether one reaches the trigger."""
    ring = kept.size
    spot = lane.index % ring
    blank = min(stretch, max(0, lane.blank - lane.index))
    column, on, hot = np.uint64(j), lane.on, False
    for k in range(blank):
        ratio[np.uint64(WIDE) * np.uint64(k) + column] = 0.0
    begin = 0
    while begin < stretch:
        end = min(stretch, begin + ring - spot)
        source, target = np.uint64(first + begin), np.uint64(spot)
        for k in range(end - begin):
            kept[target + np.uint64(k)] = samples[source + np.uint64(k)]
        at = np.uint64(WIDE * begin + j)
        for k in range(end - begin):
            value = ratio[at + np.uint64(WIDE) * np.uint64(k)]
            kept_ratios[target + np.uint64(k)] = value
            hot |= value >= on
        begin, spot = end, 0
    return hot


@inlined
def _lay_out(x: Float64Array, j: int, samples: Float64Array, first: Any, stretch: Any) -> None:
    """Samples into column j."""
    column = np.uint64(j)
    for k in range(stretch):
        x[np.uint64(WIDE) * np.uint64(k) + column] = samples[first + np.uint64(k)]


@inlined
def _go_on(
    lane: Any,
    row: Any,
    ratio: Float64Array,
    j: int,
    stretch: Any,
    start_ns: Any,
    done: Any,
    events: Int64Array,
    found: Any,
    hot: bool,
) -> Any:
    """A lane after a stretch; how many events there are by now."""
    found_before = found
    if hot or lane.open >= 0:
        found = _walk(lane, row, ratio, j, stretch, start_ns, done, events, found)
    lane.ratio = ratio[WIDE * (stretch - 1) + j]
    lane.index += stretch
    lane.waiting |= found > found_before
    if lane.waiting:
        lane.moved += stretch
    return found


@inlined
def _arrive(lane: Any, start_ns: Any, samples: Any) -> None:
    """A lane after its record."""
    lane.next_ns = start_ns + _offset_ns(samples, lane.rate_up, lane.rate_down)
    lane.last_ns = start_ns + _offset_ns(samples - 1, lane.rate_up, lane.rate_down)


@inlined
def _stretch(
    records: Int64Array, rows: Int64Array, begin: Int64Array, lanes: AnyArray, flights: Int64Array, slack: int
) -> Any:
    """By how many samples all that are under way can go on together; 0 where none is, or one has to wait."""
    stretch, some = np.int64(STRETCH), False
    for j in range(WIDE):
        if flights[j, 0] >= 0:
            some = True
            record, lane = records[flights[j, 0]], lanes[rows[flights[j, 0]]]
            stretch = min(stretch, begin[record + 1] - begin[record] - flights[j, 1])
            if lane.waiting:
                stretch = min(stretch, slack - lane.moved)
    return stretch if some else np.int64(0)


@compiled
def _next(
    records: Int64Array,
    rows: Int64Array,
    start_ns: Int64Array,
    rate: Float64Array,
    begin: Int64Array,
    samples: Float64Array,
    lanes: AnyArray,
    flights: Int64Array,
    j: int,
    place: int,
) -> tuple[int, int]:
    """The next record that may go, if there is one, is under way in flight j; the place after it, and its row."""
    while place < records.size:
        row = rows[place]
        lane = lanes[row]
        for i in range(WIDE):
            if flights[i, 0] >= 0 and rows[flights[i, 0]] == row:
                return place, row
        record = records[place]
        if not lane.odd and _continues(lane, start_ns[record], rate[record], samples, begin[record], begin[record + 1]):
            flights[j, 0], flights[j, 1] = place, 0
            return place + 1, row
        lane.odd = True
        place += 1
    return place, 0


@compiled
def advance(
    records: Int64Array,
    rows: Int64Array,
    start_ns: Int64Array,
    rate: Float64Array,
    begin: Int64Array,
    samples: Float64Array,
    lanes: AnyArray,
    sections: Float64Array,
    memory: Float64Array,
    history: Float64Array,
    ratios: Float64Array,
    slack: int,
    taken: AnyArray,
    events: Int64Array,
    flights: Int64Array,
    columns: Float64Array,
    tile: Float64Array,
    place: int,
) -> tuple[int, int]:
    """The records of a batch (see RecordBatch), from records[place] on, each in lanes[rows]; WIDE of them at a time.

    lanes [C] LANE, sections [C, SECTIONS, 5] (b0 b1 b2 a1 a2), memory [C, SECTIONS, 2]. history, ratios [C, R]: rings
    in which sample i has the place i % R. taken [n] bool: the record is done. events [E, EVENT_COLUMNS]. flights [WIDE,
    2]: place of a record that is under way, -1 for none, and how many of its samples are done. columns [COLUMN_ROWS x
    WIDE] and tile [2, STRETCH x WIDE]: room to work in.

    Returns where to go on, and the number of events: before the end, or with records under way, where these have to be
    looked at first, since a lane that waits has moved on by `slack` samples (STRETCH or more), or room is short.
    Before the first call for a batch nothing may be under way; before each call `moved` has to be 0.
    """
    found = 0
    x, ratio, wide = tile[0], tile[1], flights.shape[0]
    columns[:] = 0.0
    for j in range(WIDE):
        if flights[j, 0] >= 0:
            row = rows[flights[j, 0]]
            _load(columns, j, lanes[row], sections[row], memory[row])
    while True:
        for j in range(WIDE):
            if flights[j, 0] >= 0:
                continue
            place, row = _next(records, rows, start_ns, rate, begin, samples, lanes, flights, j, place)
            if flights[j, 0] >= 0:
                _load(columns, j, lanes[row], sections[row], memory[row])
        stretch = _stretch(records, rows, begin, lanes, flights, slack)
        if stretch <= 0 or found + FEWEST_EVENTS > events.shape[0]:
            break
        for j in range(WIDE):
            if flights[j, 0] >= 0:
                _lay_out(x, j, samples, np.uint64(begin[records[flights[j, 0]]] + flights[j, 1]), stretch)
        filter_columns(columns, x, ratio, stretch, wide)
        for j in range(WIDE):
            if flights[j, 0] < 0:
                continue
            at, done = flights[j, 0], flights[j, 1]
            record, row = records[at], rows[at]
            lane = lanes[row]
            first = begin[record] + done
            hot = _keep(lane, ratio, j, stretch, samples, first, history[row], ratios[row])
            found = _go_on(lane, row, ratio, j, stretch, start_ns[record], done, events, found, hot)
            flights[j, 1] += stretch
            if first + stretch == begin[record + 1]:
                _arrive(lane, start_ns[record], begin[record + 1] - begin[record])
                taken[at] = True
                _store(columns, j, lane, memory[row])
                for i in range(COLUMN_ROWS):
                    columns[WIDE * i + j] = 0.0
                flights[j, 0] = -1
    for j in range(WIDE):
        if flights[j, 0] >= 0:
            row = rows[flights[j, 0]]
            _store(columns, j, lanes[row], memory[row])
    return place, found


def room() -> tuple[Int64Array, Float64Array, Float64Array]:
    """Flights, columns and tile for `advance`, with nothing under way."""
    flights = np.full((WIDE, 2), -1, np.int64)
    return flights, np.zeros(COLUMN_ROWS * WIDE), np.zeros((2, STRETCH * WIDE))


def warm_up() -> None:
    """Compile `advance`, or load it, before anything waits for it."""
    none, rates = np.zeros(0, np.int64), np.zeros(0)
    samples = rates.copy()
    samples.flags.writeable = False
    lanes, rings = np.zeros(1, LANE), (np.zeros((1, 1)), np.zeros((1, 1)))
    sections, memory = np.zeros((1, SECTIONS, 5)), np.zeros((1, SECTIONS, 2))
    events = np.zeros((FEWEST_EVENTS, EVENT_COLUMNS), np.int64)
    batch = none, none, none, rates, np.zeros(1, np.int64), samples
    flights, columns, tile = room()
    taken = np.zeros(0, np.bool_)
    advance(*batch, lanes, sections, memory, *rings, 1, taken, events, flights, columns, tile, 0)
