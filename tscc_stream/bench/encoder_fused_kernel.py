"""The whole encoder in one Triton kernel: a program takes window after window through all blocks.

A window's arrays are small (64 kB for 500 samples of 64 channels in half precision), so that those of all programs at
work stay in the device's second-level cache; only windows are read from its memory, and only representations written.
"""

import triton
import triton.language as tl


@triton.jit
def _gelu(x):
    """With the error function to 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26): less work than the device's own."""
    z = tl.abs(x) * 0.7071067811865476
    t = 1.0 / (1.0 + 0.3275911 * z)
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    beyond = series * tl.exp(-z * z)
    return 0.5 * x * tl.where(x < 0.0, beyond, 2.0 - beyond)


@triton.jit
def _taps(rows_ptr, weights_ptr, first, reach, T, H: tl.constexpr, ROWS: tl.constexpr):
    """[ROWS, H]: the three taps for the samples from `first` on; weights [3, H, H]."""
    t = first + tl.arange(0, ROWS)
    channel = tl.arange(0, H)
    square = channel[:, None] * H + channel[None, :]
    total = tl.zeros((ROWS, H), tl.float32)
    for tap in tl.static_range(3):
        earliest = first + (tap - 1) * reach
        if (earliest + ROWS > 0) & (earliest < T):  # else it sees nothing but padding
            at = t + (tap - 1) * reach
            seen = (at >= 0) & (at < T) & (t < T)
            rows = tl.load(rows_ptr + at[:, None] * H + channel[None, :], mask=seen[:, None], other=0.0)
            total = tl.dot(rows, tl.load(weights_ptr + tap * H * H + square), total)
    return total


@triton.jit
def encode(
    x_ptr,
    out_ptr,
    scratch_ptr,
    weights_ptr,
    offsets_ptr,
    projection_ptr,
    residual_ptr,
    batch,
    T,
    LAYERS: tl.constexpr,
    H: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Windows x [batch, T], out [batch, H]; scratch [programs, 3, T, H]: the sum, what the first convolution sees, and
    what the second does. weights [LAYERS, 2, 3, H, H], offsets [LAYERS, 2, H], projection [2, H], residual [H, H].
    """
    program = tl.program_id(0)
    channel = tl.arange(0, H)
    sum_ptr = scratch_ptr + program * 3 * T * H
    seen_ptr, inner_ptr = sum_ptr + T * H, sum_ptr + 2 * T * H
    slope, offset = tl.load(projection_ptr + channel), tl.load(projection_ptr + H + channel)
    for window in range(program, batch, tl.num_programs(0)):
        for first in range(0, T, ROWS):
            t = first + tl.arange(0, ROWS)
            inside = (t < T)[:, None]
            here = t[:, None] * H + channel[None, :]
            x = tl.load(x_ptr + window * T + t, mask=t < T, other=0.0)
            h = x[:, None] * slope[None, :] + offset[None, :]
            tl.store(sum_ptr + here, h.to(sum_ptr.dtype.element_ty), mask=inside)
            tl.store(seen_ptr + here, _gelu(h).to(seen_ptr.dtype.element_ty), mask=inside)
        tl.debug_barrier()
        largest = tl.full((H,), float("-inf"), tl.float32)
        for layer in range(LAYERS):
            reach = 1 << layer
            weights = weights_ptr + layer * 6 * H * H
            offset1 = tl.load(offsets_ptr + layer * 2 * H + channel)
            offset2 = tl.load(offsets_ptr + layer * 2 * H + H + channel)
            for first in range(0, T, ROWS):
                t = first + tl.arange(0, ROWS)
                here = t[:, None] * H + channel[None, :]
                y = _gelu(_taps(seen_ptr, weights, first, reach, T, H, ROWS) + offset1[None, :])
                tl.store(inner_ptr + here, y.to(inner_ptr.dtype.element_ty), mask=(t < T)[:, None])
            tl.debug_barrier()
            for first in range(0, T, ROWS):
                t = first + tl.arange(0, ROWS)
                inside = (t < T)[:, None]
                here = t[:, None] * H + channel[None, :]
                y = _taps(inner_ptr, weights + 3 * H * H, first, reach, T, H, ROWS) + offset2[None, :]
                h = tl.load(sum_ptr + here, mask=inside, other=0.0)
                if layer == LAYERS - 1:
                    y = tl.dot(h, tl.load(residual_ptr + channel[:, None] * H + channel[None, :]), y)
                    largest = tl.maximum(largest, tl.max(tl.where(inside, y, float("-inf")), axis=0))
                else:
                    y += h.to(tl.float32)
                    tl.store(sum_ptr + here, y.to(sum_ptr.dtype.element_ty), mask=inside)
                    tl.store(seen_ptr + here, _gelu(y).to(seen_ptr.dtype.element_ty), mask=inside)
            tl.debug_barrier()
        tl.store(out_ptr + window * H + channel, largest)
