"""How old the data of each stream and each server are: pure, the time is passed in (monotonic ns).

A server that is connected and answers, but sends nothing, is the commonest fault in the field; no link notices it. Ages
count from the last arrival. Silence that is explained otherwise is not told again stream by stream: a server that is
away or silent itself, or a daemon that reads nothing because it has no room.

A server that was put back, or replays a recording, may send what was already seen: data come, and say nothing new. A
stream whose records have for a while all ended before the newest one it had is old; a server is where all that it sends
are. Where it was asked to go on after the last packet, it may send nothing until it has come there: then what it says
it holds tells (`holds`).

A restart makes no dead sensor well: streams of the process before are awaited (`await_again`), and those that were
silent then are told anew at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from tscc_stream.channel_rows import NONE, ChannelRows, grown
from tscc_stream.messages import Int64Array, RecordBatch
from tscc_stream.sampling import offsets_ns

MOST_STREAMS: Final = 50_000  # beyond it new streams are not watched: a server may send ever new ones
MOST_TOLD: Final = 100  # changes per turn; the rest are told in the next ones
EVERY_NS: Final = 1_000_000_000
LONGEST_PATIENCE_NS: Final = 1_800_000_000_000
RECORDS: Final = 2  # a stream is late only after the time that as many of its records last
OLD_NS: Final = 10_000_000_000  # what a server sends again after a connection is mostly told within it
HELD_NS: Final = 2_000_000_000  # servers may tell times of what they hold in whole seconds
AWAITED_NS: Final = 900_000_000_000  # nobody knows how long records of a stream last that has not sent yet: two of 1 Hz
NEWER_NS: Final = 1_000_000  # times of one sample may differ by as much between two servers

State = Literal["OK", "LATE", "OLD", "SILENT"]


@dataclass(frozen=True, slots=True)
class Change:
    """A stream of a server, or the server itself (sid None), fell silent or is back; a server sends old data only.

    age_s: of its last data; where these are old, since when no others have come.
    """

    server: str
    sid: str | None
    state: State
    age_s: float

    def as_dict(self) -> dict[str, Any]:
        """As `status.data.` has it."""
        stream = {} if self.sid is None else {"sid": self.sid}
        return {"server": self.server, **stream, "state": self.state, "age_s": self.age_s}


class _Server:
    """What is known of one server, and since when its silence counts.

    watched_ns: its first connection, or later the end of a wait of our own. linked_ns: its last connection; asked_ns:
    the last time that a new one was asked for; back_ns: when data came again after a silence. questioned_ns: when it
    was last asked what it holds; behind_ns: when it said that it holds only what was seen. told: its last change.
    """

    def __init__(self, stale_ns: int) -> None:
        self.stale_ns = self.patience_ns = stale_ns
        self.connected = False
        self.told: State = "OK"
        self.watched_ns: int | None = None
        self.data_ns: int | None = None
        self.linked_ns = self.asked_ns = self.back_ns = -(1 << 62)
        self.questioned_ns = self.behind_ns = -(1 << 62)

    def quiet_ns(self, now_ns: int) -> int:
        """How long no data have come without an excuse."""
        if self.watched_ns is None:
            return 0
        return now_ns - max(self.watched_ns, self.watched_ns if self.data_ns is None else self.data_ns)

    def age_ns(self, now_ns: int) -> int:
        """Of its last data; where none have come, how long they are waited for."""
        since_ns = self.watched_ns if self.data_ns is None else self.data_ns
        return 0 if since_ns is None else now_ns - since_ns

    def idle_ns(self, now_ns: int) -> int:
        """How long the present connection has brought nothing, and no new one was asked for."""
        return min(self.quiet_ns(now_ns), now_ns - max(self.linked_ns, self.asked_ns))

    @property
    def behind(self) -> bool:
        """Whether all that it holds was already seen, as far as it said and nothing came since."""
        return self.behind_ns > (self.linked_ns if self.data_ns is None else self.data_ns)

    def settled_ns(self, now_ns: int) -> int:
        """How long each stream has had the chance to send."""
        return now_ns - max(self.watched_ns or 0, self.linked_ns, self.back_ns)


@dataclass(frozen=True, slots=True, eq=False)
class _Streams:
    """By row [n]: place of its server, time of the last arrival, age from which it is silent, since when all that came
    is old (0: the last was new), whether it has sent since the start (1, or 0: it is awaited).
    """

    sids: list[str]
    server: Int64Array
    at_ns: Int64Array
    limit_ns: Int64Array
    old_ns: Int64Array
    sent: Int64Array

    def sending(self, now_ns: int) -> npt.NDArray[np.bool_]:
        """Which have sent and are not silent."""
        return (self.sent > 0) & (now_ns - self.at_ns < self.limit_ns)

    def silent(self, now_ns: int) -> Int64Array:
        """Rows of those that are silent."""
        return np.flatnonzero(now_ns - self.at_ns >= self.limit_ns)

    def old(self, now_ns: int) -> Int64Array:
        """Rows of those that send, and old data only."""
        lasting = (self.old_ns > 0) & (self.at_ns - self.old_ns >= OLD_NS)
        return np.flatnonzero(lasting & (now_ns - self.at_ns < self.limit_ns))


class DataAge:
    """stale_seconds, by server: the silence that is told.

    `arrived`, `heard` and `link` are called by one thread, the rest by another one: each reads or sets single values
    only.
    """

    def __init__(self, stale_seconds: Mapping[str, float] | None = None) -> None:
        self._servers = {name: _Server(round(seconds * 1e9)) for name, seconds in (stale_seconds or {}).items()}
        self._names = list(self._servers)
        self._rows = ChannelRows(MOST_STREAMS)
        self._server, self._at_ns, self._limit_ns = (np.zeros(0, np.int64) for _ in range(3))
        self._reached_ns, self._old_ns = (np.zeros(0, np.int64) for _ in range(2))  # data time, monotonic
        self._sent = np.zeros(0, np.int64)
        self._before: dict[str, int] = {}
        self._known = 0  # rows that are filled in
        self._told: set[str] = set()
        self._again: set[str] = set()  # that were silent in the process before, and are to be told anew
        self._next_ns: int | None = None

    def seen_before(self, reached_ns: Mapping[str, int]) -> None:
        """Before the first arrival: the data time that channels had come to in an earlier process, by source id."""
        self._before = dict(reached_ns)

    def await_again(self, servers: Mapping[str, str], silent: Collection[str], now_ns: int, wall_ns: int) -> None:
        """After `seen_before`: streams of an earlier process, each with the server that is to send it. silent: which of
        them were silent then.
        """
        for sid, server in servers.items():
            row = self._rows.row(sid)
            if row == NONE:
                return
            self._make_room()
            stale_ns = self._servers[server].stale_ns
            self._server[row] = self._names.index(server)
            if sid in silent:
                reached_ns = int(self._reached_ns[row]) or wall_ns
                self._limit_ns[row], self._at_ns[row] = stale_ns, now_ns - max(stale_ns, wall_ns - reached_ns)
                self._again.add(sid)
            else:
                self._limit_ns[row], self._at_ns[row] = max(stale_ns, AWAITED_NS), now_ns
            self._known = len(self._rows)

    def told_silent(self) -> tuple[str, ...]:
        """Streams that are silent, as far as that was told; for a process after this one."""
        return tuple(self._told.copy() | self._again.copy())

    def arrived(self, server: str, sid: str, now_ns: int, lasts_ns: int = 0) -> None:
        """A record came in. lasts_ns: the time that its samples cover. Its data time is not looked at."""
        origin, row = self._servers[server], self._rows.row(sid)
        origin.data_ns = now_ns
        if row != NONE:
            self._make_room()
            self._server[row] = self._names.index(server)
            self._limit_ns[row] = max(origin.stale_ns, RECORDS * lasts_ns)
            self._at_ns[row], self._sent[row] = now_ns, 1
            self._known = len(self._rows)

    def arrived_batch(self, server: str, batch: RecordBatch, now_ns: int, wall_ns: int = 1 << 62) -> None:
        """The same of many records, one after the other, and whether they bring anything new. wall_ns: what the clock
        on the wall shows: data dated later, by a wrong clock, do not make what comes after them old.
        """
        if not len(batch):
            return
        origin, rows = self._servers[server], self._rows.of(server, batch)
        lasts_ns = offsets_ns(np.diff(batch.begin) - 1, batch.sample_rate_hz)
        kept = rows != NONE
        rows, limit_ns = rows[kept], np.maximum(origin.stale_ns, RECORDS * lasts_ns[kept])
        origin.data_ns = now_ns
        self._make_room()
        self._compare(rows, (batch.start_ns + lasts_ns)[kept], now_ns, wall_ns)
        self._server[rows] = self._names.index(server)
        self._limit_ns[rows] = limit_ns  # of a row that is named twice, the later value stays
        self._at_ns[rows], self._sent[rows] = now_ns, 1
        self._known = len(self._rows)

    def heard(self, server: str, now_ns: int) -> None:
        """Data came in, of stations that are others' to watch."""
        self._servers[server].data_ns = now_ns

    def _compare(self, rows: Int64Array, last_ns: Int64Array, now_ns: int, wall_ns: int) -> None:
        """last_ns: data time of each record's last sample. Of records of one batch, any new one makes a stream new."""
        new = last_ns > self._reached_ns[rows] + NEWER_NS
        self._old_ns[rows] = np.where(self._old_ns[rows] > 0, self._old_ns[rows], max(now_ns, 1))
        self._old_ns[rows[new]] = 0
        held = new & (last_ns <= wall_ns)
        np.maximum.at(self._reached_ns, rows[held], last_ns[held])

    def _make_room(self) -> None:
        """In every array; a channel that was known before goes on from there."""
        rows = len(self._rows)
        if rows > self._at_ns.size:
            arrays = (self._server, self._at_ns, self._limit_ns, self._reached_ns, self._old_ns, self._sent)
            self._server, self._at_ns, self._limit_ns, self._reached_ns, self._old_ns, self._sent = (
                grown(array, rows) for array in arrays
            )
        if self._before:
            for row in range(self._known, rows):
                self._reached_ns[row] = self._before.pop(self._rows.sids[row], 0)

    def _streams(self) -> _Streams:
        """Those that have sent or are awaited, as they are now: later arrivals do not change it."""
        known, arrays = self._known, (self._server, self._at_ns, self._limit_ns, self._old_ns, self._sent)
        return _Streams(self._rows.sids[:known], *(array[:known].copy() for array in arrays))

    def link(self, server: str, connected: bool, now_ns: int) -> None:
        """A server's link came up or went down."""
        origin = self._servers[server]
        if connected:
            origin.linked_ns = now_ns
            origin.watched_ns = now_ns if origin.watched_ns is None else origin.watched_ns
        origin.connected = connected

    def held(self, server: str, now_ns: int) -> None:
        """Nothing is read from this server for want of room: its silence is not its own."""
        origin = self._servers[server]
        if origin.watched_ns is not None:
            origin.watched_ns = now_ns

    def turn(self, now_ns: int) -> list[Change]:
        """What fell silent or is back since the last turn. Looks once a second at most."""
        if self._next_ns is not None and now_ns < self._next_ns:
            return []
        self._next_ns = now_ns + EVERY_NS
        return [*self._server_changes(now_ns), *self._stream_changes(now_ns)]

    def to_reconnect(self, now_ns: int) -> dict[str, int]:
        """Servers that are connected and silent, and for how long (ns). Each is named once per wait.

        The connection may be dead, or the server behind it. The wait begins at stale_seconds and doubles to half an
        hour while no data come: a server may have none.
        """
        asked = {}
        for name, server in self._servers.items():
            if server.data_ns is not None and server.data_ns > server.asked_ns:
                server.patience_ns = server.stale_ns
            if server.connected and server.idle_ns(now_ns) >= server.patience_ns:
                server.asked_ns = now_ns
                server.patience_ns = min(2 * server.patience_ns, max(LONGEST_PATIENCE_NS, server.stale_ns))
                asked[name] = server.quiet_ns(now_ns)
        return asked

    def to_question(self, now_ns: int) -> list[str]:
        """Servers that are connected and late: what do they hold? Ever more rarely while they stay so."""
        asked = []
        for name, server in self._servers.items():
            quiet_ns = server.quiet_ns(now_ns)
            late = server.connected and quiet_ns > server.stale_ns / 2
            if late and quiet_ns >= 2 * (server.questioned_ns - now_ns + quiet_ns):
                server.questioned_ns = now_ns
                asked.append(name)
        return asked

    def holds(self, server: str, newest_ns: Mapping[str, int | None], now_ns: int) -> None:
        """What a server says it holds: data time of each stream's newest sample, None where that cannot be read."""
        streams = self._streams()
        place, reached_ns = self._names.index(server), self._reached_ns
        mine = dict(self._before)
        rows = np.flatnonzero((streams.server == place) & ((streams.sent > 0) | (reached_ns[: len(streams.sids)] > 0)))
        mine |= {streams.sids[row]: int(reached_ns[row]) for row in rows}
        both = [(mine[sid], ns) for sid, ns in newest_ns.items() if sid in mine and ns is not None]
        if both and all(ns + HELD_NS < reached for reached, ns in both):
            self._servers[server].behind_ns = now_ns

    def silent(self, now_ns: int) -> dict[str, int]:
        """Age in ns of each stream that once sent, be it before the start, and is silent, the longest silent first."""
        streams = self._streams()
        late = [(int(streams.at_ns[row]), streams.sids[row]) for row in streams.silent(now_ns)]
        return {sid: now_ns - at_ns for at_ns, sid in sorted(late)}

    def old(self, now_ns: int) -> dict[str, int]:
        """Since how long (ns) each stream has sent nothing but data older than what was already seen, longest first."""
        streams = self._streams()
        since = [(int(streams.old_ns[row]), streams.sids[row]) for row in streams.old(now_ns)]
        return {sid: now_ns - old_ns for old_ns, sid in sorted(since)}

    def late(self, now_ns: int) -> int:
        """How many streams have sent nothing for half of what makes them silent, or longer, and are not silent yet."""
        streams = self._streams()
        age_ns = now_ns - streams.at_ns
        return int(((2 * age_ns > streams.limit_ns) & streams.sending(now_ns)).sum())

    def newest_ns(self) -> int | None:
        """When the last record came in."""
        streams = self._streams()
        at_ns = streams.at_ns[streams.sent > 0]
        return int(at_ns.max()) if at_ns.size else None

    @property
    def streams(self) -> int:
        """How many streams have sent."""
        return int(self._streams().sent.sum())

    def servers(self, now_ns: int) -> dict[str, tuple[State, float | None]]:
        """State of each server's data, and their age in seconds (None before the first); of old data, since when."""
        old = self._old_servers(now_ns)
        return {
            name: (_state(s, now_ns, name in old), None if s.data_ns is None else _seconds(_age(old, name, s, now_ns)))
            for name, s in self._servers.items()
        }

    def _old_servers(self, now_ns: int) -> dict[str, int]:
        """Servers all of whose streams that send are old, and since how long (ns) the first of them is."""
        streams = self._streams()
        sending = np.bincount(streams.server[streams.sending(now_ns)], minlength=len(self._names))
        rows = streams.old(now_ns)
        old = np.bincount(streams.server[rows], minlength=len(self._names))
        return {
            self._names[place]: now_ns - int(streams.old_ns[rows][streams.server[rows] == place].min())
            for place in np.flatnonzero((old > 0) & (old == sending))
        }

    def _server_changes(self, now_ns: int) -> list[Change]:
        changes, old = [], self._old_servers(now_ns)
        for name, server in self._servers.items():
            state = _word(server, now_ns, name in old)
            if state == server.told:
                continue
            if state == "OK":
                server.back_ns = now_ns
            server.told = state
            changes.append(Change(name, None, state, _seconds(_age(old, name, server, now_ns))))
        return changes

    def _stream_changes(self, now_ns: int) -> list[Change]:
        """At most MOST_TOLD, in the order in which the streams first came."""
        streams = self._streams()
        changes: list[Change] = []
        silent = {streams.sids[row]: row for row in streams.silent(now_ns)}
        back = self._told - silent.keys()
        for row in sorted([*(silent[sid] for sid in silent.keys() - self._told), *map(self._rows.row, back)]):
            sid, now_silent = streams.sids[row], streams.sids[row] in silent
            if len(changes) < MOST_TOLD and not (now_silent and self._explained(streams, row, now_ns)):
                age_s = _seconds(now_ns - int(streams.at_ns[row]))
                changes.append(Change(self._names[streams.server[row]], sid, self._note(sid, now_silent), age_s))
        return changes

    def _explained(self, streams: _Streams, row: int, now_ns: int) -> bool:
        """Whether a stream's silence is no news: it is its server's, or that is not back for as long. What an earlier
        process told is told anew at once, since who reads our messages begins anew with us.
        """
        if streams.sids[row] in self._again:
            return False
        server = self._servers[self._names[streams.server[row]]]
        return server.told != "OK" or not server.connected or server.settled_ns(now_ns) < streams.limit_ns[row]

    def _note(self, sid: str, silent: bool) -> State:
        if silent:
            self._told.add(sid)
            self._again.discard(sid)
        else:
            self._told.remove(sid)
        return "SILENT" if silent else "OK"


def _word(server: _Server, now_ns: int, old: bool) -> State:
    """What is told of it. old: all that it sends is."""
    if server.behind:
        return "OLD"
    back = server.data_ns is not None and now_ns - server.data_ns < server.stale_ns
    if server.quiet_ns(now_ns) >= server.stale_ns or (server.told == "SILENT" and not back):
        return "SILENT"
    return "OLD" if old else "OK"


def _state(server: _Server, now_ns: int, old: bool) -> State:
    word = _word(server, now_ns, old)
    return "LATE" if word == "OK" and server.quiet_ns(now_ns) > server.stale_ns / 2 else word


def _age(old: Mapping[str, int], name: str, server: _Server, now_ns: int) -> int:
    """How long nothing new has come."""
    return old.get(name, server.age_ns(now_ns))


def _seconds(duration_ns: int) -> float:
    return round(duration_ns / 1e9, 3)
