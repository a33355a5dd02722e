"""How much of a server's ring is left before it drops what a client has not read yet. Arithmetic alone.

Source: FDSN SeedLink 4.0, appendix B: `start_seq` is the oldest packet of a station that is held, `end_seq` the next to
come. Version 3 says the same as begin_seq and end_seq; its sequences are taken modulo 2^24.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tscc_stream.seedlink.frames import V3_SEQUENCES
from tscc_stream.seedlink.position import Position, next_sequence

NARROW: Final = 0.2
"""Share of the ring below which people are warned."""
AGAIN_NS: Final = 60_000_000_000
"""How often at most the same is told again."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What a server holds of a station: the oldest sequence, and the one that comes next."""

    first: int
    after: int


@dataclass(frozen=True, slots=True)
class Left:
    """What of the ring lies between its end and a client.

    share: 1 where everything is read, 0 where the oldest packet is the next one. lost: sequences dropped unread.
    """

    share: float
    lost: int


def extents_json(payload: bytes) -> dict[str, Extent]:
    """By NET_STA, out of version 4's answer to INFO STATIONS; empty where it has no such numbers."""
    try:
        stations = json.loads(payload)["station"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    found = {}
    for station in stations if isinstance(stations, list) else ():
        fields = station if isinstance(station, dict) else {}
        name, first, after = fields.get("id"), fields.get("start_seq"), fields.get("end_seq")
        if isinstance(name, str) and isinstance(first, int) and isinstance(after, int):
            found[name] = Extent(first, after)
    return found


def extents_xml(xml: str, software: str) -> dict[str, Extent]:
    """By NET_STA, out of version 3's answer to INFO STATIONS; empty where it has no such numbers.

    software: the server's first line. ringserver writes decimal numbers of any length, others six hexadecimal digits.
    """
    base = 10 if "ringserver" in software.lower() else 16
    found = {}
    for tag in re.findall(r"<station\s[^>]*>", xml):
        fields = dict(re.findall(r'\b(name|network|begin_seq|end_seq)="([A-Za-z0-9-]{1,20})"', tag))
        try:
            extent = Extent(int(fields["begin_seq"], base) % V3_SEQUENCES, int(fields["end_seq"], base) % V3_SEQUENCES)
            found[f"{fields['network']}_{fields['name']}"] = extent
        except (KeyError, ValueError):
            continue
    return found


def left_in(extents: Mapping[str, Extent], position: Position) -> Left | None:
    """What is left for a client at `position`; the worst of its stations where each has sequences of its own.

    None where that cannot be said: no sequences yet, or a server that has started its sequences again.
    """
    if position.stations:
        each = [
            _left([extents[name]], mark.sequence, position.protocol)
            for name, mark in position.stations
            if name in extents and mark.sequence is not None
        ]
        return min((left for left in each if left is not None), key=lambda left: (left.share, -left.lost), default=None)
    last = position.last
    if last is None or last.sequence is None or not extents:
        return None
    return _left(list(extents.values()), last.sequence, position.protocol)


def _left(extents: list[Extent], sequence: int, protocol: int) -> Left | None:
    """Of one run of sequences, whose oldest packet any of these stations may have."""
    wanted = next_sequence(sequence, protocol)
    behind = max(_distance(extent.first, wanted, protocol) for extent in extents)
    ahead = max(_distance(wanted, extent.after, protocol) for extent in extents)
    if ahead < 0:
        return None
    if behind < 0:
        return Left(0.0, -behind)
    return Left(behind / (behind + ahead) if ahead else 1.0, 0)


def _distance(start: int, end: int, protocol: int) -> int:
    if protocol != 3:
        return end - start
    half = V3_SEQUENCES // 2
    return (end - start + half) % V3_SEQUENCES - half


class RingWatch:
    """Turns what is left into a sentence when people should read one. One for each wait, whose pace it takes."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self._told: tuple[int, bool] | None = None

    def feed(self, now_ns: int, left: Left) -> str | None:
        """A sentence, or None where all is well or the same was told within the last minute."""
        seconds = self._seconds(now_ns, left.share)
        overrun = left.lost > 0
        if left.share >= NARROW and not overrun:
            return None
        if self._told is not None and now_ns - self._told[0] < AGAIN_NS and self._told[1] == overrun:
            return None
        self._told = (now_ns, overrun)
        if overrun:
            lost = f"up to {left.lost} sequences are lost"  # some of them may lie in the network's buffers
            return f"not reading, and the server's ring has passed the last packet read: {lost}"
        pace = "" if seconds is None else f", about {seconds:.0f} s at this pace"
        return f"not reading, and {left.share:.0%} of the server's ring is left before data are lost{pace}"

    def _seconds(self, now_ns: int, share: float) -> float | None:
        if self._first is None:
            self._first = (now_ns, share)
        started_ns, at_first = self._first
        if share >= at_first:
            return None
        return share / (at_first - share) * (now_ns - started_ns) / 1e9
