"""Filter and averages of columns side by side: to the bit what the same sums and products give one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tscc_stream.kernels import columns as kernel
from tscc_stream.kernels.columns import SECTIONS, WIDE
from tscc_stream.stages.condition import bandpass


def by_hand(column: list[float], samples: list[float]) -> tuple[list[float], list[tuple[float, float]]]:
    """A column after the samples, and STA and LTA at each of them."""
    column, averages = list(column), []
    for sample in samples:
        v = sample - column[kernel.CENTRE]
        for section in range(SECTIONS):
            first, memory = kernel.FIRST_SECTION + 5 * section, kernel.MEMORIES + 2 * section
            b0, b1, b2, a1, a2 = column[first : first + 5]
            w = b0 * v + column[memory]
            column[memory] = b1 * v - a1 * w + column[memory + 1]
            column[memory + 1] = b2 * v - a2 * w
            v = w
        square = v * v
        sta = column[kernel.STA_SHARE] * square + column[kernel.STA]
        lta = column[kernel.LTA_SHARE] * square + column[kernel.LTA]
        column[kernel.STA], column[kernel.LTA] = column[kernel.STA_KEPT] * sta, column[kernel.LTA_KEPT] * lta
        averages.append((sta, lta))
    column[kernel.HIGHEST_STA] = max(sta for sta, _ in averages)
    column[kernel.LOWEST_LTA] = min(lta for _, lta in averages)
    return column, averages


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), stretch=st.integers(1, 130), scale=st.sampled_from([1e-12, 1.0, 1e7, 1e15]))
def test_columns_go_on_to_the_bit_as_by_hand(seed: int, stretch: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(kernel.ROWS, WIDE))
    for section in range(SECTIONS):
        first = kernel.FIRST_SECTION + kernel.PER_SECTION * section
        columns[first + 3 : first + 5] = rng.uniform(-0.5, 0.5, (2, WIDE))
        if section:
            columns[first] = 1.0
    columns[kernel.STA : kernel.HIGHEST_STA] = rng.uniform(0.0, 1.0, (6, WIDE))
    samples = scale * rng.normal(size=(stretch, WIDE))
    after, tile = columns.ravel().copy(), np.concatenate((samples.ravel(), np.full(2 * stretch * WIDE, np.nan)))
    kernel.filter_columns(after, tile, stretch)
    for j in range(WIDE):
        column, averages = by_hand(columns[:, j].tolist(), samples[:, j].tolist())
        assert after.reshape(-1, WIDE)[:, j].tolist() == column
        _, sta, lta = tile.reshape(3, stretch, WIDE)[:, :, j].tolist()
        assert list(zip(sta, lta, strict=True)) == averages


@pytest.mark.parametrize("corners", range(1, SECTIONS + 1))
def test_every_section_but_the_first_begins_with_one(corners: int) -> None:
    for low, high, rate in ((5.0, 20.0, 100.0), (20.0, 200.0, 1000.0), (0.01, 0.1, 1.0), (1.0, 2000.0, 5000.0)):
        assert (bandpass(low, high, corners, rate)[1:, 0] == 1.0).all()
