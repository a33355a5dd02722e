"""Whose message comes next, of several sources merged in time: pure, the time is passed in (monotonic s).

Each source gives its messages in its own order, each with a time (ns), or None where it goes out as soon as it is its
source's turn. The earliest of the sources' first messages goes first. It is held back for what another source may still
bring, but not longer than the patience:

- a source that is up to date holds a message for `patience_s` from its arrival: what lay between the two sources'
  readings of one event comes within that, or late;
- one that catches up (reads its past out of a journal) holds those of others that catch up, for `patience_s` from when
  it last had a message;
- one that says nothing, not even a heartbeat, holds nobody after `deaf_s`;
- a source that catches up has the earlier messages, and there may be many: those of sources that are up to date wait
  for `patience_s`, and then every other turn is theirs;
- one that comes late, after a message with a later time was given, is not held back at all.

So messages come in order of time where all sources are up to date and none brings one later than the patience after
another's; and while all catch up and none pauses for longer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_NOW_NS = -(1 << 62)
"""The time of a message that has none: before all others."""


@dataclass(slots=True)
class _Waiting(Generic[_Item]):
    item: _Item
    time_ns: int | None
    arrived_s: float


@dataclass(slots=True)
class _Lane(Generic[_Item]):
    """One source. live: it was up to date, and has been heard since; empty_s: since when it has no message."""

    heard_s: float
    empty_s: float
    live: bool = False
    waiting: deque[_Waiting[_Item]] = field(default_factory=deque)

    @property
    def first(self) -> _Waiting[_Item]:
        return self.waiting[0]


class MergeOrder(Generic[_Item]):
    """names: of the sources; of equal times, the first of them goes first. now_s: when all of this begins."""

    def __init__(self, names: Iterable[str], patience_s: float, deaf_s: float, now_s: float) -> None:
        self._patience_s, self._deaf_s = patience_s, deaf_s
        self._lanes: dict[str, _Lane[_Item]] = {name: _Lane(now_s, now_s) for name in names}
        self._jumped = False  # the last turn was that of one that had waited long
        self._given_ns = _NOW_NS  # latest time given so far

    def waiting(self, name: str) -> int:
        """How many messages of a source are here."""
        return len(self._lanes[name].waiting)

    def came(self, name: str, item: _Item, time_ns: int | None, now_s: float) -> None:
        """The next message of a source."""
        self._lanes[name].waiting.append(_Waiting(item, time_ns, now_s))

    def looked(self, name: str, *, up_to_date: bool, heard_s: float, now_s: float) -> None:
        """A source has given all it had. up_to_date: and there is no more in its past; heard_s: its last word."""
        lane = self._lanes[name]
        lane.heard_s = heard_s
        lane.live = up_to_date or (lane.live and not self._deaf(lane, now_s))

    def deaf(self, now_s: float) -> list[str]:
        """Sources that nothing is heard from, so that nobody waits for them."""
        return [name for name, lane in self._lanes.items() if self._deaf(lane, now_s)]

    def take(self, now_s: float) -> tuple[str, _Item] | None:
        """Whose turn it is, and the message; None where there is none, or the first is still held back."""
        name = self._overdue(now_s) or self._earliest()
        if name is None or self._held_until_s(name, now_s) > now_s:
            return None
        lane = self._lanes[name]
        taken = lane.waiting.popleft()
        self._given_ns = max(self._given_ns, taken.time_ns or _NOW_NS)
        if not lane.waiting:
            lane.empty_s = now_s
        return name, taken.item

    def next_s(self, now_s: float) -> float:
        """When `take` has something although nothing comes in between; infinity where it will not."""
        name = self._earliest()
        return float("inf") if name is None else self._held_until_s(name, now_s)

    def _deaf(self, lane: _Lane[_Item], now_s: float) -> bool:
        return not lane.waiting and now_s - lane.heard_s >= self._deaf_s

    def _earliest(self) -> str | None:
        there = [(_time(lane), name) for name, lane in self._lanes.items() if lane.waiting]
        return min(there, key=lambda one: one[0])[1] if there else None

    def _overdue(self, now_s: float) -> str | None:
        """Every other turn: the message of an up-to-date source that has waited longest, if those of one that catches
        up would keep it longer than the patience.
        """
        earliest = self._earliest()
        self._jumped = not self._jumped and earliest is not None and not self._lanes[earliest].live
        if not self._jumped:
            return None
        live = [(lane.first.arrived_s, name) for name, lane in self._lanes.items() if lane.waiting and lane.live]
        arrived_s, name = min(live, default=(float("inf"), None))
        self._jumped = now_s - arrived_s >= self._patience_s
        return name if self._jumped else None

    def _held_until_s(self, name: str, now_s: float) -> float:
        """Until when the first message of a source is kept for what others may still bring."""
        mine = self._lanes[name]
        if mine.first.time_ns is None or mine.first.time_ns < self._given_ns:
            return now_s
        until_s = now_s
        for lane in self._lanes.values():
            if not lane.waiting and not self._deaf(lane, now_s) and (mine.live or not lane.live):
                since_s = self._longest_s() if mine.live else lane.empty_s
                until_s = max(until_s, since_s + self._patience_s)
        return until_s

    def _longest_s(self) -> float:
        """Since when the message of an up-to-date source waits that has waited longest, behind earlier ones too."""
        return min(lane.first.arrived_s for lane in self._lanes.values() if lane.waiting and lane.live)


def _time(lane: _Lane[_Item]) -> int:
    time_ns = lane.first.time_ns
    return _NOW_NS if time_ns is None else time_ns
