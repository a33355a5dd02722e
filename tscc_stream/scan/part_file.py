"""The file of a part: what it came to, and behind that its rows and the state at its end, in one piece.

8 bytes   TSCCPART
32 bytes  lengths of what follows, uint64 little-endian
          marker, JSON; state, MessagePack compressed by zlib; detections and triggers, Parquet, or nothing
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tscc_stream.pipeline import Served
from tscc_stream.scan import rows
from tscc_stream.scan.layout import write
from tscc_stream.scan.triggers import TriggersState

_MAGIC = b"TSCCPART"
_LENGTHS = struct.Struct("<4Q")
_HEAD = len(_MAGIC) + _LENGTHS.size


class State(msgspec.Struct, frozen=True):
    """What the next part of a chain goes on from. front: of the front half, as recovery encodes it."""

    front: bytes
    served: Served
    triggers: TriggersState


class Marker(msgspec.Struct, frozen=True):
    """What a part came to.

    detections, triggers: how many, and the earliest and latest onset. recorded_ns: by channel. gaps, dropped: by
    channel and cause. refused, quarantined: channel -> why. undecoded: how many records could not be decoded, and
    skipped: the first of them in words. without_signal: windows that were not stored, since training cannot use them.
    """

    key: str
    records: int
    samples: int
    recorded_ns: dict[str, int]
    detections: tuple[int, int, int]
    triggers: tuple[int, int, int]
    gaps: dict[str, dict[str, int]]
    dropped: dict[str, dict[str, int]]
    refused: dict[str, str]
    quarantined: dict[str, str]
    undecoded: int
    skipped: list[str]
    without_signal: int = 0


def store(path: Path, marker: Marker, state: State, detections: rows.Table, triggers: rows.Table) -> None:
    """All in one step."""
    packed = zlib.compress(msgspec.msgpack.encode(state), 1)
    pieces = [msgspec.json.encode(marker), packed, _parquet(detections), _parquet(triggers)]
    write(path, b"".join([_MAGIC, _LENGTHS.pack(*map(len, pieces)), *pieces]))


def _parquet(table: rows.Table) -> bytes:
    return rows.parquet(table) if len(table) else b""


def marker(path: Path) -> Marker | None:
    """None where there is no such file, it is none of ours, or not whole."""
    found = _piece(path, 0)
    try:
        return msgspec.json.decode(found, type=Marker) if found else None
    except msgspec.DecodeError:
        return None


def state(path: Path) -> State:
    """Of a part that has a marker."""
    return msgspec.msgpack.decode(zlib.decompress(_piece(path, 1)), type=State)


def detections(path: Path) -> rows.Table:
    """Of a part that has any."""
    return pq.read_table(pa.BufferReader(_piece(path, 2)))


def triggers(path: Path) -> rows.Table:
    """Of a part that has any."""
    return pq.read_table(pa.BufferReader(_piece(path, 3)))


def _piece(path: Path, number: int) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            if len(head) < _HEAD or not head.startswith(_MAGIC):
                return b""
            lengths = _LENGTHS.unpack(head[len(_MAGIC) :])
            if os.fstat(file.fileno()).st_size != _HEAD + sum(lengths):
                return b""
            file.seek(_HEAD + sum(lengths[:number]))
            return file.read(lengths[number])
    except FileNotFoundError:
        return b""
