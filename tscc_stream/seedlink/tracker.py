"""Keeps a client's place in a server's data: what to ask for, what came, where it broke."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tscc_stream.seedlink.position import (
    OLDEST_NS,
    Form,
    Mark,
    Position,
    Server,
    data_request,
    goes_back,
    next_sequence,
)

SKIP_AFTER = 2  # broken packets in a row at one place before it is stepped over
NEW_AFTER = 4  # the same where there is no number to step over: what lies there is given up for what comes from now on
MOST_STATIONS = 10_000  # with a mark or time of their own: what a server says is limited
_STATION = re.compile(
    r"[A-Za-z0-9_-]{1,64}"
)  # a mark's name comes back in a command: no line end, no blank, no pattern
_Kept = TypeVar("_Kept")


@dataclass(frozen=True, slots=True)
class Reset:
    """A server that numbers anew since the last session: `sequence` came though `known` had been there already."""

    sequence: int
    known: int


class Tracker:
    """One connection's place. `begin` once the server is known; then `request` per station and `advance` per packet."""

    def __init__(self, position: Position, start: str) -> None:
        self._start, self._name = start, position.server
        self._server = Server(position.protocol)
        self._last, self._time_ns = position.last, position.time_ns
        self._stations, self._times = _by_name(position.stations), _by_name(position.times)
        self._failures, self._refused = position.failures, position.refused
        self._whole = position.whole
        self._from_oldest = any(start_ns <= OLDEST_NS for _, start_ns in position.times)
        self._resumed: dict[str, int] = {}
        self._forms: dict[Form, None] = {}

    @property
    def position(self) -> Position:
        return Position(
            self._server.protocol,
            self._last,
            tuple(self._stations.values()),
            self._time_ns,
            self._failures,
            self._refused,
            self._name,
            tuple(self._times.values()),
            self._whole,
        )

    @property
    def stations(self) -> Iterable[str]:
        """Stations with a mark of their own."""
        return tuple(self._stations)

    @property
    def forms(self) -> tuple[Form, ...]:
        """Forms of the requests so far."""
        return tuple(self._forms)

    def begin(self, server: Server) -> None:
        """Each protocol version has sequences of its own: after a change of version only the time holds."""
        if self._server.protocol not in (0, server.protocol):
            self.forget_sequences()
        if server.shared_sequence:
            self._stations = {}
        self._server = server

    def forget_sequences(self) -> None:
        position = self.position.by_time()
        self._last, self._stations, self._failures = position.last, _by_name(position.stations), 0

    def request(self, station: str) -> tuple[Form, str]:
        """The DATA command for a station or pattern."""
        mark = self._mark(station)
        stuck = self._failures >= NEW_AFTER and (mark is None or mark.sequence is None)
        asked, start = (None, "now") if stuck else (mark, self._start)
        form, command = data_request(self._server, asked, start, self._refused)
        if form in ("seq", "seq+time") and mark is not None and mark.sequence is not None:
            self._resumed[self._key(station)] = mark.sequence
        self._forms[form] = None
        return form, command

    def _mark(self, station: str) -> Mark | None:
        """Of what never came everything is due: what others have sent says nothing of how far it was read.

        So it begins as a first start does. Where only new data were wanted then, it goes by the last packet's time.
        """
        if self._server.shared_sequence or self._last is None:
            return self._last
        if station in self._stations:
            return self._stations[station][1]
        if not 0 < len(self._stations) < MOST_STATIONS:  # no place but this one, or it came and its mark had to go
            return Mark(None, self._time_ns)
        if self._start == "now":
            return Mark(None, OLDEST_NS if self._whole else self._time_ns)
        return None

    def _key(self, station: str) -> str:
        return "" if self._server.shared_sequence else station

    def refuse(self, form: Form) -> bool:
        """Not to ask in this form again; False where it was refused before, so that nothing else is left to try."""
        if form in self._refused:
            return False
        self._refused = (*self._refused, form)
        return True

    def reset(self, station: str, sequence: int) -> Reset | None:
        """Whether the first packet after a request by sequence says that the sequences no longer hold.

        A server that checks times has then gone on from the last packet's time. That is too late for stations that
        lag behind, so it too has to be asked again, by a time with a margin.
        """
        known = self._resumed.pop(self._key(station), None)
        if known is None or not goes_back(sequence, known, self._server.protocol):
            return None
        return Reset(sequence, known)

    def advance(self, station: str, sequence: int, start_ns: int | None, clock_ns: int | None = None) -> None:
        """A whole packet came. station: NET_STA, empty where it is not known; start_ns: None where it has none.

        clock_ns: the wall clock at receipt; a packet dated later counts as from then where its time is asked for.
        Station and sequence are the server's words: a name that is no station's gets no mark.
        """
        self._last = Mark(sequence, start_ns)
        self._failures = 0
        known = _STATION.fullmatch(station) is not None
        if known and not self._server.shared_sequence:
            _keep(self._stations, station, self._last)
        if start_ns is not None:
            self._time_ns = start_ns if clock_ns is None else min(start_ns, clock_ns)
            if self._from_oldest and self._server.shared_sequence:
                self._come_from_oldest(self._time_ns)
            if known:
                _keep(self._times, station, self._time_ns)

    def _come_from_oldest(self, time_ns: int) -> None:
        """The first packet of a ring that is read anew: every station goes on from there, also one that has no more."""
        self._times = {name: (name, time_ns) for name in self._times}
        self._from_oldest = False

    def first_reset(self, stations: Sequence[str], sequences: Sequence[int]) -> tuple[int, Reset] | None:
        """The first of some packets that `reset` objects to, and what it says; those after it are not looked at."""
        keys = {""} if self._server.shared_sequence else set(stations)
        if keys.isdisjoint(self._resumed):
            return None
        for place, (station, sequence) in enumerate(zip(stations, sequences, strict=True)):
            if reset := self.reset(station, sequence):
                return place, reset
        return None

    def advance_all(
        self, stations: Sequence[str], sequences: Sequence[int], starts_ns: Sequence[int], clock_ns: int | None = None
    ) -> None:
        """`advance` for each of some packets, all of which have a start time: only each station's last one counts."""
        last = dict(zip(stations, range(len(stations)), strict=True))
        room = MOST_STATIONS - max(len(self._times), len(self._stations))
        places: Iterable[int] = last.values() if len(last) <= room else range(len(stations))
        for place in places:
            self.advance(stations[place], sequences[place], starts_ns[place], clock_ns)
        if stations:
            self.advance(stations[-1], sequences[-1], starts_ns[-1], clock_ns)

    def broken(self, station: str, sequence: int | None) -> int:
        """A packet broke the framing: how often in a row. From the second time on the place moves past it.

        It moves to `sequence` if the header named it, else on by 1, 2, 4...: the same request would fail for ever.
        """
        failures = self._failures + 1
        if failures >= SKIP_AFTER and sequence is not None:
            self.advance(station, sequence, None)
        elif failures >= SKIP_AFTER:
            self._step(1 << min(failures - SKIP_AFTER, 20))
        self._failures = failures
        return failures

    def _step(self, steps: int) -> None:
        self._last = self._last and self._beyond(self._last, steps)
        self._stations = {name: (name, self._beyond(mark, steps)) for name, mark in self._stations.values()}

    def _beyond(self, mark: Mark, steps: int) -> Mark:
        if mark.sequence is None:
            return mark
        return Mark(next_sequence(mark.sequence + steps - 1, self._server.protocol), None)


def _by_name(pairs: Iterable[tuple[str, _Kept]]) -> dict[str, tuple[str, _Kept]]:
    """As they are kept: a position is made with every read, of pairs most of which are the same as before."""
    return {pair[0]: pair for pair in pairs}


def _keep(table: dict[str, tuple[str, _Kept]], station: str, value: _Kept) -> None:
    """Beyond the limit the oldest goes: by time from then on."""
    if station not in table and len(table) >= MOST_STATIONS:
        del table[next(iter(table))]
    table[station] = station, value
