"""Which streams a site wants: patterns `NET_STA:LOCCHA` as SeedLink selections and as an exact filter.

Selections may ask a server for more than a pattern says, since versions and servers differ in what they can express;
the filter on source ids then takes exactly what was asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

MANY_STATIONS = 100
"""Named one by one in one network: from here on a pattern for all of them costs less than it brings too much."""
_DECISIONS = 65_536  # source ids whose decision is remembered; more than any network has


@dataclass(frozen=True, slots=True)
class StreamPattern:
    """station: pattern over NET_STA. channel, empty for all, is one of

    - three letters, `EHZ`: the channel code, at any location;
    - five, `00EHZ` (`--EHZ` without location): location and channel;
    - with `*`, `*Z` or `00*`: over either of these;
    - with `_`, `00_E_H_Z`: over the stream id of FDSN source identifiers.
    """

    station: str
    channel: str

    def matches(self, sid: str) -> bool:
        """Whether the source id (`FDSN:NET_STA_LOC_B_S_SS`) is wanted."""
        codes = sid.removeprefix("FDSN:").split("_")
        if len(codes) != 6 or not fnmatchcase(f"{codes[0]}_{codes[1]}", self.station):
            return False
        return not self.channel or self._matches_stream(codes[2], codes[3:])

    def _matches_stream(self, location: str, channel: list[str]) -> bool:
        if "_" in self.channel:
            return fnmatchcase("_".join([location, *channel]), self.channel)
        code = "".join(channel)
        if len(code) != 3:
            return False  # longer codes have no short form
        return fnmatchcase(code, self.channel) or fnmatchcase(location.ljust(2, "-") + code, self.channel)

    def selector(self, protocol: int) -> str | None:
        """What to SELECT so that everything wanted comes; None where only no SELECT at all does that."""
        if not self.channel:
            return None
        return self._selector_v4() if protocol == 4 else self._selector_v3()

    def _selector_v4(self) -> str:
        if "_" in self.channel:
            return self.channel
        if "*" in self.channel:
            return "*".join(["", *self.channel.replace("-", "").replace("*", ""), ""])  # `_` may stand between any two
        location = self.channel[:-3].rstrip("-") if len(self.channel) == 5 else "*"
        if "?" in location:
            location = "*"  # ?? also means no location
        return "_".join([location, *self.channel[-3:]])

    def _selector_v3(self) -> str | None:
        if "_" in self.channel:
            return self._short_form()
        if "*" in self.channel:
            return None
        # Not every server knows `--`, and for some `??` is not an empty location.
        return self.channel[-3:] if set(self.channel[:-3]) & set("-?") else self.channel

    def _short_form(self) -> str | None:
        """`00_E_H_Z` -> `00EHZ`, `*_E_H_Z` and `_E_H_Z` -> `EHZ`."""
        location, *channel = self.channel.split("_")
        code = "".join(channel)
        if len(channel) != 3 or len(code) != 3 or "*" in code:
            return None
        return location + code if len(location) == 2 and location.isalnum() else code


def parse_pattern(text: str) -> StreamPattern:
    """`BW_*:?HZ` -> StreamPattern. Letters count as capitals.

    Raises ValueError where the part after the colon can match nothing.
    """
    station, _, channel = text.upper().partition(":")
    if "_" in channel:
        channel = channel.removeprefix("--")
        possible = channel.count("_") == 3 or "*" in channel
    else:
        possible = "*" in channel or len(channel) in (0, 3, 5)
    if not possible:
        raise ValueError(
            f"stream {text!r}: expected a channel of three letters (EHZ), location and channel (00EHZ) or *"
        )
    return StreamPattern(station, "" if channel.strip("*") == "" else channel)


@dataclass(frozen=True, slots=True)
class Subscription:
    """One STATION command with its SELECTs. selectors are empty where every stream of the station is asked for."""

    station: str
    selectors: tuple[str, ...]

    @property
    def wildcard(self) -> bool:
        return is_wildcard(self.station)

    @property
    def network(self) -> str:
        return self.station.partition("_")[0]

    @property
    def code(self) -> str:
        return self.station.partition("_")[2]


def is_wildcard(station: str) -> bool:
    return "*" in station or "?" in station


def _may_meet(one: str, other: str) -> bool:
    """Whether two patterns over NET_STA may have a station in common; never False where they have."""
    return all(
        fnmatchcase(a, b) or fnmatchcase(b, a) or (is_wildcard(a) and is_wildcard(b))
        for a, b in zip(one.split("_"), other.split("_"), strict=True)
    )


def subscriptions(patterns: Iterable[StreamPattern], protocol: int, *, together: bool = False) -> list[Subscription]:
    """What to ask for: plain stations first, then patterns over stations.

    In version 4 a station belongs to the first STATION that matches it, so each carries the selectors of every later
    pattern that may match it too. together: a server that looks through all STATIONs for each of its packets, as
    ringserver does, is asked for a network's many stations by one pattern; the filter leaves out the others.
    """
    plain: dict[str, list[StreamPattern]] = {}
    wild: dict[str, list[StreamPattern]] = {}
    for pattern in patterns:
        (wild if is_wildcard(pattern.station) else plain).setdefault(pattern.station, []).append(pattern)
    if together:
        _join_many(plain, wild)
    asked = []
    for station, own in [*plain.items(), *wild.items()]:
        others = [p for name, group in wild.items() if name != station and _may_meet(name, station) for p in group]
        asked.append(Subscription(station, _selectors([*own, *others], protocol)))
    return asked


def _join_many(plain: dict[str, list[StreamPattern]], wild: dict[str, list[StreamPattern]]) -> None:
    """Move the stations of networks that name many to one pattern each."""
    counts = Counter(station.partition("_")[0] for station in plain)
    for station in [name for name in plain if counts[name.partition("_")[0]] >= MANY_STATIONS]:
        wild.setdefault(f"{station.partition('_')[0]}_*", []).extend(plain.pop(station))


def _selectors(patterns: list[StreamPattern], protocol: int) -> tuple[str, ...]:
    selectors = [pattern.selector(protocol) for pattern in patterns]
    return tuple(dict.fromkeys(s for s in selectors if s is not None)) if None not in selectors else ()


@dataclass(slots=True)
class StreamFilter:
    """Exact filter on source ids, with the decision remembered per id."""

    patterns: tuple[StreamPattern, ...]
    _plain: dict[str, list[StreamPattern]] = field(init=False, default_factory=dict)
    _wild: list[StreamPattern] = field(init=False, default_factory=list)
    _known: dict[str, bool] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            group = self._wild if is_wildcard(pattern.station) else self._plain.setdefault(pattern.station, [])
            group.append(pattern)

    def wants(self, sid: str) -> bool:
        known = self._known.get(sid)
        if known is None:
            if len(self._known) >= _DECISIONS:
                self._known.clear()
            station = "_".join(sid.removeprefix("FDSN:").split("_")[:2])
            known = any(p.matches(sid) for p in [*self._plain.get(station, ()), *self._wild])
            self._known[sid] = known
        return known
