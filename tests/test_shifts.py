"""Shifts on the site's clock, on the days on which it is changed as well."""

from __future__ import annotations

from datetime import date
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tscc_stream.apps import shifts
from tscc_stream.apps.shifts import HOUR_NS, SpanError

BERLIN, KOLKATA = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata")
SHIFTS = {"early": "06:00-14:00", "late": "14:00-22:00", "night": "22:00-02:30", "small": "02:30-06:00"}


@given(
    st.dates(date(2020, 1, 1), date(2030, 1, 1)),
    st.sampled_from(["Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata"]),
)
def test_one_shift_ends_where_the_next_begins(day: date, zone: str) -> None:
    spans = [shifts.shift_of(SHIFTS, name, day, ZoneInfo(zone)).ns for name in ("early", "late", "night")]
    spans.append(shifts.shift_of(SHIFTS, "small", date.fromordinal(day.toordinal() + 1), ZoneInfo(zone)).ns)
    assert all(a[1] == b[0] for a, b in pairwise(spans))


def test_the_clock_is_changed_in_the_night() -> None:
    night = {"night": "22:00-06:00"}
    hours = {
        day: (span.ns[1] - span.ns[0]) / HOUR_NS
        for day in ("2026-03-28", "2026-10-24", "2026-11-24")
        for span in [shifts.shift_of(night, "night", date.fromisoformat(day), BERLIN)]
    }
    assert hours == {"2026-03-28": 7, "2026-10-24": 9, "2026-11-24": 8}
    autumn = shifts.shift_of(night, "night", date(2026, 10, 24), BERLIN)
    assert (autumn.days_before(1).ns[1] - autumn.days_before(1).ns[0]) / HOUR_NS == 8
    labels = [shifts.local(at, BERLIN).strftime("%H") for at in shifts.whole_hours(autumn.ns, BERLIN)]
    assert labels == ["22", "23", "00", "01", "02", "02", "03", "04", "05"]


def test_hours_are_those_of_the_clock_on_the_wall() -> None:
    span = shifts.between("2026-11-26T06:10", "2026-11-26T08:05", KOLKATA)
    assert [shifts.local(at, KOLKATA).strftime("%H:%M") for at in shifts.whole_hours(span.ns, KOLKATA)] == [
        "06:00",
        "07:00",
        "08:00",
    ]


def test_the_latest_shift_is_the_one_that_has_begun() -> None:
    def latest(name: str, text: str) -> str:
        now_ns = shifts.between(text, "2027-01-01", BERLIN).ns[0]
        return shifts.latest_shift(SHIFTS, name, now_ns, BERLIN).begin.isoformat()

    assert latest("night", "2026-11-26T03:00") == "2026-11-25T22:00:00"
    assert latest("night", "2026-11-26T21:59") == "2026-11-25T22:00:00"
    assert latest("night", "2026-11-26T22:00") == "2026-11-26T22:00:00"
    assert latest("early", "2026-11-26T03:00") == "2026-11-25T06:00:00"


def test_an_offset_says_which_of_two() -> None:
    first = shifts.between("2026-10-25T02:30+02:00", "2026-10-25T06:00", BERLIN)
    second = shifts.between("2026-10-25T02:30+01:00", "2026-10-25T06:00", BERLIN)
    assert second.ns[0] - first.ns[0] == HOUR_NS


def test_what_cannot_be_understood() -> None:
    for begin, end, sentence in (
        ("soon", "2026-01-01", "--from soon: expected a time"),
        ("2026-01-02", "2026-01-01", "expected later than --from 2026-01-02"),
    ):
        with pytest.raises(SpanError, match=sentence):
            shifts.between(begin, end, BERLIN)
    with pytest.raises(SpanError, match="expected one of the configuration's: early, late, night, small"):
        shifts.shift_of(SHIFTS, "lunch", date(2026, 1, 1), BERLIN)
