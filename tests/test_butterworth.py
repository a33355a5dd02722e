"""The band-pass is scipy's, to the bit."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.signal import butter, iirfilter, zpk2sos

from tscc_stream.butterworth import band_pass


@settings(max_examples=1000, deadline=None)
@given(st.integers(1, 8), st.floats(1e-5, 0.9999), st.floats(1e-5, 0.9999))
@example(4, 0.04, 0.4)
@example(3, 1e-4, 0.999)  # real poles
@example(1, 0.25, 0.75)  # poles on the imaginary axis
@example(2, 0.25, 0.75)
@example(8, 0.25, 0.75)
def test_every_coefficient_is_scipys_to_the_bit(corners: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if high - low < 1e-6:
        return
    designed = band_pass(corners, low, high)
    np.testing.assert_array_equal(designed, butter(corners, [low, high], btype="band", output="sos"))
    np.testing.assert_array_equal(
        designed, zpk2sos(*iirfilter(corners, [low, high], btype="band", ftype="butter", output="zpk"))
    )


def test_usual_bands_are_designed_without_scipy() -> None:
    for corners in range(1, 9):
        for rate in (50.0, 100.0, 250.0, 500.0, 1000.0, 6000.0):
            low, high = 2 / (rate / 2), 20 / (rate / 2)
            expected = butter(corners, [low, high], btype="band", output="sos")
            np.testing.assert_array_equal(band_pass(corners, low, high), expected)
