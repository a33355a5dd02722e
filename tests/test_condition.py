"""Band-pass and STA/LTA against obspy over the whole trace, for any cut into blocks."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made_streams import SID, blocks, cuts_of, noise_with_bursts

from tscc_stream.config import ConditionConfig, TriggerConfig
from tscc_stream.messages import EndOfStream, Float64Array, Gap
from tscc_stream.sampling import RateError
from tscc_stream.stages.condition import ClassicRatio, Condition, RecursiveRatio

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from obspy import Trace
    from obspy.signal.trigger import classic_sta_lta, recursive_sta_lta, trigger_onset

RATES = st.sampled_from([50.0, 62.5, 100.0, 200.0])
SETTINGS = {"sta_seconds": 0.2, "lta_seconds": 2.0, "trigger_on": 3.0, "trigger_off": 1.0}


def _ratio(data: Float64Array, rate: float, cuts: list[int], method: str, band: tuple[float, float]) -> Float64Array:
    trigger = TriggerConfig.model_validate({"method": method, **SETTINGS})
    condition = Condition(lambda _: (ConditionConfig(band_hz=band), trigger))
    out = [c for block in blocks(data, rate, cuts) for c in condition.feed(block)]
    assert all(not c.values.flags.writeable for c in out)
    return np.concatenate([c.values for c in out])


def _filtered(data: Float64Array, rate: float, band: tuple[float, float]) -> Float64Array:
    trace = Trace(data - data[0], {"sampling_rate": rate})
    trace.filter("bandpass", freqmin=band[0], freqmax=band[1], corners=4)
    filtered: Float64Array = trace.data
    return filtered


def _lengths(rate: float) -> tuple[int, int]:
    return int(SETTINGS["sta_seconds"] * rate), int(SETTINGS["lta_seconds"] * rate)


@given(
    seed=st.integers(0, 1000),
    samples=st.integers(1, 900),
    rate=RATES,
    offset=st.sampled_from([0.0, 1e6, -1e6]),
    data=st.data(),
)
def test_recursive_is_bitwise_obspys_for_any_cut(
    seed: int, samples: int, rate: float, offset: float, data: st.DataObject
) -> None:
    signal = noise_with_bursts(seed, samples, [samples // 2], offset=offset)
    got = _ratio(signal, rate, data.draw(cuts_of(samples)), "recursive", (5.0, 20.0))
    nsta, nlta = _lengths(rate)
    expected = recursive_sta_lta(_filtered(signal, rate, (5.0, 20.0)), nsta, nlta)
    if samples <= nlta:  # obspy blanks nothing here
        expected[:] = 0.0
    assert np.array_equal(got, expected)


@given(
    seed=st.integers(0, 1000), rate=RATES, offset=st.sampled_from([0.0, 1e6]), samples=st.integers(500, 1500),
    data=st.data(),
)  # fmt: skip
def test_classic_equals_obspys_within_rounding_and_triggers_at_the_same_samples(
    seed: int, rate: float, offset: float, samples: int, data: st.DataObject
) -> None:
    signal = noise_with_bursts(seed, samples, [samples // 2, samples - 90], offset=offset)
    got = _ratio(signal, rate, data.draw(cuts_of(samples)), "classic", (5.0, 20.0))
    assert np.array_equal(got, _ratio(signal, rate, [], "classic", (5.0, 20.0)))
    expected = classic_sta_lta(_filtered(signal, rate, (5.0, 20.0)), *_lengths(rate))
    assert np.allclose(got, expected, rtol=1e-9, atol=1e-9)
    assert np.array_equal(trigger_onset(got, 3.0, 1.0), trigger_onset(expected, 3.0, 1.0))


@given(nsta=st.integers(1, 7), extra=st.integers(0, 9), samples=st.integers(1, 120), data=st.data())
@example(nsta=3, extra=0, samples=30, data=None)
def test_classic_is_exact_on_small_integers(nsta: int, extra: int, samples: int, data: st.DataObject | None) -> None:
    nlta = nsta + extra
    values = np.random.default_rng(samples).integers(-9, 10, samples).astype(np.float64)
    ratio = ClassicRatio(nsta, nlta)
    cuts = data.draw(cuts_of(samples)) if data else [1, 7]
    got = np.concatenate([ratio.feed(block.samples) for block in blocks(values, 1.0, cuts)])
    squared = np.square(values)
    for i in range(samples):
        if i < nlta - 1:
            assert got[i] == 0.0
            continue
        sta, lta = squared[i - nsta + 1 : i + 1].sum(), squared[i - nlta + 1 : i + 1].sum()
        assert got[i] == (sta * (nlta / nsta) / lta if lta else 0.0)


def test_classic_does_not_drift_after_a_huge_burst() -> None:
    signal = np.random.default_rng(3).normal(0, 1, 20_000)
    signal[1000:1010] = 1e8
    ratio = ClassicRatio(20, 200)
    got = np.concatenate([ratio.feed(block.samples) for block in blocks(signal, 100.0, list(range(0, 20_000, 137)))])
    alone = ClassicRatio(20, 200)
    assert np.allclose(got[5000:], alone.feed(signal[4000:])[1000:], rtol=1e-12)


def test_an_offset_does_not_deafen() -> None:
    quiet = noise_with_bursts(5, 2000, [1000])
    onsets = [
        trigger_onset(_ratio(quiet + offset, 100.0, [], "recursive", (5.0, 20.0)), 3.0, 1.0).tolist()
        for offset in (0.0, 1e6)
    ]
    assert onsets[0]
    assert [on for on, _ in onsets[0]] == [on for on, _ in onsets[1]]


@pytest.mark.parametrize("end", [Gap(SID, 0, None, "gap"), EndOfStream(SID)])
def test_a_break_is_forgotten_by_its_channel_alone(end: Gap | EndOfStream) -> None:
    trigger = TriggerConfig.model_validate(SETTINGS)
    condition, fresh = (Condition(lambda _: (ConditionConfig(), trigger)) for _ in range(2))
    other = blocks(noise_with_bursts(1, 600), 100.0, [300], sid="FDSN:XX_A__E_H_Z")
    first, second = blocks(noise_with_bursts(2, 400), 100.0), blocks(noise_with_bursts(3, 400), 100.0)
    condition.feed(first[0])
    condition.feed(other[0])
    assert condition.feed(end) == []
    assert np.array_equal(condition.feed(second[0])[0].values, fresh.feed(second[0])[0].values)
    fresh.feed(other[0])
    assert np.array_equal(condition.feed(other[1])[0].values, fresh.feed(other[1])[0].values)


def test_the_end_of_an_unknown_channel_is_nothing() -> None:
    assert Condition(lambda _: (ConditionConfig(), TriggerConfig())).feed(EndOfStream(SID)) == []


@pytest.mark.parametrize(
    ("rate", "settings", "words"),
    [
        (40.0, {}, "40 Hz cannot hold the band 10-20 Hz: Nyquist is 20 Hz"),
        (20.0, {}, "20 Hz cannot hold"),
        (50.0, {"sta_seconds": 0.01}, "no sample within sta_seconds 0.01"),
        (45.0, {"sta_seconds": 0.045, "lta_seconds": 0.095, "trigger_on": 2.05}, "at 45 Hz STA/LTA stays below 2"),
    ],
)
def test_a_rate_that_cannot_work_is_refused_by_name(rate: float, settings: dict[str, float], words: str) -> None:
    trigger = TriggerConfig.model_validate(settings)
    with pytest.raises(RateError, match=words.replace("/", ".")):
        Condition(lambda _: (ConditionConfig(), trigger)).check(SID, rate)


def test_a_rate_that_works_is_not_refused() -> None:
    Condition(lambda _: (ConditionConfig(), TriggerConfig())).check(SID, 40.1)


@pytest.mark.parametrize("gain", [1e-60, 1.0, 1e7])
def test_recursive_is_bitwise_obspys_at_any_amplitude_and_zero_over_zeros(gain: float) -> None:
    values = np.zeros(600)
    values[300:] = gain * np.random.default_rng(1).normal(0, 1, 300)
    got = RecursiveRatio(5, 50).feed(values)
    assert not got[:300].any()
    assert np.array_equal(got[300:], recursive_sta_lta(values, 5, 50)[300:])


def test_no_ratio_exceeds_what_check_compares_the_threshold_with() -> None:
    values = np.zeros(500)
    values[400] = 1.0
    assert ClassicRatio(5, 50).feed(values).max() == pytest.approx(10.0)
    assert RecursiveRatio(5, 50).feed(values).max() == pytest.approx(10.0)
