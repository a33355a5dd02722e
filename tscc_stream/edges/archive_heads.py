"""Headers of ordinary miniSEED 2 records, thousands at a time.

What a header states beside its number and its time is the same in most records of a channel: libmseed reads it once,
compiled code finds and reads those that follow. What is not ordinary is left to libmseed, record by record.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from tscc_stream import miniseed
from tscc_stream.kernels import records as kernel
from tscc_stream.messages import AnyArray, Int64Array
from tscc_stream.record_decoder import Kind, RecordDecoder
from tscc_stream.sampling import NS_PER_SECOND

_FEW, _MANY = 16, 65_536
_MOST_KINDS = 100_000
_FASTEST_HZ = 1e5
"""Where a microsecond is still far less than a sample."""
_BLOCKETTE_1000 = b"\x03\xe8"
_DAY_NS = 86_400 * NS_PER_SECOND
_LEAP_NS = 2 * NS_PER_SECOND
_STATED: Final = np.r_[6:20, 32:61]
"""Bytes of a header that are the same in all records of a kind."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Headers of records side by side. kinds: of stretches, each of so many records; end: the byte after the last;
    more: the next one was not looked at.

    at (bytes), length (bytes), start_ns, end_ns, samples (above 0): [n] int64.
    """

    kinds: list[Kind]
    stretches: Int64Array
    at: Int64Array
    length: Int64Array
    start_ns: Int64Array
    end_ns: Int64Array
    samples: Int64Array
    end: int
    more: bool


class HeadReader:
    """Keeps what it has learnt from one file to the next."""

    def __init__(self) -> None:
        self._decoder = RecordDecoder()
        self._kinds: dict[bytes, Kind | None] = {}
        self._most = _FEW

    def read(self, data: mmap.mmap, first: int) -> Heads:
        """Of the ordinary records from byte `first` on, up to the first other one, which may be the first."""
        view = np.frombuffer(data, np.uint8)
        at, length, fresh = np.empty(self._most, np.int64), np.empty(self._most, np.int64), np.empty(self._most, bool)
        n = walked = kernel.walk(view, first, at, length, fresh)
        begins = np.flatnonzero(fresh[:n])
        kinds: list[Kind] = []
        for begin, key in zip(begins.tolist(), _keys(view, at[begins]), strict=True):
            kind = self._kinds.get(key, _unknown)
            if kind is _unknown:
                kind = self._learn(key, data[at[begin] : at[begin] + length[begin]])
            if kind is None:
                n = begin
                break
            kinds.append(kind)
        heads = _read(view, at[:n], length[:n], kinds, np.diff(begins[: len(kinds)], append=n), first)
        heads = replace(heads, more=heads.at.size == self._most)
        self._most = min(2 * self._most, _MANY) if heads.at.size == walked else _FEW
        return heads

    def may_read(self, data: mmap.mmap, at: int) -> bool:
        """Whether the record there is worth a try."""
        if data[at + 48 : at + 50] != _BLOCKETTE_1000:
            return False
        return self._kinds.get(data[at + 6 : at + 20] + data[at + 32 : at + 61], _unknown) is not None

    def _learn(self, key: bytes, payload: bytes) -> Kind | None:
        if len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        kind = self._decoder.kind(payload)
        if kind is not None and (kind.sample_rate_hz > _FASTEST_HZ or not _ends_as_stated(payload, kind)):
            kind = None
        self._kinds[key] = kind
        return kind


_unknown = Kind("", 0.0, 0, 0, 0, has_us=False)


def _keys(view: AnyArray, at: Int64Array) -> list[bytes]:
    joined = view[at[:, np.newaxis] + _STATED].tobytes()
    return [joined[i : i + _STATED.size] for i in range(0, len(joined), _STATED.size)]


def _ends_as_stated(payload: bytes, kind: Kind) -> bool:
    """Whether libmseed sees the last sample at the same time."""
    head = miniseed.header(payload)
    return int(head.endtime) == int(
        _ends(np.array([head.starttime]), np.array([head.samplecnt]), np.array([kind.sample_rate_hz]))[0]
    )


def _ends(start_ns: Int64Array, samples: Int64Array, rate: AnyArray) -> Int64Array:
    """Times of last samples, rounded as libmseed rounds them, but for leap seconds."""
    ends: Int64Array = start_ns + ((samples - 1) / rate * NS_PER_SECOND + 0.5).astype(np.int64)
    return ends


def _read(
    view: AnyArray, at: Int64Array, length: Int64Array, kinds: list[Kind], stretches: Int64Array, first: int
) -> Heads:
    start_ns, samples = np.zeros(at.size, np.int64), np.zeros(at.size, np.int64)
    kernel.read_starts(view, at, np.repeat([kind.has_us for kind in kinds], stretches).astype(bool), start_ns, samples)
    end_ns = _ends(start_ns, samples, np.repeat([kind.sample_rate_hz for kind in kinds], stretches))
    odd = np.flatnonzero((samples <= 0) | _over_a_leap(start_ns, end_ns))
    n = int(odd[0]) if odd.size else at.size
    left = np.diff(np.minimum(np.cumsum(stretches), n), prepend=0)
    left = left[left > 0]
    end = int(at[n - 1] + length[n - 1]) if n else first
    return Heads(kinds[: len(left)], left, at[:n], length[:n], start_ns[:n], end_ns[:n], samples[:n], end, more=False)


def _over_a_leap(start_ns: Int64Array, end_ns: Int64Array) -> AnyArray:
    """Whether a record lies across the end of a month, where there may be a leap second: libmseed knows."""
    across: AnyArray = start_ns // _DAY_NS != (end_ns + _LEAP_NS) // _DAY_NS
    places = np.flatnonzero(across)
    months = [times[places].astype("datetime64[ns]").astype("datetime64[M]") for times in (start_ns, end_ns + _LEAP_NS)]
    across[places] = months[0] != months[1]
    return across
