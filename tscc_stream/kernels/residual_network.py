"""The published encoder window by window, on a processor with AVX-512: all arrays of a window stay in a core's cache.

Rows are samples. A tile of a convolution takes all its taps at once, and what comes of it goes through GELU while it is
still at hand. Arrays have HALO rows of zeros on both sides, so that a tile that lies across an end of the window needs
no case of its own; a tap of which a tile sees nothing but zeros is left out. Every window goes through the same
operations, whatever batch it is in.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tscc_stream.kernels.avx512 import COLUMNS, ROWS, add_products, gelu_rows
from tscc_stream.kernels.compiled import compiled_contracting

HALO = ROWS
ARRAYS = 4
_FLOAT = 4


@compiled_contracting
def encode(
    x_btc: Any, weights: Any, hidden: int, representation: int, depth: int, adapts: bool, table: Any, arrays: Any,
    out: Any,
) -> None:  # fmt: skip
    """Windows [B, T, C] to out [B, representation], all float32 without gaps; T at least ROWS.

    hidden, representation: multiples of COLUMNS. depth: blocks before the last one; adapts: whether that has a residual
    of its own. weights: in the order in which they are read here, see edges.encoder_loops. table: avx512.gelu_table.
    arrays: [ARRAYS, HALO + T + HALO, the wider of the two] zeros, to work in.
    """
    time, width = x_btc.shape[1], arrays.shape[2]
    row = width * _FLOAT
    at = [arrays[number].ctypes.data + HALO * row for number in range(4)]
    seen, inner = at[0], at[1]
    look_up = table.ctypes.data
    zeros = weights.ctypes.data
    for window in range(x_btc.shape[0]):
        h, other, place = at[2], at[3], width
        place = _project(x_btc[window], weights, place, hidden, arrays[2])
        for panel in range(hidden // COLUMNS):
            gelu_rows(h + panel * COLUMNS * _FLOAT, seen + panel * COLUMNS * _FLOAT, row, time, look_up)
        for number in range(depth + 1):
            outputs = hidden if number < depth else representation
            taps1 = zeros + place * _FLOAT
            offset1 = taps1 + 3 * hidden * outputs * _FLOAT
            taps2 = offset1 + outputs * _FLOAT
            offset2 = taps2 + 3 * outputs * outputs * _FLOAT
            place += (3 * (hidden + outputs) + 2) * outputs
            reach = 1 << number
            _convolve(seen, row, time, reach, 3, hidden, outputs, taps1, offset1, zeros, 0, inner, inner, look_up)
            if number == depth and adapts:
                residual = zeros + place * _FLOAT
                _convolve(h, row, time, 0, 1, hidden, outputs, residual, zeros, zeros, 0, other, 0, look_up)
                h, other = other, h
            _convolve(inner, row, time, reach, 3, outputs, outputs, taps2, offset2, h, row, other, seen, look_up)
            h, other = other, h
        _largest(arrays[2] if h == at[2] else arrays[3], time, out[window])


@compiled_contracting
def _project(x_tc: Any, weights: Any, place: int, hidden: int, h: Any) -> Any:
    """Writes x times [C, hidden] plus an offset into rows of h; returns the place of the weights after these."""
    channels = x_tc.shape[1]
    offset = place + channels * hidden
    for t in range(x_tc.shape[0]):
        row = h[HALO + t]
        for column in range(hidden):
            row[column] = weights[offset + column]
        for channel in range(channels):
            value = x_tc[t, channel]
            for column in range(hidden):
                row[column] += value * weights[place + channel * hidden + column]
    return place + (channels + 1) * hidden


@compiled_contracting
def _convolve(
    x: int, row: int, time: int, reach: int, taps: int, inputs: int, outputs: int, weights: int, offset: int,
    before: int, before_row: int, y: int, seen: int, table: int,
) -> None:  # fmt: skip
    """Writes y: offset + before + x convolved; and GELU of that to seen, unless seen is 0. All places are addresses.

    weights: [outputs / COLUMNS, taps, inputs, COLUMNS]; y may not be `before`, since the last tile repeats some rows.
    """
    panel_weights = inputs * COLUMNS * _FLOAT
    for panel in range(outputs // COLUMNS):
        column = panel * COLUMNS * _FLOAT
        before_column = column if before_row > 0 else 0
        panel_at = weights + panel * taps * panel_weights
        t = 0
        while t < time:
            t = min(t, time - ROWS)
            first = 0 if t + ROWS > reach and taps == 3 else 1
            last = 2 if t + reach < time and taps == 3 else 1
            tap_at = panel_at + (first * panel_weights if taps == 3 else 0)
            add_products(
                x + (t + (first - 1) * reach) * row,
                row,
                reach * row,
                last - first + 1,
                inputs,
                tap_at,
                offset + column,
                before + before_column + t * before_row,
                before_row,
                y + column + t * row,
            )
            if seen != 0:
                gelu_rows(y + column + t * row, seen + column + t * row, row, ROWS, table)
            t += ROWS


@compiled_contracting
def _largest(h: Any, time: int, out: Any) -> None:
    """out[column] = the largest over time of h; a NaN stays one."""
    for column in range(out.size):
        out[column] = h[HALO, column]
    for t in range(1, time):
        for column in range(out.size):
            value = h[HALO + t, column]
            if value > out[column] or np.isnan(value):
                out[column] = value
