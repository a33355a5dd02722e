"""Local time of a site: whether a moment lies within hours, shifts and days, and within a blast window. Pure.

Hours are those that clocks at the site show. An hour that a change to summer time leaves out never comes; one that the
change back repeats holds both times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from tscc_stream.config_alerts import PlannedConfig, When
from tscc_stream.config_people import minutes_of

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def local(moment_ns: int, zone: ZoneInfo) -> datetime:
    """A moment (ns since 1970, UTC) as clocks at the site show it."""
    return (_EPOCH + timedelta(microseconds=moment_ns // 1000)).astimezone(zone)


def in_span(clock: datetime, span: str, days: Sequence[str]) -> bool:
    """Whether a local time lies in HH:MM-HH:MM. days: on which the span begins; none: every day."""
    begin, end = minutes_of(span)
    minute, today = 60 * clock.hour + clock.minute, clock.weekday()
    if begin < end:
        return begin <= minute < end and _holds(today, days)
    return (minute >= begin and _holds(today, days)) or (minute < end and _holds(today - 1, days))


def _holds(weekday: int, days: Sequence[str]) -> bool:
    return not days or DAYS[weekday % 7] in days


@dataclass(frozen=True, slots=True)
class Hours:
    """When a rule or a watch holds: spans of hours and shifts together; none: whole days."""

    spans: tuple[str, ...]
    days: tuple[str, ...]
    zone: ZoneInfo

    @classmethod
    def of(cls, when: When, shifts: Mapping[str, str], zone: ZoneInfo) -> Hours:
        return cls((*when.hours, *(shifts[name] for name in when.shifts)), when.days, zone)

    def hold(self, moment_ns: int) -> bool:
        """Whether they hold at a moment."""
        if not self.spans and not self.days:
            return True
        clock = local(moment_ns, self.zone)
        if not self.spans:
            return _holds(clock.weekday(), self.days)
        return any(in_span(clock, span, self.days) for span in self.spans)


@dataclass(frozen=True, slots=True)
class Announced:
    """A window that somebody announced: from_ns <= moment < until_ns."""

    from_ns: int
    until_ns: int
    reason: str


class BlastWindows:
    """Planned windows of the configuration, and announced ones."""

    def __init__(self, planned: Iterable[PlannedConfig], zone: ZoneInfo) -> None:
        self._planned = tuple(planned)
        self._zone = zone
        self.announced: tuple[Announced, ...] = ()

    def reason(self, moment_ns: int, cluster: str) -> str | None:
        """Why a known event of this cluster is expected at a moment; None: it is not."""
        for one in self.announced:
            if one.from_ns <= moment_ns < one.until_ns:
                return one.reason
        clock = local(moment_ns, self._zone)
        for planned in self._planned:
            expected = not planned.clusters or cluster in planned.clusters
            if expected and any(in_span(clock, span, planned.days) for span in planned.hours):
                return planned.reason
        return None
