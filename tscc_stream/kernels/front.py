"""Band-pass, STA/LTA and trigger of many channels in one call, sample by sample, bitwise what the stages compute.

The stages are the reference (stages/assemble, condition, detect); tests compare. Arrays of the state have one row per
channel, here called a lane. A record is taken only where it simply continues what came before; any other is left, with
all that follow it in its lane, to the stages.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tscc_stream.kernels import columns as column
from tscc_stream.kernels.columns import SECTIONS, WIDE, filter_columns
from tscc_stream.kernels.compiled import compiled, inlined
from tscc_stream.messages import AnyArray, Float64Array, Int64Array, read_only

OPENED, CLOSED = 0, 1
EVENT_COLUMNS = 6
"""row, OPENED or CLOSED, index and time (ns) of the onset, index and time of the last sample (of CLOSED)."""
STRETCH = 128
"""Samples by which lanes go on together at a time; at most three events a sample."""
FEWEST_EVENTS = 3 * STRETCH * WIDE
_PLACE, _DONE, _KEPT = 0, 1, 2
"""Columns of flights."""
_LARGEST = 1e15
_RATE_TOLERANCE = 1e-4
MOST_MARKS, MARK_NS, MARK_SAMPLES, MARK_SLACK, MARK_FACTOR = 32, 1_000_000_000, 8, 2, 31.0
"""Of a channel, one in MARK_NS, the latest so many: what MARK_SAMPLES samples, up to MARK_SLACK before the end of a
record, come to. They tell samples that come again from others of the same time."""
FEWEST_MARKED = MARK_SAMPLES + 2 * MARK_SLACK
_STRIDE = 16
_NUMBER_BYTES = 8
_LINE = 8
_SURELY = 1.0 - 1e-9
"""A ratio reaches a threshold only where STA reaches as much of it times LTA, however both are rounded."""

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
        # Of the channel's marks. marks: how many were noted; marked_ns: time of the latest.
        ("marks", np.int64),
        ("marked_ns", np.int64),
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
def _same(samples: Float64Array, first: Any, last: Any) -> bool:
    """Whether all from the first to the last are equal, as these two are."""
    k = first + 1
    while k < last and samples[k] == samples[first]:
        k += 1
    return bool(k == last)


@inlined
def _valid(samples: Float64Array, first: Any, count: Any) -> bool:
    valid = True
    for k in range(count):  # unsigned places are not looked at whether they count from the end
        valid &= abs(samples[first + np.uint64(k)]) <= _LARGEST
    return valid


@inlined
def _continues(lane: Any, start_ns: Any, rate: Any, samples: Float64Array, begin: Any, end: Any) -> bool:
    """Whether a record brings samples after those before, none of them invalid, and no flat run; notes its last run."""
    ahead_ns = start_ns - lane.next_ns
    if abs(rate - lane.rate) > _RATE_TOLERANCE * lane.rate or not 0 < end - begin <= lane.longest_record:
        return False
    if ahead_ns < -lane.early_ns or ahead_ns > lane.late_ns:
        return False
    if samples.itemsize == _NUMBER_BYTES and not _valid(samples, np.uint64(begin), end - begin):  # integers always are
        return False
    # A flat run has FEWEST_FLAT_SAMPLES or more: within the record it holds two samples of every STRIDE-th, and all
    # between them.
    suspicious = samples[begin] == lane.last
    for k in range(begin, end - _STRIDE, _STRIDE):
        if samples[k] == samples[k + _STRIDE]:
            suspicious |= _same(samples, k, k + _STRIDE)
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
    columns[WIDE * column.CENTRE + j] = lane.first
    for section in range(SECTIONS):
        for i in range(column.PER_SECTION):
            columns[WIDE * (column.FIRST_SECTION + column.PER_SECTION * section + i) + j] = sections[section, i]
        columns[WIDE * (column.MEMORIES + 2 * section) + j] = memory[section, 0]
        columns[WIDE * (column.MEMORIES + 2 * section + 1) + j] = memory[section, 1]
    columns[WIDE * column.STA + j], columns[WIDE * column.LTA + j] = lane.sta, lane.lta
    columns[WIDE * column.STA_SHARE + j], columns[WIDE * column.LTA_SHARE + j] = lane.sta_share, lane.lta_share
    columns[WIDE * column.STA_KEPT + j] = -(lane.sta_share - 1.0)
    columns[WIDE * column.LTA_KEPT + j] = -(lane.lta_share - 1.0)


@inlined
def _store(columns: Float64Array, j: int, lane: Any, memory: Float64Array) -> None:
    for section in range(SECTIONS):
        memory[section, 0] = columns[WIDE * (column.MEMORIES + 2 * section) + j]
        memory[section, 1] = columns[WIDE * (column.MEMORIES + 2 * section + 1) + j]
    lane.sta, lane.lta = columns[WIDE * column.STA + j], columns[WIDE * column.LTA + j]


@inlined
def _walk(
    lane: Any,
    row: Any,
    ratio: Float64Array,
    stretch: Any,
    start_ns: Any,
    done: Any,
    events: Int64Array,
    found: Any,
) -> Any:
    """One lane's ratios through the trigger, as stages.detect has it; how many events there are by now."""
    before, opened = lane.ratio, lane.open
    for k in range(stretch):
        r = ratio[k]
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
def _keep(lane: Any, samples: Float64Array, first: Any, end: Any, history: Float64Array, row: Any) -> None:
    """A record's samples from `first` to before `end`, the latest that the lane has seen, into its ring."""
    ring = history.shape[1]
    begin = max(first, end - ring)
    spot = (lane.index - (end - begin)) % ring
    while begin < end:
        part = min(end - begin, ring - spot)
        source, target = np.uint64(begin), np.uint64(spot)
        for k in range(part):
            history[row, target + np.uint64(k)] = samples[source + np.uint64(k)]
        begin, spot = begin + part, 0


@inlined
def _ratio_at(sta: Any, lta: Any) -> Any:
    return sta / lta if lta > 0.0 else 0.0


@inlined
def _ratios(
    lane: Any, row: Any, tile: Float64Array, j: int, stretch: Any, ratio: Float64Array, ratios: Float64Array
) -> None:
    """Ratios [stretch] of column j, a segment's first LTA length blanked, also into their ring."""
    blank = lane.blank - lane.index
    ring = ratios.shape[1]
    spot = lane.index % ring
    for k in range(stretch):
        sta, lta = tile[WIDE * (stretch + k) + j], tile[WIDE * (2 * stretch + k) + j]
        value = _ratio_at(sta, lta) if k >= blank else 0.0
        ratio[k] = ratios[row, spot] = value
        spot = spot + 1 if spot + 1 < ring else 0


@inlined
def _lay_out(tile: Float64Array, j: int, samples: Float64Array, first: Any, stretch: Any) -> None:
    """Samples into column j."""
    to = np.uint64(j)
    for k in range(stretch):
        tile[np.uint64(WIDE) * np.uint64(k) + to] = samples[first + np.uint64(k)]


@inlined
def _go_on(
    lane: Any,
    row: Any,
    columns: Float64Array,
    tile: Float64Array,
    j: int,
    stretch: Any,
    ratio: Float64Array,
    ratios: Float64Array,
    start_ns: Any,
    done: Any,
    events: Int64Array,
    found: Any,
) -> Any:
    """A lane after a stretch; how many events there are by now.

    Ratios are worked out only where one may reach the trigger, it is open, or windows wait for them.
    """
    found_before = found
    reached = columns[WIDE * column.HIGHEST_STA + j] >= _SURELY * lane.on * columns[WIDE * column.LOWEST_LTA + j]
    if reached or lane.open >= 0 or lane.waiting:
        _ratios(lane, row, tile, j, stretch, ratio, ratios)
        found = _walk(lane, row, ratio, stretch, start_ns, done, events, found)
        lane.ratio = ratio[stretch - 1]
    elif lane.index + stretch > lane.blank:
        lane.ratio = _ratio_at(tile[WIDE * (2 * stretch - 1) + j], tile[WIDE * (3 * stretch - 1) + j])
    else:
        lane.ratio = 0.0
    lane.index += stretch
    lane.waiting |= found > found_before
    if lane.waiting:
        lane.moved += stretch
    return found


@inlined
def _stretch(
    records: Int64Array, rows: Int64Array, begin: Int64Array, lanes: AnyArray, flights: Int64Array, slack: int
) -> Any:
    """By how many samples all that are under way can go on together; 0 where none is, or one has to wait."""
    stretch, some = np.int64(STRETCH), False
    for j in range(WIDE):
        if flights[j, _PLACE] >= 0:
            some = True
            record, lane = records[flights[j, _PLACE]], lanes[rows[flights[j, _PLACE]]]
            stretch = min(stretch, begin[record + 1] - begin[record] - flights[j, _DONE])
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
            if flights[i, _PLACE] >= 0 and rows[flights[i, _PLACE]] == row:
                return place, row
        record = records[place]
        if not lane.odd and _continues(lane, start_ns[record], rate[record], samples, begin[record], begin[record + 1]):
            flights[j, _PLACE], flights[j, _DONE], flights[j, _KEPT] = place, 0, 0
            return place + 1, row
        lane.odd = True
        place += 1
    return place, 0


@inlined
def _note(
    record: Any,
    start_ns: Int64Array,
    begin: Int64Array,
    samples: AnyArray,
    lane: Any,
    marks_ns: Int64Array,
    marks: Float64Array,
    row: Any,
) -> None:
    """The mark of a record, as stages.assemble has it, unless the one before is near."""
    count, end = begin[record + 1] - begin[record], begin[record + 1] - MARK_SLACK
    if count < FEWEST_MARKED:
        return
    at_ns = start_ns[record] + _offset_ns(count - 1 - MARK_SLACK, lane.rate_up, lane.rate_down)
    if lane.marks > 0 and at_ns - lane.marked_ns < MARK_NS:
        return
    value = 0.0
    for k in range(end - MARK_SAMPLES, end):
        value = value * MARK_FACTOR + samples[k]
    spot = lane.marks % MOST_MARKS
    marks_ns[row, spot], marks[row, spot] = at_ns, value
    lane.marks += 1
    lane.marked_ns = at_ns


@inlined
def _arrived(
    record: Any,
    start_ns: Int64Array,
    begin: Int64Array,
    lane: Any,
    columns: Float64Array,
    j: int,
    memory: Float64Array,
) -> None:
    """A lane after its record; column j is free."""
    samples = begin[record + 1] - begin[record]
    lane.next_ns = start_ns[record] + _offset_ns(samples, lane.rate_up, lane.rate_down)
    lane.last_ns = start_ns[record] + _offset_ns(samples - 1, lane.rate_up, lane.rate_down)
    _store(columns, j, lane, memory)
    for row in range(column.ROWS):
        columns[WIDE * row + j] = 0.0


@compiled
def advance(
    records: Int64Array,
    rows: Int64Array,
    start_ns: Int64Array,
    rate: Float64Array,
    begin: Int64Array,
    samples: AnyArray,
    lanes: AnyArray,
    sections: Float64Array,
    memory: Float64Array,
    history: Float64Array,
    ratios: Float64Array,
    marks_ns: Int64Array,
    marks: Float64Array,
    slack: int,
    taken: AnyArray,
    events: Int64Array,
    flights: Int64Array,
    columns: Float64Array,
    tile: Float64Array,
    ratio: Float64Array,
    place: int,
) -> tuple[int, int]:
    """The records of a batch (see RecordBatch), from records[place] on, each in lanes[rows]; WIDE of them at a time.

    lanes [C] LANE, sections [C, SECTIONS, 5] (b0 b1 b2 a1 a2), memory [C, SECTIONS, 2]. history, ratios [C, R]: rings
    in which sample i has the place i % R; ratios only of samples for which a trigger is open or windows wait. marks_ns,
    marks [C, MOST_MARKS]: rings of marks, as stages.assemble has them. taken [n] bool: the record is done. events
    [E, EVENT_COLUMNS]. flights [WIDE, 3]: place of a record that is under way, -1 for
    none, how many of its samples are done, and how many of those are in their ring. columns [ROWS x WIDE], tile [3 x
    STRETCH x WIDE] and ratio [STRETCH]: room to work in.

    Returns where to go on, and the number of events: before the end, or with records under way, where these have to be
    looked at first, since a lane that waits has moved on by `slack` samples (STRETCH or more), or room is short.
    Before the first call for a batch nothing may be under way; before each call `moved` has to be 0.
    """
    found = 0
    columns[:] = 0.0
    for j in range(WIDE):
        if flights[j, _PLACE] >= 0:
            row = rows[flights[j, _PLACE]]
            _load(columns, j, lanes[row], sections[row], memory[row])
    while True:
        for j in range(WIDE):
            if flights[j, _PLACE] < 0:
                place, row = _next(records, rows, start_ns, rate, begin, samples, lanes, flights, j, place)
                if flights[j, _PLACE] >= 0:
                    _load(columns, j, lanes[row], sections[row], memory[row])
        stretch = _stretch(records, rows, begin, lanes, flights, slack)
        if stretch <= 0 or found + FEWEST_EVENTS > events.shape[0]:
            break
        for j in range(WIDE):
            if flights[j, _PLACE] >= 0:
                _lay_out(tile, j, samples, np.uint64(begin[records[flights[j, _PLACE]]] + flights[j, _DONE]), stretch)
        filter_columns(columns, tile, stretch)
        for j in range(WIDE):
            if flights[j, _PLACE] >= 0:
                record, row = records[flights[j, _PLACE]], rows[flights[j, _PLACE]]
                lane = lanes[row]
                start, done = start_ns[record], flights[j, _DONE]
                found = _go_on(lane, row, columns, tile, j, stretch, ratio, ratios, start, done, events, found)
                flights[j, _DONE] += stretch
                if begin[record] + flights[j, _DONE] == begin[record + 1]:
                    _keep(lane, samples, begin[record] + flights[j, _KEPT], begin[record + 1], history, row)
                    _arrived(record, start_ns, begin, lane, columns, j, memory[row])
                    _note(record, start_ns, begin, samples, lane, marks_ns, marks, row)
                    taken[flights[j, _PLACE]] = True
                    flights[j, _PLACE] = -1
    for j in range(WIDE):
        if flights[j, _PLACE] >= 0:
            record, row = records[flights[j, _PLACE]], rows[flights[j, _PLACE]]
            first = begin[record]
            _keep(lanes[row], samples, first + flights[j, _KEPT], first + flights[j, _DONE], history, row)
            flights[j, _KEPT] = flights[j, _DONE]
            _store(columns, j, lanes[row], memory[row])
    return place, found


def room() -> tuple[Int64Array, Float64Array, Float64Array, Float64Array]:
    """Flights, columns, tile and ratios for `advance`, with nothing under way."""
    flights = np.full((WIDE, 3), -1, np.int64)
    return flights, _in_lines(column.ROWS * WIDE), _in_lines(3 * STRETCH * WIDE), np.zeros(STRETCH)


def _in_lines(numbers: int) -> Float64Array:
    """Zeros that begin where a line of the cache does, so that a row of WIDE lies in one."""
    room = np.zeros(numbers + _LINE)
    first = -(room.ctypes.data // room.itemsize) % _LINE
    return room[first : first + numbers]


def warm_up() -> None:
    """Compile `advance`, or load it, before anything waits for it: for samples of both kinds."""
    for kind in (np.float64, np.int32):
        _warm_up(read_only(np.zeros(0, kind)))


def _warm_up(samples: AnyArray) -> None:
    none, rates = np.zeros(0, np.int64), np.zeros(0)
    lanes, rings = np.zeros(1, LANE), (np.zeros((1, 1)), np.zeros((1, 1)))
    marks = np.zeros((1, MOST_MARKS), np.int64), np.zeros((1, MOST_MARKS))
    sections, memory = np.zeros((1, SECTIONS, 5)), np.zeros((1, SECTIONS, 2))
    events = np.zeros((FEWEST_EVENTS, EVENT_COLUMNS), np.int64)
    batch = none, none, none, rates, np.zeros(1, np.int64), samples
    flights, columns, tile, ratio = room()
    taken = np.zeros(0, np.bool_)
    advance(*batch, lanes, sections, memory, *rings, *marks, 1, taken, events, flights, columns, tile, ratio, 0)
