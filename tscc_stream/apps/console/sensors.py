"""One row for each channel: how its data are. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tscc_stream.apps.console.data_state import WORDS, Word, is_old, of_daemon
from tscc_stream.apps.console.readings import Readings, rates
from tscc_stream.source_id import name_of
from tscc_stream.stages.journal import GapEntry

NEWEST = "tscc_last_sample_timestamp_seconds"
"""The metric that has the time of each channel's newest sample."""
_FLAT_SECONDS = 600.0
"""For so long after a flat stretch a channel is called FLAT."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """age_s: of the newest sample; rate_hz: samples a second of late; lost_s: data that never came, since the start."""

    name: str
    word: Word
    age_s: float
    rate_hz: float
    gaps: int
    lost_s: float
    flat: int
    clipped: int


@dataclass(frozen=True, slots=True)
class Known:
    """What is known beside /metrics. moved_s: as HealthWatch has it; clipped: detections by source id; gaps: of the
    last day; health: /healthz.
    """

    wall_s: float
    now_s: float
    stale_s: float
    moved_s: Mapping[str, float | None]
    clipped: Mapping[str, int]
    gaps: Sequence[GapEntry]
    health: Mapping[str, Any] | None = None


def table(earlier: Readings | None, now: Readings, known: Known) -> list[Sensor]:
    """The worst first."""
    newest = now.by(NEWEST, "sid")
    rate = rates(earlier, now, "tscc_samples_total", "sid")
    gaps, lost = now.by("tscc_gaps_total", "sid"), now.by("tscc_lost_seconds_total", "sid")
    flat = _flat(known)
    left_out = {gap.sid for gap in known.gaps if gap.cause == "quarantined" and gap.to_ns is None}
    rows = []
    for sid, newest_s in newest.items():
        age_s, moved_s = known.wall_s - newest_s, known.moved_s.get(sid)
        unmoved_s = None if moved_s is None else known.now_s - moved_s
        clipped = known.clipped.get(sid, 0)
        of_time = of_daemon(age_s, unmoved_s, known.stale_s).word
        of_time = "OLD" if is_old(known.health, sid) else of_time
        word = _word(of_time, sid in left_out, flat.get(sid, (0, False))[1], clipped)
        rows.append(
            Sensor(
                name_of(sid), word, age_s, rate.get(sid, math.nan), round(gaps.get(sid, 0)), lost.get(sid, 0.0),
                flat.get(sid, (0, False))[0], clipped,
            )
        )  # fmt: skip
    return sorted(rows, key=lambda row: (-WORDS.index(row.word), row.name))


def _word(of_time: Word, left_out: bool, flat: bool, clipped: int) -> Word:
    """The worst that holds. of_time: what the age of its data says."""
    others: list[tuple[Word, bool]] = [("LEFT OUT", left_out), ("FLAT", flat), ("CLIPPED", clipped > 0)]
    return max([of_time, *(word for word, holds in others if holds)], key=WORDS.index)


def _flat(known: Known) -> dict[str, tuple[int, bool]]:
    """Source id -> flat stretches of the last day, and whether it is flat now or was a moment ago."""
    found: dict[str, tuple[int, bool]] = {}
    for gap in known.gaps:
        if gap.cause == "flat":
            count, now = found.get(gap.sid, (0, False))
            lately = gap.to_ns is None or known.wall_s - gap.to_ns / 1e9 < _FLAT_SECONDS
            found[gap.sid] = (count + 1, now or lately)
    return found
