"""Where in a server's data a client stands, and what to ask for to go on from there.

Sequences belong to one server. FDSN SeedLink 4.0 numbers packets per station; servers that number all their packets in
one go (capability SEQWILDCARD; ringserver) need one mark for everything, and there the lowest is the only safe one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, get_args

from tscc_stream.seedlink.frames import V3_SEQUENCES

Form = Literal["seq+time", "seq", "time", "all", "all+time", "new"]
Step = Literal["sequence", "time", "oldest", "now"]
"""How a connection goes on, best first: after the last packet, from its time, from the ring's oldest, from now on."""

# A start time asks for packets that end after it: a station's channels may lag behind the one it was taken from.
TIME_MARGIN_NS = 600 * 1_000_000_000
# Where one time is asked for all stations, one that lags farther behind than this is taken for gone.
MOST_LAG_NS = 7 * 86_400 * 1_000_000_000
# The time of a station that is to be asked for from the oldest data of the ring. Earlier than any record.
OLDEST_NS = -(1 << 62)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Mark:
    """The last packet: its sequence (None where only the time holds) and start time (None where it had none)."""

    sequence: int | None
    start_ns: int | None


@dataclass(frozen=True, slots=True)
class Position:
    """Where to go on. The empty one is a first start.

    server: whose sequences these are, HOST:PORT; empty for the first of the configured ones. protocol: version whose
    sequences these are. last: of any station. stations: of each, for servers that number per station. time_ns: start
    time of the last packet; times: of the last of each station, for whichever server comes next; neither is ever ahead
    of the clock at receipt. failures: broken packets in a row here; refused: requests that this server does not take.
    These two are not kept over a restart. whole: whether a station without a mark of its own is asked for from the
    oldest data also where a first start would begin with what comes next.
    """

    protocol: int = 0
    last: Mark | None = None
    stations: tuple[tuple[str, Mark], ...] = ()
    time_ns: int | None = None
    failures: int = 0
    refused: tuple[Form, ...] = ()
    server: str = ""
    times: tuple[tuple[str, int], ...] = ()
    whole: bool = False

    def at(self, server: str) -> Position:
        """The same place with a server, by time where it is another one than before."""
        if server == self.server:
            return self
        return replace(self.by_time(), refused=(), server=server)

    def not_after(self, now_ns: int) -> Position:
        """The same place, its times cut down to `now_ns` (ns since 1970).

        A clock that was ahead would else make a request by time leave out everything until then.
        """
        time_ns = None if self.time_ns is None else min(self.time_ns, now_ns)
        times = tuple((name, min(start_ns, now_ns)) for name, start_ns in self.times)
        place = replace(self, time_ns=time_ns, times=times)
        return place.by_time() if self.last is not None and self.last.sequence is None else place

    def by_time(self) -> Position:
        """The same place where the sequences no longer hold: another server, or one that has started again.

        Each station from its own time, where it is asked for alone; else all from the earliest.
        """
        last = self.last and Mark(None, self._earliest_ns())
        stations = tuple((name, Mark(None, start_ns)) for name, start_ns in self.times)
        return replace(self, last=last, stations=stations, failures=0)

    def _earliest_ns(self) -> int | None:
        """Of all stations but those that are gone."""
        known = [start_ns for _, start_ns in self.times]
        if self.time_ns is not None:
            known.append(self.time_ns)
        earliest, newest = min(known, default=0), max(known, default=0)
        if earliest <= OLDEST_NS:
            return earliest
        return min((start_ns for start_ns in known if newest - start_ns <= MOST_LAG_NS), default=None)

    def rewound(self, by_ns: int) -> Position:
        """By time, and as much earlier."""
        time_ns = None if self.time_ns is None else self.time_ns - by_ns
        times = tuple((name, start_ns - by_ns) for name, start_ns in self.times)
        return replace(self, time_ns=time_ns, times=times).by_time()

    def widened(self, stations: Iterable[str]) -> Position:
        """By time, for a client that serves more stations (NET_STA) than before: these from the ring's oldest data.

        A server that numbers all packets in one go can be asked for one place only, so there all come from the oldest.
        """
        new = dict.fromkeys(stations, OLDEST_NS)
        last = self.last or (Mark(None, None) if new else None)
        return replace(self, last=last, times=tuple({**dict(self.times), **new}.items()), whole=True).by_time()

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        stations = {name: [mark.sequence, mark.start_ns] for name, mark in self.stations}
        last = self.last and [self.last.sequence, self.last.start_ns]
        return {
            "server": self.server,
            "protocol": self.protocol,
            "last": last,
            "stations": stations,
            "time_ns": self.time_ns,
            "times": dict(self.times),
            "whole": self.whole,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Position:
        """The inverse of `as_dict`."""
        last = value["last"] and Mark(*value["last"])
        stations = tuple((name, Mark(*mark)) for name, mark in value["stations"].items())
        known = value.get("times")  # missing in what was written down before they were kept
        if known is None:
            known = {name: mark.start_ns for name, mark in stations if mark.start_ns is not None}
        server, times = value.get("server", ""), tuple(known.items())
        whole = value.get("whole", False)  # as is this
        return cls(value["protocol"], last, stations, value["time_ns"], server=server, times=times, whole=whole)


@dataclass(frozen=True, slots=True)
class Server:
    """What decides how to ask.

    checks_time: the start time beside a sequence is compared with the last packet's, to find out whether the sequence
    still means it; it is no filter (FDSN SeedLink 4.0 has it as one, and then a station that lags behind would lose
    packets).
    """

    protocol: int
    shared_sequence: bool = False
    checks_time: bool = False


def next_sequence(sequence: int, protocol: int) -> int:
    return (sequence + 1) % V3_SEQUENCES if protocol == 3 else min(sequence + 1, (1 << 64) - 1)


def goes_back(sequence: int, known: int, protocol: int) -> bool:
    """Whether `sequence` is not after `known`; version 3 wraps, so there half the circle counts as before."""
    if protocol == 3:
        return (sequence - known - 1) % V3_SEQUENCES >= V3_SEQUENCES // 2
    return sequence <= known


def data_request(server: Server, mark: Mark | None, start: str, refused: tuple[Form, ...]) -> tuple[Form, str]:
    """The command that follows STATION and SELECT, and its form: the best that the server has not refused yet."""
    forms = _forms(server, mark, start)
    form = next((form for form in forms if form not in refused), forms[-1])
    return form, _command(server.protocol, form, mark)


def step_of(forms: Iterable[Form]) -> Step:
    """The best step among a connection's requests: stations that are new to it are always asked for by less."""
    steps = {_STEPS[form] for form in forms}
    return next(step for step in get_args(Step) if step in steps)


_STEPS: Final[dict[Form, Step]] = {
    "seq+time": "sequence",
    "seq": "sequence",
    "time": "time",
    "all": "oldest",
    "all+time": "oldest",
    "new": "now",
}


def _forms(server: Server, mark: Mark | None, start: str) -> list[Form]:
    """Requests to try, best first.

    ringserver 4.5 takes `DATA ALL` as only new data, but a time from which to start; it checks a sequence against the
    packet's start time, and falls back to the time where its ring was reset.
    """
    if mark is None and start == "now":
        return ["new"]
    whole: list[Form] = ["all+time", "all", "new"] if server.checks_time else ["all", "all+time", "new"]
    if mark is None:
        return whole
    forms: list[Form] = []
    if mark.sequence is not None:
        forms = ["seq+time", "seq"] if server.checks_time and mark.start_ns is not None else ["seq"]
    if mark.start_ns is not None:
        forms.append("time")
    return forms + whole


def _command(protocol: int, form: Form, mark: Mark | None) -> str:
    sequence = next_sequence(mark.sequence, protocol) if mark and mark.sequence is not None else 0
    number = str(sequence) if protocol == 4 else f"{sequence:06X}"
    start_ns = mark.start_ns if mark and mark.start_ns is not None else 0
    by_time = "DATA ALL" if protocol == 4 else "TIME"
    return {
        "seq+time": f"DATA {number} {time_text(start_ns, protocol)}",
        "seq": f"DATA {number}",
        "time": f"{by_time} {time_text(max(start_ns - TIME_MARGIN_NS, 0), protocol)}",
        "all": "DATA ALL",
        "all+time": f"{by_time} {time_text(0, protocol)}",
        "new": "DATA",
    }[form]


def time_text(ns: int, protocol: int) -> str:
    """Data time (ns) as the protocol writes it, cut down to microseconds (version 4) or seconds (version 3)."""
    moment = _EPOCH + timedelta(microseconds=ns // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if protocol == 4 else "%Y,%m,%d,%H,%M,%S")
