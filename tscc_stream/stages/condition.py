"""Band-pass and characteristic function (STA/LTA) with carried state.

Recursive STA/LTA and the filter are bitwise what obspy computes over the whole trace (`Trace.filter("bandpass")`,
`recursive_sta_lta`), for any cut into blocks. Each segment starts at its first sample's value, so that an offset does
not deafen the trigger. Classic STA/LTA is computed without a running difference and therefore does not drift; it
equals obspy's within rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from tscc_stream.butterworth import band_pass
from tscc_stream.config import ConditionConfig, TriggerConfig
from tscc_stream.kernels import filters
from tscc_stream.messages import Block, Characteristic, EndOfStream, Float64Array, Gap, read_only
from tscc_stream.sampling import RateError, seconds_to_samples


@lru_cache(maxsize=256)
def bandpass(low_hz: float, high_hz: float, corners: int, rate_hz: float) -> Float64Array:
    """Second-order sections [corners, 6] of obspy's Butterworth band-pass. Raises RateError above Nyquist."""
    nyquist = 0.5 * rate_hz
    if high_hz / nyquist > 1.0 - 1e-6:
        raise RateError(f"{rate_hz:g} Hz cannot hold the band {low_hz:g}-{high_hz:g} Hz: Nyquist is {nyquist:g} Hz")
    return band_pass(corners, low_hz / nyquist, high_hz / nyquist)


@dataclass(frozen=True, slots=True)
class RatioMemory:
    """Where a ratio stands: samples so far, and what it keeps of the short and of the long average."""

    seen: int
    sta: Float64Array
    lta: Float64Array


class _Ratio(Protocol):
    memory: RatioMemory

    def feed(self, filtered: Float64Array) -> Float64Array: ...


class RecursiveRatio:
    """obspy's `recursive_sta_lta`, continued: [n] filtered -> [n] ratio. The first nlta values are blanked.

    While there was nothing but zeros the ratio is 0, where obspy has 0 / 0.
    """

    def __init__(self, nsta: int, nlta: int) -> None:
        self._csta, self._clta = 1.0 / nsta, 1.0 / nlta
        self._nlta = nlta
        self._seen = 0
        self._sta, self._lta = np.zeros(1), np.zeros(1)

    @property
    def memory(self) -> RatioMemory:
        return RatioMemory(self._seen, self._sta, self._lta)

    @memory.setter
    def memory(self, memory: RatioMemory) -> None:
        self._seen, self._sta, self._lta = memory.seen, memory.sta, memory.lta

    def feed(self, filtered: Float64Array) -> Float64Array:
        """Ratio of the next samples."""
        ratio = np.zeros(filtered.size)
        skip = 1 if self._seen == 0 else 0  # obspy's loop starts at the second sample
        squared = np.square(filtered[skip:])
        if squared.size:
            self._sta, self._lta = self._sta.copy(), self._lta.copy()  # they may have been given out
            sta, lta = np.empty_like(squared), np.empty_like(squared)
            filters.average(self._csta, self._sta, squared, sta)
            filters.average(self._clta, self._lta, squared, lta)
            np.divide(sta, lta, out=ratio[skip:], where=lta > 0.0)
        blank = max(0, self._nlta - self._seen)
        ratio[:blank] = 0.0
        self._seen += filtered.size
        return ratio


class _WindowSum:
    """Sum over the last `length` values, sample by sample, without drift.

    Frames of `length` values: a window's sum is the tail of the last frame plus the head of the present one, and each
    is added up afresh. Nothing is ever subtracted.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self.frames = np.zeros(length)

    def feed(self, values: Float64Array) -> Float64Array:
        """[n] values -> [n] sums over the last `length` of them (as if zeros came before)."""
        length = self._length
        joined = np.concatenate((self.frames, values))
        rows = -(-joined.size // length)
        padded = np.zeros(rows * length)
        padded[: joined.size] = joined
        frames = padded.reshape(rows, length)
        heads = np.cumsum(frames, axis=1)
        tails = np.cumsum(frames[:, ::-1], axis=1)[:, ::-1]
        sums = heads.copy()
        sums[1:, :-1] += tails[:-1, 1:]
        begin = self.frames.size
        whole = joined.size // length
        keep_from = (whole - 1) * length
        self.frames = joined[keep_from:].copy()
        out: Float64Array = sums.reshape(-1)[begin : joined.size]
        return out


class ClassicRatio:
    """obspy's `classic_sta_lta`, continued: [n] filtered -> [n] ratio. The first nlta - 1 values are blanked."""

    def __init__(self, nsta: int, nlta: int) -> None:
        self._scale = nlta / nsta
        self._blank = nlta - 1
        self._seen = 0
        self._sta, self._lta = _WindowSum(nsta), _WindowSum(nlta)

    @property
    def memory(self) -> RatioMemory:
        return RatioMemory(self._seen, self._sta.frames, self._lta.frames)

    @memory.setter
    def memory(self, memory: RatioMemory) -> None:
        self._seen, self._sta.frames, self._lta.frames = memory.seen, memory.sta, memory.lta

    def feed(self, filtered: Float64Array) -> Float64Array:
        """Ratio of the next samples."""
        squared = np.square(filtered)
        sta, lta = self._sta.feed(squared), self._lta.feed(squared)
        ratio = np.zeros(filtered.size)
        np.divide(sta * self._scale, lta, out=ratio, where=lta > 0.0)
        ratio[: max(0, self._blank - self._seen)] = 0.0
        self._seen += filtered.size
        return ratio


_METHODS: dict[str, Callable[[int, int], _Ratio]] = {"recursive": RecursiveRatio, "classic": ClassicRatio}


@dataclass(slots=True)
class _Channel:
    rate_hz: float
    sections: Float64Array
    memory: Float64Array
    first_value: float
    ratio: _Ratio


@dataclass(frozen=True, slots=True)
class FilterState:
    """What one channel's filter and ratio remember; the rest follows from its rate and its configuration."""

    rate_hz: float
    memory: Float64Array
    first_value: float
    ratio: RatioMemory


ConditionState = dict[str, FilterState]
"""By source id."""


class Condition:
    """Blocks to characteristic functions, each channel on its own."""

    def __init__(self, config_of: Callable[[str], tuple[ConditionConfig, TriggerConfig]]) -> None:
        self._config_of = config_of
        self._channels: dict[str, _Channel] = {}

    def check(self, sid: str, rate_hz: float) -> None:
        """Raises RateError where a channel's settings cannot work at its rate."""
        condition, trigger = self._config_of(sid)
        bandpass(*condition.band_hz, condition.corners, rate_hz)
        nsta, nlta = (seconds_to_samples(s, rate_hz) for s in (trigger.sta_seconds, trigger.lta_seconds))
        if nsta < 1:
            raise RateError(f"{rate_hz:g} Hz has no sample within sta_seconds {trigger.sta_seconds:g}")
        if trigger.trigger_on >= nlta / nsta:
            raise RateError(f"trigger_on {trigger.trigger_on:g}: at {rate_hz:g} Hz STA/LTA stays below {nlta / nsta:g}")

    def feed(self, message: Block | Gap | EndOfStream) -> list[Characteristic]:
        """The characteristic function of a block; a gap or an end forgets the channel."""
        if not isinstance(message, Block):
            self._channels.pop(message.sid, None)
            return []
        if message.index == 0:
            self._channels[message.sid] = self._start(message.sid, message.sample_rate_hz, float(message.samples[0]))
        channel = self._channels[message.sid]
        centred = message.samples - channel.first_value
        filtered, channel.memory = np.empty_like(centred), channel.memory.copy()
        filters.sections(channel.sections, channel.memory, centred, filtered)
        return [Characteristic(message, read_only(channel.ratio.feed(filtered)))]

    def snapshot(self) -> ConditionState:
        """Every channel's state, to be written down before the next `feed`."""
        return {sid: self.written(sid) for sid in self._channels}

    def written(self, sid: str) -> FilterState:
        """One channel's state, amid a segment."""
        channel = self._channels[sid]
        return FilterState(channel.rate_hz, channel.memory, channel.first_value, channel.ratio.memory)

    def restore(self, state: ConditionState) -> None:
        """Go on from a snapshot that was taken with the same configuration."""
        for sid, stored in state.items():
            self.take(sid, stored)

    def take(self, sid: str, stored: FilterState) -> None:
        """Go on with one channel from a state."""
        channel = self._channels[sid] = self._start(sid, stored.rate_hz, stored.first_value)
        channel.memory, channel.ratio.memory = stored.memory, stored.ratio

    def _start(self, sid: str, rate_hz: float, first_value: float) -> _Channel:
        condition, trigger = self._config_of(sid)
        sections = bandpass(*condition.band_hz, condition.corners, rate_hz)
        nsta, nlta = (seconds_to_samples(s, rate_hz) for s in (trigger.sta_seconds, trigger.lta_seconds))
        ratio = _METHODS[trigger.method](nsta, nlta)
        return _Channel(rate_hz, sections, np.zeros((len(sections), 2)), first_value, ratio)
