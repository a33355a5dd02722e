"""Exact time on a sampling grid; source identifiers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tscc_stream import sampling
from tscc_stream.sampling import exact_rate, offset_ns, samples_in, seconds_to_ns, seconds_to_samples
from tscc_stream.source_id import from_nslc, name_of, to_nslc

RATES = st.sampled_from([1000.0, 300.0, 250.0, 62.5, 50.0, 1.0, 0.1, 1 / 3, 1e-5, 1 / 7, 1e6 / 7, 5e8])
COUNTS = st.integers(-(10**10), 10**10)


@pytest.mark.parametrize(
    ("rate", "exact"),
    [
        (300.0, Fraction(300)), (1 / 3, Fraction(1, 3)), (0.1, Fraction(1, 10)), (62.5, Fraction(125, 2)),
        (1 / 3600, Fraction(1, 3600)), (1e-9, Fraction(1, 10**9)), (99.9999, Fraction(999_999, 10_000)),
    ],
)  # fmt: skip
def test_a_rate_is_the_fraction_that_was_meant(rate: float, exact: Fraction) -> None:
    assert exact_rate(rate) == exact


@given(count=COUNTS, rate=RATES)
def test_offsets_are_exact_to_the_nearest_ns(count: int, rate: float) -> None:
    exact = count * 10**9 / exact_rate(rate)
    assert Fraction(-1, 2) < offset_ns(count, rate) - exact <= Fraction(1, 2)


@given(count=COUNTS, rate=RATES)
def test_there_and_back(count: int, rate: float) -> None:
    assert samples_in(offset_ns(count, rate), rate) == count


@given(duration=st.integers(-(10**18), 10**18), rate=RATES)
def test_the_nearest_number_of_samples_halves_upward(duration: int, rate: float) -> None:
    exact = duration * exact_rate(rate) / 10**9
    assert Fraction(-1, 2) < samples_in(duration, rate) - exact <= Fraction(1, 2)


def test_halves() -> None:
    assert [samples_in(ns, 1.0) for ns in (-500_000_000, 499_999_999, 500_000_000)] == [0, 0, 1]
    assert offset_ns(1, 2e9) == 1


@pytest.mark.parametrize(("seconds", "rate", "samples"), [(0.29, 100.0, 28), (0.5, 200.0, 100), (10.0, 62.5, 625)])
def test_windows_are_cut_off_as_obspy_does(seconds: float, rate: float, samples: int) -> None:
    assert seconds_to_samples(seconds, rate) == samples == int(seconds * rate)


def test_seconds_of_a_configuration() -> None:
    assert seconds_to_ns(0.1) == 100_000_000
    assert seconds_to_ns(1e-9) == 1


CODE = st.text("ABCXYZ0189-", max_size=5)
LETTER = st.sampled_from("BEHSLZNE123")


@given(network=CODE, station=CODE, location=CODE, channel=st.tuples(LETTER, LETTER, LETTER))
def test_codes_there_and_back(network: str, station: str, location: str, channel: tuple[str, str, str]) -> None:
    nslc = f"{network}.{station}.{location}.{''.join(channel)}"
    sid = f"FDSN:{network}_{station}_{location}_{'_'.join(channel)}"
    assert (from_nslc(nslc), to_nslc(sid)) == (sid, nslc)


@given(channel=st.tuples(CODE, CODE, CODE))
def test_long_channel_codes_there_and_back(channel: tuple[str, str, str]) -> None:
    sid = f"FDSN:XX_STA__{'_'.join(channel)}"
    assert from_nslc(to_nslc(sid)) == sid


@pytest.mark.parametrize(
    "sid", ["", "XX_STA__B_H_Z", "FDSN:XX_STA_B_H_Z", "FDSN:XX_STA___B_H_Z", "FDSN:", "FDSN:a_b_c_d"]
)
def test_no_source_id(sid: str) -> None:
    with pytest.raises(ValueError, match="expected FDSN:NET_STA_LOC_BAND_SOURCE_SUBSOURCE"):
        to_nslc(sid)
    assert name_of(sid) == sid, "for people it is what it is"


@pytest.mark.parametrize(
    ("nslc", "words"),
    [
        ("BW.UH1.SHZ", "expected NET.STA.LOC.CHA"),
        ("BW.UH1...SHZ", "expected NET.STA.LOC.CHA"),
        ("B W.UH1..SHZ", "expected NET.STA.LOC.CHA"),
        ("BW.U_H1..SHZ", "expected NET.STA.LOC.CHA"),
        ("BW.UH1..SH", "expected a channel code of three letters, got 'SH'"),
        ("BW.UH1..B_H", "expected a channel code of three letters"),
    ],
)
def test_no_channel_name(nslc: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_nslc(nslc)


def test_iso_times_are_read_to_the_microsecond_and_as_utc_unless_they_say_otherwise() -> None:
    assert sampling.time_ns_of("2009-01-21T04:20:00") == 1_232_511_600_000_000_000
    assert sampling.time_ns_of("2009-01-21T05:20:00.123456+01:00") == 1_232_511_600_123_456_000
    assert sampling.time_ns_of("1969-12-31T23:59:59.999999") == -1000
    with pytest.raises(ValueError, match="noon: expected ISO 8601"):
        sampling.time_ns_of("noon")
