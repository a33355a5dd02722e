"""Records to blocks and gaps, against a restatement that looks at one sample after the other."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made_streams import SECOND, SID, T0, cuts_of, records

from tscc_stream.config import AssembleConfig
from tscc_stream.messages import Block, EndOfStream, Gap, Record, read_only
from tscc_stream.sampling import offset_ns, seconds_to_ns
from tscc_stream.stages.assemble import (
    FAR_NS,
    FEWEST_OTHERS,
    LONGEST_RESEND_NS,
    MOST_GAPS,
    MOST_HELD,
    MOST_HELD_SAMPLES,
    SET_BACK_NS,
    Assemble,
)

RATE = 100.0
STEP = SECOND // 100
RAIL = 1000.0
CONFIG = AssembleConfig(flat_seconds=0.1, clip_counts=RAIL)
AT_ONCE = CONFIG.model_copy(update={"reorder_seconds": 0.0})
FLAT = 32


def _assemble(config: AssembleConfig = CONFIG) -> Assemble:
    return Assemble(lambda _: config)


def _feed(stream: list[Record], config: AssembleConfig = CONFIG) -> list[Block | Gap]:
    assemble = _assemble(config)
    out = [part for record in stream for part in assemble.feed(record)]
    out += [part for sid in {record.sid for record in stream} for part in assemble.feed(EndOfStream(sid))]
    assert all(part.samples.dtype == np.float64 and not part.samples.flags.writeable and part.samples.size
               for part in out if isinstance(part, Block))  # fmt: skip
    return out


def _flattened(out: list[Block | Gap]) -> list[tuple[object, ...]]:
    """Sample by sample: (index, time, value); gaps as they are."""
    flat: list[tuple[object, ...]] = []
    for part in out:
        if isinstance(part, Gap):
            flat.append((part.from_ns, part.to_ns, part.cause))
        else:
            flat += [
                (part.index + i, part.start_ns + offset_ns(i, part.sample_rate_hz), float(value))
                for i, value in enumerate(part.samples)
            ]
    return flat


def _literal(values: npt.NDArray[np.float64], limit: int) -> list[tuple[object, ...]]:
    """What one unbroken stream becomes, decided at each sample by what came before it."""
    out: list[tuple[object, ...]] = []
    index, run, last = 0, 0, float("nan")
    broken: tuple[int, str] | None = None
    for i, value in enumerate(values.tolist()):
        time = T0 + i * STEP
        possible = bool(np.isfinite(value)) and abs(value) <= 1e15
        run = run + 1 if value == last else 1
        last = value if possible else float("nan")
        dead = possible and run >= limit and abs(value) < RAIL
        if not possible or dead:
            if broken is None:
                broken, index = (time, "flat" if dead else "invalid"), 0
                out.append((time, None, broken[1]))
            continue
        if broken is not None:
            out.append((broken[0], time, broken[1]))
            broken, index = None, 0
        out.append((index, time, value))
        index += 1
    return out


PARTS = st.lists(
    st.one_of(
        st.tuples(st.just("noise"), st.integers(1, 30)),
        st.tuples(st.sampled_from(["zero", "five", "rail", "-rail"]), st.integers(1, 80)),
        st.tuples(st.sampled_from(["nan", "inf", "huge"]), st.integers(1, 4)),
    ),
    min_size=1,
    max_size=8,
)
VALUES = {"zero": 0.0, "five": 5.0, "rail": RAIL, "-rail": -RAIL, "nan": np.nan, "inf": -np.inf, "huge": 1e300}


def _signal(parts: list[tuple[str, int]]) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(len(parts))
    return np.concatenate([
        rng.permutation(length) + 10.0 if kind == "noise" else np.full(length, VALUES[kind]) for kind, length in parts
    ])  # fmt: skip


@given(parts=PARTS, data=st.data())
@example(parts=[("zero", 20), ("nan", 1), ("zero", 20), ("noise", 3)], data=None)
def test_flat_and_invalid_samples_equal_the_literal_restatement_for_any_cut(
    parts: list[tuple[str, int]], data: st.DataObject | None
) -> None:
    values = _signal(parts)
    got = _flattened(_feed(records(values, RATE, data.draw(cuts_of(len(values))) if data else [])))
    assert got == _literal(values, FLAT)


@given(data=st.data(), seed=st.integers(0, 100))
def test_records_of_any_overlap_order_and_gap(data: st.DataObject, seed: int) -> None:
    """Records are stretches of one line of time; what they cover, in the order of their ends, comes out once.

    None is waited for.
    """
    line = np.random.default_rng(seed).permutation(400).astype(np.int32)
    spans = data.draw(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 90)), min_size=1, max_size=12))
    jitter = data.draw(st.lists(st.integers(-STEP // 2 + 1, STEP // 2), min_size=len(spans), max_size=len(spans)))
    assemble = _assemble(AT_ONCE)
    expected: list[tuple[int, int]] = []
    reached, drift, index, skipped = -1, 0, 0, 0
    blocks: list[Block] = []
    gaps: list[Gap] = []
    for (begin, length), late in zip(spans, jitter, strict=True):
        stamp = T0 + begin * STEP + late
        for part in assemble.feed(Record(SID, stamp, RATE, read_only(line[begin : begin + length].copy()))):
            (blocks if isinstance(part, Block) else gaps).append(part)  # type: ignore[arg-type]  # options of any kind
        if reached < 0:
            first, index = begin, 0
        else:
            late_by = (stamp - (T0 + reached * STEP + drift)) / STEP
            ahead = -int(np.floor(-late_by + 0.5))  # half a sample is no gap
            first = begin + max(0, -ahead)
            index = 0 if ahead > 0 else index
        if first >= begin + length:
            skipped += length
            continue
        skipped += first - begin
        expected += [(index + i, int(line[first + i])) for i in range(begin + length - first)]
        index += begin + length - first
        reached, drift = begin + length, late
    assert assemble.feed(EndOfStream(SID)) == []
    assert [(b.index + i, int(v)) for b in blocks for i, v in enumerate(b.samples)] == expected
    assert sum(assemble.counts.values()) == skipped
    assert [b.index for b in blocks].count(0) == len(gaps) + 1
    assert all(gap.cause == "gap" and gap.to_ns is not None and gap.to_ns > gap.from_ns for gap in gaps)


@pytest.mark.parametrize(("late_ns", "gap"), [(-STEP // 2, 0), (0, 0), (STEP // 2, 0), (STEP // 2 + 1, 1), (STEP, 1)])
def test_more_than_half_a_sample_is_a_gap(late_ns: int, gap: int) -> None:
    first = Record(SID, T0, RATE, np.arange(10, dtype=np.int32))
    second = Record(SID, T0 + 10 * STEP + late_ns, RATE, np.arange(10, 20, dtype=np.int32))
    out = _feed([first, second])
    assert sum(isinstance(part, Gap) for part in out) == gap
    if gap:
        assert out[1] == Gap(SID, T0 + 10 * STEP, T0 + 10 * STEP + late_ns, "gap")


def test_duplicates_and_overlaps_are_counted_in_samples() -> None:
    assemble = _assemble()
    whole = records(np.arange(30), RATE)[0]
    again, longer = records(np.arange(10, 25), RATE, start_ns=T0 + 10 * STEP)[0], records(np.arange(50), RATE)[0]
    assert len(assemble.feed(whole)) == 1
    assert assemble.feed(again) == []
    (block,) = assemble.feed(longer)
    assert isinstance(block, Block)
    assert (block.index, block.start_ns, block.samples.tolist()) == (30, T0 + 30 * STEP, list(range(30, 50)))
    assert dict(assemble.counts) == {("duplicate", SID): 15, ("overlap", SID): 30}


def test_a_change_of_rate_is_a_break_and_its_last_digits_are_none() -> None:
    first = records(np.arange(100), 100.0)[0]
    near = records(np.arange(100), 100.001, start_ns=T0 + SECOND)[0]
    other = records(np.arange(100), 200.0, start_ns=T0 + 2 * SECOND)[0]
    out = _feed([first, near, other])
    assert [type(part) for part in out] == [Block, Block, Gap, Block]
    assert out[2] == Gap(SID, T0 + 2 * SECOND, T0 + 2 * SECOND, "rate")
    assert [(b.index, b.sample_rate_hz) for b in out if isinstance(b, Block)] == [(0, 100.0), (100, 100.0), (0, 200.0)]


def test_a_gap_within_a_break_tells_both() -> None:
    dead = records(np.zeros(40), RATE)[0]
    later = records(np.arange(5), RATE, start_ns=T0 + SECOND)[0]
    end = T0 + 40 * STEP
    assert [part for part in _feed([dead, later]) if isinstance(part, Gap)] == [
        Gap(SID, T0 + 31 * STEP, None, "flat"),
        Gap(SID, T0 + 31 * STEP, end, "flat"),
        Gap(SID, end, T0 + SECOND, "gap"),
    ]


@pytest.mark.parametrize(("length", "breaks"), [(7, 0), (31, 0), (32, 1), (500, 1)])
def test_runs_of_equal_samples(length: int, breaks: int) -> None:
    values = np.concatenate([np.arange(50), np.full(length, 3), np.arange(50)])
    gaps = [part for part in _feed(records(values, RATE)) if isinstance(part, Gap)]
    assert len(gaps) == 2 * breaks
    clipped = np.concatenate([np.arange(50), np.full(length, RAIL), np.arange(50)])
    assert not any(isinstance(part, Gap) for part in _feed(records(clipped, RATE)))
    unknown = AssembleConfig(clip_counts=None)
    assert sum(isinstance(part, Gap) for part in _feed(records(clipped, RATE), unknown)) == 2 * breaks


def test_the_flat_time_counts_at_high_rates() -> None:
    values = np.concatenate([np.arange(50), np.zeros(99), np.arange(1, 50)])
    assert len(_feed(records(values, 1000.0))) == 1
    assert len(_feed(records(np.concatenate([values, np.zeros(100), values]), 1000.0))) == 4


@pytest.mark.parametrize("rate", [300.0, 1 / 3, 0.1, 62.5, 1000.0, 1e6 / 7])
def test_times_are_those_of_the_samples_however_far_out(rate: float) -> None:
    values = np.random.default_rng(1).permutation(30_000)
    out = _feed(records(values, rate, list(range(0, 30_000, 401))))
    assert all(isinstance(part, Block) and part.start_ns == T0 + offset_ns(part.index, rate) for part in out)
    assert sum(part.samples.size for part in out if isinstance(part, Block)) == 30_000
    assert all(a.index + a.samples.size == b.index for a, b in pairwise(out))  # type: ignore[union-attr]  # the test has put it there


def test_flags_and_receipt_go_with_every_block_of_a_record() -> None:
    values = np.concatenate([np.arange(50.0), [np.nan], np.arange(50.0)])
    record = Record(SID, T0, RATE, values, frozenset({"clipped"}), 77)
    out = [part for part in _feed([record]) if isinstance(part, Block)]
    assert [(part.quality, part.received_ns) for part in out] == [(frozenset({"clipped"}), 77)] * 2


def test_channels_do_not_meet_and_an_end_forgets() -> None:
    assemble = _assemble()
    a, b = (records(np.arange(20), RATE, [10], sid=sid) for sid in (SID, "FDSN:XX_B__E_H_Z"))
    out = [part for record in (a[0], b[0], a[1]) for part in assemble.feed(record)]
    assert [(part.sid, part.index) for part in out if isinstance(part, Block)] == [(SID, 0), (b[0].sid, 0), (SID, 10)]
    assert assemble.feed(EndOfStream(SID)) == assemble.feed(EndOfStream(SID)) == []
    (again,) = assemble.feed(a[1])
    assert isinstance(again, Block)
    assert again.index == 0


def _minutes(first: int, last: int) -> list[Record]:
    """One record a minute: 6000 samples each."""
    line = np.random.default_rng(0).permutation(6000)
    return [records(line, RATE, start_ns=T0 + minute * 60 * SECOND)[0] for minute in range(first, last)]


def test_a_clock_set_back_does_not_deafen_for_ever() -> None:
    assemble = _assemble()
    (future,) = _minutes(1_000_000, 1_000_001)
    assemble.feed(future)
    out = [part for record in _minutes(0, 20) for part in assemble.feed(record)]
    patience = LONGEST_RESEND_NS // (60 * SECOND)
    restart = T0 + patience * 60 * SECOND
    assert out[0] == Gap(SID, T0 + 1_000_001 * 60 * SECOND, restart, "clock")
    assert [part.start_ns for part in out if isinstance(part, Block)] == [
        T0 + minute * 60 * SECOND for minute in range(patience, 20)
    ]


def test_old_data_among_new_do_not_turn_the_clock_back() -> None:
    assemble = _assemble()
    backfill, live = _minutes(0, 30), _minutes(100, 130)
    out = [part for pair in zip(live, backfill, strict=True) for record in pair for part in assemble.feed(record)]
    assert all(isinstance(part, Block) for part in out)
    assert len(out) == 30


# Order

LENGTH = 600
LINE = np.random.default_rng(7).permutation(LENGTH).astype(np.int32)
TOLERANCE = seconds_to_ns(CONFIG.reorder_seconds)


def _piece(first: int, last: int, start_ns: int = T0, sid: str = SID, rate: float = RATE) -> Record:
    """Samples of the line, stamped with their own times."""
    values = LINE[np.arange(first, last) % LENGTH]
    return Record(sid, start_ns + offset_ns(first, rate), rate, read_only(values))


@st.composite
def _shuffled(draw: st.DrawFn) -> tuple[list[Record], list[Record]]:
    """Records of one line with some missing and of two rates, in order of time and in another.

    In that, none comes after a record that starts more than the tolerance later; the first stays the first. What is
    missing is longer than half a sample of either rate, which is no gap.
    """
    cuts = sorted({0, LENGTH, *(3 * cut for cut in draw(st.sets(st.integers(1, 199), min_size=3, max_size=25)))})
    spans = list(pairwise(cuts))
    missing = draw(st.sets(st.integers(1, len(spans) - 1), max_size=len(spans) // 2))
    faster = draw(st.integers(0, len(spans)))
    line = []
    for i, (first, last) in enumerate(spans):
        at = T0 + first * STEP + draw(st.integers(-STEP // 8, STEP // 8))
        half = read_only(LINE[first : (first + last) // 2]) if i == faster and last - first > 1 else None
        line.append(Record(SID, at, RATE / 2, half) if half is not None else Record(SID, at, RATE, LINE[first:last]))
    kept = [record for i, record in enumerate(line) if i not in missing]
    order, left = [kept[0]], kept[1:]
    while left:
        may = [record for record in left if record.start_ns <= left[0].start_ns + TOLERANCE]
        order.append(may[draw(st.integers(0, len(may) - 1))])
        left = [record for record in left if record is not order[-1]]
    return kept, order


@given(both=_shuffled())
def test_any_order_within_the_tolerance_gives_what_the_order_of_time_gives(
    both: tuple[list[Record], list[Record]],
) -> None:
    kept, order = both
    assert _flattened(_feed(order)) == _flattened(_feed(kept)) == _flattened(_feed(kept, AT_ONCE))


def test_a_record_that_leaves_a_gap_waits_for_the_missing_one() -> None:
    assemble = _assemble()
    (first,) = assemble.feed(_piece(0, 50))
    assert assemble.oldest_held_ns() == 1 << 62
    assert assemble.ordinary(SID) is not None
    assert assemble.feed(_piece(100, 150)) == assemble.feed(_piece(150, 170)) == []
    assert (assemble.reached_ns(SID), assemble.oldest_held_ns()) == (T0 + 50 * STEP, T0 + 100 * STEP)
    assert assemble.ordinary(SID) is None
    out = assemble.feed(_piece(50, 100))
    assert [part.index for part in (first, *out) if isinstance(part, Block)] == [0, 50, 100, 150]
    assert assemble.reached_ns(SID) == T0 + 170 * STEP
    assert assemble.oldest_held_ns() == 1 << 62
    assert not assemble.counts


def test_once_the_channel_has_gone_on_the_gap_is_told_and_what_comes_for_it_is_late() -> None:
    assemble = _assemble()
    assemble.feed(_piece(0, 50))
    out = [part for first in range(100, 310, 10) for part in assemble.feed(_piece(first, first + 10))]
    assert out == []
    out = assemble.feed(_piece(310, 320))
    assert out[0] == Gap(SID, T0 + 50 * STEP, T0 + 100 * STEP, "gap")
    assert _flattened(out[1:]) == [(i, T0 + (100 + i) * STEP, float(LINE[100 + i])) for i in range(220)]
    assert assemble.feed(_piece(40, 110)) == assemble.feed(_piece(60, 70)) == []
    assert dict(assemble.counts) == {("late", SID): 50, ("duplicate", SID): 20}, "of the last it is not clear yet"
    (block,) = assemble.feed(_piece(90, 330))
    assert isinstance(block, Block)
    assert (block.index, block.samples.size) == (220, 10)
    assert dict(assemble.counts) == {("late", SID): 70, ("duplicate", SID): 20, ("overlap", SID): 220}
    assert assemble.left_out == {"late": 70, "duplicate": 20, "overlap": 220}


def test_a_second_gap_waits_for_itself() -> None:
    assemble = _assemble()
    for first, last in ((0, 10), (20, 30), (30, 40), (220, 230)):
        assert len(assemble.feed(_piece(first, last))) == (first == 0)
    out = assemble.feed(_piece(230, 240))
    assert [(part.from_ns, part.to_ns) for part in out if isinstance(part, Gap)] == [(T0 + 10 * STEP, T0 + 20 * STEP)]
    assert assemble.reached_ns(SID) == T0 + 40 * STEP
    assert [part.index for part in assemble.feed(_piece(40, 220)) if isinstance(part, Block)] == [20, 200, 210]


def test_the_end_of_a_channel_releases_what_is_held() -> None:
    assemble = _assemble()
    assemble.feed(_piece(0, 10))
    assemble.feed(_piece(20, 30))
    assert [type(part) for part in assemble.release(SID)] == [Gap, Block]
    assert assemble.release(SID) == []
    assemble.feed(_piece(40, 50))
    assert [type(part) for part in assemble.feed(EndOfStream(SID))] == [Gap, Block]
    assert assemble.oldest_held_ns() == 1 << 62


def test_a_channel_that_falls_silent_releases_what_is_held() -> None:
    assemble, now = _assemble(), 10**15
    other = "FDSN:XX_B__E_H_Z"
    assemble.feed(_piece(0, 10), now)
    assert assemble.next_deadline() is None
    assemble.feed(_piece(20, 30), now)
    assemble.feed(_piece(30, 40), now + SECOND)
    assemble.feed(_piece(0, 10, sid=other), now)
    assemble.feed(_piece(20, 30, sid=other))  # out of a file: its time does not pass
    assert assemble.next_deadline() == now + SECOND + TOLERANCE
    assert assemble.poll(now + SECOND + TOLERANCE - 1) == []
    out = assemble.poll(now + SECOND + TOLERANCE)
    assert [(type(part), part.sid) for part in out] == [(Gap, SID), (Block, SID), (Block, SID)]
    assert assemble.next_deadline() is None
    assert assemble.poll(now + 10**15) == []
    assert assemble.oldest_held_ns() == T0 + 20 * STEP


def test_what_is_held_is_bounded_in_records_and_in_samples() -> None:
    config = CONFIG.model_copy(update={"reorder_seconds": 60.0})
    assemble = _assemble(config)
    assemble.feed(_piece(0, 1))
    out = [assemble.feed(_piece(2 + i, 3 + i)) for i in range(MOST_HELD + 1)]
    assert [len(parts) for parts in out] == [0] * MOST_HELD + [MOST_HELD + 2]
    assemble.feed(_piece(1000, 1000 + MOST_HELD_SAMPLES))
    assert assemble.reached_ns(SID) < T0 + 1000 * STEP
    assert [type(part) for part in assemble.feed(_piece(1001, 1002))] == [Gap, Block]


def test_a_thousand_gaps_are_not_remembered() -> None:
    assemble = _assemble(AT_ONCE)
    for first in range(0, 2000, 2):
        assemble.feed(_piece(first, first + 1))
    assert len(assemble._channels[SID].gaps) == MOST_GAPS
    assemble.feed(_piece(0, 1999))
    assert dict(assemble.counts) == {("late", SID): MOST_GAPS, ("duplicate", SID): 1999 - MOST_GAPS}
    assemble.forget(SID)
    assert not assemble.counts
    assert assemble.left_out["late"] == MOST_GAPS


# Clocks

YEAR = 365 * 86_400 * SECOND


def test_one_record_with_a_wrong_date_is_left_out_and_costs_nothing() -> None:
    for away in (YEAR, FAR_NS + 60 * SECOND, 50 * YEAR):
        assemble = _assemble()
        stream = [_piece(first, first + 10) for first in range(0, 400, 10)]
        out = [part for record in stream[:20] for part in assemble.feed(record)]
        assert assemble.feed(_piece(200, 210, T0 + away)) == []
        out += [part for record in stream[20:] for part in assemble.feed(record)]
        out += assemble.feed(EndOfStream(SID))
        assert _flattened(out) == _flattened(_feed(stream))
        assert dict(assemble.counts) == {("clock", SID): 10}


def test_a_wrong_date_that_nothing_confirms_is_not_kept_until_its_day_comes() -> None:
    assemble = _assemble()
    assemble.feed(_piece(0, 10))
    assemble.feed(_piece(0, 10, T0 + FAR_NS + SECOND))
    assemble.feed(_piece(0, 10, T0 + FAR_NS + SECOND))
    assert dict(assemble.counts) == {("duplicate", SID): 10}
    minutes = [_piece(first, first + 6000) for first in range(10, 66_010, 6000)]
    out = [part for record in minutes for part in assemble.feed(record)]
    assert all(isinstance(part, Block) for part in out)
    assert assemble.counts["clock", SID] == 10
    assert assemble.counts["overlap", SID] == 0


@given(
    away=st.integers(FAR_NS + 10 * SECOND, 100 * YEAR),
    wrong=st.lists(st.integers(1, 38), max_size=6, unique=True),
    other=st.booleans(),
)
def test_wrong_dates_among_right_ones_change_nothing(away: int, wrong: list[int], other: bool) -> None:
    """Each repeats a date, or has one of its own: none is near another."""
    stream = [_piece(first, first + 10) for first in range(0, 400, 10)]
    mixed: list[Record] = []
    for i, record in enumerate(stream):
        mixed.append(record)
        if i in wrong:
            mixed.append(_piece(0, 10, T0 + away + (i * YEAR if other else 0)))
    right = _flattened(_feed(stream))
    assert _flattened(_feed(mixed))[: len(right)] == right


def test_after_a_long_outage_the_second_record_confirms_the_first() -> None:
    for order in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        assemble = _assemble()
        assemble.feed(_piece(0, 10))
        later = [_piece(i * 150, i * 150 + 150, T0 + YEAR) for i in order]
        assert assemble.feed(later[0]) == []
        out = [part for record in later[1:] for part in assemble.feed(record)] + assemble.feed(EndOfStream(SID))
        assert out[0] == Gap(SID, T0 + 10 * STEP, T0 + YEAR, "gap")
        assert [part.index for part in out if isinstance(part, Block)] == [0, 150, 300]
        assert not assemble.counts


def test_records_of_files_with_long_times_between_are_all_taken() -> None:
    hours = [_piece(0, 500, T0 + hour * 3600 * SECOND) for hour in range(5)]
    out = _feed(hours)
    assert [type(part) for part in out] == [Block] + [Gap, Block] * 4
    assert _flattened(out) == _flattened(_feed(hours, AT_ONCE))


def test_live_data_are_not_lost_among_old_ones_that_a_recorder_sends_again() -> None:
    """A channel begins with old data, between which the present ones come."""
    assemble = _assemble()
    old = [_piece(first, first + 6000) for first in range(0, 60_000, 6000)]
    live = [_piece(first, first + 100, T0 + YEAR) for first in range(0, 1000, 100)]
    out = [part for pair in zip(old, live, strict=True) for record in pair for part in assemble.feed(record)]
    taken = [part for part in out if isinstance(part, Block) and part.start_ns >= T0 + YEAR]
    assert sum(part.samples.size for part in taken) == 1000
    assert assemble.counts["clock", SID] == 0


def test_a_later_wrong_date_takes_the_place_of_an_earlier_one() -> None:
    assemble = _assemble()
    assemble.feed(_piece(0, 10))
    assemble.feed(_piece(0, 10, T0 + 9 * YEAR))
    assemble.feed(_piece(0, 10, T0 + YEAR))
    assert dict(assemble.counts) == {("clock", SID): 10}
    assemble.feed(_piece(10, 20))
    assemble.feed(_piece(0, 10, T0 + 5 * YEAR))
    assert dict(assemble.counts) == {("clock", SID): 20}
    assert assemble.feed(EndOfStream(SID)) != []


def test_two_far_records_are_taken_before_one_of_yet_another_time() -> None:
    assemble = _assemble()
    for record in (_piece(0, 10), _piece(0, 10, T0 + YEAR), _piece(10, 20)):
        assemble.feed(record)
    assert assemble.feed(_piece(10, 20, T0 + YEAR)) == []
    assert [type(part) for part in assemble.feed(_piece(0, 10, T0 + 2 * YEAR))] == [Gap, Block, Block]
    assert not assemble.counts


def test_a_far_record_says_that_the_channel_has_gone_on() -> None:
    """The components of a sensor, whose records come in turn, are not to run apart."""
    assemble = _assemble()
    assemble.feed(_piece(0, 10))
    assemble.feed(_piece(20, 30))
    assert [type(part) for part in assemble.feed(_piece(0, 10, T0 + YEAR))] == [Gap, Block]
    assert assemble.oldest_held_ns() == T0 + YEAR


def test_a_far_record_alone_stays_when_the_channel_falls_silent() -> None:
    assemble = _assemble()
    assemble.feed(_piece(0, 10), SECOND)
    assemble.feed(_piece(0, 10, T0 + YEAR), SECOND)
    assemble.feed(_piece(20, 30), SECOND)
    assert [type(part) for part in assemble.poll(SECOND + TOLERANCE)] == [Gap, Block]
    assert assemble.next_deadline() is None
    assert assemble.feed(_piece(10, 20, T0 + YEAR), 5 * SECOND) == []
    assert [type(part) for part in assemble.poll(5 * SECOND + TOLERANCE)] == [Gap, Block, Block]


def test_a_clock_set_back_deafens_for_half_a_minute_that_passes() -> None:
    assemble, now = _assemble(), 10**15
    assemble.feed(_piece(0, 100, T0 + YEAR), now)
    assemble.feed(_piece(200, 300, T0 + YEAR), now)
    found: list[Block | Gap] = []
    seconds = 0
    while not found:
        seconds += 1
        found = assemble.feed(_piece(seconds * 100, seconds * 100 + 100), now + seconds * SECOND)
    assert seconds == SET_BACK_NS // SECOND + 2
    assert found[-3:-1] == [
        Gap(SID, T0 + YEAR + 300 * STEP, T0 + seconds * SECOND, "clock"),
        Gap(SID, T0 + SECOND, T0 + seconds * SECOND, "conflict"),
    ]
    (more,) = assemble.feed(_piece(seconds * 100 + 100, seconds * 100 + 200), now + (seconds + 1) * SECOND)
    assert isinstance(more, Block)
    assert more.index == 100


@pytest.mark.parametrize("pace", [10**9, 20, 4])
def test_what_a_server_sends_again_turns_no_clock_back_however_much_it_is(pace: int) -> None:
    """All of a ring of twenty minutes, at many times the pace at which it was recorded."""
    assemble, now = _assemble(), 10**15
    stream = [_piece(first, first + 100) for first in range(0, 120_000, 100)]
    for i, record in enumerate(stream):
        assemble.feed(record, now + i * SECOND)
    later = now + 1200 * SECOND
    again = [part for i, record in enumerate(stream) for part in assemble.feed(record, later + i * SECOND // pace)]
    assert again == []
    assert assemble.counts["duplicate", SID] == 120_000
    (block,) = assemble.feed(_piece(120_000, 120_100), later + 1200 * SECOND // pace)
    assert isinstance(block, Block)
    assert block.index == 120_000


@pytest.mark.parametrize("step", [-SECOND, SECOND])
def test_a_leap_second_costs_one_second(step: int) -> None:
    """A recorder that repeats a second, or leaves one out."""
    assemble = _assemble()
    before = [_piece(first, first + 40) for first in range(0, 2000, 40)]
    after = [_piece(first, first + 40, T0 + step) for first in range(2000, 4000, 40)]
    out = [part for record in (*before, *after) for part in assemble.feed(record)] + assemble.feed(EndOfStream(SID))
    samples = sum(part.samples.size for part in out if isinstance(part, Block))
    gaps = [part for part in out if isinstance(part, Gap)]
    if step < 0:
        lost = Gap(SID, T0 + 19 * SECOND, T0 + 20 * SECOND, "conflict")
        assert (samples, gaps, sum(assemble.counts.values())) == (3900, [lost], 100)
    else:
        assert (samples, [(gap.from_ns, gap.to_ns, gap.cause) for gap in gaps]) == (
            4000,
            [(T0 + 20 * SECOND, T0 + 21 * SECOND, "gap")],
        )


LONG = np.random.default_rng(8).integers(-1, 2, 40_000).astype(np.int32)
"""A quiet sensor: few values, so that single samples are often the same by chance."""


def _stream(seconds: int, samples: int, back_s: int = 0, back_at_s: int = 0) -> list[Record]:
    """Records of so many samples; from `back_at_s` on they are stamped `back_s` too early."""
    firsts = range(0, seconds * 100, samples)
    return [
        Record(
            SID,
            T0 + first * STEP - (back_s * SECOND if first >= back_at_s * 100 else 0),
            RATE,
            read_only(LONG[first : first + samples]),
        )
        for first in firsts
    ]


@pytest.mark.parametrize("samples", [20, 50, 100, 700])
@pytest.mark.parametrize("now", [0, 10**15])
@pytest.mark.parametrize("back_s", [3, 25])
def test_what_comes_once_a_clock_is_set_back_a_little_is_not_lost(samples: int, now: int, back_s: int) -> None:
    back_s = max(back_s, FEWEST_OTHERS * samples // 100)
    assemble = _assemble()
    out: list[Block | Gap] = []
    for record in _stream(140, samples, back_s, 70):
        now += offset_ns(samples, RATE) if now else 0
        out += assemble.feed(record, now)
    end_ns = T0 + 70 * SECOND
    assert [part for part in out if isinstance(part, Gap)] == [Gap(SID, end_ns, end_ns - back_s * SECOND, "clock")]
    assert np.array_equal(np.concatenate([part.samples for part in out if isinstance(part, Block)]), LONG[:14_000])
    assert not assemble.counts


@pytest.mark.parametrize("samples", [13, 100, 350])
def test_the_same_samples_are_duplicates_at_any_pace_and_in_other_records(samples: int) -> None:
    """Forty seconds of them, as fast as they were recorded: on another way they may come later."""
    assemble, now = _assemble(), 10**15
    out = [part for i, record in enumerate(_stream(50, 100)) for part in assemble.feed(record, now + i * SECOND)]
    for i, record in enumerate(_stream(50, samples)[1000 // samples + 1 : -1]):
        out += assemble.feed(record, now + 60 * SECOND + i * offset_ns(samples, RATE))
    out += [part for record in _stream(60, 100)[50:] for part in assemble.feed(record, now + 120 * SECOND)]
    assert all(isinstance(part, Block) for part in out)
    assert [part.index for part in out if isinstance(part, Block)] == list(range(0, 6000, 100))


def test_two_recorders_of_one_name_break_nothing_and_what_is_left_out_is_told() -> None:
    assemble = _assemble()
    line = _stream(20, 100)
    other = [Record(SID, one.start_ns, RATE, read_only(one.samples[::-1].copy())) for one in line]
    out = [part for pair in zip(line, other, strict=True) for record in pair for part in assemble.feed(record)]
    out += assemble.feed(EndOfStream(SID))
    assert [part.index for part in out if isinstance(part, Block)] == list(range(0, 2000, 100))
    lost = [part for part in out if isinstance(part, Gap)]
    assert {gap.cause for gap in lost} == {"conflict"}
    assert sum((gap.to_ns or 0) - gap.from_ns for gap in lost) == 20 * SECOND
    assert dict(assemble.counts) == {("duplicate", SID): 2000}
