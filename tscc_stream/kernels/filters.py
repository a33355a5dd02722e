"""The filters of one channel, some with carried state: bitwise those of scipy.signal, which takes long to import."""

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


@compiled
def resample(low_pass: Float64Array, up: int, down: int, x: Float64Array, out: Float64Array) -> None:
    """Every `down`-th of the samples between which `up` - 1 were put, as `resample_poly` has it: x [n] to out.

    low_pass [2 h + 1]: at the rate in between, with the gain `up`; out has ceil(n * up / down) samples.
    """
    half = low_pass.size // 2
    for i in range(out.size):
        middle = i * down + half
        first = max(0, -((low_pass.size - 1 - middle) // up))
        total = 0.0
        for k in range(first, min(x.size - 1, middle // up) + 1):
            total += x[k] * low_pass[middle - k * up]
        out[i] = total
