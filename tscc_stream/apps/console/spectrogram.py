"""Power of a window over time and frequency, in decibels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tscc_stream.messages import Float32Array

RANGE_DB = 50.0
"""How far below a picture's brightest value it still shows something."""
_LONGEST = 64
_STEPS = 8
"""Transforms that each sample takes part in."""


@dataclass(frozen=True, slots=True)
class Spectrogram:
    """db [frequencies, times]: 10 log10 of the power spectral density, re 1 unit**2/Hz. step_s: between columns.

    first_s: middle of the first column, from the first sample on; step_hz: between rows, the first of which is 0 Hz.
    """

    db: npt.NDArray[np.float64]
    first_s: float
    step_s: float
    step_hz: float


def spectrogram(samples: Float32Array, rate_hz: float) -> Spectrogram:
    """Of [n] samples: Hann windows of an eighth of them, a power of two of at most 64, one-sided density."""
    length = min(_LONGEST, max(8, 1 << int(np.log2(max(1, samples.size // 8)))))
    padded = np.zeros(max(length, samples.size))
    padded[: samples.size] = samples
    step = max(1, length // _STEPS)
    pieces = np.lib.stride_tricks.sliding_window_view(padded, length)[::step]
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length)
    power = np.abs(np.fft.rfft((pieces - pieces.mean(axis=1, keepdims=True)) * taper, axis=1)) ** 2
    density = power / (rate_hz * np.square(taper).sum())
    density[:, 1:-1] *= 2.0
    db = 10.0 * np.log10(np.maximum(density.T, 1e-30))
    return Spectrogram(db, (length - 1) / 2 / rate_hz, step / rate_hz, rate_hz / length)


def as_bytes(db: npt.NDArray[np.float64], top: float) -> bytes:
    """0 to 255 for top - RANGE_DB to top, row by row."""
    shares = np.clip((db - (top - RANGE_DB)) / RANGE_DB, 0.0, 1.0)
    return np.round(255.0 * shares).astype(np.uint8).tobytes()
