"""Local hours, shifts and days: right over midnight and over changes to and from summer time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tscc_stream.apps.alert_times import DAYS, Announced, BlastWindows, Hours, in_span
from tscc_stream.config_alerts import PlannedConfig, When

SUDBURY = ZoneInfo("America/Toronto")
ZONES = st.sampled_from([UTC, SUDBURY, ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Africa/Johannesburg")])
_CLOCK = st.tuples(st.integers(0, 23), st.integers(0, 59))
_MOMENT = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31))  # UTC is added


def ns(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9


def utc(text: str) -> int:
    return ns(datetime.fromisoformat(text).replace(tzinfo=UTC))


@given(_MOMENT, _CLOCK, _CLOCK, st.sets(st.sampled_from(DAYS)), ZONES)
def test_a_span_is_what_counting_minutes_says(
    moment: datetime, begin: tuple[int, int], end: tuple[int, int], days: set[str], zone: ZoneInfo
) -> None:
    """Oracle: walk from each local midnight, today's and yesterday's, over the naive minutes of the span."""
    if begin == end:
        return
    clock = moment.replace(tzinfo=UTC).astimezone(zone)
    naive = clock.replace(tzinfo=None, second=0, microsecond=0)
    inside = False
    for back in (0, 1):
        midnight = datetime(naive.year, naive.month, naive.day) - timedelta(days=back)  # a clock's face
        first = midnight + timedelta(hours=begin[0], minutes=begin[1])
        last = midnight + timedelta(hours=end[0], minutes=end[1], days=1 if end < begin else 0)
        inside |= first <= naive < last and (not days or DAYS[midnight.weekday()] in days)
    span = f"{begin[0]:02d}:{begin[1]:02d}-{end[0]:02d}:{end[1]:02d}"
    assert in_span(clock, span, sorted(days)) == inside


@pytest.mark.parametrize(
    ("moment", "inside"),
    [
        ("2026-03-08T06:59:00", False),  # 01:59 EST
        ("2026-03-08T07:00:00", False),  # 03:00 EDT: 02:00 to 03:00 never comes
        ("2026-03-09T06:15:00", True),  # 02:15 EDT the day after
        ("2026-11-01T06:15:00", False),  # 01:15 EST, the second time
        ("2026-11-01T07:15:00", True),  # 02:15 EST
        ("2026-07-01T06:15:00", True),  # 02:15 EDT
        ("2026-01-01T06:15:00", False),  # 01:15 EST
    ],
)
def test_a_blast_at_two_in_the_morning_over_the_changes_of_the_clock(moment: str, inside: bool) -> None:
    planned = PlannedConfig(reason="blast", hours=("02:00-02:30",))
    windows = BlastWindows((planned,), SUDBURY)
    assert (windows.reason(utc(moment), "blast") == "blast") == inside


def test_an_hour_that_comes_twice_holds_both_times() -> None:
    windows = BlastWindows((PlannedConfig(reason="blast", hours=("01:00-02:00",)),), SUDBURY)
    reasons = [windows.reason(utc(f"2026-11-01T{hour}:30:00"), "blast") for hour in ("04", "05", "06", "07")]
    assert reasons == [None, "blast", "blast", None]


def test_shifts_hours_and_days_together() -> None:
    shifts = {"day": "06:00-18:00", "night": "18:00-06:00"}
    night = Hours.of(When(shifts=("night",), days=("fri",)), shifts, SUDBURY)
    assert night.hold(utc("2026-11-28T06:00:00")), "Saturday 01:00, of Friday's night"
    assert not night.hold(utc("2026-11-27T06:00:00")), "Friday 01:00, of Thursday's night"
    assert Hours.of(When(days=("sat",)), shifts, SUDBURY).hold(utc("2026-11-29T04:59:00")), "still Saturday there"
    assert Hours.of(When(), shifts, SUDBURY).hold(0)


def test_announced_windows_and_clusters_of_planned_ones() -> None:
    planned = PlannedConfig(reason="drilling", hours=("00:00-12:00",), clusters=("drilling",))
    windows = BlastWindows((planned,), ZoneInfo("UTC"))
    assert windows.reason(utc("2026-01-01T06:00:00"), "drilling") == "drilling"
    assert windows.reason(utc("2026-01-01T06:00:00"), "blast") is None
    windows.announced = (Announced(100, 200, "secondary blast"),)
    assert [windows.reason(at, "blast") for at in (99, 100, 199, 200)] == [
        None,
        "secondary blast",
        "secondary blast",
        None,
    ]
