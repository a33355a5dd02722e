"""Butterworth band-passes as second-order sections, without scipy.signal, whose import takes half a second.

The formulas are the textbook's (poles on a circle, low-pass to band-pass, bilinear transform with warped corners), and
their order of operations is scipy's `butter(..., output="sos")`, so that every coefficient is the same to the bit. What
scipy treats apart (real poles, of an odd order over a very wide band) is left to scipy.
"""

from __future__ import annotations

import numpy as np

from tscc_stream.messages import AnyArray, Float64Array

_TOLERANCE = 1e-13
"""How far rounding takes two conjugate poles apart, relative to 1; scipy forgives 2e-14 of each pole."""


def band_pass(corners: int, low: float, high: float) -> Float64Array:
    """Sections [corners, 6] of the band between two frequencies, as shares of Nyquist: 0 < low < high < 1."""
    poles, gain = _poles(corners, low, high)
    upper, lower = _sorted(poles[poles.imag > 0]), _sorted(poles[poles.imag < 0].conj())
    if upper.size != corners or lower.size != corners or np.abs(upper - lower).max() > _TOLERANCE:
        from scipy.signal import butter  # noqa: PLC0415  # loaded where it is needed

        designed: Float64Array = butter(corners, [low, high], btype="band", output="sos")
        return designed
    return _sections((upper + lower) / 2, gain)


def _poles(corners: int, low: float, high: float) -> tuple[AnyArray, float]:
    """Poles [2 * corners] in the z plane, and the gain."""
    prototype = -np.exp(1j * np.pi * np.arange(1 - corners, corners, 2) / (2 * corners))
    edges = 4.0 * np.tan(np.pi * np.array([low, high]) / 2.0)
    width, centre = float(edges[1] - edges[0]), float(np.sqrt(edges[0] * edges[1]))
    narrow = prototype * width / 2
    apart = np.sqrt(narrow**2 - centre**2)
    analogue = np.concatenate((narrow + apart, narrow - apart))
    gain = width**corners * np.real(np.prod(np.full(corners, 4.0)) / np.prod(4.0 - analogue))
    return (4.0 + analogue) / (4.0 - analogue), float(gain)


def _sorted(poles: AnyArray) -> AnyArray:
    return poles[np.lexsort((poles.imag, poles.real))]


def _sections(poles: AnyArray, gain: float) -> Float64Array:
    """The poles nearest to the unit circle come last; each takes the two nearest of the zeros at 1 and at -1."""
    sections = np.zeros((poles.size, 6))
    zeros = [-1.0] * poles.size + [1.0] * poles.size
    for place in range(poles.size - 1, -1, -1):
        worst = int(np.argmin(np.abs(1 - np.abs(poles))))
        pole = poles[worst]
        poles = np.delete(poles, worst)
        zeros.sort(key=lambda zero: abs(zero - pole))
        sections[place] = *np.poly([zeros.pop(0), zeros.pop(0)]), *np.poly([pole, pole.conj()])
    sections[0, :3] *= gain
    return sections
