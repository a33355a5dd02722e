"""SeedLink packets out of bytes, versions 4 and 3, and the few texts in them that a client reads.

Version 4: FDSN SeedLink Protocol 4.0, section "Data Transfer". Version 3 has no formal specification: eight characters
(`SL` and six hexadecimal digits, or `SLINFO` and a flag), then one miniSEED record.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from struct import Struct
from typing import Literal

LINE_LIMIT = 8192  # bytes of one reply line; the specification asks for at most 255 in commands
PAYLOAD_LIMIT = 1 << 20  # bytes of one packet: a miniSEED record of seismic data has 512 to 4096
V3_SEQUENCES = 1 << 24  # version 3 numbers its packets with six hexadecimal digits and starts again

_STATION_LIMIT = 64  # characters of a station id that are kept; NET_STA has 17

_V4_HEADER = Struct("<2sccIQB")  # signature, format, subformat, payload bytes, sequence, bytes of station id
_V3_HEADER_BYTES = 8
_V3_RECORD_BYTES = 512  # what version 3 promises; some servers send other record lengths all the same
_V2_FIXED_BYTES = 48
_BLOCKETTE_HOPS = 16

Kind = Literal["data", "info", "end", "error"]


class FrameError(ValueError):
    """The bytes are no SeedLink packet. `sequence` and `station` say which one, where the header was still readable."""

    def __init__(self, reason: str, text: str, sequence: int | None = None, station: str = "") -> None:
        super().__init__(text)
        self.reason = reason
        self.sequence = sequence
        self.station = station


@dataclass(frozen=True, slots=True)
class Frame:
    """One packet. kind "error": a reply line in place of a packet, in `payload`; "end": the server is done.

    format: format and subformat of version 4 ("2D", "3D", "JI"); version 3 has "2D" and, for information, "XI".
    station: NET_STA, empty in version 3. last: False while more packets of the same information follow.
    """

    kind: Kind
    sequence: int
    station: str
    format: str
    payload: bytes
    last: bool = True


def take_frame(buffer: bytearray, start: int, protocol: int) -> tuple[Frame, int] | None:
    """The packet that begins at `start` and the offset after it; None while it is not complete.

    Raises FrameError where no packet can begin.
    """
    head = bytes(buffer[start : start + 2])
    if head[:1] == b"E":
        return _take_text(buffer, start)
    signature = b"SE" if protocol == 4 else b"SL"
    if not signature.startswith(head):
        raise FrameError(
            "frame", f"expected a packet that starts with {signature.decode()}, got {_shown(buffer, start)}"
        )
    return _take_v4(buffer, start) if protocol == 4 else _take_v3(buffer, start)


def take_line(buffer: bytearray, start: int) -> tuple[str, int] | None:
    """The reply line that begins at `start` and the offset after it; None while it is not complete.

    Raises FrameError beyond LINE_LIMIT bytes.
    """
    end = buffer.find(b"\n", start, start + LINE_LIMIT)
    if end >= 0:
        return readable(buffer[start:end].decode("utf-8", "replace").strip("\r"), LINE_LIMIT), end + 1
    if len(buffer) - start >= LINE_LIMIT:
        raise FrameError("line", f"a reply has no end within {LINE_LIMIT} bytes: {_shown(buffer, start)}")
    return None


def readable(text: str, most: int = 300) -> str:
    """A server's words as they may stand in a log: in one line, nothing that a terminal would obey, not too long."""
    if text.isprintable():
        return text[:most]
    return "".join(character if character.isprintable() else " " for character in text[:most])


def station_name(station_id: bytes | bytearray) -> str:
    """A packet's station id, NET_STA where the server keeps to the specification, as it may stand in a log."""
    return readable(station_id.decode("ascii", "replace"), _STATION_LIMIT)


def _shown(buffer: bytearray, start: int) -> str:
    return repr(bytes(buffer[start : start + 16]))


def _take_text(buffer: bytearray, start: int) -> tuple[Frame, int] | None:
    """`END` without line end, or a line `ERROR ...`."""
    head = bytes(buffer[start : start + 5])
    if head.startswith(b"END"):
        return Frame("end", 0, "", "", b""), start + 3
    if head == b"ERROR":
        taken = take_line(buffer, start)
        return taken and (Frame("error", 0, "", "", taken[0].encode()), taken[1])
    if b"END".startswith(head) or b"ERROR".startswith(head):
        return None
    raise FrameError("frame", f"expected a packet, got {_shown(buffer, start)}")


def _take_v4(buffer: bytearray, start: int) -> tuple[Frame, int] | None:
    if len(buffer) - start < _V4_HEADER.size:
        return None
    _, code, subcode, length, sequence, id_bytes = _V4_HEADER.unpack_from(buffer, start)
    begin = start + _V4_HEADER.size + id_bytes
    if len(buffer) < begin:
        return None
    station = station_name(buffer[begin - id_bytes : begin])
    if length > PAYLOAD_LIMIT:
        text = f"packet {sequence} of {station!r} states {length} bytes; at most {PAYLOAD_LIMIT} are taken"
        raise FrameError("size", text, sequence, station)
    if len(buffer) < begin + length:
        return None
    name = (code + subcode).decode("ascii", "replace")
    payload = bytes(buffer[begin : begin + length])
    return Frame("info" if name in ("JI", "JE") else "data", sequence, station, name, payload), begin + length


def _take_v3(buffer: bytearray, start: int) -> tuple[Frame, int] | None:
    begin = start + _V3_HEADER_BYTES
    if len(buffer) < begin:
        return None
    label = bytes(buffer[start + 2 : begin])
    if label.startswith(b"INFO"):
        if len(buffer) < begin + _V3_RECORD_BYTES:
            return None
        payload = bytes(buffer[begin : begin + _V3_RECORD_BYTES])
        return Frame("info", 0, "", "XI", payload, label[5:6] != b"*"), begin + _V3_RECORD_BYTES
    if re.fullmatch(rb"[0-9A-Fa-f]{6}", label) is None:
        raise FrameError("frame", f"expected a sequence of six hexadecimal digits, got {label!r}")
    length = record_length(buffer, begin)
    if length is None or len(buffer) < begin + length:
        return None
    return Frame("data", int(label, 16), "", "2D", bytes(buffer[begin : begin + length])), begin + length


def record_length(buffer: bytearray, begin: int) -> int | None:
    """Length in bytes that the miniSEED record at `begin` states of itself; None while too little of it is there.

    512, what version 3 promises, where it states none that can be.
    """
    if len(buffer) - begin < _V2_FIXED_BYTES:
        return None
    if buffer[begin : begin + 3] == b"MS\x03":
        id_bytes, extra, data = Struct("<BHI").unpack_from(buffer, begin + 33)
        length = 40 + id_bytes + extra + data
        return length if length <= PAYLOAD_LIMIT else _V3_RECORD_BYTES
    return _v2_record_length(buffer, begin)


def _v2_record_length(buffer: bytearray, begin: int) -> int | None:
    """2 to the exponent in blockette 1000 (SEED manual, chapter 8); its byte order is known by a year that can be."""
    big = 1900 <= int.from_bytes(buffer[begin + 20 : begin + 22], "big") <= 2100
    order: Literal["big", "little"] = "big" if big else "little"
    at = int.from_bytes(buffer[begin + 46 : begin + 48], order)
    for _ in range(_BLOCKETTE_HOPS):
        if not _V2_FIXED_BYTES <= at <= 4096:
            break
        if len(buffer) - begin < at + 8:
            return None
        if int.from_bytes(buffer[begin + at : begin + at + 2], order) == 1000:
            exponent = buffer[begin + at + 6]
            return 1 << exponent if 7 <= exponent <= 20 else _V3_RECORD_BYTES
        at = int.from_bytes(buffer[begin + at + 2 : begin + at + 4], order)
    return _V3_RECORD_BYTES


@dataclass(frozen=True, slots=True)
class Hello:
    """The server's two lines: what it is and who runs it. major: protocol versions it speaks (3 where it says none)."""

    software: str
    organisation: str
    major: frozenset[int]
    capabilities: frozenset[str]


def parse_hello(first: str, second: str) -> Hello:
    """Raises FrameError where the first line is not a SeedLink server's."""
    if not first.lower().startswith("seedlink"):
        raise FrameError("hello", f"the server is no SeedLink server: it answers {first[:80]!r}")
    software, _, listed = first.partition("::")
    capabilities = frozenset(listed.split())
    versions = [re.fullmatch(r"SLPROTO:(\d+)\.\d+", word) for word in capabilities]
    major = frozenset(int(match.group(1)) for match in versions if match)
    return Hello(software.strip(), second.strip(), major or frozenset({3}), capabilities)


def json_capabilities(payload: bytes) -> frozenset[str]:
    """Capabilities out of a version 4 information packet; none where it does not say."""
    try:
        listed = json.loads(payload)["capability"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return frozenset()
    return frozenset(word for word in listed if isinstance(word, str)) if isinstance(listed, list) else frozenset()


def log_text(payload: bytes) -> str:
    """The text in a version 3 information packet: a big-endian miniSEED 2 log record."""
    count, at = int.from_bytes(payload[30:32], "big"), int.from_bytes(payload[44:46], "big")
    return payload[at : at + count].decode("utf-8", "replace")


def is_log_error(payload: bytes) -> bool:
    """Version 3 says by the channel code ERR that it cannot answer."""
    return payload[15:18] == b"ERR"


def stations_in(xml: str) -> list[str]:
    """NET_STA of every station in a version 3 `INFO STATIONS` document, in its order, each once.

    Tags are searched for rather than parsed: the document comes from outside, and no entity in it is ever expanded.
    """
    found: dict[str, None] = {}
    for tag in re.findall(r"<station\s[^>]*>", xml):
        codes = dict(re.findall(r'\b(name|network)="([A-Za-z0-9-]{1,8})"', tag))
        if len(codes) == 2:
            found[f"{codes['network']}_{codes['name']}"] = None
    return list(found)
