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
from tscc_stream.sampling import offset_ns
from tscc_stream.stages.assemble import LONGEST_RESEND_NS, Assemble

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
    """Records are stretches of one line of time; what they cover, in the order of their ends, comes out once. None is
    waited for."""
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
            (blocks if isinstance(part, Block) else gaps).append(part)  # type: ignore[arg-type]
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
    assert all(a.index + a.samples.size == b.index for a, b in pairwise(out))  # type: ignore[union-attr]


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
