"""Faults of what recorders and their software send: the records of one channel are tampered with, the others are not.

Each is a small dataclass with a `tamper` that gets the channel's records one by one and answers with what enters the
ring in its place. Records are miniSEED 2 as `miniseed.encode` makes them: big-endian, blockette 1000 first (SEED
manual, chapter 8). A record that was tampered with keeps the moment at which it is due.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from faults_of_links import Fault

from tscc_stream import miniseed
from tscc_stream.edges.archive import RawRecord
from tscc_stream.messages import AnyArray
from tscc_stream.sampling import NS_PER_SECOND, offset_ns
from tscc_stream.serve.ring import Packet

if TYPE_CHECKING:
    from faulty_server import FaultySession

UNASKED = ("X", "Y", "Z")
"""Channel code that no test asks for."""
_ENCODING_AT, _LENGTH_AT = 52, 54  # in blockette 1000, right after the fixed header
_DATA_AT = 64


@dataclass
class InputFault(Fault):
    """One channel's records are tampered with.

    channel: a part of its source id (the first channel where empty). after: its records that stay whole. count: records
    that are hit from then on, 0 for all of them. `return` ends the fault.
    """

    channel: str = ""
    after: int = 5
    count: int = 0
    seen: int = field(init=False, default=0)

    def records(self, records: Iterator[RawRecord]) -> Iterator[RawRecord]:
        for record in records:
            self.channel = self.channel or record.sid
            if self.channel not in record.sid:
                yield record
                continue
            self.seen += 1
            place = self.seen - self.after
            if place == 1:
                self.server.log("fault", sid=record.sid, start_ns=record.start_ns)
            yield from self.tamper(record) if self.hit() else self.untouched(record)
        yield from self.rest()

    def hit(self) -> bool:
        place = self.seen - self.after
        return not self.well and place > 0 and (not self.count or place <= self.count)

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        """What enters the ring in place of a record that is hit."""
        return [record]

    def untouched(self, record: RawRecord) -> list[RawRecord]:
        """Records before and after the fault."""
        return [record]

    def rest(self) -> list[RawRecord]:
        """What is still held back at the end of the archive."""
        return []


def with_bytes(record: RawRecord, *changes: tuple[int, bytes]) -> RawRecord:
    """The record with some of its bytes replaced, at the given places."""
    payload = bytearray(record.payload)
    for at, data in changes:
        payload[at : at + len(data)] = data
    return record._replace(payload=bytes(payload))


def with_shift(record: RawRecord, seconds: float) -> RawRecord:
    """The record with its stated start moved by whole milliseconds."""
    (payload,) = miniseed.shifted(record.payload, round(seconds * 1000) * 1_000_000)
    return record._replace(payload=payload)


def packed(
    record: RawRecord, samples: AnyArray, start_ns: int, rate: float, encoding: miniseed.Encoding = "steim2"
) -> list[RawRecord]:
    """Samples as records of 512 bytes in the place of `record`."""
    if not len(samples):
        return []
    made = miniseed.encode(record.sid, start_ns, rate, samples, encoding=encoding)
    return [record._replace(payload=payload) for payload in made]


def samples_of(record: RawRecord) -> AnyArray:
    return miniseed.decode(record.payload).samples


@dataclass
class Duplicate(InputFault):
    """Every record comes twice."""

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        return [record, record]


@dataclass
class Overlap(InputFault):
    """Every record begins with the last samples of the one before."""

    samples: int = 20
    _tail: AnyArray | None = field(init=False, default=None)

    def untouched(self, record: RawRecord) -> list[RawRecord]:
        self._tail = samples_of(record)[-self.samples :]
        return [record]

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        tail = self._tail if self._tail is not None else samples_of(record)[:0]
        self.untouched(record)
        rate = record.sample_rate_hz
        return packed(
            record, np.concatenate((tail, samples_of(record))), record.start_ns - offset_ns(len(tail), rate), rate
        )


@dataclass
class OutOfOrder(InputFault):
    """Records change places: of `every` one comes later by 1 record, the next time by `distance`."""

    every: int = 6
    distance: int = 3
    _held: list[tuple[int, RawRecord]] = field(init=False, default_factory=list)
    _turns: int = field(init=False, default=0)

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        if (self.seen - self.after) % self.every == 1:
            self._turns += 1
            self._held.append((self.seen + (1 if self._turns % 2 else self.distance), record))
            return []
        return self.untouched(record)

    def untouched(self, record: RawRecord) -> list[RawRecord]:
        due = [held for place, held in self._held if place <= self.seen]
        self._held = [entry for entry in self._held if entry[0] > self.seen]
        return [record, *due]

    def rest(self) -> list[RawRecord]:
        return [record for _, record in self._held]


@dataclass
class LateRecord(InputFault):
    """One record comes late by so many seconds of data."""

    count: int = 1
    seconds: float = 120.0
    _held: list[RawRecord] = field(init=False, default_factory=list)

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        self._held.append(record)
        return []

    def untouched(self, record: RawRecord) -> list[RawRecord]:
        limit = record.start_ns - round(self.seconds * NS_PER_SECOND)
        due = [held for held in self._held if held.start_ns <= limit]
        self._held = [held for held in self._held if held.start_ns > limit]
        return [record, *due]

    def rest(self) -> list[RawRecord]:
        return self._held


@dataclass
class ClockForward(InputFault):
    """The clock jumps forward, for some records; then it is right again."""

    count: int = 5
    seconds: float = 3600.0

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        return [with_shift(record, self.seconds)]


@dataclass
class ClockBack(ClockForward):
    """The clock jumps back, for some records; then it is right again."""

    seconds: float = -3600.0


@dataclass
class LeapSecond(InputFault):
    """At a full minute a second is stated as :60, and from then on all times are one second earlier."""

    _leap_ns: int | None = field(init=False, default=None)

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        if self._leap_ns is None:
            return self._cut(record)
        if record.start_ns < self._leap_ns + NS_PER_SECOND:
            return [self._stated_as_60(record)]
        return [with_shift(record, -1.0)]

    def _cut(self, record: RawRecord) -> list[RawRecord]:
        """A record across a full minute as two, the second one from there on."""
        rate, samples = record.sample_rate_hz, samples_of(record)
        minute_ns = -(-record.start_ns // (60 * NS_PER_SECOND)) * 60 * NS_PER_SECOND
        at = round((minute_ns - record.start_ns) * rate / NS_PER_SECOND)
        if at >= len(samples):
            return [record]
        self._leap_ns = minute_ns
        leap = packed(record, samples[at:], record.start_ns + offset_ns(at, rate), rate)
        return [*packed(record, samples[:at], record.start_ns, rate), *map(self._stated_as_60, leap)]

    @staticmethod
    def _stated_as_60(record: RawRecord) -> RawRecord:
        """Year, day, hour and minute of the second before, and second 60; the fraction stays."""
        before = datetime.fromtimestamp(int(miniseed.header(record.payload).starttime) // NS_PER_SECOND - 1, UTC)
        stated = struct.pack(">HHBBB", before.year, before.timetuple().tm_yday, before.hour, before.minute, 60)
        return with_bytes(record, (20, stated))


@dataclass
class RateChange(InputFault):
    """Half the sampling rate, for some records; then it is as before."""

    count: int = 5

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        return packed(record, samples_of(record)[::2], record.start_ns, record.sample_rate_hz / 2)


@dataclass
class ZeroLength(InputFault):
    """Before every record one that holds no samples."""

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        return [with_bytes(record, (30, b"\0\0"), (44, b"\0\0")), record]


@dataclass
class TextRecord(InputFault):
    """Before every record a log record: text in the place of samples."""

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        text = b"GPS: 3 satellites, clock drifts\r\n"
        count, rate = struct.pack(">H", len(text)), bytes(4)
        changes = ((30, count), (32, rate), (_ENCODING_AT, b"\0"), (_DATA_AT, text))
        return [with_bytes(record, *changes), record]


@dataclass
class EventRecord(InputFault):
    """Before every record one without samples, with a detection of an event (blockette 201)."""

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        onset = record.payload[20:30]
        event = struct.pack(">HHfffBB", 201, 0, 1200.0, 0.1, 80.0, 4, 0) + onset
        event += bytes((1, 2, 3, 4, 5, 6, 2, 1)) + b"Z_SPWWSS".ljust(24)
        head = ((30, bytes(6)), (39, b"\2"), (44, b"\0\0"), (50, struct.pack(">H", 56)), (56, event.ljust(456, b"\0")))
        return [with_bytes(record, *head), record]


@dataclass
class WrongLength(InputFault):
    """Headers state in turn a record of 4096 bytes, more samples than there are, and fewer."""

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        (count,) = struct.unpack_from(">H", record.payload, 30)
        turn = (self.seen - self.after) % 3
        if turn == 1:
            return [with_bytes(record, (_LENGTH_AT, b"\x0c"))]
        stated = min(count * 3, 65_535) if turn == 2 else count // 2
        return [with_bytes(record, (30, struct.pack(">H", stated)))]


@dataclass
class CorruptSteim(InputFault):
    """Some bytes of every record's compressed samples are others."""

    seed: int = 1

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        rng = random.Random(f"{self.seed} {self.seen}")  # noqa: S311 - made-up damage
        at = rng.randrange(_DATA_AT, len(record.payload) - 64)
        return [with_bytes(record, (at, rng.randbytes(32)))]


@dataclass
class UnknownEncoding(InputFault):
    """Records state an encoding that does not exist."""

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        return [with_bytes(record, (_ENCODING_AT, b"\x63"))]


@dataclass
class UnaskedChannel(InputFault):
    """Beside every record one of a channel that nobody asked for."""

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        sid = "_".join([*record.sid.split("_")[:3], *UNASKED])
        other = with_bytes(record, (15, "".join(UNASKED).encode()))
        return [record, other._replace(sid=sid)]

    def frames(self, session: FaultySession, packet: Packet, frames: list[bytes]) -> list[bytes]:
        if packet.stream.channel == UNASKED and not frames:
            return [session.frame(packet, packet.payload)]
        return frames


@dataclass
class VanishAppear(InputFault):
    """The channel is gone for so many seconds of data."""

    seconds: float = 30.0
    _from_ns: int | None = field(init=False, default=None)

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        self._from_ns = self._from_ns if self._from_ns is not None else record.start_ns
        return [record] if record.start_ns >= self._from_ns + round(self.seconds * NS_PER_SECOND) else []


@dataclass
class OneSampleGaps(InputFault):
    """Of every few samples one is missing, and what lies between is a record of its own."""

    every: int = 6

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        rate, samples, out = record.sample_rate_hz, samples_of(record), []
        for at in range(0, len(samples), self.every):
            piece = samples[at : at + self.every - 1]
            out += packed(record, piece, record.start_ns + offset_ns(at, rate), rate, "int32")
        return out


@dataclass
class NotANumber(InputFault):
    """Records of 32-bit floats, some of their samples not a number."""

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        samples = samples_of(record).astype(np.float32)
        samples[len(samples) // 2 : len(samples) // 2 + 5] = np.nan
        return packed(record, samples, record.start_ns, record.sample_rate_hz, "float32")


@dataclass
class JsonPacket(InputFault):
    """In version 4 another packet follows every record: JSON in the place of miniSEED."""

    def tamper(self, record: RawRecord) -> list[RawRecord]:
        return [record]

    def frames(self, session: FaultySession, packet: Packet, frames: list[bytes]) -> list[bytes]:
        mine = self.channel in f"FDSN:{packet.stream.station_id}_{packet.stream.stream_id}"
        if frames and mine and session.protocol == 4 and not self.well:
            return [*frames, session.frame(packet, b'{"voltage": 12.4}', b"JD")]
        return frames


INPUT_FAULTS: dict[str, type[Fault]] = {
    "duplicate": Duplicate,
    "overlap": Overlap,
    "out_of_order": OutOfOrder,
    "late_record": LateRecord,
    "clock_forward": ClockForward,
    "clock_back": ClockBack,
    "leap_second": LeapSecond,
    "rate_change": RateChange,
    "zero_length": ZeroLength,
    "text_record": TextRecord,
    "event_record": EventRecord,
    "wrong_length": WrongLength,
    "corrupt_steim": CorruptSteim,
    "unknown_encoding": UnknownEncoding,
    "unasked_channel": UnaskedChannel,
    "vanish_appear": VanishAppear,
    "one_sample_gaps": OneSampleGaps,
    "nan": NotANumber,
    "json_packet": JsonPacket,
}
