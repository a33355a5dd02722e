"""The recursive filters of one channel, with carried state: bitwise scipy.signal's, which takes long to import."""

from __future__ import annotations

from tscc_stream.kernels.compiled import compiled
from tscc_stream.messages import Float64Array


@compiled
def sections(coefficients: Float64Array, memory: Float64Array, x: Float64Array, out: Float64Array) -> None:
    """Second-order sections [s, 6] one after the other, as `sosfilt` has them: x [n] to out [n]; memory [s, 2] goes on.

    Transposed direct form II.
    """
    for i in range(x.size):
        value = x[i]
        for s in range(coefficients.shape[0]):
            new = coefficients[s, 0] * value + memory[s, 0]
            memory[s, 0] = coefficients[s, 1] * value - coefficients[s, 4] * new + memory[s, 1]
            memory[s, 1] = coefficients[s, 2] * value - coefficients[s, 5] * new
            value = new
        out[i] = value


@compiled
def average(share: float, memory: Float64Array, x: Float64Array, out: Float64Array) -> None:
    """Recursive average, each value with its share, as `lfilter` has it: x [n] to out [n]; memory [1] goes on."""
    kept = -(share - 1.0)
    for i in range(x.size):
        out[i] = share * x[i] + memory[0]
        memory[0] = kept * out[i]
