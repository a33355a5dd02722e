"""Amplitude spectra of windows in counts per hertz, and their mean with its spread. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tscc_stream.messages import Float32Array, Float64Array

MOST_WINDOWS = 200
"""Of a cluster: more do not change the mean visibly."""


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """hz [F]; mean, low, high [F] in counts/Hz: of the logarithms, and one standard deviation below and above."""

    hz: Float64Array
    mean: Float64Array
    low: Float64Array
    high: Float64Array
    windows: int


def mean_spectrum(windows_nt: Float32Array, rate_hz: float, band_hz: tuple[float, float]) -> Spectrum | None:
    """Of windows before normalisation [n, T], within the model's band; None where there are none.

    Each is tapered with a Hann window (corrected for what it takes away); logarithms are averaged, so that one large
    event does not hide the others.
    """
    if not len(windows_nt):
        return None
    taper: Float64Array = np.hanning(windows_nt.shape[1])
    centred = windows_nt - windows_nt.mean(axis=1, keepdims=True)
    amplitude = np.abs(np.fft.rfft(centred * taper, axis=1)) / rate_hz / taper.mean()
    hz: Float64Array = np.fft.rfftfreq(windows_nt.shape[1], 1 / rate_hz).astype(np.float64)
    inside = (hz >= band_hz[0]) & (hz <= band_hz[1])
    logs = np.log10(np.maximum(amplitude[:, inside], 1e-12))
    mean, spread = logs.mean(axis=0), logs.std(axis=0)
    return Spectrum(hz[inside], 10**mean, 10 ** (mean - spread), 10 ** (mean + spread), len(windows_nt))
