"""The server's ring of packets: one sequence for all streams, a time index, and a limit in bytes.

Sequence numbers. Version 3 knows only 512-byte records, so that one record may have to go out as several packets. Each
ring entry therefore takes as many consecutive numbers as it can possibly need in version 3 (`Packet.numbers`), and goes
out in version 4 under the first of them. Both versions so share one sequence, which has gaps, as the specification
allows (SeedLink v4.0, "Sequence number"). Records are packed again only when a version 3 client asks for them.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from tscc_stream import miniseed

_COMPACT = 4096  # forgotten entries that are tolerated at the head of the list
_FEWEST_SAMPLES = 48  # that a 512-byte record is sure to hold of any encoding but 64-bit floats: 256 bytes of headers
_FEWEST_DOUBLES = 24
_FLOAT64 = 5


class Stream(NamedTuple):
    """What a packet belongs to: FDSN codes, and the format character of version 4 ('2' or '3')."""

    network: str
    station: str
    location: str
    channel: tuple[str, str, str]
    format: str

    @property
    def station_id(self) -> str:
        return f"{self.network}_{self.station}"

    @property
    def stream_id(self) -> str:
        return "_".join((self.location, *self.channel))

    @property
    def seed_channel(self) -> str:
        """The three letters of version 3 (longer codes run together and match no such selector)."""
        return "".join(self.channel)


@lru_cache(maxsize=65536)
def stream_of(sid: str, format_char: str) -> Stream:
    """The codes of an FDSN source id. Raises ValueError when it does not have six parts."""
    parts = sid.removeprefix("FDSN:").split("_")
    if len(parts) != 6:
        raise ValueError(f"source id {sid!r}: expected FDSN:NET_STA_LOC_BAND_SOURCE_SUBSOURCE")
    network, station, location, band, source, subsource = parts
    return Stream(network, station, location, (band, source, subsource), format_char)


@dataclass(frozen=True, slots=True)
class Packet:
    """One record in the ring, numbered first ... first + numbers - 1. Times of its first and last sample in ns."""

    first: int
    numbers: int
    stream: Stream
    start_ns: int
    end_ns: int
    payload: bytes

    @property
    def after(self) -> int:
        """The next packet's first number."""
        return self.first + self.numbers


@lru_cache(maxsize=256)
def records_v3(payload: bytes) -> tuple[bytes, ...]:
    """A record as version 3 sends it: itself, or packed again into 512-byte miniSEED 2 records."""
    if len(payload) == 512 and payload[:2] != b"MS":
        return (payload,)
    return tuple(miniseed.repacked(payload))


def _numbers(payload: bytes) -> int:
    """How many version 3 packets a record may need at most."""
    if len(payload) == 512 and payload[:2] != b"MS":
        return 1
    head = miniseed.header(payload)
    fewest = _FEWEST_DOUBLES if head.encoding == _FLOAT64 else _FEWEST_SAMPLES
    return max(1, -(-int(head.samplecnt) // fewest))


@dataclass(slots=True)
class Holding:
    """What the ring holds of one stream: where it starts, its last packet's start and end, in ns; numbers.

    start_ns and first are bounds once packets were forgotten: nothing older is held.
    """

    start_ns: int
    last_start_ns: int
    end_ns: int
    first: int
    last: int


class Ring:
    """Packets in the order of their numbers; the oldest go when `capacity_bytes` of payload are exceeded.

    complete: nothing more will come. At least the newest packet is always kept.
    """

    def __init__(self, capacity_bytes: int, first_number: int = 1) -> None:
        if capacity_bytes <= 0:
            raise ValueError(f"ring of {capacity_bytes} bytes: expected more than none")
        self.capacity_bytes = capacity_bytes
        self.size_bytes = 0
        self.complete = False
        self.streams: dict[Stream, Holding] = {}
        self._packets: list[Packet | None] = []
        self._firsts: list[int] = []
        self._latest: list[int] = []  # running maximum of end_ns: sorted, whatever the order of the packets
        self._begin = 0
        self._next = first_number

    def __len__(self) -> int:
        return len(self._packets) - self._begin

    @property
    def oldest(self) -> int:
        """The first number that the ring still holds; `next` where it is empty."""
        return self._firsts[self._begin] if len(self) else self._next

    @property
    def next(self) -> int:
        """The number that the next packet will get."""
        return self._next

    def fits(self, size: int) -> bool:
        """Whether a record of `size` bytes can be added without losing the oldest packet."""
        return not len(self) or self.size_bytes + size <= self.capacity_bytes

    def append(self, sid: str, start_ns: int, end_ns: int, payload: bytes) -> Packet:
        """Adds a record and forgets the oldest ones as necessary. Raises ValueError on an unusable source id."""
        stream = stream_of(sid, "3" if payload[:2] == b"MS" else "2")
        packet = Packet(self._next, _numbers(payload), stream, start_ns, end_ns, payload)
        self._next = packet.after
        self._packets.append(packet)
        self._firsts.append(packet.first)
        self._latest.append(max(end_ns, self._latest[-1]) if self._latest else end_ns)
        self.size_bytes += len(payload)
        self._note(packet)
        while self.size_bytes > self.capacity_bytes and len(self) > 1:
            self._forget_oldest()
        return packet

    def at_or_after(self, number: int) -> Packet | None:
        """The packet that holds `number`, or else the first one after it."""
        place = max(bisect_right(self._firsts, number) - 1, self._begin)
        while place < len(self._packets):
            packet = self._packets[place]
            if packet is not None and packet.after > number:
                return packet
            place += 1
        return None

    def first_ending_after(self, time_ns: int) -> int:
        """The number of the first packet with data after `time_ns`; `next` where there is none yet."""
        place = max(bisect_right(self._latest, time_ns), self._begin)
        return self._firsts[place] if place < len(self._firsts) else self._next

    def _note(self, packet: Packet) -> None:
        held = self.streams.get(packet.stream)
        if held is None:
            self.streams[packet.stream] = Holding(
                packet.start_ns, packet.start_ns, packet.end_ns, packet.first, packet.first
            )
            return
        held.last_start_ns, held.end_ns, held.last = packet.start_ns, packet.end_ns, packet.first

    def _forget_oldest(self) -> None:
        packet = self._packets[self._begin]
        if packet is None:
            return
        self.size_bytes -= len(packet.payload)
        held = self.streams[packet.stream]
        held.start_ns, held.first = max(held.start_ns, packet.end_ns), packet.after
        self._packets[self._begin] = None
        self._begin += 1
        if self._begin >= _COMPACT and self._begin * 2 > len(self._packets):
            del self._packets[: self._begin], self._firsts[: self._begin], self._latest[: self._begin]
            self._begin = 0
