"""What the wall keeps of a channel and draws of it, and the one word for how its data are."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tscc_stream.apps.console import data_state
from tscc_stream.apps.console.trace import LONGEST_SECONDS, Trace
from tscc_stream.config import AssembleConfig
from tscc_stream.messages import Record

T0 = 1_700_000_000_000_000_000
SID = "FDSN:XX_A__H_H_Z"
CLIP = 8_388_000.0


def made(samples: np.ndarray, number: int = 0, rate_hz: float = 100.0, quality: frozenset[str] = frozenset()) -> Record:
    return Record(SID, T0 + round(number * 1e9 / rate_hz), rate_hz, samples, quality)


def trace_of(*records: Record) -> Trace:
    trace = Trace(AssembleConfig())
    for record in records:
        trace.take(record, 0.0)
    return trace


def plainly(samples: np.ndarray, start_ns: int, rate_hz: float, column_ns: int) -> dict[int, tuple[float, float]]:
    """Smallest and largest of each column, one sample after the other."""
    columns: dict[int, list[float]] = {}
    for number, value in enumerate(samples):
        columns.setdefault((start_ns + round(number * 1e9 / rate_hz)) // column_ns, []).append(float(value))
    return {column: (min(values), max(values)) for column, values in columns.items()}


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 150),
    st.sampled_from([0.5, 20.0, 100.0, 500.0, 1000.0]),
    st.integers(20_000_000, 300_000_000),
    st.lists(st.integers(1, 400), max_size=8),
    st.randoms(use_true_random=False),
)
def test_columns_are_the_extremes_of_their_samples_however_records_are_cut_and_in_whatever_order(
    count: int, rate_hz: float, column_ns: int, cuts: list[int], random: object
) -> None:
    samples = np.random.default_rng(count).integers(-1000, 1000, count).astype(float)
    bounds = sorted({0, count, *(cut % count for cut in cuts)})
    records = [made(samples[a:b], a, rate_hz) for a, b in pairwise(bounds)]
    random.shuffle(records)  # type: ignore[attr-defined]  # known there, not to its stubs
    found = trace_of(*records).columns(column_ns)
    assert found is not None
    first, pairs = found
    got = {first + i: (low, high) for i, (low, high) in enumerate(pairs.tolist()) if not math.isnan(low)}
    assert got == plainly(samples, T0, rate_hz, column_ns)


def test_what_has_come_since_begins_with_the_column_that_it_goes_on_in() -> None:
    trace = trace_of(made(np.arange(50.0)))
    assert trace.take_changed() == 0
    trace.take(made(np.arange(50.0, 80.0), 50), 0.0)
    since = trace.take_changed()
    assert since == 50
    assert trace.take_changed() is None
    whole, part = trace.columns(70_000_000), trace.columns(70_000_000, since)
    assert whole is not None
    assert part is not None
    assert part[0] > whole[0]
    assert part[1].tolist() == whole[1][part[0] - whole[0] :].tolist()
    assert part[1][0][0] < 50  # the samples before are in it


def test_a_gap_is_empty_columns_until_it_is_filled() -> None:
    trace = trace_of(made(np.ones(100)), made(np.ones(100), 300))
    _, pairs = trace.columns(100_000_000) or (0, np.empty(0))
    assert np.isnan(pairs[11:29]).all()
    trace.take(made(np.ones(200), 100), 0.0)
    assert trace.take_changed() == 0
    _, pairs = trace.columns(100_000_000) or (0, np.empty(0))
    assert not np.isnan(pairs).any()


def test_memory_is_bounded_and_a_clock_set_back_begins_anew() -> None:
    trace = Trace(AssembleConfig())
    for second in range(0, 2 * LONGEST_SECONDS, 10):
        trace.take(made(np.full(1000, float(second)), 100 * second), 0.0)
    _, pairs = trace.columns(10_000_000_000) or (0, np.empty(0))
    assert len(pairs) <= LONGEST_SECONDS // 10 + 1
    back = [made(np.ones(100), -(10**6) + 100 * i) for i in range(3)]
    assert [trace.take(record, 0.0) for record in back] == [False, False, True]
    assert trace.newest_ns == back[-1].start_ns + 990_000_000
    assert trace.take(made(np.ones(10), 10**9), 0.0)
    assert len((trace.columns(10**9) or (0, np.empty(0)))[1]) == 1
    trace.take(made(np.ones(10), 0, 200.0), 0.0)
    assert trace.rate_hz == 200.0


def test_what_came_before_the_first_record_is_taken_too() -> None:
    trace = trace_of(made(np.full(100, 2.0), 300), made(np.full(300, 1.0)))
    first, pairs = trace.columns(10**9) or (0, np.empty(0))
    assert (first, pairs[:, 0].tolist()) == (T0 // 10**9, [1.0, 1.0, 1.0, 2.0])


def test_invalid_samples_are_missing_ones() -> None:
    values = np.array([1.0, math.nan, math.inf, 1e300, 2.0])
    _, pairs = trace_of(made(values)).columns(10_000_000) or (0, np.empty(0))
    assert np.isnan(pairs[:, 0]).tolist() == [False, True, True, True, False]


def state(trace: Trace, age: float, silent: float = 0.0, stale: float = 60.0) -> str:
    assert trace.newest_ns is not None
    now_ns = trace.newest_ns + round(age * 1e9)
    return data_state.of_trace(trace, now_ns, trace.heard_s + silent, 0.0, stale).word


def test_each_word_has_its_reason() -> None:
    rng = np.random.default_rng(1)
    well = trace_of(made(rng.standard_normal(400)))
    assert state(well, 0.5) == "OK"
    assert state(well, 11.9) == "OK"  # three records of four seconds
    assert state(well, 12.1) == "LAG"
    assert state(well, 61, silent=61) == "STALE"
    assert state(well, 601, silent=601) == "DEAD"
    assert state(well, 1e9) == "LAG"  # an old recording that is played
    flat = trace_of(made(np.concatenate([rng.standard_normal(100), np.full(32, 7.0)])))
    assert state(flat, 0.5) == "FLAT"
    assert state(flat, 61, silent=61) == "STALE"
    assert state(trace_of(made(np.concatenate([rng.standard_normal(100), np.full(31, 7.0)]))), 0.5) == "OK"
    flat.take(made(rng.standard_normal(10), 132), 0.0)
    assert state(flat, 0.5) == "OK"


def test_a_flat_line_is_one_across_records_and_the_rail_is_no_flat_line() -> None:
    rng = np.random.default_rng(1)
    halves = trace_of(made(rng.standard_normal(50)), made(np.full(20, 3.0), 50), made(np.full(20, 3.0), 70))
    assert state(halves, 0.5) == "FLAT"
    apart = trace_of(made(rng.standard_normal(50)), made(np.full(20, 3.0), 50), made(np.full(20, 3.0), 90))
    assert state(apart, 0.5) == "OK"
    assert state(trace_of(made(np.full(100, CLIP))), 0.5) == "CLIPPED"


def test_clipped_is_told_for_ten_seconds() -> None:
    rng = np.random.default_rng(1)
    trace = trace_of(made(np.concatenate([rng.standard_normal(99), [-CLIP]])))
    trace.take(made(rng.standard_normal(900), 100), 0.0)
    assert state(trace, 0.5) == "CLIPPED"
    trace.take(made(rng.standard_normal(200), 1000), 0.0)
    assert state(trace, 0.5) == "OK"
    assert state(trace_of(made(rng.standard_normal(50), quality=frozenset({"clipped"}))), 0.5) == "CLIPPED"


def test_what_comes_again_is_old_until_something_new_comes() -> None:
    rng = np.random.default_rng(1)
    trace = trace_of(made(rng.standard_normal(1000)))
    for second in range(12):
        trace.take(made(rng.standard_normal(50), 50 * second), float(second))
        assert state(trace, 0.5) == ("OLD" if second >= 10 else "OK")
    trace.take(made(rng.standard_normal(50), 1000), 12.0)
    assert state(trace, 0.5) == "OK"


def test_a_channel_that_never_came_is_waited_for_and_then_dead() -> None:
    trace = Trace(AssembleConfig())
    assert data_state.of_trace(trace, T0, 10.0, 0.0, 60.0) == data_state.DataState("LAG", None)
    assert data_state.of_trace(trace, T0, 61.0, 0.0, 60.0) == data_state.DataState("DEAD", None)
    trace.ahead_seconds = 40.0
    assert data_state.of_trace(trace, T0, 10.0, 0.0, 60.0) == data_state.DataState("LAG", -40.0)


@pytest.mark.parametrize(
    ("age", "unmoved", "word"),
    [(1, None, "OK"), (20, 1, "LAG"), (70, None, "STALE"), (1e9, 3, "LAG"), (700, 700, "DEAD"), (700, 65, "STALE")],
)
def test_channels_that_the_daemon_alone_reads(age: float, unmoved: float | None, word: str) -> None:
    assert data_state.of_daemon(age, unmoved, 60.0).word == word
