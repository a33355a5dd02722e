"""How well the sensors were over a span: out of the ledger of gaps, and of how far each channel has come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from tscc_stream.edges.sqlite import JournalReader
from tscc_stream.gap_causes import LOST
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.stages.journal import GapEntry

SILENT = "silent"
"""Cause of what is missing at the end: no data came, and no later data have shown how long the gap is."""
UNUSABLE = ("flat", "invalid")
_SETTLED_NS = 300 * NS_PER_SECOND
"""How far the journal's word on how far a channel has come may lag behind."""


@dataclass(frozen=True, slots=True)
class Break:
    """from_ns, to_ns: within the span."""

    from_ns: int
    to_ns: int
    cause: str


@dataclass(frozen=True, slots=True)
class ChannelHealth:
    """with_data, usable: shares of the span, 0 to 1; usable leaves out flat and invalid data as well."""

    channel: str
    breaks: tuple[Break, ...]
    with_data: float
    usable: float

    def seconds(self, cause: str) -> float:
        """In all, of one cause."""
        return sum(one.to_ns - one.from_ns for one in self.breaks if one.cause == cause) / NS_PER_SECOND


class _Reached(msgspec.Struct):
    channels: dict[str, tuple[int, int]]


def reached(reader: JournalReader) -> dict[str, int]:
    """How far (ns) each channel had come at the journal's last snapshot; empty where there is none."""
    snapshot = reader.snapshot()
    if snapshot is None:
        return {}
    try:
        return {sid: had for sid, (_, had) in msgspec.json.decode(snapshot.reached, type=_Reached).channels.items()}
    except msgspec.DecodeError:
        return {}  # of another version: what the ledger says is left


def channels(
    gaps: Iterable[GapEntry], come_to_ns: Mapping[str, int], sids: Iterable[str], span_ns: tuple[int, int]
) -> list[ChannelHealth]:
    """Of every channel that anything tells of, by source id. span_ns: up to now at most."""
    found: defaultdict[str, list[Break]] = defaultdict(list)
    for gap in gaps:
        begin, end = max(gap.from_ns, span_ns[0]), min(span_ns[1] if gap.to_ns is None else gap.to_ns, span_ns[1])
        if begin < end or (gap.cause == "clock" and span_ns[0] <= gap.from_ns < span_ns[1]):
            found[gap.sid].append(Break(begin, max(begin, end), gap.cause))
    for sid, had_ns in come_to_ns.items():
        covered = max((one.to_ns for one in found.get(sid, ())), default=span_ns[0])
        begin = max(had_ns, covered, span_ns[0])
        if span_ns[1] - begin > _SETTLED_NS:
            found[sid].append(Break(begin, span_ns[1], SILENT))
    every = sorted({*found, *come_to_ns, *sids})
    return [_health(sid, tuple(found.get(sid, ())), span_ns) for sid in every]


def _health(sid: str, breaks: tuple[Break, ...], span_ns: tuple[int, int]) -> ChannelHealth:
    lost = [one for one in breaks if one.cause in LOST or one.cause == SILENT]
    bad = [one for one in breaks if one.cause in UNUSABLE]
    return ChannelHealth(sid, breaks, 1.0 - _share(lost, span_ns), 1.0 - _share(lost + bad, span_ns))


def _share(breaks: list[Break], span_ns: tuple[int, int]) -> float:
    """Of the span that any of them covers."""
    covered, until = 0, span_ns[0]
    for one in sorted(breaks, key=lambda one: one.from_ns):
        covered += max(0, one.to_ns - max(one.from_ns, until))
        until = max(until, one.to_ns)
    return covered / max(1, span_ns[1] - span_ns[0])
