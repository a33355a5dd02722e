"""Why samples are missing: the server never had them, its ring had lost them, the link, or a record was unusable.

A gap ends where a record starts. What happened between that record and the channel's one before it is the cause:

- "bad record": a record of the station was dropped as unusable;
- "ring overrun": the connection was lost meanwhile, and the server no longer had what was asked for;
- "link": the connection was lost meanwhile, and only what is new could be asked for;
- "server": neither, so the server did not have it to give.

"conflict" is told by stages.assemble: other data had come for that time (a clock that was set back, two recorders of
one name).
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from tscc_stream.messages import Gap, Record, RecordBatch
from tscc_stream.sampling import offset_ns

LOST = ("server", "ring overrun", "link", "bad record", "shed", "quarantined", "conflict")
"""Causes by which data are lost, or left out; others (flat, invalid, rate, clock) are breaks in data that are there."""
MOST_CHANNELS = 50_000
MOST_STATIONS = 10_000
"""What a server can make grow; the causes of others' gaps are "server", or those of the whole server."""
_SEAMS = 16
"""Latest places of a channel that are remembered: gaps are told at once, or a few records later."""


@dataclass(slots=True)
class _Channel:
    """connection, rejected and sample_ns: as they were at the last record. seams: (start ns of a record, cause)."""

    connection: int
    rejected: int
    sample_ns: int = 0
    seams: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=_SEAMS))


class GapCauses:
    """Told of connections, dropped records and records, in their order; then `named` says why a gap is there."""

    def __init__(self) -> None:
        self._connections: Counter[str] = Counter()
        self._resumed: dict[str, bool] = {}
        self._rejected: Counter[tuple[str, str]] = Counter()
        self._channels: dict[str, _Channel] = {}

    def linked(self, server: str, *, resumed: bool) -> None:
        """A connection began. resumed: what came before was asked for, not only what is new."""
        self._connections[server] += 1
        self._resumed[server] = resumed

    def rejected(self, server: str, station: str) -> None:
        """A record was dropped. station: NET_STA, empty where it is not known."""
        known = (server, station) in self._rejected or len(self._rejected) < MOST_STATIONS
        self._rejected[server, station if known else ""] += 1

    def record(self, server: str, station: str, record: Record) -> None:
        """A record is about to be fed."""
        self._record(server, station, record.sid, record.start_ns, record.sample_rate_hz)

    def _record(self, server: str, station: str, sid: str, start_ns: int, rate_hz: float) -> None:
        connection = self._connections[server]
        rejected = self._rejected[server, station] + self._rejected[server, ""]
        if sid not in self._channels and len(self._channels) >= MOST_CHANNELS:
            return
        channel = self._channels.setdefault(sid, _Channel(-1, rejected))
        if rejected > channel.rejected:
            channel.seams.append((start_ns, "bad record"))
        elif connection != channel.connection:
            channel.seams.append((start_ns, "ring overrun" if self._resumed.get(server, True) else "link"))
        channel.connection, channel.rejected = connection, rejected
        channel.sample_ns = offset_ns(1, rate_hz)

    def batch(self, server: str, batch: RecordBatch) -> None:
        """Records are about to be fed: the same as one by one, at the cost of one for each channel."""
        channels = batch.channel.tolist()
        count = len(channels)
        first = dict(zip(reversed(channels), range(count - 1, -1, -1), strict=True))
        last = dict(zip(channels, range(count), strict=True))
        alone = len({batch.sids[channel] for channel in last}) == len(last)  # each under one station only
        for place in [first[channel] for channel in last] if alone else range(count):
            channel = channels[place]
            rate_hz = float(batch.sample_rate_hz[last[channel] if alone else place])
            self._record(server, batch.stations[channel], batch.sids[channel], int(batch.start_ns[place]), rate_hz)

    def named(self, gap: Gap) -> str:
        """The cause of a gap; other breaks keep their own."""
        if gap.cause != "gap" or gap.to_ns is None:
            return gap.cause
        channel = self._channels.get(gap.sid)
        if channel is not None:
            for start_ns, cause in channel.seams:
                if abs(start_ns - gap.to_ns) <= channel.sample_ns:
                    return cause
        return "server"
