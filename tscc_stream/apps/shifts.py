"""Spans of time as people at a site mean them: a shift of a date, the same one days before, hours on their clock.

Local times follow the zone's rules. A time that the clock skips in spring is taken with the offset before; of a time
that it shows twice in autumn, the first is meant, unless an offset says otherwise. So one shift ends where the next
begins, and one of eight hours may last seven or nine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from tscc_stream.config_people import minutes_of
from tscc_stream.sampling import NS_PER_SECOND

HOUR_NS = 3600 * NS_PER_SECOND
_ORIGIN = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
YEARS = (1900, 2200)
"""Of spans; with room around them, their times fit in 64 bits of nanoseconds."""


class SpanError(ValueError):
    """A time or shift that cannot be understood, and what was expected."""


@dataclass(frozen=True, slots=True)
class Span:
    """From begin up to, and without, end: local times of the zone, without tzinfo. name: of the shift, or empty."""

    name: str
    begin: datetime
    end: datetime
    zone: ZoneInfo

    @property
    def ns(self) -> tuple[int, int]:
        """Both ends, ns since 1970."""
        return _ns(self.begin, self.zone), _ns(self.end, self.zone)

    def days_before(self, days: int) -> Span:
        """The same times on the clock of an earlier date."""
        return Span(self.name, self.begin - days * _DAY, self.end - days * _DAY, self.zone)


def shift_of(shifts: Mapping[str, str], name: str, day: date, zone: ZoneInfo) -> Span:
    """The shift that begins on a date. shifts: name -> HH:MM-HH:MM. Raises SpanError where there is no such shift."""
    _check_year(day, str(day))
    if name not in shifts:
        raise SpanError(f"shift {name}: expected one of the configuration's: {', '.join(shifts)}")
    begin, end = minutes_of(shifts[name])
    last = day + _DAY if end < begin else day
    return Span(name, _at(day, begin), _at(last, end), zone)


def latest_shift(shifts: Mapping[str, str], name: str, now_ns: int, zone: ZoneInfo) -> Span:
    """The last one that has begun. Raises SpanError as `shift_of` does."""
    today = local(now_ns, zone).date()
    spans = (shift_of(shifts, name, today - days * _DAY, zone) for days in range(-1, 3))
    return next(span for span in spans if span.ns[0] <= now_ns)


def between(begin: str, end: str, zone: ZoneInfo) -> Span:
    """Of two ISO 8601 times, on the zone's clock unless they have an offset. Raises SpanError."""
    span = Span("", _parsed("--from", begin, zone), _parsed("--to", end, zone), zone)
    if span.ns[0] >= span.ns[1]:
        raise SpanError(f"--to {end}: expected later than --from {begin}")
    return span


def local(at_ns: int, zone: ZoneInfo) -> datetime:
    """A time on the zone's clock, to the microsecond, aware."""
    return (_ORIGIN + timedelta(microseconds=at_ns // 1000)).astimezone(zone)


def whole_hours(span_ns: tuple[int, int], zone: ZoneInfo) -> list[int]:
    """Beginnings (ns) of the hours on the zone's clock that a span touches; each lasts HOUR_NS."""
    begin = local(span_ns[0], zone)
    first = span_ns[0] - ((60 * begin.minute + begin.second) * 10**6 + begin.microsecond) * 1000 - span_ns[0] % 1000
    return list(range(first, span_ns[1], HOUR_NS))


def _at(day: date, minutes: int) -> datetime:
    return datetime.combine(day, time(minutes // 60, minutes % 60))


def _parsed(option: str, text: str, zone: ZoneInfo) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise SpanError(f"{option} {text}: expected a time such as 2026-11-26T06:00") from error
    _check_year(at, f"{option} {text}")
    return at if at.tzinfo is None else at.astimezone(zone).replace(tzinfo=None)


def _check_year(day: date, what: str) -> None:
    if not YEARS[0] <= day.year <= YEARS[1]:
        raise SpanError(f"{what}: expected a year from {YEARS[0]} to {YEARS[1]}")


def _ns(at: datetime, zone: ZoneInfo) -> int:
    return (at.replace(tzinfo=zone) - _ORIGIN) // timedelta(microseconds=1) * 1000
