"""The ledger of gaps as people read it: by channel and cause, and along time. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tscc_stream.gap_causes import LOST
from tscc_stream.source_id import name_of
from tscc_stream.stages.journal import GapEntry

MOST_CHANNELS = 12
"""Channels that are drawn, those with most lost time."""
MOST_STRETCHES = 300
"""Of a channel; what lies closer together than that many parts of the period is drawn as one."""


@dataclass(frozen=True, slots=True)
class Row:
    """Gaps of one channel by one cause within the period. seconds: their length together."""

    channel: str
    cause: str
    gaps: int
    seconds: float
    lasts: bool


@dataclass(frozen=True, slots=True)
class Stretch:
    """A gap on a line of length 1, from `begin` to `end`."""

    begin: float
    end: float
    cause: str


def summary(gaps: Sequence[GapEntry], from_ns: int, to_ns: int) -> list[Row]:
    """Most time first. Of gaps that reach out of the period, what lies within counts."""
    count: Counter[tuple[str, str]] = Counter()
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    lasting: set[tuple[str, str]] = set()
    for gap in gaps:
        key = name_of(gap.sid), gap.cause
        begin, end = max(gap.from_ns, from_ns), min(gap.to_ns or to_ns, to_ns)
        if end < begin:
            continue
        count[key] += 1
        seconds[key] += (end - begin) / 1e9
        if gap.to_ns is None:
            lasting.add(key)
    rows = [Row(*key, number, seconds[key], key in lasting) for key, number in count.items()]
    return sorted(rows, key=lambda row: (-row.seconds, row.channel, row.cause))


def timeline(gaps: Sequence[GapEntry], from_ns: int, to_ns: int) -> dict[str, list[Stretch]]:
    """Channel -> its gaps, of the channels with most of them."""
    total: Counter[str] = Counter()
    for row in summary(gaps, from_ns, to_ns):
        total[row.channel] += max(1, round(row.seconds))
    drawn: dict[str, list[Stretch]] = {channel: [] for channel, _ in total.most_common(MOST_CHANNELS)}
    length = max(1, to_ns - from_ns)
    for gap in gaps:
        stretches = drawn.get(name_of(gap.sid))
        begin, end = max(gap.from_ns, from_ns), min(gap.to_ns or to_ns, to_ns)
        if stretches is None or end < begin:
            continue
        one = Stretch((begin - from_ns) / length, (end - from_ns) / length, gap.cause)
        if stretches and stretches[-1].cause == one.cause and one.begin - stretches[-1].end < 1 / MOST_STRETCHES:
            stretches[-1] = Stretch(stretches[-1].begin, max(stretches[-1].end, one.end), one.cause)
        else:
            stretches.append(one)
    return drawn


def is_lost(cause: str) -> bool:
    """Whether data are missing, rather than there and of no use."""
    return cause in LOST
