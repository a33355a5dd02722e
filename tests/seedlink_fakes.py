"""A SeedLink server without sockets that tests can talk to, cut anywhere and make misbehave; and records to send."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase

import numpy as np

from tscc_stream.messages import Record, RecordBatch
from tscc_stream.miniseed import encode, split

START_NS = 1_274_977_440 * 1_000_000_000
RINGSERVER = "SeedLink v4.0 (RingServer/4.5.3) :: SLPROTO:4.0 SLPROTO:3.1 CAP WS:13"
PLAIN_V4 = "SeedLink v4.0 (plain/1) :: SLPROTO:4.0 SLPROTO:3.1"
PLAIN_V3 = "SeedLink v3.1 (2020.075)"


def record(sid: str = "FDSN:BW_UH1__S_H_Z", second: int = 0, samples: int = 50, version: int = 2) -> bytes:
    """One record of 50 Hz that starts `second` seconds after START_NS."""
    data = np.arange(samples, dtype=np.int32) + second
    (made,) = encode(sid, START_NS + second * 10**9, 50.0, data, version=version)
    return made


def records_of(events: Iterable[object]) -> list[Record]:
    """All records among the events of a session."""
    return [batch.record(i) for batch in events if isinstance(batch, RecordBatch) for i in range(len(batch))]


def summary(events: Iterable[object]) -> list[object]:
    """Each record by itself, however many came together."""
    out: list[object] = []
    for event in events:
        if isinstance(event, RecordBatch):
            stations = [event.stations[channel] for channel in event.channel]
            records = [event.record(i) for i in range(len(event))]
            out += [(s, r.sid, r.start_ns, r.samples.tolist()) for s, r in zip(stations, records, strict=True)]
        else:
            out.append(event)
    return out


def numbers_of(records: Iterable[Record]) -> list[int]:
    """Sequences of packets that are numbered by the seconds at which they start, from 1."""
    return [(record.start_ns - START_NS) // 10**9 + 1 for record in records]


def v4(sequence: int, payload: bytes, station: str = "BW_UH1", code: str = "2D") -> bytes:
    name = station.encode()
    return b"SE" + code.encode() + struct.pack("<IQB", len(payload), sequence, len(name)) + name + payload


def v3(sequence: int, payload: bytes) -> bytes:
    return b"SL%06X" % (sequence % (1 << 24)) + payload


def v3_info(text: str, *, channel: bytes = b"INF") -> bytes:
    """Log records of 512 bytes with 456 characters each, as servers of version 3 answer INFO."""
    data, out = text.encode(), b""
    for at in range(0, max(len(data), 1), 456):
        piece = data[at : at + 456]
        head = b"000001D INFO   " + channel + b"XX" + bytes(10) + struct.pack(">H", len(piece)) + bytes(12)
        last = at + 456 >= len(data)
        out += b"SLINFO  " if last else b"SLINFO *"
        out += (head + struct.pack(">HH", 56, 48)).ljust(56, b"\0") + piece.ljust(456, b"\0")
    return out


@dataclass
class Packet:
    sequence: int
    payload: bytes

    @property
    def sid(self) -> str:
        return next(header.sourceid for _, header in split(self.payload))

    @property
    def start_ns(self) -> int:
        return next(int(header.starttime) for _, header in split(self.payload))

    @property
    def station(self) -> str:
        return "_".join(self.sid.removeprefix("FDSN:").split("_")[:2])

    @property
    def stream(self) -> str:
        return "_".join(self.sid.split("_")[2:])


@dataclass
class Wish:
    station: str
    selectors: list[str] = field(default_factory=list)
    first: int | None = None
    from_ns: int = 0
    data: bool = False

    def wants(self, packet: Packet, protocol: int, *, live: bool) -> bool:
        if self.first is None and not live:
            return False
        name = packet.stream if protocol == 4 else packet.stream.replace("_", "")
        fits = [fnmatchcase(name, s) or (protocol == 3 and fnmatchcase(name[-3:], s)) for s in self.selectors]
        late = packet.start_ns + 10**9 > self.from_ns
        return (any(fits) or not fits) and late and (live or packet.sequence >= (self.first or 0))


@dataclass
class FakeServer:
    """Keeps to FDSN SeedLink 4.0 (or what is known of version 3), with one sequence for all its packets.

    refuse: beginnings of commands that it answers with ERROR. silent: beginnings that it does not answer ("": all).
    """

    packets: list[Packet] = field(default_factory=list)
    hello: str = PLAIN_V4
    refuse: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    commands: list[str] = field(default_factory=list)
    protocol: int = 3
    streaming: bool = False
    invalid: bool = False
    wishes: list[Wish] = field(default_factory=list)
    pending: bytes = b""

    def restarted(self, packets: list[Packet] | None = None) -> FakeServer:
        """The same server for the next connection."""
        new = self.packets if packets is None else packets
        return FakeServer(new, self.hello, self.refuse, self.silent, self.capabilities)

    def feed(self, data: bytes) -> bytes:
        self.pending += data
        out = b""
        while b"\n" in self.pending:
            line, self.pending = self.pending.split(b"\n", 1)
            out += self.answer(line.decode("utf-8", "replace").strip())
        return out

    def push(self, packet: Packet) -> bytes:
        self.packets.append(packet)
        return self.frame(packet) if self.streaming and self._wanted(packet, live=True) else b""

    def _wanted(self, packet: Packet, *, live: bool) -> bool:
        """A station belongs to the first wish that matches it."""
        wish = next((wish for wish in self.wishes if wish.data and fnmatchcase(packet.station, wish.station)), None)
        return wish is not None and wish.wants(packet, self.protocol, live=live)

    def frame(self, packet: Packet) -> bytes:
        if self.protocol == 4:
            return v4(packet.sequence, packet.payload, packet.station)
        return v3(packet.sequence, packet.payload)

    def answer(self, line: str) -> bytes:
        self.commands.append(line)
        if self.silent and line.startswith(self.silent):
            return b""
        verb, *arguments = line.split()
        if verb == "STATION":
            self.invalid = line.startswith(self.refuse) if self.refuse else False
        if (self.refuse and line.startswith(self.refuse)) or (self.invalid and verb in ("SELECT", "DATA", "TIME")):
            return b"ERROR UNSUPPORTED no\r\n" if self.protocol == 4 else b"ERROR\r\n"
        return getattr(self, f"on_{verb.lower()}")(*arguments)

    def on_hello(self) -> bytes:
        return f"{self.hello}\r\nA mine\r\n".encode()

    def on_slproto(self, version: str) -> bytes:
        self.protocol = int(float(version))
        return b"OK\r\n"

    def on_useragent(self, *_: str) -> bytes:
        return b"OK\r\n"

    def on_auth(self, *_: str) -> bytes:
        return b"OK\r\n"

    def on_station(self, station: str, network: str = "") -> bytes:
        self.wishes.append(Wish(f"{network}_{station}" if network else station))
        return b"OK\r\n"

    def on_select(self, selector: str) -> bytes:
        self.wishes[-1].selectors.append(selector)
        return b"OK\r\n"

    def on_data(self, sequence: str = "", time: str = "", *_: str) -> bytes:
        wish = self.wishes[-1]
        wish.data = True
        if sequence == "ALL":
            wish.first = 0
        elif sequence:
            wish.first = int(sequence, 10 if self.protocol == 4 else 16)
        wish.from_ns = self._ns(time) if time else 0
        return b"OK\r\n"

    def on_time(self, time: str) -> bytes:
        return self.on_data("ALL", time)

    def _ns(self, time: str) -> int:
        form = "%Y-%m-%dT%H:%M:%S.%fZ" if self.protocol == 4 else "%Y,%m,%d,%H,%M,%S"
        return int(datetime.strptime(time, form).replace(tzinfo=UTC).timestamp() * 1e9)

    def on_info(self, item: str) -> bytes:
        stations = dict.fromkeys(packet.station for packet in self.packets)
        xml = "".join(f'<station name="{s.split("_")[1]}" network="{s.split("_")[0]}"/>' for s in stations)
        if self.protocol == 3:
            return v3_info(f"<seedlink>{xml if item == 'STATIONS' else ''}</seedlink>")
        listed = ", ".join(f'"{word}"' for word in self.capabilities)
        return v4(0, f'{{"software": "fake", "capability": [{listed}]}}'.encode(), "", "JI")

    def on_end(self) -> bytes:
        self.streaming = True
        sent = [packet for packet in self.packets if self._wanted(packet, live=False)]
        return b"".join(self.frame(packet) for packet in sent)
