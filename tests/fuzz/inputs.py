"""Inputs of the targets: how they are taken apart, put together and damaged so that something of them stays whole.

Damage done to bytes alone would seldom get past the first check. So packets and records are damaged field by field, and
checksums of miniSEED 3 are made to fit again, more often than not.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

_V4_HEAD = 17
_V3_PACKET = 520
_CRC_AT = 28
_MOST_PIECES = 60
Damage = Callable[[random.Random, bytes], bytes]


def pieces_of(stream: bytes) -> list[bytes]:
    """A server's bytes as packets and lines; what is neither, up to where a packet may begin."""
    pieces, at = [], 0
    while at < len(stream):
        end = min(max(_end_of_piece(stream, at), at + 1), len(stream))
        pieces.append(stream[at:end])
        at = end
    return pieces


def _end_of_piece(stream: bytes, at: int) -> int:
    if stream[at : at + 2] == b"SE" and len(stream) >= at + _V4_HEAD:
        length, name = int.from_bytes(stream[at + 4 : at + 8], "little"), stream[at + 16]
        if length < 1 << 16:
            return at + _V4_HEAD + name + length
    if stream[at : at + 2] == b"SL":
        return at + _V3_PACKET
    line = stream.find(b"\n", at)
    ends = [place for place in (line + 1, stream.find(b"SE", at + 1), stream.find(b"SL", at + 1)) if place > at]
    return min(ends, default=len(stream))


def payloads_of(data: bytes) -> list[bytes]:
    """Records, each after its length in two bytes; the last one may be cut."""
    payloads, at = [], 0
    while at + 2 < len(data):
        length = int.from_bytes(data[at : at + 2], "big")
        payloads.append(data[at + 2 : at + 2 + length])
        at += 2 + length
    return payloads


def with_lengths(payloads: list[bytes]) -> bytes:
    return b"".join(len(payload).to_bytes(2, "big") + payload for payload in payloads if len(payload) < 1 << 16)


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _crc_entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC_TABLE = [_crc_entry(value) for value in range(256)]


def with_crc(record: bytes) -> bytes:
    """A miniSEED 3 record whose checksum fits; others as they are."""
    if record[:3] != b"MS\x03" or len(record) < 40:
        return record
    blank = record[:_CRC_AT] + bytes(4) + record[_CRC_AT + 4 :]
    return record[:_CRC_AT] + crc32c(blank).to_bytes(4, "little") + record[_CRC_AT + 4 :]


# Damage of bytes


def _flip(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _drop(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 2, 8, 64)) :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 8, 64))) + data[at:]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at : at + 64] * rng.choice((2, 3, 20)) + data[at:]


_BYTES: tuple[Damage, ...] = (_flip, _flip, _flip, _cut, _drop, _insert, _repeat)

# Damage of a record, field by field

_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 64) - 1)
# Place and width of what the fixed headers state (SEED manual, chapter 8; FDSN miniSEED 3).
_FIELDS_V2 = ((0, 6), (6, 1), (8, 5), (13, 2), (15, 3), (18, 2), (20, 2), (22, 2), (24, 1), (25, 1), (26, 1), (28, 2),
    (30, 2), (32, 2), (34, 2), (36, 1), (37, 1), (38, 1), (39, 1), (40, 4), (44, 2), (46, 2), (48, 2), (50, 2), (52, 1),
    (53, 1), (54, 1), (56, 2), (58, 2), (60, 1), (64, 4), (68, 4), (72, 4))  # fmt: skip
_FIELDS_V3 = ((2, 1), (3, 1), (4, 4), (8, 2), (10, 2), (12, 1), (13, 1), (14, 1), (15, 1), (16, 8), (24, 4), (32, 1),
    (33, 1), (34, 2), (36, 4), (40, 8), (56, 4))  # fmt: skip


def _field(rng: random.Random, record: bytes) -> bytes:
    at, width = rng.choice(_FIELDS_V3 if record[:2] == b"MS" else _FIELDS_V2)
    order = "little" if record[:2] == b"MS" else "big"
    old = int.from_bytes(record[at : at + width], order)
    new = rng.choice((*_EXTREMES, old + 1, old - 1, old * 2, old // 2, rng.getrandbits(8 * width)))
    return record[:at] + (new % (1 << 8 * width)).to_bytes(width, order) + record[at + width :]


def _rate(rng: random.Random, record: bytes) -> bytes:
    """A rate from the smallest to the largest that can be stated."""
    if record[:2] == b"MS":
        rate = rng.choice((0.0, -1.0, 5e-324, 1e-9, 0.1, 99.99, 100.01, 1e5, 9e8, 1e300, float("inf"), float("nan")))
        return record[:16] + struct.pack("<d", rate) + record[24:]
    factor, multiplier = rng.choice(((1, -32768), (32767, 32767), (-32768, 32767), (100, 2), (9999, -100), (1, 1)))
    return record[:32] + struct.pack(">hh", factor, multiplier) + record[36:]


def _move(rng: random.Random, record: bytes) -> bytes:
    """Another time: day, hour, minute, second."""
    at = 8 if record[:2] == b"MS" else 20
    order = "<" if record[:2] == b"MS" else ">"
    year, day = rng.choice(((2010, 147), (2010, 148), (1970, 1), (2262, 101), (1678, 1), (9999, 365), (2038, 19)))
    clock = bytes((rng.randrange(24), rng.randrange(60), rng.choice((0, 59, 60))))
    moved = struct.pack(f"{order}HH", year, day)
    if record[:2] == b"MS":
        moved += clock
        return record[:at] + moved + record[at + len(moved) :]
    return record[:at] + moved + clock + record[at + len(moved) + 3 :]


def _sid(rng: random.Random, record: bytes) -> bytes:
    """Other codes, text or not."""
    name = rng.choice((b"UH1  ", b"UH2  ", b"     ", b"A_B_C", b"\xff\xfe\0\0\1", b"*?[]."))
    if record[:2] == b"MS":
        return record[:45] + name + record[50:]
    return record[:8] + name + record[13:]


def _float_samples(rng: random.Random, record: bytes) -> bytes:
    """Float samples that are huge, infinite or not a number, where the encoding is one of floats."""
    code = rng.choice((b"\x7f\xc0\0\0", b"\x7f\x80\0\0", b"\xff\x7f\xff\xff", b"\0\0\0\1"))
    at = rng.randrange(64, max(65, len(record) - 4)) & ~3
    return record[:at] + code * rng.choice((1, 4, 40)) + record[at + 4 :]


_RECORD: tuple[Damage, ...] = (_field, _field, _field, _field, _rate, _move, _sid, _float_samples, *_BYTES)


def damaged_record(rng: random.Random, record: bytes) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not record:
            break
        record = rng.choice(_RECORD)(rng, record)
    return with_crc(record) if rng.random() < 0.9 else record


# Damage of a packet

_LINES = (b"END", b"ERROR\r\n", b"ERROR INTERNAL x\r\n", b"OK\r\n", b"ERROR" + b"x" * 9000, b"\r\n", b"E", b"SEJI",
    b"SeedLink v4.0 (x) :: SLPROTO:4.0\r\nsite\r\n", b"SLINFO *", b"SL", b"\0" * 40)  # fmt: skip


def _frame_field(rng: random.Random, piece: bytes) -> bytes:
    """Format, length, sequence or name length of version 4; sequence of version 3."""
    if piece[:2] == b"SE" and len(piece) > _V4_HEAD:
        at, width = rng.choice(((2, 1), (3, 1), (4, 4), (8, 8), (8, 8), (16, 1), (17, 2)))
        old = int.from_bytes(piece[at : at + width], "little")
        new = rng.choice((*_EXTREMES, old + 1, old - 1, 1 << 20, (1 << 20) + 1, rng.getrandbits(8 * width)))
        return piece[:at] + (new % (1 << 8 * width)).to_bytes(width, "little") + piece[at + width :]
    number = rng.choice(
        (b"000000", b"FFFFFF", b"800000", b"INFO *", b"INFO  ", b"00000g", b"%06X" % rng.getrandbits(24))
    )
    return piece[:2] + number + piece[8:]


def _packet_record(rng: random.Random, piece: bytes) -> bytes:
    """The record within a packet; in version 4 the stated length fits, more often than not."""
    if piece[:2] == b"SL":
        return piece[:8] + damaged_record(rng, piece[8:])
    if piece[:2] != b"SE" or len(piece) <= _V4_HEAD:
        return _flip(rng, piece)
    begin = _V4_HEAD + piece[16]
    record = damaged_record(rng, piece[begin:])
    length = len(record).to_bytes(4, "little") if rng.random() < 0.8 else piece[4:8]
    return piece[:4] + length + piece[8:begin] + record


_PIECE: tuple[Damage, ...] = (_frame_field, _frame_field, _packet_record, _packet_record, _packet_record, *_BYTES)


def _rearranged(rng: random.Random, pieces: list[bytes]) -> list[bytes]:
    """One piece dropped, repeated, moved, or a line put between."""
    at, to = rng.randrange(len(pieces)), rng.randrange(len(pieces))
    kind = rng.randrange(4)
    if kind == 0 and len(pieces) > 1:
        return pieces[:at] + pieces[at + 1 :]
    if kind == 1:
        return pieces[:at] + [pieces[at]] * 2 + pieces[at + 1 :]
    if kind == 2:
        rest = pieces[:at] + pieces[at + 1 :]
        return [*rest[:to], pieces[at], *rest[to:]]
    return [*pieces[:at], rng.choice(_LINES), *pieces[at:]]


def damaged_session(rng: random.Random, data: bytes) -> bytes:
    """One to four things go wrong; now and then the flags and the cuts change too."""
    head = bytearray(data[:2].ljust(2, b"\0"))
    if rng.random() < 0.3:
        head[0] = rng.randrange(64) if rng.random() < 0.2 else head[0] ^ rng.choice((2, 8, 16, 32))
    head[1] = rng.randrange(256)
    pieces = pieces_of(data[2:])[:_MOST_PIECES]
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not pieces:
            break
        at = rng.randrange(len(pieces))
        if rng.random() < 0.25:
            pieces = _rearranged(rng, pieces)
        elif pieces[at]:
            pieces[at] = rng.choice(_PIECE)(rng, pieces[at])
    return bytes(head) + b"".join(pieces)


def damaged_records(rng: random.Random, data: bytes) -> bytes:
    """Some records are damaged, dropped, repeated or moved."""
    payloads = payloads_of(data[1:])[:_MOST_PIECES] or [data]
    for _ in range(rng.choice((1, 2, 4, 8))):
        if rng.random() < 0.25:
            payloads = [payload for payload in _rearranged(rng, payloads) if payload] or payloads
        else:
            at = rng.randrange(len(payloads))
            payloads[at] = damaged_record(rng, payloads[at])
    return bytes((rng.random() < 0.3,)) + with_lengths(payloads)


DAMAGE: dict[str, Damage] = {"session": damaged_session, "records": damaged_records}
