"""The shift that is on, and how many detections of each cluster came in it: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from tscc_stream.apps.shifts import latest_shift

BINS = 24
"""Bars of the chart."""
NO_SHIFT_HOURS = 8
"""What is shown where no shift is on."""
_HALF_HOUR_NS = 1800 * 10**9
UNKNOWN = "unknown"
Cluster = tuple[str, int | str]
"""SHA-256 of the model, and the cluster's id or UNKNOWN."""


@dataclass(frozen=True, slots=True)
class Shift:
    """name: empty where none is on, and then it is the last NO_SHIFT_HOURS."""

    name: str
    begin_ns: int
    end_ns: int

    def bin_of(self, time_ns: int) -> int | None:
        """Which of its BINS parts a time is in; None outside."""
        if not self.begin_ns <= time_ns < self.end_ns:
            return None
        return (time_ns - self.begin_ns) * BINS // (self.end_ns - self.begin_ns)


def current(shifts: Mapping[str, str], zone: ZoneInfo, now_ns: int) -> Shift:
    """The shift that is on. Begin and end are what the clocks on the wall show, also where they are changed."""
    for name in shifts:
        begin_ns, end_ns = latest_shift(shifts, name, now_ns, zone).ns
        if now_ns < end_ns:
            return Shift(name, begin_ns, end_ns)
    end_ns = (now_ns // _HALF_HOUR_NS + 1) * _HALF_HOUR_NS
    return Shift("", end_ns - NO_SHIFT_HOURS * 2 * _HALF_HOUR_NS, end_ns)


@dataclass(slots=True)
class Tally:
    """Detections of one shift, by cluster and part of the shift."""

    shift: Shift
    bins: dict[Cluster, list[int]] = field(default_factory=dict)

    def add(self, cluster: Cluster, onset_ns: int) -> None:
        place = self.shift.bin_of(onset_ns)
        if place is not None:
            self.bins.setdefault(cluster, [0] * BINS)[place] += 1
