"""How old the data of each stream and each server are: pure, the time is passed in (monotonic ns).

A server that is connected and answers, but sends nothing, is the commonest fault in the field; no link notices it. Ages
count from the last arrival. Silence that is explained otherwise is not told again stream by stream: a server that is
away or silent itself, or a daemon that reads nothing because it has no room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from tscc_stream.channel_rows import NONE, ChannelRows, grown
from tscc_stream.messages import Int64Array, RecordBatch
from tscc_stream.sampling import offsets_ns

MOST_STREAMS: Final = 50_000  # beyond it new streams are not watched: a server may send ever new ones
MOST_TOLD: Final = 100  # changes per turn; the rest are told in the next ones
EVERY_NS: Final = 1_000_000_000
LONGEST_PATIENCE_NS: Final = 1_800_000_000_000
RECORDS: Final = 2  # a stream is late only after the time that as many of its records last

State = Literal["OK", "LATE", "SILENT"]


@dataclass(frozen=True, slots=True)
class Change:
    """A stream of a server, or the server itself (sid None), fell silent or is back. age_s: of its last data."""

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
    the last time that a new one was asked for; back_ns: when data came again after a silence.
    """

    def __init__(self, stale_ns: int) -> None:
        self.stale_ns = self.patience_ns = stale_ns
        self.connected = self.silent = False
        self.watched_ns: int | None = None
        self.data_ns: int | None = None
        self.linked_ns = self.asked_ns = self.back_ns = -(1 << 62)

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

    def settled_ns(self, now_ns: int) -> int:
        """How long each stream has had the chance to send."""
        return now_ns - max(self.watched_ns or 0, self.linked_ns, self.back_ns)


@dataclass(frozen=True, slots=True, eq=False)
class _Streams:
    """By row [n]: place of its server, time of the last arrival, age from which it is silent."""

    sids: list[str]
    server: Int64Array
    at_ns: Int64Array
    limit_ns: Int64Array

    def silent(self, now_ns: int) -> Int64Array:
        """Rows of those that are silent."""
        return np.flatnonzero(now_ns - self.at_ns >= self.limit_ns)


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
        self._known = 0  # rows that are filled in
        self._told: set[str] = set()
        self._next_ns: int | None = None

    def arrived(self, server: str, sid: str, now_ns: int, lasts_ns: int = 0) -> None:
        """A record came in. lasts_ns: the time that its samples cover."""
        origin, row = self._servers[server], self._rows.row(sid)
        origin.data_ns = now_ns
        if row != NONE:
            self._make_room()
            self._server[row] = self._names.index(server)
            self._limit_ns[row] = max(origin.stale_ns, RECORDS * lasts_ns)
            self._at_ns[row] = now_ns
            self._known = len(self._rows)

    def arrived_batch(self, server: str, batch: RecordBatch, now_ns: int) -> None:
        """The same of many records, one after the other."""
        if not len(batch):
            return
        origin, rows = self._servers[server], self._rows.of(server, batch)
        lasts_ns = offsets_ns(np.diff(batch.begin) - 1, batch.sample_rate_hz)
        kept = rows != NONE
        rows, limit_ns = rows[kept], np.maximum(origin.stale_ns, RECORDS * lasts_ns[kept])
        origin.data_ns = now_ns
        self._make_room()
        self._server[rows] = self._names.index(server)
        self._limit_ns[rows] = limit_ns  # of a row that is named twice, the later value stays
        self._at_ns[rows] = now_ns
        self._known = len(self._rows)

    def heard(self, server: str, now_ns: int) -> None:
        """Data came in, of stations that are others' to watch."""
        self._servers[server].data_ns = now_ns

    def _make_room(self) -> None:
        rows = len(self._rows)
        if rows > self._at_ns.size:
            self._server, self._at_ns, self._limit_ns = (
                grown(array, rows) for array in (self._server, self._at_ns, self._limit_ns)
            )

    def _streams(self) -> _Streams:
        """Those that have sent, as they are now: later arrivals do not change it."""
        known = self._known
        arrays = (array[:known].copy() for array in (self._server, self._at_ns, self._limit_ns))
        return _Streams(self._rows.sids[:known], *arrays)

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

    def silent(self, now_ns: int) -> dict[str, int]:
        """Age in ns of each stream that once sent and is silent, the longest silent first."""
        streams = self._streams()
        late = [(int(streams.at_ns[row]), streams.sids[row]) for row in streams.silent(now_ns)]
        return {sid: now_ns - at_ns for at_ns, sid in sorted(late)}

    def late(self, now_ns: int) -> int:
        """How many streams have sent nothing for half of what makes them silent, or longer, and are not silent yet."""
        streams = self._streams()
        age_ns = now_ns - streams.at_ns
        return int(((2 * age_ns > streams.limit_ns) & (age_ns < streams.limit_ns)).sum())

    def newest_ns(self) -> int | None:
        """When the last record came in."""
        at_ns = self._streams().at_ns
        return int(at_ns.max()) if at_ns.size else None

    @property
    def streams(self) -> int:
        """How many streams have sent."""
        return self._known

    def servers(self, now_ns: int) -> dict[str, tuple[State, float | None]]:
        """State of each server's data, and their age in seconds (None before the first)."""
        return {
            name: (_state(s, now_ns), None if s.data_ns is None else _seconds(now_ns - s.data_ns))
            for name, s in self._servers.items()
        }

    def _server_changes(self, now_ns: int) -> list[Change]:
        changes = []
        for name, server in self._servers.items():
            quiet = server.quiet_ns(now_ns) >= server.stale_ns
            back = server.data_ns is not None and now_ns - server.data_ns < server.stale_ns
            if not server.silent and quiet:
                server.silent = True
                changes.append(Change(name, None, "SILENT", _seconds(server.age_ns(now_ns))))
            elif server.silent and back:
                server.silent, server.back_ns = False, now_ns
                changes.append(Change(name, None, "OK", _seconds(server.age_ns(now_ns))))
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
        """Whether a stream's silence is no news: it is its server's, or that is not back for as long."""
        server = self._servers[self._names[streams.server[row]]]
        return server.silent or not server.connected or server.settled_ns(now_ns) < streams.limit_ns[row]

    def _note(self, sid: str, silent: bool) -> State:
        if silent:
            self._told.add(sid)
        else:
            self._told.remove(sid)
        return "SILENT" if silent else "OK"


def _state(server: _Server, now_ns: int) -> State:
    if server.silent:
        return "SILENT"
    return "LATE" if server.quiet_ns(now_ns) > server.stale_ns / 2 else "OK"


def _seconds(duration_ns: int) -> float:
    return round(duration_ns / 1e9, 3)
