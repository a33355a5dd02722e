"""Plain features of windows, against which learnt ones are judged. Shapes: n windows [n, samples, channels]."""

from __future__ import annotations

import numpy as np
from scipy.signal import ShortTimeFFT, get_window

from tscc_stream.messages import AnyArray, Float64Array
from tscc_stream.stages.extract import normalise

SEGMENT = 64
"""Samples of one segment of a spectrogram; a quarter of it is the step."""
_QUIETEST = 1e-6  # of a window's mean power: nothing below is told apart


def series(x: AnyArray) -> Float64Array:
    """Windows with zero mean and unit variance, as rows [n, samples x channels]."""
    return normalise(x, "z").reshape(len(x), -1).astype(np.float64)


def log_spectrogram(x: AnyArray) -> Float64Array:
    """Power in dB over frequency and time as rows [n, channels x frequencies x segments], of z-normalised windows."""
    power = np.abs(short_time_transform(normalise(x, "z").astype(np.float64).transpose(0, 2, 1))) ** 2
    floor = _QUIETEST * power.mean(axis=(1, 2, 3), keepdims=True)
    decibel: Float64Array = 10.0 * np.log10(power + floor)
    return decibel.reshape(len(x), -1)


def short_time_transform(signals: Float64Array) -> AnyArray:
    """Complex [..., frequencies, segments] of real signals [..., samples], Hann windows, whole segments only."""
    transform = transform_of(signals.shape[-1])
    first, last = transform.lower_border_end[1], transform.upper_border_begin(signals.shape[-1])[1]
    spectrum: AnyArray = transform.stft(signals, p0=first, p1=max(first + 1, last))
    return spectrum


def transform_of(samples: int, rate_hz: float = 1.0, segment: int = SEGMENT) -> ShortTimeFFT:
    """The transform of signals of that length: frequencies `f` in Hz, times of segments by `t`."""
    length = min(segment, samples)
    return ShortTimeFFT(get_window("hann", length), max(1, length // 4), rate_hz)


def log_kurtosis(x: AnyArray) -> Float64Array:
    """One number a window [n, 1]: logarithm of the fourth moment over the squared second; the mean over channels.

    Noise gives log 3; an onset amid quiet gives more.
    """
    centred = x.astype(np.float64) - x.mean(axis=1, keepdims=True, dtype=np.float64)
    ratio = (centred**4).mean(axis=1) / (centred**2).mean(axis=1) ** 2
    found: Float64Array = np.log(ratio).mean(axis=1, keepdims=True)
    return found
