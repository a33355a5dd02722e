"""The trigger state machine against obspy's `trigger_onset`, and against a literal restatement where obspy has none."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_streams import SECOND, SID, T0, characteristics, cuts_of

from tscc_stream.config import TriggerConfig
from tscc_stream.messages import EndOfStream, Float64Array, Gap, Trigger
from tscc_stream.sampling import offset_ns
from tscc_stream.stages.detect import Detect

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from obspy.signal.trigger import trigger_onset

LEVELS = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5, 9.0]), min_size=1, max_size=150).map(np.array)
RATE = 10.0


def _config(**changes: float) -> TriggerConfig:
    return TriggerConfig.model_validate({"trigger_on": 3.5, "trigger_off": 1.0, "max_seconds": 1000.0, **changes})


def _detected(
    values: Float64Array, cuts: list[int], config: TriggerConfig, rate: float = RATE
) -> list[tuple[int, int]]:
    """(on, off) of the closed triggers, each of which was announced before with the same onset."""
    detect = Detect(lambda _: config)
    out: list[Trigger] = []
    for part in characteristics(values, rate, cuts):
        out += detect.feed(part)
    out += detect.feed(EndOfStream(SID))
    opened, closed = out[::2], out[1::2]
    assert [t.on_index for t in opened] == [t.on_index for t in closed]
    assert all(t.off_index is None and t.off_ns is None for t in opened)
    for t in closed:
        assert t.off_index is not None
        assert t.off_ns is not None
        rounding = 0 if SECOND % rate == 0 else 1  # blocks say their time in whole ns
        assert abs(t.on_ns - T0 - offset_ns(t.on_index, rate)) <= rounding
        assert abs(t.off_ns - T0 - offset_ns(t.off_index, rate)) <= rounding
    return [(t.on_index, t.off_index) for t in closed if t.off_index is not None]


@given(values=LEVELS, longest=st.sampled_from([1, 2, 3, 7, 20, 10_000]), data=st.data())
def test_equals_trigger_onset_for_any_cut(values: Float64Array, longest: int, data: st.DataObject) -> None:
    config = _config(max_seconds=longest / RATE)
    expected = trigger_onset(values, 3.5, 1.0, max_len=longest)
    assert _detected(values, data.draw(cuts_of(len(values))), config) == [(int(a), int(b)) for a, b in expected]


@pytest.mark.parametrize("rate", [1.0, 62.5, 100.0, 300.0, 1 / 3])
@pytest.mark.parametrize("seed", range(4))
def test_equals_trigger_onset_on_ratios_of_noise(seed: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    values = np.exp(np.convolve(rng.normal(0, 1.2, 3000), np.ones(9) / 3, "same"))
    cuts = rng.integers(1, 3000, 40).tolist()
    longest = int(30.0 * rate + 0.5)
    expected = trigger_onset(values, 3.5, 1.0, max_len=longest)
    assert len(expected) > 5
    assert _detected(values, cuts, _config(max_seconds=30.0), rate) == [(int(a), int(b)) for a, b in expected]


def _literal(values: Float64Array, longest: int, minimum: int, dead: int) -> list[tuple[int, int]]:
    """One sample after the other."""
    out: list[tuple[int, int]] = []
    opened, earliest, above = -1, 0, False
    for i, value in enumerate([*values.tolist(), None]):
        if opened >= 0 and (value is None or (i > opened and value < 1.0) or i > opened + longest):
            last = i - 1
            if last - opened >= minimum:
                out.append((opened, last))
                earliest = i + dead
            else:
                earliest = i
            opened = -1
        if value is not None:
            if opened < 0 and i >= earliest and value >= 3.5 and not above:
                opened = i
            above = value >= 3.5
    return out


@given(values=LEVELS, longest=st.integers(1, 30), minimum=st.integers(0, 5), dead=st.integers(0, 25), data=st.data())
def test_minimum_and_dead_time_equal_a_literal_restatement_for_any_cut(
    values: Float64Array, longest: int, minimum: int, dead: int, data: st.DataObject
) -> None:
    config = _config(
        max_seconds=max(longest, minimum) / RATE, min_seconds=(minimum + 0.5) / RATE, dead_seconds=(dead + 0.5) / RATE
    ) if minimum < longest else _config(max_seconds=longest / RATE, dead_seconds=(dead + 0.5) / RATE)  # fmt: skip
    minimum = minimum if minimum < longest else 0
    expected = _literal(values, max(longest, minimum), minimum, dead)
    assert _detected(values, data.draw(cuts_of(len(values))), config) == expected


def test_a_trigger_is_announced_with_the_sample_that_makes_it_long_enough() -> None:
    values = np.array([0.0, 9, 9, 9, 9, 9, 0, 0])
    detect = Detect(lambda _: _config(min_seconds=0.3))
    announced = [detect.feed(part) for part in characteristics(values, RATE, list(range(1, 8)))]
    assert [len(out) for out in announced] == [0, 0, 0, 0, 1, 0, 1, 0]
    assert announced[4][0].on_index == announced[6][0].on_index == 1


@pytest.mark.parametrize(("cause", "closes"), [("gap", True), ("rate", True), ("flat", False), ("invalid", False)])
def test_a_break_closes_a_trigger_unless_the_breaks_own_edge_made_it(cause: str, closes: bool) -> None:
    detect = Detect(lambda _: _config())
    (part,) = characteristics(np.array([0.0, 9, 9, 2]), RATE)
    (opened,) = detect.feed(part)
    out = detect.feed(Gap(SID, T0 + SECOND, None, cause))
    assert [(t.on_index, t.off_index, t.off_ns) for t in out] == ([(1, 3, T0 + 300_000_000)] if closes else [])
    assert opened.on_index == 1
    assert detect.feed(Gap(SID, T0, None, "gap")) == []
    (again,) = characteristics(np.array([9.0, 0.0]), RATE, start_ns=T0 + 2 * SECOND)
    assert [t.on_index for t in detect.feed(again)] == [0, 0]


def test_an_excursion_too_short_to_be_announced_ends_with_the_data_in_silence() -> None:
    detect = Detect(lambda _: _config(min_seconds=0.5))
    (part,) = characteristics(np.array([0.0, 9, 9]), RATE)
    assert detect.feed(part) == []
    assert detect.feed(EndOfStream(SID)) == []


def test_channels_do_not_meet() -> None:
    detect = Detect(lambda _: _config())
    a = characteristics(np.array([0.0, 9, 9, 9, 0]), RATE, [2], sid="FDSN:XX_A__E_H_Z")
    b = characteristics(np.array([9.0, 9, 0, 0, 0]), RATE, [1], sid="FDSN:XX_B__E_H_Z")
    out = [t for part in (a[0], b[0], b[1], a[1]) for t in detect.feed(part)]
    assert [(t.sid[8], t.on_index, t.off_index) for t in out] == [
        ("A", 1, None), ("B", 0, None), ("B", 0, 1), ("A", 1, 3),
    ]  # fmt: skip


def test_a_new_segment_without_a_gap_starts_afresh() -> None:
    detect = Detect(lambda _: _config())
    for _ in range(2):
        (part,) = characteristics(np.array([9.0, 9.0]), RATE)
        assert [t.on_index for t in detect.feed(part)] == [0]
