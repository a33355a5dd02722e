"""Windows: what they hold, bit by bit; when they come, when they never come, and what is said of them."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_time import PATIENCE_S
from made_streams import SECOND, SID, T0, blocks, cuts_of, noise_with_bursts, package_spec
from scipy.signal import butter, firwin, resample_poly, sosfilt

from tscc_stream.messages import (
    Characteristic,
    EndOfStream,
    Float32Array,
    Float64Array,
    Gap,
    Trigger,
    Window,
    WindowDropped,
    read_only,
)
from tscc_stream.package import PackageSpec
from tscc_stream.sampling import RateError, offset_ns
from tscc_stream.stages.extract import Extract, cut_window, normalise, plan_windows, uid_of

SPEC = package_spec()
RATES = st.sampled_from([50.0, 100.0, 125.0, 200.0, 62.5])


def _extract(spec: PackageSpec = SPEC, clip: float | None = None, min_seconds: float = 0.0) -> Extract:
    return Extract(spec, lambda _: clip, lambda _: min_seconds)


def _trigger(on: int, rate: float, off: int | None = None) -> Trigger:
    off_ns = None if off is None else T0 + offset_ns(off, rate)
    return Trigger(SID, rate, on, T0 + offset_ns(on, rate), off, off_ns)


def _run(  # every edge is fed with the block that holds it, as the pipeline does
    extract: Extract,
    signal: Float64Array,
    rate: float,
    edges: list[tuple[int, Trigger]],
    cuts: list[int],
    ratios: Float64Array | None = None,
    quality: frozenset[str] = frozenset(),
) -> list[Window | WindowDropped]:
    values = np.ones(len(signal)) if ratios is None else ratios
    out: list[Window | WindowDropped] = []
    for block in blocks(signal, rate, cuts, quality=quality):
        end = block.index + block.samples.size
        for at, trigger in edges:
            if block.index <= at < end:
                out += extract.feed(trigger)
        out += extract.feed(Characteristic(block, read_only(values[block.index : end].copy())))
    return out


def _literal(signal: Float64Array, onset: int, rate: float, spec: PackageSpec) -> Float32Array:
    """The whole segment is at hand: slice, filter, resample, slice."""
    ratio = Fraction(spec.sample_rate_hz).limit_denominator(1000) / Fraction(rate).limit_denominator(1000)
    up, down = ratio.numerator, ratio.denominator
    slow = max(up, down)
    half = -(-10 * slow // up) if slow > 1 else 0
    before = -(-spec.onset_sample * down // up)
    after = -(-(spec.samples - 1 - spec.onset_sample) * down // up)
    begin = max(0, onset - before - half - round(spec.warmup_seconds * rate))
    begin += (onset - begin) % down
    raw = signal[begin : onset + after + half + 1]
    low, high = (2 * hz / rate for hz in spec.band_hz)
    out = sosfilt(butter(spec.band_corners, [low, high], "band", output="sos"), raw - raw[0])
    if slow > 1:
        out = resample_poly(out, up, down, window=firwin(20 * slow + 1, 1 / slow, window="hamming"))
    first = (onset - begin) * up // down - spec.onset_sample
    return out[first : first + spec.samples].astype(np.float32)


@given(seed=st.integers(0, 500), rate=RATES, onset=st.integers(120, 420), offset=st.sampled_from([0.0, 1e6]),
       data=st.data())  # fmt: skip
def test_a_window_is_a_filter_and_a_resampling_of_the_raw_slice_bit_by_bit(
    seed: int, rate: float, onset: int, offset: float, data: st.DataObject
) -> None:
    signal = noise_with_bursts(seed, 1000, [onset], offset=offset)
    (window,) = _run(_extract(), signal, rate, [(onset, _trigger(onset, rate))], data.draw(cuts_of(1000)))
    assert isinstance(window, Window)
    assert np.array_equal(window.waveform[:, 0], _literal(signal, onset, rate, SPEC))
    assert np.array_equal(window.normalised, normalise(window.waveform, "z"))
    assert (window.sid, window.onset_ns) == (SID, T0 + offset_ns(onset, rate))
    assert window.start_ns == window.onset_ns - SECOND // 5
    assert window.peak_amplitude == float(np.abs(window.waveform).max())
    assert (window.sample_rate_hz, window.stream_rate_hz, window.uid) == (50.0, rate, uid_of(SID, window.onset_ns))


@pytest.mark.parametrize("rate", [50.0, 100.0, 62.5])
@pytest.mark.parametrize("beyond", [-1, 0, 1, 2])
def test_a_window_comes_with_its_last_sample(rate: float, beyond: int) -> None:
    signal, last = noise_with_bursts(1, 1000), 300 + plan_windows(SPEC, rate).reach
    out = _run(_extract(), signal[: last + beyond], rate, [(300, _trigger(300, rate))], [])
    assert [type(window) for window in out] == ([Window] if beyond > 0 else [])


@given(seed=st.integers(0, 100), onset=st.integers(300, 500), data=st.data())
def test_history_is_long_enough_for_an_announcement_as_late_as_the_minimum(
    seed: int, onset: int, data: st.DataObject
) -> None:
    signal = noise_with_bursts(seed, 1000)
    edges = [(onset + 150, _trigger(onset, 100.0))]
    (window,) = _run(_extract(min_seconds=1.5), signal, 100.0, edges, data.draw(cuts_of(1000, 40)))
    assert isinstance(window, Window)
    assert np.array_equal(window.waveform[:, 0], _literal(signal, onset, 100.0, SPEC))


@pytest.mark.parametrize(("stream", "model"), [(1000.0, 250.0), (100.0, 50.0), (50.0, 50.0), (200.0, 250.0)])
@pytest.mark.parametrize("onset", [3000, 3001, 3002, 3003])
def test_the_onset_stands_where_the_model_wants_it(stream: float, model: float, onset: int) -> None:
    """A spike through a filter that hardly delays: the largest sample is the onset's."""
    high = 0.45 * min(stream, model)
    spec = package_spec(
        sample_rate_hz=model, samples=200, onset_sample=70, band_hz=(0.01, high), band_corners=1, warmup_seconds=2.0
    )
    signal = np.zeros(6000)
    signal[onset] = 1000.0
    (window,) = _run(_extract(spec), signal, stream, [(onset, _trigger(onset, stream))], [1111, 3002])
    assert isinstance(window, Window)
    assert int(np.abs(window.waveform[:, 0]).argmax()) in (70, 71)
    assert np.abs(window.waveform[:60]).max() < 0.02 * window.peak_amplitude


@pytest.mark.parametrize(("stream", "model"), [(1000.0, 250.0), (100.0, 50.0), (500.0, 200.0)])
def test_what_the_models_rate_cannot_hold_is_suppressed(stream: float, model: float) -> None:
    spec = package_spec(
        sample_rate_hz=model, samples=300, onset_sample=100, band_hz=(0.02 * model, 0.49 * model), warmup_seconds=4.0
    )
    plan = plan_windows(spec, stream)
    time = np.arange(int(12 * stream)) / stream

    def level(hz: float) -> float:
        cut = cut_window(np.sin(2 * np.pi * hz * time), int(6 * stream), plan)
        assert cut is not None
        return float(np.abs(cut).max())

    inside = level(0.3 * model)
    assert 0.8 < inside < 1.2
    for hz in np.linspace(0.5 * model * 1.25, 0.49 * stream, 9):
        assert 20 * np.log10(level(float(hz)) / inside) < -40, hz


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (40.0, "40 Hz cannot hold the band 2-20 Hz of model tiny; expected more than 40 Hz"),
        (101.37, None),
        (51.0, None),
        (99.99999, None),
        (1e6, "1e.06 Hz and the 50 Hz of model tiny have no simple ratio"),
    ],
)
def test_a_rate_is_refused_by_name(rate: float, words: str | None) -> None:
    if words is None:
        _extract().check(rate)
        return
    with pytest.raises(RateError, match=words):
        _extract().check(rate)


def test_a_rate_that_can_only_be_reached_by_large_factors_upward_is_refused() -> None:
    spec = package_spec(sample_rate_hz=100_003.0)
    with pytest.raises(RateError, match="no simple ratio"):
        plan_windows(spec, 50.0)


def test_the_last_digits_of_a_rate_do_not_matter() -> None:
    assert (plan_windows(SPEC, 99.99999).up, plan_windows(SPEC, 99.99999).down) == (1, 2)
    assert (plan_windows(SPEC, 128.0).up, plan_windows(SPEC, 128.0).down) == (25, 64)


def _last_of(onset: int, rate: float) -> int:
    return onset + plan_windows(SPEC, rate).after


@pytest.mark.parametrize(("late", "suppressed"), [(-30, True), (0, True), (1, False)])
def test_an_onset_within_a_pending_window_makes_none_of_its_own(late: int, suppressed: bool) -> None:
    extract, second = _extract(), _last_of(300, 100.0) + late
    edges = [(300, _trigger(300, 100.0)), (310, _trigger(300, 100.0, 309)), (second, _trigger(second, 100.0))]
    out = _run(extract, noise_with_bursts(1, 1000), 100.0, edges, [305, 350])
    assert [window.onset_ns for window in out] == [T0 + 3 * SECOND, T0 + second * 10_000_000][: 2 - suppressed]
    assert extract.counts["suppressed"] == suppressed
    assert extract.covering(SID) == out[-1].uid


def test_two_windows_may_be_pending_at_once() -> None:
    second = _last_of(300, 100.0) + 1
    edges = [(300, _trigger(300, 100.0)), (second, _trigger(second, 100.0))]
    extract = _extract()
    signal = noise_with_bursts(1, 1000)
    assert _run(extract, signal[: second + 3], 100.0, edges, []) == []
    assert extract.oldest_pending_ns() == T0 + 3 * SECOND
    rest = blocks(signal, 100.0, [second + 3])[1]
    out = extract.feed(Characteristic(rest, read_only(np.ones(rest.samples.size))))
    assert [window.onset_ns for window in out] == [T0 + 3 * SECOND, T0 + second * 10_000_000]
    assert extract.oldest_pending_ns() == 1 << 62


@pytest.mark.parametrize(("end", "reason"), [(Gap(SID, 0, None, "gap"), "gap"), (EndOfStream(SID), "end")])
def test_a_window_that_cannot_become_complete_is_dropped_and_nothing_of_it_stays(
    end: Gap | EndOfStream, reason: str
) -> None:
    extract = _extract()
    assert _run(extract, noise_with_bursts(1, 320), 100.0, [(300, _trigger(300, 100.0))], []) == []
    assert extract.feed(end) == [WindowDropped(uid_of(SID, T0 + 3 * SECOND), SID, T0 + 3 * SECOND, reason)]
    assert extract.feed(end) == []
    signal = noise_with_bursts(2, 900)
    edges = [(250, _trigger(250, 100.0))]
    again, fresh = (_run(stage, signal, 100.0, edges, [200])[0] for stage in (extract, _extract()))
    assert isinstance(again, Window)
    assert isinstance(fresh, Window)
    assert np.array_equal(again.waveform, fresh.waveform)


@pytest.mark.parametrize("rate", [50.0, 100.0])
def test_a_segment_too_young_for_the_window_itself_makes_none(rate: float) -> None:
    before = plan_windows(SPEC, rate).before
    for onset, reason in ((before - 1, "history"), (before, "")):
        edges = [(onset, _trigger(onset, rate))]
        (out,) = _run(_extract(), noise_with_bursts(1, 400), rate, edges, [])
        assert getattr(out, "reason", "") == reason


def test_the_samples_that_a_young_segment_has_are_its_warm_up() -> None:
    signal = noise_with_bursts(3, 600)
    (window,) = _run(_extract(), signal, 100.0, [(61, _trigger(61, 100.0))], [])
    assert isinstance(window, Window)
    assert np.array_equal(window.waveform[:, 0], _literal(signal, 61, 100.0, SPEC))


@given(
    onset=st.integers(150, 200),
    length=st.integers(1, 200),
    closes=st.booleans(),
    rate=st.sampled_from([50.0, 100.0]),
    seed=st.integers(0, 50),
    data=st.data(),
)
def test_peak_ratio_and_duration_end_with_the_trigger_or_the_window_for_any_cut(
    onset: int, length: int, closes: bool, rate: float, seed: int, data: st.DataObject
) -> None:
    ratios = np.random.default_rng(seed).uniform(0, 9, 600)
    off = onset + length
    edges = [(onset, _trigger(onset, rate))] + ([(off + 1, _trigger(onset, rate, off))] if closes else [])
    (window,) = _run(_extract(), noise_with_bursts(0, 600), rate, edges, data.draw(cuts_of(600, 60)), ratios)
    assert isinstance(window, Window)
    last = min(off, _last_of(onset, rate)) if closes else _last_of(onset, rate)
    assert window.peak_ratio == ratios[onset : last + 1].max()
    assert window.duration_s == (last - onset) / rate


@given(at=st.integers(180, 420), data=st.data())
def test_a_sample_at_the_rail_flags_the_windows_that_hold_it(at: int, data: st.DataObject) -> None:
    signal = noise_with_bursts(1, 700)
    signal[at] = -5000.0
    (window,) = _run(
        _extract(clip=5000.0), signal, 100.0, [(300, _trigger(300, 100.0))], data.draw(cuts_of(700))
    )  # fmt: skip
    assert isinstance(window, Window)
    assert window.quality == (("clipped",) if 280 <= at <= _last_of(300, 100.0) else ())


@pytest.mark.parametrize("begin", [200, 265, 300, _last_of(300, 100.0) - 20])
@pytest.mark.parametrize("length", [7, 15, 16])
def test_a_long_run_flags_a_window_as_flat(begin: int, length: int) -> None:
    signal = np.random.default_rng(0).permutation(700).astype(np.float64)
    signal[begin : begin + length] = 12.5
    (window,) = _run(_extract(), signal, 100.0, [(300, _trigger(300, 100.0))], [])
    assert isinstance(window, Window)
    inside = min(begin + length, _last_of(300, 100.0) + 1) - max(begin, 280)
    assert window.quality == (("flat",) if inside >= 16 else ())


def test_what_the_recorder_says_flags_the_windows_that_hold_its_record() -> None:
    extract, signal = _extract(), noise_with_bursts(1, 1400)
    flagged = frozenset({"timing", "clipped"})
    out: list[Window | WindowDropped] = []
    for block in blocks(signal, 100.0, [279, 280, 700, 900]):
        for onset in (300, 600, 915):
            if block.index <= onset < block.index + block.samples.size:
                extract.feed(_trigger(onset, 100.0))
        quality = flagged if block.index in (279, 700) else frozenset()
        said = type(block)(SID, block.index, block.start_ns, 100.0, block.samples, quality, block.index + 5)
        out += extract.feed(Characteristic(said, read_only(np.ones(block.samples.size))))
    assert [(w.quality, w.received_ns) for w in out if isinstance(w, Window)] == [
        ((), 285),
        ((), 285),
        (("clipped", "timing"), 905),
    ]


def test_the_uid_is_the_source_id_and_the_onset_to_the_microsecond() -> None:
    assert uid_of(SID, T0) == uid_of(SID, T0 + 499) == uid_of(SID, T0 - 500)
    assert len({uid_of(SID, T0), uid_of(SID, T0 + 500), uid_of(SID, T0 - 501), uid_of(SID + "X", T0)}) == 4
    assert uid_of("FDSN:BW_UH1__S_H_Z", 1_274_977_473_210_000_000) == "5229c00d5442526d5409c164938e94d6"


@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=40), channels=st.integers(1, 3))
def test_normalisations(values: list[float], channels: int) -> None:
    x = np.stack([np.roll(np.array(values, np.float32), shift) for shift in range(channels)], axis=1)
    for how in ("z", "asinh_mad", "none"):
        seen = normalise(x, how)
        assert seen.dtype == np.float32
        assert np.isfinite(seen).all()
        assert np.array_equal(normalise(x[np.newaxis], how)[0], seen)
    assert np.array_equal(normalise(x, "none"), x)
    wide = x.astype(np.float64)
    if wide.std(axis=0).min() > 1e-3:
        assert np.allclose(normalise(x, "z"), (wide - wide.mean(axis=0)) / wide.std(axis=0), atol=1e-5)
    scale = 1.4826 * np.median(np.abs(wide - np.median(wide, axis=0)), axis=0)
    if scale.min() > 0:
        expected = np.arcsinh((wide - np.median(wide, axis=0)) / scale)
        assert np.allclose(normalise(x, "asinh_mad"), expected, rtol=1e-6, atol=1e-6)
    constant = np.full((5, 1), 3.0, np.float32)
    assert not normalise(constant, "z").any()
    assert not normalise(constant, "asinh_mad").any()


def test_history_stays_short() -> None:
    extract = _extract()
    _run(extract, noise_with_bursts(1, 20_000), 100.0, [], list(range(0, 20_000, 100)), quality=frozenset({"timing"}))
    channel = extract._channels[SID]
    assert channel.history.size == channel.ratios.size < 2 * channel.plan.history
    assert len(channel.flags) < 6


def test_after_the_warm_up_the_first_window_loads_nothing_more() -> None:
    """It would wait for half a second for scipy.signal, and all channels with it."""
    program = """if True:
        import sys, numpy as np
        from tscc_stream import package, windows
        spec = package.load(package.find("models/rutford")).spec
        windows.warm_up(spec)
        before = set(sys.modules)
        plan = windows.plan_windows(spec, 1000.0)
        cut = windows.cut_window(np.ones(plan.history + plan.reach + 1), plan.history, plan)
        print(cut.size, sorted(set(sys.modules) - before))
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout.split(maxsplit=1) == ["500", "[]\n"]
