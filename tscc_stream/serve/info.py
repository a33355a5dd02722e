"""Answers to INFO: JSON for version 4 (schema in the specification's appendix B), XML in log records for version 3."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree as ET  # only written here, never parsed

from tscc_stream import __version__
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.serve.ring import Holding, Ring, Stream
from tscc_stream.serve.selection import Request, SelectionError, selector_v4, station_v4

SOFTWARE = f"SeedLink v4.0 (tscc-stream/{__version__}) :: SLPROTO:4.0 SLPROTO:3.1 CAP EXTREPLY NSWILDCARD BATCH"
CAPABILITIES_V4 = ("SLPROTO:4.0", "SLPROTO:3.1", "TIME", "SEQWILDCARD")
_CAPABILITIES_V3 = (
    "dialup", "multistation", "window-extraction", "info:id", "info:capabilities", "info:stations", "info:streams",
    "info:connections",
)  # fmt: skip
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TEXT_BYTES = 456  # of a 512-byte record behind a 56-byte header
_FORMATS = {
    "2": {"mimetype": "application/vnd.fdsn.mseed", "subformat": {"D": "data/generic"}},
    "3": {"mimetype": "application/vnd.fdsn.mseed3", "subformat": {"D": "data/generic"}},
    "J": {"mimetype": "application/json", "subformat": {"I": "SeedLink info", "E": "SeedLink error"}},
}


class InfoError(ValueError):
    """An INFO request that cannot be answered; `code` is one of the specification's error codes."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Connection:
    """One client, as INFO CONNECTIONS shows it. lost: sequence numbers that left the ring before it read them."""

    peer: str
    version: str
    agent: str
    packets: int
    lost: int


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the server says it is: organization in HELLO's second line, and since when it runs (ns)."""

    organization: str
    started_ns: int


def iso(time_ns: int) -> str:
    """`2010-05-27T16:24:03.680000Z`."""
    moment = _EPOCH + timedelta(microseconds=time_ns // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _comma(time_ns: int) -> str:
    return (_EPOCH + timedelta(seconds=time_ns // NS_PER_SECOND)).strftime("%Y/%m/%d %H:%M:%S.0000")


# ---- version 4


def json_error(identity: Identity, error: InfoError) -> bytes:
    return _json(identity, {"error": {"code": error.code, "message": str(error)}})


def json_answer(arguments: list[str], identity: Identity, ring: Ring, connections: Iterable[Connection]) -> bytes:
    """The document for `INFO item [station_pattern [stream_pattern]]`. Raises InfoError."""
    if not 1 <= len(arguments) <= 3:
        raise InfoError("ARGUMENTS", "expected INFO item [station_pattern [stream_pattern]]")
    item = arguments[0].upper()
    if item == "ID":
        return _json(identity, {})
    if item == "CAPABILITIES":
        return _json(identity, {"capability": list(CAPABILITIES_V4)})
    if item == "FORMATS":
        return _json(identity, _formats())
    if item in ("STATIONS", "STREAMS"):
        chosen = _chosen(ring, arguments[1:])
        return _json(identity, {**_formats(), "station": _stations(chosen, ring, with_streams=item == "STREAMS")})
    if item == "CONNECTIONS":
        return _json(identity, {"connections": {"client": [_client(entry) for entry in connections]}})
    raise InfoError("ARGUMENTS", f"unknown item {item:.20}")


def _json(identity: Identity, content: dict[str, Any]) -> bytes:
    return json.dumps({"software": SOFTWARE, "organization": identity.organization, **content}).encode()


def _formats() -> dict[str, Any]:
    return {"format": _FORMATS, "filter": {"native": "the format in which the server holds the data"}}


def _client(entry: Connection) -> dict[str, Any]:
    return {
        "host": entry.peer,
        "protocol": entry.version,
        "client": entry.agent,
        "packets": entry.packets,
        "lost": entry.lost,
    }


def _chosen(ring: Ring, patterns: list[str]) -> list[tuple[Stream, Holding]]:
    try:
        request = Request(station_v4(patterns[0]) if patterns else "*", [selector_v4(text) for text in patterns[1:]])
    except SelectionError as error:
        raise InfoError("ARGUMENTS", str(error)) from error
    held = sorted(ring.streams.items(), key=lambda item: item[0])
    return [(stream, holding) for stream, holding in held if request.matches(stream) and request.selects(stream)]


def _stations(chosen: list[tuple[Stream, Holding]], ring: Ring, *, with_streams: bool) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for stream, held in chosen:
        first = max(held.first, ring.oldest)  # a stream that has ended leaves the ring in the end
        entry = found.setdefault(
            stream.station_id,
            {"id": stream.station_id, "description": "", "start_seq": first, "end_seq": ring.next},
        )
        entry["start_seq"] = min(entry["start_seq"], first)
        if with_streams:
            entry.setdefault("stream", []).append(_stream(stream, held))
    return list(found.values())


def _stream(stream: Stream, held: Holding) -> dict[str, str]:
    return {
        "id": stream.stream_id,
        "format": stream.format,
        "subformat": "D",
        "origin": "native",
        "start_time": iso(held.start_ns),
        "end_time": iso(held.end_ns),
    }


# ---- version 3


def xml_answer(item: str, identity: Identity, ring: Ring, connections: Iterable[Connection]) -> tuple[bytes, bool]:
    """The document for `INFO item`, and whether the item is known (where not, the server's identity is sent)."""
    item = item.upper()
    root = ET.Element(
        "seedlink", software=SOFTWARE, organization=identity.organization, started=_comma(identity.started_ns)
    )
    if item == "CAPABILITIES":
        for name in _CAPABILITIES_V3:
            ET.SubElement(root, "capability", name=name)
    elif item in ("STATIONS", "STREAMS"):
        _add_stations(root, ring, with_streams=item == "STREAMS")
    elif item == "CONNECTIONS":
        for entry in connections:
            ET.SubElement(root, "connection", host=entry.peer, proto=entry.version, client=entry.agent)
    known = item in ("ID", "CAPABILITIES", "STATIONS", "STREAMS", "CONNECTIONS")
    return b'<?xml version="1.0"?>' + ET.tostring(root), known


def _add_stations(root: ET.Element, ring: Ring, *, with_streams: bool) -> None:
    found: dict[str, ET.Element] = {}
    numbers: dict[str, int] = {}
    for stream, held in sorted(ring.streams.items(), key=lambda item: item[0]):
        name = stream.station_id
        first = max(held.first, ring.oldest)
        numbers[name] = min(first, numbers.get(name, first))
        if name not in found:
            found[name] = ET.SubElement(root, "station", name=stream.station, network=stream.network, description="")
        found[name].set("begin_seq", f"{numbers[name] & 0xFFFFFF:06X}")
        found[name].set("end_seq", f"{ring.next & 0xFFFFFF:06X}")
        found[name].set("stream_check", "enabled")
        if with_streams:
            ET.SubElement(
                found[name], "stream", location=stream.location, seedname=stream.seed_channel, type="D",
                begin_time=_comma(held.start_ns), end_time=_comma(held.end_ns),
            )  # fmt: skip


def log_packets(text: bytes, now_ns: int, *, error: bool) -> Iterator[bytes]:
    """A text as SLINFO packets: 8 bytes, of which the last says whether more follow ("*"), and a 512-byte log record.

    The record is miniSEED 2 with ASCII encoding, station INFO, channel INF or ERR, as version 3 servers send it.
    """
    pieces = [text[start : start + _TEXT_BYTES] for start in range(0, len(text), _TEXT_BYTES)] or [b""]
    for number, piece in enumerate(pieces, 1):
        mark = b"SLINFO  " if number == len(pieces) else b"SLINFO *"
        yield mark + _log_record(piece, number, now_ns, b"ERR" if error else b"INF")


def _log_record(piece: bytes, number: int, now_ns: int, channel: bytes) -> bytes:
    now = _EPOCH + timedelta(seconds=now_ns // NS_PER_SECOND)
    day = now.timetuple().tm_yday
    head = b"%06dD " % (number % 1_000_000) + b"INFO   " + channel + b"SL"
    start = struct.pack(">HHBBBBH", now.year, day, now.hour, now.minute, now.second, 0, 0)
    fixed = struct.pack(">HhhBBBBiHH", len(piece), 0, 0, 0, 0, 0, 1, 0, 56, 48)
    blockette_1000 = struct.pack(">HHBBBB", 1000, 0, 0, 1, 9, 0)
    return (head + start + fixed + blockette_1000 + piece).ljust(512, b"\0")
