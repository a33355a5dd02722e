"""Which packets a client asked for: STATION and SELECT patterns of both protocol versions.

Sources: SeedLink v4.0 specification (FDSN), commands STATION and SELECT; for version 3 the SELECT form LLCCC.T.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from typing import Literal

from tscc_stream.serve.ring import Stream

MAX_STATIONS = 10_000
MAX_WILDCARDS = 200
MAX_SELECTORS = 200
_STATION = re.compile(r"[A-Za-z0-9*?_-]{1,64}")
_STATION_PART = re.compile(r"[A-Za-z0-9*?-]{1,10}")
_SELECT_V4 = re.compile(r"(!?)([A-Za-z0-9*?_-]{0,64})(?:\.([A-Za-z0-9*?]{1,2}))?(?::(.*))?")
_SELECT_V3 = re.compile(r"(!?)([A-Za-z0-9?*-]{2})?([A-Za-z0-9?*]{3})?(?:\.?([DECOTL]))?")
_DATA = "D"


class SelectionError(ValueError):
    """A pattern that cannot be used, in the words that the client gets to read."""


@lru_cache(maxsize=4096)
def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(re.sub(r"\*+", "*", pattern)))


@dataclass(frozen=True, slots=True)
class Selector:
    """One pattern over stream id and format; `negative` ones exclude. Version 3 matches location and letters."""

    negative: bool
    stream: str
    format: str
    legacy: bool = False

    def matches(self, stream: Stream) -> bool:
        if self.legacy:
            name = f"{stream.location:<2}{stream.seed_channel}".replace(" ", "-")
            return _glob(self.stream).match(name) is not None
        return _glob(self.stream).match(stream.stream_id) is not None and (
            _glob(self.format).match(stream.format + _DATA) is not None
        )


def station_v4(pattern: str) -> str:
    """Checked STATION argument of version 4. Raises SelectionError."""
    if _STATION.fullmatch(pattern) is None:
        raise SelectionError("expected a station id such as NET_STA, with * and ?")
    return pattern


def station_v3(station: str, network: str = "*") -> str:
    """`STATION STA [NET]` of version 3 as a station id pattern. Raises SelectionError."""
    if _STATION_PART.fullmatch(station) is None or _STATION_PART.fullmatch(network) is None:
        raise SelectionError("expected a station code and a network code, with * and ?")
    return f"{network}_{station}"


def selector_v4(text: str) -> Selector:
    """`[!]stream_pattern[.format_subformat][:filter]`. Raises SelectionError."""
    match = _SELECT_V4.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        raise SelectionError(f"expected [!]LOC_B_S_SS[.FORMAT][:FILTER], got {text:.40}")
    if match[4] is not None and (match[4] != "native" or match[1]):
        raise SelectionError("filter not supported" if not match[1] else "no filter with an exclusion")
    return Selector(bool(match[1]), match[2].removeprefix("--") or "*", match[3] or "*")


def selector_v3(text: str) -> Selector:
    """`[!][LL][CCC][.T]`. A type other than D selects nothing, since there is only data. Raises SelectionError."""
    if text in ("*", "!*"):
        return Selector(text == "!*", "*", "*")
    match = _SELECT_V3.fullmatch(text)
    if match is None or not (match[2] or match[3] or match[4]):
        raise SelectionError(f"expected [!][LL][CCC][.T], got {text:.40}")
    location, channel = match[2] or "??", match[3] or "*"
    kind = match[4] or _DATA
    return Selector(bool(match[1]), f"{location}{channel}" if kind == _DATA else "", "*", legacy=True)


@dataclass(eq=False)
class Request:
    """What a client asked for under one STATION command.

    number: the first sequence number wanted, "all" for the oldest in the ring, None for the next one to come.
    after_ns, until_ns: only packets that end after the one and start before the other (SeedLink v4.0, command DATA).
    """

    station: str
    selectors: list[Selector] = field(default_factory=list)
    number: int | Literal["all"] | None = None
    after_ns: int | None = None
    until_ns: int | None = None

    def add(self, selectors: list[Selector]) -> None:
        """All of these selectors, or none. Raises SelectionError beyond MAX_SELECTORS."""
        if len(self.selectors) + len(selectors) > MAX_SELECTORS:
            raise SelectionError(f"more than {MAX_SELECTORS} selectors for one station")
        self.selectors.extend(selectors)

    def matches(self, stream: Stream) -> bool:
        return _glob(self.station).match(stream.station_id) is not None

    def selects(self, stream: Stream) -> bool:
        """Any positive pattern (all streams where there is none), and no negative one."""
        if any(selector.negative and selector.matches(stream) for selector in self.selectors):
            return False
        positive = [selector for selector in self.selectors if not selector.negative]
        return not positive or any(selector.matches(stream) for selector in positive)

    def overlaps(self, start_ns: int, end_ns: int) -> bool:
        """Whether a packet with these times lies within the window."""
        if self.after_ns is not None and end_ns <= self.after_ns:
            return False
        return self.until_ns is None or start_ns < self.until_ns


class Subscription:
    """A client's requests. A stream belongs to the first STATION that matches it, whatever that one selects."""

    def __init__(self) -> None:
        self.requests: dict[str, Request] = {}
        self._wildcards: list[tuple[int, Request]] = []
        self._order: dict[str, int] = {}

    def station(self, pattern: str) -> Request:
        """The request for a station pattern, made where it is new. Raises SelectionError beyond the limits."""
        found = self.requests.get(pattern)
        if found is not None:
            return found
        order = len(self.requests)
        wild = "*" in pattern or "?" in pattern
        if order >= MAX_STATIONS or (wild and len(self._wildcards) >= MAX_WILDCARDS):
            raise SelectionError(f"more than {MAX_STATIONS} stations, or {MAX_WILDCARDS} with wildcards")
        self.requests[pattern] = request = Request(pattern)
        self._order[pattern] = order
        if wild:
            self._wildcards.append((order, request))
        return request

    def wanted(self, stream: Stream) -> Request | None:
        """The request under which a stream is sent, or None."""
        exact = self.requests.get(stream.station_id)
        before = self._order[stream.station_id] if exact else MAX_STATIONS
        for order, request in self._wildcards:
            if order < before and request.matches(stream):
                exact = request
                break
        return exact if exact is not None and exact.selects(stream) else None
