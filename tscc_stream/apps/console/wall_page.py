"""What one open page shows of the wall, and the events that wait to be sent to it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

MOST_TRACES = 100
"""Of one page."""
MOST_PATTERNS = 100
MOST_EVENTS = 64
"""That wait for one page: six seconds of them."""
SPANS = (10, 30, 60, 120, 300)
"""Seconds."""
COLUMNS = range(50, 4001)
FIRST_TRACES = 12
"""Shown where nobody chose any."""
_PATTERN = re.compile(r"[A-Z0-9*?._-]{1,40}")


class ChoiceError(ValueError):
    """What a page asks for cannot be shown, and why."""


@dataclass(frozen=True, slots=True)
class Choice:
    """patterns over NET.STA.LOC.CHA, in the order in which they are shown; none: the first channels there are."""

    patterns: tuple[str, ...]
    span: int
    columns: int

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Choice:
        """Out of an address. Raises ChoiceError."""
        patterns = tuple(part for part in query.get("channels", "").upper().split(",") if part)
        wrong = next((part for part in patterns if _PATTERN.fullmatch(part) is None), None)
        if wrong is not None:
            raise ChoiceError(f"channel {wrong[:40]!r}: expected NET.STA.LOC.CHA, with * and ?")
        if len(patterns) > MOST_PATTERNS:
            raise ChoiceError(f"{len(patterns)} channels and patterns: expected at most {MOST_PATTERNS}")
        span, columns = _number(query, "span", 60), _number(query, "columns", 1000)
        if span not in SPANS:
            raise ChoiceError(f"span {span}: expected one of {', '.join(map(str, SPANS))} seconds")
        if columns not in COLUMNS:
            raise ChoiceError(f"columns {columns}: expected {COLUMNS.start} to {COLUMNS.stop - 1}")
        return cls(patterns, span, columns)

    @property
    def column_ns(self) -> int:
        return self.span * 10**9 // self.columns

    def among(self, channels: Iterable[str]) -> tuple[str, ...]:
        """The channels that are to be shown of those there are, at most MOST_TRACES."""
        there = sorted(channels)
        if not self.patterns:
            return tuple(there[:FIRST_TRACES])
        found: dict[str, None] = {}
        for pattern in self.patterns:
            found |= dict.fromkeys(name for name in there if fnmatchcase(name, pattern))
        return tuple(found)[:MOST_TRACES]


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.isdecimal() or len(text) > 6:
        raise ChoiceError(f"{name} {text[:40]!r}: expected a whole number")
    return int(text)


class WallPage:
    """One page. To be made where its event loop runs; `put` and the rest are for the wall's thread.

    shown: the channels that it was told of (None: of none yet). behind: it did not read in time, and is to be told
    everything anew. opened_s: monotonic. begun: it was told what there was before it.
    """

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.shown: tuple[str, ...] | None = None
        self.behind = False
        self.opened_s = time.monotonic()
        self.begun = False
        self.told: dict[str, str] = {}
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[str] = asyncio.Queue(MOST_EVENTS)

    def put(self, events: str) -> None:
        """Events as they go over the wire."""
        try:
            self._loop.call_soon_threadsafe(self._take, events)
        except RuntimeError:  # its loop has ended, and so has the page
            self.behind = True

    def tell_anew(self, shown: tuple[str, ...]) -> None:
        """What it shows from now on. Where it was behind, what it was told may have been dropped: it is told again."""
        if self.behind:
            self.told.clear()
            self.begun = False
        self.behind, self.shown = False, shown

    def tell(self, name: str, event: str) -> None:
        """An event, where it is another one than the last of that name."""
        if self.told.get(name) != event:
            self.told[name] = event
            self.put(event)

    def _take(self, events: str) -> None:
        if not self.behind and self._queue.full():
            self.behind = True
            while not self._queue.empty():
                self._queue.get_nowait()
        if not self._queue.full():
            self._queue.put_nowait(events)

    async def events(self) -> AsyncIterator[str]:
        while True:
            yield await self._queue.get()
