"""What is shown of a cluster: its numbers, its typical members, and those at its border. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

from tscc_stream.apps.console.detections import Rows
from tscc_stream.messages import Float64Array

TYPICAL, BORDER = 6, 6
_SAME_CHANNEL = 2
"""Of one channel at most, while there are others."""
_QUARTER_NS = 900_000_000_000
"""Quarters of an hour, since offsets of time zones are whole numbers of them."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A member that is shown, and why it is: one short text. row: of detections.ROW."""

    row: np.void
    why: str


def typical(members: Rows, count: int = TYPICAL) -> list[Shown]:
    """Near the centre and far from every other: highest membership times p-value (of the distance to the centre)."""
    if not members.size:
        return []
    p = np.nan_to_num(members["p_value"], nan=1.0)
    order = np.argsort(-(members["membership"] * p), kind="stable")
    return [Shown(row, f"membership {row['membership']:.2f}{_p_text(row)}") for row in _mixed(members[order], count)]


def border(members: Rows, names: list[str], alpha: float, count: int = BORDER) -> list[Shown]:
    """Half of them all but equally near to another cluster, half all but unknown. names: of the clusters."""
    if not members.size:
        return []
    between = _mixed(members[np.argsort(members["margin"], kind="stable")], (count + 1) // 2)
    shown = [Shown(row, f"{_small(row['margin'])} ahead of {_name(names, row['runner_up'])}") for row in between]
    taken = {int(row["seq"]) for row in between}
    stated = members[np.isfinite(members["p_value"]) & ~np.isin(members["seq"], list(taken))]
    nearly = _mixed(stated[np.argsort(stated["p_value"], kind="stable")], count - len(shown))
    return shown + [Shown(row, f"p-value {row['p_value']:.3f}, unknown up to {alpha:g}") for row in nearly]


def _mixed(rows: Rows, count: int) -> list[np.void]:
    """The first of them, of several channels where there are several."""
    taken: list[np.void] = []
    passed: list[np.void] = []
    per_channel: Counter[int] = Counter()
    for row in rows[: 50 * count]:
        per_channel[int(row["sid"])] += 1
        (taken if per_channel[int(row["sid"])] <= _SAME_CHANNEL else passed).append(row)
        if len(taken) == count:
            break
    return (taken + passed)[:count]


def _p_text(row: np.void) -> str:
    return "" if np.isnan(row["p_value"]) else f", p-value {row['p_value']:.2f}"


def _small(margin: float) -> str:
    return f"{margin:.3f}" if margin >= 0.001 else "less than 0.001"


def _name(names: list[str], cluster: int) -> str:
    return names[cluster] if 0 <= cluster < len(names) else "no other"


def per_hour_of_day(members: Rows, everything: Rows, zone: ZoneInfo) -> Float64Array:
    """[24] detections an hour, by hour of the day in a time zone; NaN where the period does not touch that hour.

    An hour of the day counts as long as it lies between the first and the last of all detections, so that a period of
    a day and a half does not show twice as much in half of it.
    """
    counted, hours_there = np.zeros(24), np.zeros(24)
    if everything.size:
        first, last = (
            int(edge) // _QUARTER_NS for edge in (everything["onset_ns"].min(), everything["onset_ns"].max())
        )
        for quarter in range(first, last + 1):
            hours_there[_hour(quarter, zone)] += 0.25
    for quarter, count in zip(*np.unique(members["onset_ns"] // _QUARTER_NS, return_counts=True), strict=True):
        counted[_hour(int(quarter), zone)] += count
    rate: Float64Array = np.divide(counted, hours_there, out=np.full(24, np.nan), where=hours_there > 0)
    return rate


def _hour(quarter: int, zone: ZoneInfo) -> int:
    return datetime.fromtimestamp(quarter * 900, UTC).astimezone(zone).hour
