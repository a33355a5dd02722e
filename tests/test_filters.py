"""The compiled filters are scipy's, to the bit, wherever the data are cut."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.signal import butter, firwin, lfilter, resample_poly, sosfilt

from tscc_stream import windows
from tscc_stream.kernels import filters

CUTS = st.lists(st.integers(0, 400), max_size=4)


def signal(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.rint(rng.normal(0.0, 10.0 ** rng.uniform(0, 8), 400))


def in_parts(work: Callable[[np.ndarray, np.ndarray], None], x: np.ndarray, cuts: list[int]) -> np.ndarray:
    """What a filter with carried state makes of x, cut anywhere."""
    parts = [part for part in np.split(x, sorted(cuts)) if part.size]
    got = [np.empty_like(part) for part in parts]
    for part, out in zip(parts, got, strict=True):
        work(part, out)
    return np.concatenate(got)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 8), st.floats(0.01, 0.3), st.floats(0.35, 0.95), CUTS)
def test_sections_are_sosfilt(seed: int, corners: int, low: float, high: float, cuts: list[int]) -> None:
    x, sections = signal(seed), butter(corners, [low, high], btype="band", output="sos")
    memory = np.zeros((corners, 2))
    expected, after = sosfilt(sections, x, zi=np.zeros((corners, 2)))
    got = in_parts(lambda part, out: filters.sections(sections, memory, part, out), x, cuts)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(memory, after)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 10_000), CUTS)
def test_average_is_lfilter(seed: int, length: int, cuts: list[int]) -> None:
    x, share = np.square(signal(seed)), 1.0 / length
    expected, after = lfilter([share], [1.0, share - 1.0], x, zi=np.zeros(1))
    memory = np.zeros(1)
    got = in_parts(lambda part, out: filters.average(share, memory, part, out), x, cuts)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(memory, after)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 40), st.integers(1, 40), st.integers(1, 400))
@example(0, 1, 20, 400)
@example(0, 10, 1, 1)
def test_resample_is_resample_poly(seed: int, up: int, down: int, n: int) -> None:
    divisor = math.gcd(up, down)
    up, down = up // divisor, down // divisor
    slow = max(up, down)
    if slow == 1:
        return
    x, low_pass = signal(seed)[:n] / 7.0, windows._anti_aliasing(slow)
    np.testing.assert_array_equal(low_pass, firwin(20 * slow + 1, 1.0 / slow, window="hamming"))
    expected = resample_poly(x, up, down, window=low_pass)
    out = np.empty(-(-n * up // down))
    filters.resample(up * low_pass, up, down, x, out)
    np.testing.assert_array_equal(out, expected)
