"""How well the sensors were over a span: out of the ledger of gaps, and of how far each channel has come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from tscc_stream.edges.sqlite import JournalReader
from tscc_stream.gap_causes import LOST
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.stages.journal import GapEntry

SILENT = "silent"
"""Cause of what is missing at the end: no data came, and no later data have shown how long the gap is."""
UNKNOWN = "not known"
"""Cause of what the journal tells nothing of: it begins later, or it has not heard of the channel yet."""
UNUSABLE = ("flat", "invalid")
WELL = 0.999
"""Share of time with usable data from which a channel counts as well."""
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
    """with_data, usable, unknown: shares of the span, 0 to 1; usable leaves out flat and invalid data as well. What is
    not known counts as neither.
    """

    channel: str
    breaks: tuple[Break, ...]
    with_data: float
    usable: float
    unknown: float = 0.0

    @property
    def ill(self) -> bool:
        """Known to have been without usable data, longer than nobody minds."""
        return self.usable + self.unknown < WELL

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
    gaps: Iterable[GapEntry],
    come_to_ns: Mapping[str, int],
    heard: Mapping[str, tuple[int, int]],
    span_ns: tuple[int, int],
) -> list[ChannelHealth]:
    """Of every channel that anything tells of, by source id. heard: from when to when the journal tells of a channel;
    after that, only how far it has come. span_ns: up to now at most.
    """
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
    for sid in {*found, *come_to_ns, *heard}:
        first_ns, last_ns = heard.get(sid, (span_ns[1], span_ns[1]))
        settled = sid in come_to_ns or span_ns[1] - last_ns <= _SETTLED_NS
        unknown = ((span_ns[0], first_ns), (span_ns[1] if settled else last_ns, span_ns[1]))
        known = [one for one in found[sid] if one.cause in (*LOST, *UNUSABLE, SILENT)]
        found[sid] += [piece for begin, end in unknown for piece in _without(begin, end, known, span_ns)]
    return [_health(sid, tuple(breaks), span_ns) for sid, breaks in sorted(found.items())]


def _without(begin_ns: int, end_ns: int, known: list[Break], span_ns: tuple[int, int]) -> Iterator[Break]:
    """What of a stretch lies within the span and in no break that is known."""
    at, end = max(begin_ns, span_ns[0]), min(end_ns, span_ns[1])
    for one in sorted(known, key=lambda one: one.from_ns):
        if at < min(one.from_ns, end):
            yield Break(at, min(one.from_ns, end), UNKNOWN)
        at = max(at, one.to_ns)
    if at < end:
        yield Break(at, end, UNKNOWN)


def _health(sid: str, breaks: tuple[Break, ...], span_ns: tuple[int, int]) -> ChannelHealth:
    unknown = [one for one in breaks if one.cause == UNKNOWN]
    lost = [one for one in breaks if one.cause in LOST or one.cause == SILENT]
    bad = [one for one in breaks if one.cause in UNUSABLE]
    with_data, usable = (1.0 - _share([*missing, *unknown], span_ns) for missing in (lost, lost + bad))
    return ChannelHealth(sid, breaks, with_data, usable, _share(unknown, span_ns))


def _share(breaks: list[Break], span_ns: tuple[int, int]) -> float:
    """Of the span that any of them covers."""
    covered, until = 0, span_ns[0]
    for one in sorted(breaks, key=lambda one: one.from_ns):
        covered += max(0, one.to_ns - max(one.from_ns, until))
        until = max(until, one.to_ns)
    return covered / max(1, span_ns[1] - span_ns[0])
