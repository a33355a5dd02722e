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
_STRETCH = 1024
"""Samples between two looks at whether the events have room; at most three events a sample."""
FEWEST_EVENTS = 3 * _STRETCH
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
    if rate != lane.rate or end - begin > lane.longest_record or ahead_ns < -lane.early_ns or ahead_ns > lane.late_ns:
        return False
    valid = True
    for k in range(begin, end):
        valid &= -_LARGEST <= samples[k] <= _LARGEST
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
    place: int,
    within: int,
) -> tuple[int, int, int]:
    """The records of a batch (see RecordBatch), from records[place] and its sample `within` on, each in lanes[rows].

    lanes [C] LANE, sections [C, SECTIONS, 5] (b0 b1 b2 a1 a2), memory [C, SECTIONS, 2]. history, ratios [C, R]: rings
    in which sample i has the place i % R. taken [n] bool: the record is done. events [E, EVENT_COLUMNS].

    Returns where to go on (place, within), and the number of events: before the end where these have to be looked at
    first, since a lane that waits has moved on by `slack` samples (1024 or more), or they have no more room. Before the
    first call for a batch `moved` has to be 0, and before another one.
    """
    found = 0
    ring = history.shape[1]
    for at in range(place, records.size):
        row = rows[at]
        lane = lanes[row]
        if lane.odd:
            continue
        record = records[at]
        first, end = begin[record], begin[record + 1]
        done = within if at == place else 0
        if done == 0 and not _continues(lane, start_ns[record], rate[record], samples, first, end):
            lane.odd = True
            continue
        up, down = lane.rate_up, lane.rate_down
        first_index = lane.index - done
        while first + done < end:
            stretch = min(end - first - done, _STRETCH)
            if lane.waiting:
                stretch = min(stretch, slack - lane.moved)
            if stretch <= 0 or found + FEWEST_EVENTS > events.shape[0]:
                return at, done, found
            found_before = found
            centre, blank = lane.first, lane.blank
            sta_share, lta_share = lane.sta_share, lane.lta_share
            sta_kept, lta_kept = -(sta_share - 1.0), -(lta_share - 1.0)
            sta, lta = lane.sta, lane.lta
            on, off = lane.on, lane.off
            before, opened = lane.ratio, lane.open
            b00, b01, b02, a01, a02 = sections[row, 0]
            b10, b11, b12, a11, a12 = sections[row, 1]
            b20, b21, b22, a21, a22 = sections[row, 2]
            b30, b31, b32, a31, a32 = sections[row, 3]
            p0, q0 = memory[row, 0]
            p1, q1 = memory[row, 1]
            p2, q2 = memory[row, 2]
            p3, q3 = memory[row, 3]
            spot = lane.index % ring
            for k in range(done, done + stretch):
                x = samples[first + k]
                v = x - centre
                w = b00 * v + p0
                p0 = b01 * v - a01 * w + q0
                q0 = b02 * v - a02 * w
                v = b10 * w + p1
                p1 = b11 * w - a11 * v + q1
                q1 = b12 * w - a12 * v
                w = b20 * v + p2
                p2 = b21 * v - a21 * w + q2
                q2 = b22 * v - a22 * w
                v = b30 * w + p3
                p3 = b31 * w - a31 * v + q3
                q3 = b32 * w - a32 * v
                square = v * v
                sta = sta_share * square + sta
                lta = lta_share * square + lta
                index = first_index + k
                ratio = sta / lta if index >= blank and lta > 0.0 else 0.0
                sta = sta_kept * sta
                lta = lta_kept * lta
                history[row, spot] = x
                ratios[row, spot] = ratio
                spot += 1
                if spot == ring:
                    spot = 0
                if ratio >= on or opened >= 0:
                    if opened >= 0 and ((before >= off and ratio < off) or index == opened + lane.longest + 1):
                        if lane.announced:
                            last_ns = start_ns[record] + _offset_ns(k - 1, up, down)
                            events[found] = (row, CLOSED, opened, lane.open_ns, index - 1, last_ns)
                            found += 1
                        lane.earliest = index + (lane.dead if lane.announced else 0)
                        opened = np.int64(-1)
                    if opened < 0 and ratio >= on and before < on and index >= lane.earliest:
                        opened = index
                        lane.open_ns = start_ns[record] + _offset_ns(k, up, down)
                        lane.announced = False
                    if opened >= 0 and not lane.announced and index - opened >= lane.minimum:
                        lane.announced = True
                        events[found] = (row, OPENED, opened, lane.open_ns, -1, 0)
                        found += 1
                before = ratio
            memory[row, 0] = p0, q0
            memory[row, 1] = p1, q1
            memory[row, 2] = p2, q2
            memory[row, 3] = p3, q3
            lane.sta, lane.lta = sta, lta
            lane.ratio, lane.open = before, opened
            lane.index += stretch
            lane.waiting |= found > found_before
            if lane.waiting:
                lane.moved += stretch
            done += stretch
        lane.next_ns = start_ns[record] + _offset_ns(end - first, up, down)
        lane.last_ns = start_ns[record] + _offset_ns(end - first - 1, up, down)
        taken[at] = True
    return records.size, 0, found


def warm_up() -> None:
    """Compile `advance`, or load it, before anything waits for it."""
    none, rates = np.zeros(0, np.int64), np.zeros(0)
    samples = rates.copy()
    samples.flags.writeable = False
    lanes, rings = np.zeros(1, LANE), (np.zeros((1, 1)), np.zeros((1, 1)))
    sections, memory = np.zeros((1, SECTIONS, 5)), np.zeros((1, SECTIONS, 2))
    events = np.zeros((FEWEST_EVENTS, EVENT_COLUMNS), np.int64)
    batch = none, none, none, rates, np.zeros(1, np.int64), samples
    advance(*batch, lanes, sections, memory, *rings, 1, np.zeros(0, np.bool_), events, 0, 0)
