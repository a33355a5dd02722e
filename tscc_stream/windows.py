"""Raw samples around an onset to what the encoder sees, and the one place of normalisation.

A window is made from the raw samples around an onset by the package's band, rate and onset position; it depends on
those samples alone, never on packets, batches or the trigger's own filter. Order of operations: from the first sample
of the warm-up on (its value subtracted) through a causal Butterworth band-pass at the stream's rate, then a zero-phase
FIR low-pass and polyphase resampling, aligned so that the onset falls on the grid.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import numpy as np

from tscc_stream.butterworth import band_pass
from tscc_stream.kernels import filters
from tscc_stream.messages import Float32Array, Float64Array
from tscc_stream.package import Normalisation, PackageSpec
from tscc_stream.sampling import RateError, exact_rate

FIR_HALF_LENGTH = 10
"""Half length of the anti-aliasing filter in samples of the slower grid."""
RATIO_TERMS = (10, 100, 1000)
"""Largest terms of the ratio of the two rates: the simplest ratio that is near enough is taken."""
RATIO_TOLERANCE = 1e-4
"""Relative. Recorders state 99.99999 Hz; over a window of 500 samples this is 0.05 samples."""
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """How windows are cut from a stream of one rate. Counts are samples of the stream.

    before / after: from the onset back to the window's first sample and on to its last; half: the FIR's reach.
    """

    spec: PackageSpec
    stream_rate_hz: float
    up: int
    down: int
    before: int
    after: int
    half: int
    warmup: int
    sections: Float64Array = field(repr=False)

    @property
    def history(self) -> int:
        """Samples before an onset that a window may use."""
        return self.before + self.half + self.warmup + self.down

    @property
    def reach(self) -> int:
        """Samples after an onset that a window needs."""
        return self.after + self.half


@lru_cache(maxsize=256)
def _cached_plan(spec_key: str, rate_hz: float) -> WindowPlan:
    return _make_plan(PackageSpec.model_validate_json(spec_key), rate_hz)


def plan_windows(spec: PackageSpec, rate_hz: float) -> WindowPlan:
    """The plan for one stream rate. Raises RateError, naming the rate, where the model cannot be served."""
    return _cached_plan(spec.model_dump_json(), rate_hz)


def _make_plan(spec: PackageSpec, rate_hz: float) -> WindowPlan:
    low, high = spec.band_hz
    if high >= rate_hz / 2:
        raise RateError(
            f"{rate_hz:g} Hz cannot hold the band {low:g}-{high:g} Hz of model {spec.name}; "
            f"expected more than {2 * high:g} Hz"
        )
    ratio = _simple_ratio(spec, rate_hz)
    up, down = ratio.numerator, ratio.denominator
    slow = max(up, down)
    return WindowPlan(
        spec=spec,
        stream_rate_hz=rate_hz,
        up=up,
        down=down,
        before=-(-spec.onset_sample * down // up),
        after=-(-(spec.samples - 1 - spec.onset_sample) * down // up),
        half=0 if slow == 1 else -(-FIR_HALF_LENGTH * slow // up),
        warmup=round(spec.warmup_seconds * rate_hz),
        sections=band_pass(spec.band_corners, 2 * low / rate_hz, 2 * high / rate_hz),
    )


@lru_cache(maxsize=256)
def _anti_aliasing(slow: int) -> Float64Array:
    """Zero-phase low-pass between two rates, the larger term of whose ratio is `slow`."""
    half = FIR_HALF_LENGTH * slow
    at = np.arange(2 * half + 1) - float(half)
    hamming = 0.54 + (1.0 - 0.54) * np.cos(np.linspace(-np.pi, np.pi, at.size))
    low_pass: Float64Array = 1.0 / slow * np.sinc(1.0 / slow * at) * hamming
    return low_pass / np.sum(low_pass)


def warm_up(spec: PackageSpec) -> None:
    """Load what windows are cut with: the first one would wait for it for half a second."""
    plan = plan_windows(spec, 2.0 * spec.sample_rate_hz)
    cut_window(np.zeros(plan.history + plan.reach + 1), plan.history, plan)


def _simple_ratio(spec: PackageSpec, rate_hz: float) -> Fraction:
    exact = exact_rate(spec.sample_rate_hz) / exact_rate(rate_hz)
    for largest in RATIO_TERMS:
        ratio = exact.limit_denominator(largest)
        if ratio.numerator <= RATIO_TERMS[-1] and abs(ratio / exact - 1) <= RATIO_TOLERANCE:
            return ratio
    raise RateError(f"{rate_hz:g} Hz and the {spec.sample_rate_hz:g} Hz of model {spec.name} have no simple ratio")


def cut_window(samples: Float64Array, onset: int, plan: WindowPlan) -> Float32Array | None:
    """The window [spec.samples] float32 around `samples[onset]`, band-passed and resampled, in counts.

    samples: raw, all from one segment, starting at the segment's start or early enough. Warm-up is shorter where the
    segment is young; None where the window itself is not covered.
    """
    begin = max(0, onset - plan.before - plan.half - plan.warmup)
    begin += (onset - begin) % plan.down
    end = onset + plan.reach + 1
    if onset - begin < plan.before or end > samples.size:
        return None
    raw = samples[begin:end]
    banded = np.empty(raw.size)
    filters.sections(plan.sections, np.zeros((len(plan.sections), 2)), raw - raw[0], banded)
    if plan.half:
        low_pass = plan.up * _anti_aliasing(max(plan.up, plan.down))
        resampled = np.empty(-(-banded.size * plan.up // plan.down))
        filters.resample(low_pass, plan.up, plan.down, banded, resampled)
        banded = resampled
    first = (onset - begin) * plan.up // plan.down - plan.spec.onset_sample
    cut: Float32Array = banded[first : first + plan.spec.samples].astype(np.float32)
    return cut


def normalise(waveform: Float32Array, how: Normalisation) -> Float32Array:
    """What the encoder sees of a waveform [samples, channels] (or a batch before it): each channel by itself.

    "z": mean 0, standard deviation 1. "asinh_mad": asinh of the deviation from the median in robust standard
    deviations (1.4826 x median absolute deviation), which keeps a large onset from flattening all else.
    """
    if how == "none":
        return waveform.astype(np.float32)
    values = waveform.astype(np.float64)
    if how == "z":
        centred = values - values.mean(axis=-2, keepdims=True)
        scale = centred.std(axis=-2, keepdims=True)
        scaled = centred / np.where(scale > 0.0, scale, 1.0)
    else:
        centred = values - np.median(values, axis=-2, keepdims=True)
        scale = _MAD_TO_SIGMA * np.median(np.abs(centred), axis=-2, keepdims=True)
        scaled = np.arcsinh(centred / np.where(scale > 0.0, scale, 1.0))
    seen: Float32Array = scaled.astype(np.float32)
    return seen


def uid_of(sid: str, onset_ns: int) -> str:
    """Identity of a detection: the source id and the onset's sample time, to the microsecond."""
    return hashlib.sha256(f"{sid}|{(onset_ns + 500) // 1000}".encode()).hexdigest()[:32]
