"""Which window takes the process with it: told by what was in flight when it died, and how it died.

A window in the encoder when the process dies is a suspect. After the next start suspects go through the encoder alone,
one at a time; one that comes through is forgotten. Only a suspect that was alone in flight when the process died again
collects points: CRASH_POINTS where the process left a crash report (its own fault: a segmentation fault, an abort),
KILL_POINTS where it did not (ended from outside, as by kill -9 or for want of memory, or a crash that could not be
reported). At QUARANTINE_POINTS it is not given to the encoder any more.

A fault of the window's own is thus found after three deaths with a report, seven without. What ends the process from
outside leaves no report, and condemns nobody by chance: it has to hit the few milliseconds of the same window alone in
six lives after the one that made it a suspect. With 5 ms of at least 3 s from start to death, that is (1/600)^6 =
2e-17 for one suspect, 7e-16 for the 32 of a batch; with 60 ms on a machine ten times as slow, still (1/50)^6 x 32 =
2e-9 for every seven deaths in a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CRASH_POINTS = 3
KILL_POINTS = 1
QUARANTINE_POINTS = 6
MOST_SUSPECTS = 4096
"""As many as the largest batch; beyond, the oldest are forgotten."""


def after_death(suspects: Mapping[str, int], in_flight: Sequence[str], crashed: bool) -> dict[str, int]:
    """Suspects with their points, after a process died with these uids in flight. crashed: it left a report."""
    points = dict(suspects)
    for uid in in_flight:
        points.setdefault(uid, 0)
    if len(in_flight) == 1 and in_flight[0] in suspects:
        points[in_flight[0]] += CRASH_POINTS if crashed else KILL_POINTS
    return dict(list(points.items())[-MOST_SUSPECTS:])


def condemned(points: int) -> bool:
    """Whether a suspect with so many points is given to the encoder no more."""
    return points >= QUARANTINE_POINTS
