"""miniSEED 2 and 3 records to and from samples: the only place that imports pymseed."""

from __future__ import annotations

import json
import mmap
import re
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

import numpy as np
import pymseed

from tscc_stream.messages import AnyArray, Record, read_only

Encoding = Literal["int32", "steim1", "steim2", "float32", "float64"]

_ENCODINGS: dict[Encoding, tuple[pymseed.DataEncoding, str, type[np.generic]]] = {
    "int32": (pymseed.DataEncoding.INT32, "i", np.int32),
    "steim1": (pymseed.DataEncoding.STEIM1, "i", np.int32),
    "steim2": (pymseed.DataEncoding.STEIM2, "i", np.int32),
    "float32": (pymseed.DataEncoding.FLOAT32, "f", np.float32),
    "float64": (pymseed.DataEncoding.FLOAT64, "d", np.float64),
}
_DTYPES: dict[str, type[np.generic]] = {"i": np.int32, "f": np.float32, "d": np.float64}
# Version 2: sequence number, quality letter, reserved byte, codes, BTIME with a possible hour; version 3: "MS", 3.
_RECORD_START = re.compile(
    rb"[0-9 \0]{6}[DRQM][ \0][A-Za-z0-9 \0]{12}[\0-\xff]{4}[\0-\x17][\0-\x3b][\0-\x3c]|MS\x03[\0-\xff]{9}[\0-\x17]"
)
_TENTH_MS = 100_000
_YEARS, _DAYS = range(1900, 2101), range(1, 367)  # swapped bytes make no such year, except 2056
_SOURCE_ID = re.compile(r"[A-Za-z0-9:_-]{1,64}")
_ERAS_NS = (-2_208_988_800_000_000_000, 7_258_118_400_000_000_000)  # 1900 and 2200: beyond them, no recording
_RATES_HZ = (1e-5, 1e8)  # from years of one sample a day to the laboratory
_UNPACKED = frozenset({0, 1, 3, 4, 5, 10, 11, 12, 13, 14, 16, 30, 32})  # encodings that libmseed knows
_HEADER_FAULTS = (("start time", "time"), ("sample rate", "rate"))  # as libmseed words them
_TIME_TAG_QUESTIONABLE = 0x02  # miniSEED 3 record flags, bit 1
_POOR_TIMING_PERCENT = 50
_LONGEST_REMEMBERED = 1024  # bytes of extra headers; they may have 64 KiB, and thousands of them would add up


Header = pymseed.MS3Record


class RecordError(ValueError):
    """A record that cannot be used. `reason` is one word for counters, the text says what is wrong.

    malformed: no miniSEED, or of the wrong length. corrupt: its samples, or its checksum, are damaged. encoding: packed
    in a way that nobody here knows. empty: without samples. text: a log or an event. rate, time, source: its header
    states a sampling rate, a start or a name that no recording has.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def _extra_quality(extra: str) -> frozenset[str]:
    """Quality flags out of miniSEED 3 extra headers (libmseed maps version 2's blockettes to them)."""
    try:
        fdsn = json.loads(extra).get("FDSN", {})
    except (ValueError, AttributeError, RecursionError):
        return frozenset()
    if not isinstance(fdsn, dict):
        return frozenset()
    flags, time = fdsn.get("Flags", {}), fdsn.get("Time", {})
    found = set()
    if isinstance(flags, dict) and (flags.get("AmplifierSaturation") or flags.get("DigitizerClipping")):
        found.add("clipped")
    quality = time.get("Quality", 0) if isinstance(time, dict) else 0
    if isinstance(quality, int | float) and 0 < quality < _POOR_TIMING_PERCENT:
        found.add("timing")
    return frozenset(found)


_remembered_quality = lru_cache(maxsize=4096)(_extra_quality)


def quality_of(msr: pymseed.MS3Record) -> frozenset[str]:
    """What a header says against its own samples: "clipped" and "timing" (see messages.Record)."""
    try:
        known = _remembered_quality if msr.extralength <= _LONGEST_REMEMBERED else _extra_quality
        quality = known(msr.extra) if msr.extralength else frozenset()
    except UnicodeDecodeError:
        quality = frozenset()
    return quality | {"timing"} if msr.flags & _TIME_TAG_QUESTIONABLE else quality


def _parsed(payload: bytes | memoryview, *, with_samples: bool) -> pymseed.MS3Record:
    """One record with a readable source id. Raises RecordError; "corrupt" and "encoding" only with samples."""
    try:
        msr = pymseed.MS3Record.parse(payload, unpack_data=with_samples)
        sid = msr.sourceid
    except (pymseed.MiniSEEDError, ValueError) as error:
        reason = _reason_of(error, payload, with_samples=with_samples)
        raise RecordError(reason, f"not a readable miniSEED record: {error}") from error
    if not (sid.isascii() and sid.isprintable()):
        raise RecordError("source", f"record of {sid!r}: expected codes of letters and digits")
    return msr


def _reason_of(error: Exception, payload: bytes | memoryview, *, with_samples: bool) -> str:
    """Why a record cannot be read: its header by what is said of it, its samples where the header alone can be."""
    text = str(error)
    if isinstance(error, UnicodeError):
        return "source"
    if "CRC" in text:
        return "corrupt"
    try:
        encoding = pymseed.MS3Record.parse(payload).encoding if with_samples else None
    except (pymseed.MiniSEEDError, ValueError):
        encoding = None
    if encoding is not None:
        return "corrupt" if encoding in _UNPACKED else "encoding"
    return next((reason for words, reason in _HEADER_FAULTS if words in text), "malformed")


def _checked(msr: pymseed.MS3Record) -> None:
    """Raises RecordError where a header that can be read states what cannot be."""
    rate = float(msr.samprate)
    if not _RATES_HZ[0] <= rate <= _RATES_HZ[1]:
        raise RecordError("rate", f"record of {msr.sourceid!r} states a sampling rate of {rate:g} Hz")
    if not _ERAS_NS[0] <= msr.starttime < _ERAS_NS[1]:
        raise RecordError("time", f"record of {msr.sourceid!r} starts {msr.starttime} ns after 1970, not in 1900-2199")
    if _SOURCE_ID.fullmatch(msr.sourceid) is None:
        raise RecordError("source", f"record of {msr.sourceid!r}: expected letters, digits and dashes as codes")


def decode(payload: bytes | memoryview, received_ns: int = 0) -> Record:
    """One miniSEED record (version 2 or 3) as samples in counts. Raises RecordError, with any of its reasons.

    Steim records close with their last sample; where that differs from what came out, they are corrupt.
    """
    msr = _parsed(payload, with_samples=True)
    if _fails_its_check():
        raise RecordError("corrupt", f"record of {msr.sourceid}: its last sample is not what its header says")
    if msr.numsamples <= 0:
        raise RecordError("empty", f"record of {msr.sourceid!r} holds no samples")
    dtype = _DTYPES.get(msr.sampletype or "")
    if dtype is None:
        raise RecordError("text", f"record of {msr.sourceid!r} holds text, not samples")
    _checked(msr)
    samples = np.array(msr.np_datasamples, dtype=dtype)
    rate = float(msr.samprate)
    return Record(msr.sourceid, int(msr.starttime), rate, read_only(samples), quality_of(msr), received_ns)


def _fails_its_check() -> bool:
    """Whether the record parsed last, on this thread, came out with another last sample than it states."""
    return any("integrity" in message for message in pymseed.get_error_messages())


def split(data: bytes | memoryview) -> Iterator[tuple[int, pymseed.MS3Record]]:
    """Headers of the records in `data`, each with its offset in bytes; samples are not decoded.

    A header is valid only until the next one is asked for. Raises RecordError ("malformed") where `data` stops being
    miniSEED, after what came before it.
    """
    offset = 0
    try:
        for msr in pymseed.MS3Record.from_buffer(data):
            yield offset, msr
            offset += msr.reclen
    except (pymseed.MiniSEEDError, ValueError) as error:
        raise RecordError("malformed", f"not miniSEED at byte {offset}: {error}") from error


def encode(
    sid: str,
    start_ns: int,
    sample_rate_hz: float,
    samples: AnyArray,
    *,
    record_length: int = 512,
    encoding: Encoding = "steim2",
    version: Literal[2, 3] = 2,
) -> list[bytes]:
    """Samples [n] as miniSEED records of at most `record_length` bytes (exactly that in version 2).

    Raises RecordError ("malformed") where the samples do not fit the encoding (Steim2 holds differences of 30 bits).
    """
    code, letter, dtype = _ENCODINGS[encoding]
    msr = pymseed.MS3Record(reclen=record_length, encoding=code)
    msr.sourceid = sid
    msr.starttime = start_ns
    msr.samprate = sample_rate_hz
    msr.formatversion = version
    msr.pubversion = 1
    packed = np.ascontiguousarray(samples, dtype=dtype)
    if letter == "i" and not np.array_equal(packed, samples):
        raise RecordError("malformed", f"samples of {sid} do not fit {encoding}: not 32-bit integers")
    try:
        return list(msr.generate(data_samples=packed, sample_type=letter))
    except (pymseed.MiniSEEDError, ValueError) as error:
        raise RecordError("malformed", f"samples of {sid} do not fit {encoding}: {error}") from error


def starts_record(head: bytes | memoryview) -> bool:
    """Whether these bytes (27 are enough) look like the start of a miniSEED record of either version."""
    return _RECORD_START.match(head) is not None


def find_record(data: bytes | mmap.mmap, offset: int) -> int:
    """Where the next miniSEED record may start in `data`, at or after `offset`; its length where there is none."""
    match = _RECORD_START.search(data, offset)
    return match.start() if match else len(data)


def decode_run(data: bytes | memoryview, samples: int) -> AnyArray:
    """All samples [n] of records of one channel that follow one another without a break; n must be `samples`.

    Several times as fast as record by record. Raises RecordError ("malformed", "corrupt") where a record is damaged or
    the records do not make one unbroken run, so that the caller can look at each by itself.
    """
    try:
        with pymseed.MS3TraceList.from_buffer(data, unpack_data=True) as traces:
            segments = [segment for trace in traces for segment in trace]
            if len(segments) != 1 or segments[0].numsamples != samples:
                raise RecordError("malformed", f"records do not make one run of {samples} samples")
            damaged = _fails_its_check()
            run: AnyArray = segments[0].take_np_datasamples()
    except (pymseed.MiniSEEDError, ValueError) as error:
        raise RecordError("malformed", f"not a readable run of miniSEED records: {error}") from error
    if damaged:
        raise RecordError("corrupt", "a record's last sample is not what its header says")
    return read_only(run)


def header(payload: bytes | memoryview) -> Header:
    """The header of one record, its samples left packed. Raises RecordError."""
    return _parsed(payload, with_samples=False)


def _with_samples(payload: bytes | memoryview) -> pymseed.MS3Record:
    msr = _parsed(payload, with_samples=True)
    if msr.numsamples <= 0 or msr.sampletype not in _DTYPES:
        raise RecordError("empty", f"record of {msr.sourceid} holds no samples")
    return msr


def _packed(msr: pymseed.MS3Record) -> list[bytes]:
    """The record's samples packed anew: integers Steim2 (32-bit words where its differences are too large)."""
    letter = msr.sampletype or "i"
    samples = np.array(msr.np_datasamples)
    names: dict[str, tuple[Encoding, ...]] = {"i": ("steim2", "int32"), "f": ("float32",), "d": ("float64",)}
    failure = ""
    for name in names[letter]:
        msr.encoding = _ENCODINGS[name][0]
        try:
            return list(msr.generate(data_samples=samples, sample_type=letter))
        except (pymseed.MiniSEEDError, ValueError) as error:
            failure = str(error)
    raise RecordError("malformed", f"record of {msr.sourceid} cannot be packed again: {failure}")


def repacked(payload: bytes | memoryview) -> list[bytes]:
    """Any record as 512-byte miniSEED 2 records with the same samples, times (to 1 microsecond) and header flags.

    Raises RecordError ("malformed", "empty") where there are no samples to pack.
    """
    msr = _with_samples(payload)
    msr.formatversion = 2
    msr.reclen = 512
    return _packed(msr)


def shifted(payload: bytes, shift_ns: int) -> list[bytes]:
    """The record with its start moved by `shift_ns`: one record, or more where its samples had to be packed again.

    A version 2 header is patched in place for shifts of whole 0.1 ms, the unit of its time field, so that the packed
    samples stay as they are. Raises RecordError ("malformed", "empty").
    """
    if shift_ns == 0:
        return [payload]
    if payload[:2] != b"MS" and shift_ns % _TENTH_MS == 0:
        return [_patched_start(payload, shift_ns // _TENTH_MS)]
    msr = _with_samples(payload)
    msr.starttime += shift_ns
    return _packed(msr)


def _patched_start(payload: bytes, tenths_ms: int) -> bytes:
    """A version 2 record with its BTIME (SEED manual, chapter 3: year, day, h, m, s, unused, 0.1 ms) moved on."""
    year, day = int.from_bytes(payload[20:22], "big"), int.from_bytes(payload[22:24], "big")
    order = ">" if year in _YEARS and day in _DAYS else "<"
    try:
        year, day, hour, minute, second, unused, fraction = struct.unpack_from(f"{order}HHBBBBH", payload, 20)
        start = datetime(year, 1, 1, hour, minute, tzinfo=UTC) + timedelta(days=day - 1, seconds=second)
        seconds, fraction = divmod(fraction + tenths_ms, 10_000)
        start += timedelta(seconds=seconds)
    except (struct.error, ValueError, OverflowError) as error:
        raise RecordError("malformed", f"record without a readable start time: {error}") from error
    moved = struct.pack(
        f"{order}HHBBBBH",
        *(start.year, start.timetuple().tm_yday, start.hour, start.minute, start.second, unused, fraction),
    )
    return payload[:20] + moved + payload[30:]
