"""miniSEED 2 and 3 records to and from samples: the only place that imports pymseed."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
_TIME_TAG_QUESTIONABLE = 0x02  # miniSEED 3 record flags, bit 1
_POOR_TIMING_PERCENT = 50


class RecordError(ValueError):
    """A record that cannot be used. `reason` is one word for counters, the text says what is wrong."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@lru_cache(maxsize=4096)
def _extra_quality(extra: str) -> frozenset[str]:
    """Quality flags out of miniSEED 3 extra headers (libmseed maps version 2's blockettes to them)."""
    try:
        fdsn = json.loads(extra).get("FDSN", {})
    except (ValueError, AttributeError):
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


def _quality(msr: pymseed.MS3Record) -> frozenset[str]:
    quality = _extra_quality(msr.extra) if msr.extralength else frozenset()
    return quality | {"timing"} if msr.flags & _TIME_TAG_QUESTIONABLE else quality


def decode(payload: bytes | memoryview, received_ns: int = 0) -> Record:
    """One miniSEED record (version 2 or 3) as samples in counts.

    Raises RecordError with reason "malformed" (not miniSEED, wrong length, corrupt), "empty" (no samples), "text"
    (log or event records) or "rate" (no positive sampling rate).
    """
    try:
        msr = pymseed.MS3Record.parse(payload, unpack_data=True)
    except (pymseed.MiniSEEDError, ValueError, UnicodeDecodeError) as error:
        raise RecordError("malformed", f"not a readable miniSEED record: {error}") from error
    if msr.numsamples <= 0:
        raise RecordError("empty", f"record of {msr.sourceid} holds no samples")
    dtype = _DTYPES.get(msr.sampletype or "")
    if dtype is None:
        raise RecordError("text", f"record of {msr.sourceid} holds text, not samples")
    rate = float(msr.samprate)
    if not 0.0 < rate < 1e9:
        raise RecordError("rate", f"record of {msr.sourceid} states a sampling rate of {rate:g} Hz")
    samples = np.array(msr.np_datasamples, dtype=dtype)
    return Record(msr.sourceid, int(msr.starttime), rate, read_only(samples), _quality(msr), received_ns)


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
    try:
        return list(msr.generate(data_samples=np.ascontiguousarray(samples, dtype=dtype), sample_type=letter))
    except (pymseed.MiniSEEDError, ValueError) as error:
        raise RecordError("malformed", f"samples of {sid} do not fit {encoding}: {error}") from error
