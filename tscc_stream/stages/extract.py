"""History to windows at the model's rate, and the one place of normalisation.

A window is made from the raw samples around an onset by the package's band, rate and onset position; it depends on
those samples alone, never on packets, batches or the trigger's own filter. Order of operations: from the first sample
of the warm-up on (its value subtracted) through a causal Butterworth band-pass at the stream's rate, then a zero-phase
FIR low-pass and polyphase resampling, aligned so that the onset falls on the grid.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import numpy as np
from scipy.signal import firwin, iirfilter, resample_poly, sosfilt, zpk2sos

from tscc_stream.messages import (
    Block,
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
from tscc_stream.package import Normalisation, PackageSpec
from tscc_stream.sampling import RateError, exact_rate, offset_ns

FIR_HALF_LENGTH = 10
"""Half length of the anti-aliasing filter in samples of the slower grid."""
RATIO_TERMS = (10, 100, 1000)
"""Largest terms of the ratio of the two rates: the simplest ratio that is near enough is taken."""
RATIO_TOLERANCE = 1e-4
"""Relative. Recorders state 99.99999 Hz; over a window of 500 samples this is 0.05 samples."""
LONG_RUN_SAMPLES = 16
"""Equal samples in a row from which a window is flagged "flat": healthy recordings hold up to 7."""
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
    fir: Float64Array | None = field(repr=False)

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
    zeros, poles, gain = iirfilter(
        spec.band_corners, [2 * low / rate_hz, 2 * high / rate_hz], btype="band", ftype="butter", output="zpk"
    )
    slow = max(up, down)
    fir = None if slow == 1 else firwin(2 * FIR_HALF_LENGTH * slow + 1, 1.0 / slow, window="hamming")
    return WindowPlan(
        spec=spec,
        stream_rate_hz=rate_hz,
        up=up,
        down=down,
        before=-(-spec.onset_sample * down // up),
        after=-(-(spec.samples - 1 - spec.onset_sample) * down // up),
        half=0 if fir is None else -(-FIR_HALF_LENGTH * slow // up),
        warmup=round(spec.warmup_seconds * rate_hz),
        sections=zpk2sos(zeros, poles, gain),  # scipy wants it writable
        fir=fir,
    )


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
    banded = sosfilt(plan.sections, raw - raw[0])
    if plan.fir is not None:
        banded = resample_poly(banded, plan.up, plan.down, window=plan.fir)
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


@dataclass(slots=True)
class _Pending:
    """A window that waits for its samples. window_end and needed_end: indices, inclusive."""

    uid: str
    onset_ns: int
    onset_index: int
    window_end: int
    needed_end: int
    off_index: int | None = None


@dataclass(slots=True)
class _Channel:
    """history and ratios start at sample `origin` of the segment. flags: (first index, end index, flags).

    latest_uid and latest_end: the latest window, finished or not, and its last sample.
    """

    plan: WindowPlan
    origin: int = 0
    history: Float64Array = field(default_factory=lambda: np.empty(0))
    ratios: Float64Array = field(default_factory=lambda: np.empty(0))
    flags: list[tuple[int, int, frozenset[str]]] = field(default_factory=list)
    pending: list[_Pending] = field(default_factory=list)
    latest_uid: str = ""
    latest_end: int = -1


class Extract:
    """Triggers and blocks to windows.

    For each block, its triggers are fed first and then the block itself. A trigger whose onset falls inside a pending
    window makes no window of its own. counts: "suppressed" triggers.
    """

    def __init__(
        self, spec: PackageSpec, clip_of: Callable[[str], float | None], min_seconds_of: Callable[[str], float]
    ) -> None:
        self._spec = spec
        self._clip_of = clip_of
        self._min_seconds_of = min_seconds_of
        self._channels: dict[str, _Channel] = {}
        self.counts: Counter[str] = Counter()

    def check(self, rate_hz: float) -> None:
        """Raises RateError where the model cannot be served from a stream of this rate."""
        plan_windows(self._spec, rate_hz)

    def covering(self, sid: str) -> str:
        """The uid of the window, finished or not, that covers the onset of the channel's latest trigger."""
        return self._channels[sid].latest_uid

    def oldest_pending_ns(self) -> int:
        """Onset of the oldest window that still waits for samples; far in the future where none does."""
        return min((p.onset_ns for channel in self._channels.values() for p in channel.pending), default=1 << 62)

    def feed(self, message: Trigger | Characteristic | Gap | EndOfStream) -> list[Window | WindowDropped]:
        """Windows that become complete, in order of onset, and windows that never will."""
        if isinstance(message, Trigger):
            self._trigger(message)
            return []
        if isinstance(message, Characteristic):
            return self._advance(message)
        reason = "gap" if isinstance(message, Gap) else "end"
        channel = self._channels.pop(message.sid, None)
        pending = channel.pending if channel else []
        return [WindowDropped(p.uid, message.sid, p.onset_ns, reason) for p in pending]

    def _trigger(self, trigger: Trigger) -> None:
        channel = self._channel(trigger.sid, trigger.sample_rate_hz)
        if trigger.off_index is not None:
            latest = channel.pending[-1] if channel.pending else None
            if latest is not None and latest.onset_index == trigger.on_index:
                latest.off_index = trigger.off_index
            return
        if trigger.on_index <= channel.latest_end:
            self.counts["suppressed"] += 1
            return
        uid, plan = uid_of(trigger.sid, trigger.on_ns), channel.plan
        channel.latest_uid, channel.latest_end = uid, trigger.on_index + plan.after
        needed_end = trigger.on_index + plan.reach
        channel.pending.append(_Pending(uid, trigger.on_ns, trigger.on_index, channel.latest_end, needed_end))

    def _channel(self, sid: str, rate_hz: float) -> _Channel:
        channel = self._channels.get(sid)
        if channel is None:
            channel = self._channels[sid] = _Channel(plan_windows(self._spec, rate_hz))
        return channel

    def _advance(self, message: Characteristic) -> list[Window | WindowDropped]:
        block = message.block
        channel = self._channel(block.sid, block.sample_rate_hz)
        self._append(channel, message)
        end = block.index + block.samples.size
        ready = [p for p in channel.pending if p.needed_end < end]
        channel.pending = channel.pending[len(ready) :]
        return [self._window(channel, pending, block) for pending in ready]

    def _append(self, channel: _Channel, message: Characteristic) -> None:
        """History grows by a block and loses what no window can need any more."""
        block = message.block
        lookback = channel.plan.history + round(self._min_seconds_of(block.sid) * block.sample_rate_hz) + 1
        oldest = min([block.index, *(p.onset_index for p in channel.pending)]) - lookback
        drop = max(0, oldest - channel.origin)
        channel.origin += drop
        channel.history = np.concatenate((channel.history[drop:], block.samples))
        channel.ratios = np.concatenate((channel.ratios[drop:], message.values))
        channel.flags = [flag for flag in channel.flags if flag[1] > channel.origin]
        if block.quality:
            channel.flags.append((block.index, block.index + block.samples.size, block.quality))

    def _window(self, channel: _Channel, pending: _Pending, block: Block) -> Window | WindowDropped:
        plan, spec = channel.plan, self._spec
        onset = pending.onset_index - channel.origin
        cut = cut_window(channel.history, onset, plan)
        if cut is None:
            return WindowDropped(pending.uid, block.sid, pending.onset_ns, "history")
        waveform = read_only(cut[:, np.newaxis])
        last = pending.window_end if pending.off_index is None else min(pending.off_index, pending.window_end)
        return Window(
            uid=pending.uid,
            sid=block.sid,
            onset_ns=pending.onset_ns,
            start_ns=pending.onset_ns - offset_ns(spec.onset_sample, spec.sample_rate_hz),
            sample_rate_hz=spec.sample_rate_hz,
            stream_rate_hz=plan.stream_rate_hz,
            waveform=waveform,
            normalised=read_only(normalise(waveform, spec.normalisation)),
            peak_ratio=float(channel.ratios[onset : last - channel.origin + 1].max()),
            peak_amplitude=float(np.abs(cut).max()),
            duration_s=(last - pending.onset_index) / plan.stream_rate_hz,
            quality=self._quality(channel, pending, block.sid),
            received_ns=block.received_ns,
        )

    def _quality(self, channel: _Channel, pending: _Pending, sid: str) -> tuple[str, ...]:
        """Sorted flags of the raw samples within the window."""
        begin, end = pending.onset_index - channel.plan.before, pending.window_end + 1
        found = {name for first, last, names in channel.flags if first < end and begin < last for name in names}
        raw = channel.history[max(0, begin - channel.origin) : end - channel.origin]
        clip = self._clip_of(sid)
        if clip is not None and np.abs(raw).max() >= clip:
            found.add("clipped")
        changes = np.flatnonzero(raw[1:] != raw[:-1])
        if np.diff(changes, prepend=-1, append=raw.size - 1).max() >= LONG_RUN_SAMPLES:
            found.add("flat")
        return tuple(sorted(found))
