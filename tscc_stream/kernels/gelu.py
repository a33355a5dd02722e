"""GELU and its slope in one pass, for the backward pass of training: one look at memory, one exponential for both."""

from __future__ import annotations

from typing import Any

import numpy as np

from tscc_stream.kernels.compiled import compiled_contracting

_F = np.float32
_FARTHEST = _F(13.0)  # exp(-13^2 / 2) is still a normal number; beyond, it counts as that
_ONE, _HALF, _DENSITY = _F(1.0), _F(0.5), _F(0.3989422804014327)  # the last: 1 / sqrt(2 pi)
_LOG2_E, _LN2_HIGH, _LN2_LOW, _ROUND = _F(1.4426950408889634), _F(0.693359375), _F(-2.12194440e-4), _F(12582912.0)
_X2, _X3, _X4, _X5, _X6, _X7 = (
    _F(5.0000001201e-1),
    _F(1.6666665459e-1),
    _F(4.1665795894e-2),
    _F(8.3334519073e-3),
    _F(1.3981999507e-3),
    _F(1.9875691500e-4),
)  # e^r - 1 - r over half an octave around 0
_SCALE = _F(0.37)
_T0, _T1, _T2, _T3, _T4, _T5, _T6 = (
    _F(0.0023063899),
    _F(0.12197417),
    _F(0.26828432),
    _F(-0.18108584),
    _F(0.5360533),
    _F(-0.3039185),
    _F(0.05638618),
)  # of 1 / (1 + 0.37 a): the normal tail beyond a over exp(-a^2 / 2); least maximal error of the tail, 2.4e-9


@compiled_contracting
def gelu_and_slope(x: Any, gelu: Any, slope: Any) -> None:
    """Writes x times the normal distribution function of x, and its derivative, within 4e-7. Arrays [n] float32."""
    for i in range(x.size):
        v = x[i]
        a = min(abs(v), _FARTHEST)
        y = -_HALF * a * a
        octaves = (y * _LOG2_E + _ROUND) - _ROUND
        r = (y - octaves * _LN2_HIGH) - octaves * _LN2_LOW
        curve = ((((_X7 * r + _X6) * r + _X5) * r + _X4) * r + _X3) * r + _X2
        power = np.int32((np.int32(octaves) + 127) << 23).view(np.float32)  # 2^octaves
        bell = (curve * r * r + r + _ONE) * power
        t = _ONE / (_ONE + _SCALE * a)
        tail = bell * ((((((_T6 * t + _T5) * t + _T4) * t + _T3) * t + _T2) * t + _T1) * t + _T0)
        below = _ONE - tail if v >= 0 else tail
        gelu[i] = v * below
        slope[i] = below + v * bell * _DENSITY
