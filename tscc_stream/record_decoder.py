"""Many packed records to a RecordBatch, most of them by compiled code.

What a record's header says beside its time is the same in every record of a channel. The first one with a given header
is unpacked by libmseed and by the compiled code; only where both agree to the bit is the latter used for those that
follow. Everything else stays libmseed's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np

from tscc_stream import miniseed
from tscc_stream.kernels import records as kernel
from tscc_stream.messages import QUALITIES, AnyArray, Int64Array, Record, RecordBatch, read_only
from tscc_stream.miniseed import RecordError

Bytes = bytes | bytearray | memoryview

MOST_KINDS: Final = 100_000
"""Headers and channels that are remembered: what a server can make grow. Beyond, all is learnt anew."""
_MOST_PER_BYTE: Final = 2
"""Samples: Steim-2 packs seven into four bytes. Memory for what a header states beyond that is not asked for."""
_HEAD_END: Final = 61
_HEAD: Final = np.r_[6:20, 32:_HEAD_END]
"""Bytes of the header that are the same in all records of a channel: quality and codes; rate, flags, correction of
time, and blockettes 1000 and 1001 up to the quality of timing."""
_ENCODINGS: Final = (kernel.INT32, kernel.STEIM1, kernel.STEIM2)


@dataclass(frozen=True, slots=True)
class Undecoded:
    """A record that cannot be used: the place in what was asked for, and why."""

    place: int
    error: RecordError


@dataclass(frozen=True, slots=True)
class Kind:
    """What the headers of some records state alike. quality: place in QUALITIES; data_at: first byte of the samples;
    has_us: blockette 1001 states microseconds.
    """

    sid: str
    sample_rate_hz: float
    quality: int
    encoding: int
    data_at: int
    has_us: bool


class _Kinds:
    """What headers state, by number. covered: by compiled code."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, bytes], int] = {}
        self.sids: list[str] = []
        self.stations: list[str] = []
        self._channels: dict[tuple[str, str], int] = {}
        self.table = np.zeros(
            64,
            [(name, np.int64) for name in ("channel", "quality", "encoding", "data_at", "length")]
            + [("rate", np.float64), ("has_us", np.bool_), ("covered", np.bool_), ("foreign", np.bool_)],
        )

    def channel(self, station: str, sid: str) -> int:
        number = self._channels.setdefault((station, sid), len(self.sids))
        if number == len(self.sids):
            self.sids.append(sid)
            self.stations.append(station)
        return number

    def add(self, key: tuple[str, bytes], row: tuple[float, ...]) -> int:
        number = len(self.numbers)
        if number == len(self.table):
            self.table = np.concatenate((self.table, np.zeros_like(self.table)))
        self.table[number] = row
        self.numbers[key] = number
        return number

    @property
    def full(self) -> bool:
        return len(self.numbers) >= MOST_KINDS or len(self.sids) >= MOST_KINDS


class RecordDecoder:
    """Keeps what it has learnt of headers from one call to the next.

    ours: whether a source id is of use to anybody here; of one that is not, records come without their samples where
    that saves work.
    """

    def __init__(self, ours: Callable[[str], bool] | None = None) -> None:
        self._ours = ours
        self._kinds = _Kinds()

    def decode(
        self,
        data: Bytes,
        at: Sequence[int],
        lengths: Sequence[int],
        stations: Sequence[str] | None = None,
        received_ns: int = 0,
    ) -> list[RecordBatch | Undecoded]:
        """The records that begin at `at` [n] in `data` and have `lengths` bytes, in their order.

        stations: NET_STA under which each came. Batches end where a record cannot be used.
        """
        if self._kinds.full:
            self._kinds = _Kinds()
        if not at:
            return []
        return _Batch(self._kinds, data, at, lengths, stations, received_ns, self._ours).parts()

    def kind(self, payload: Bytes) -> Kind | None:
        """Of a whole record, and of all others whose headers differ from it in number and time alone, where compiled
        code makes of it what libmseed does; else None.
        """
        if self._kinds.full:
            self._kinds = _Kinds()
        number = _Batch(self._kinds, payload, [0], [len(payload)], None, 0).number(0)
        row = self._kinds.table[number]
        if number < 0 or not row["covered"]:
            return None
        quality, encoding, data_at = (int(row[name]) for name in ("quality", "encoding", "data_at"))
        sid, rate = self._kinds.sids[row["channel"]], float(row["rate"])
        return Kind(sid, rate, quality, encoding, data_at, has_us=bool(row["has_us"]))


class _Batch:
    """One call. slow: records that libmseed unpacked, by place; errors: those that cannot be used."""

    def __init__(
        self,
        kinds: _Kinds,
        data: Bytes,
        at: Sequence[int],
        lengths: Sequence[int],
        stations: Sequence[str] | None,
        received_ns: int,
        ours: Callable[[str], bool] | None = None,
    ) -> None:
        self._kinds, self._data, self._received_ns, self._ours = kinds, data, received_ns, ours
        self._at, self._lengths = at, lengths
        self._begins = np.array(at, np.int64)
        self._stops = self._begins + np.array(lengths, np.int64)
        self._stations = [""] * len(at) if stations is None else stations
        self._bytes = read_only(np.frombuffer(data, np.uint8))
        self._slow: dict[int, Record] = {}
        self._errors: dict[int, RecordError] = {}

    def parts(self) -> list[RecordBatch | Undecoded]:
        numbers = np.array(self._numbers(), np.int64)
        kind = self._kinds.table[np.maximum(numbers, 0)]
        lengths = self._stops - self._begins
        covered = kind["covered"] & (numbers >= 0) & (kind["length"] == lengths)
        start_ns, samples = self._starts(kind["has_us"], covered)
        covered &= (samples > 0) & (samples <= _MOST_PER_BYTE * lengths)
        for place in np.flatnonzero(~covered).tolist():
            self._by_libmseed(place)
        for place, record in self._slow.items():
            samples[place], covered[place] = record.samples.size, False
        for place in self._errors:
            samples[place], covered[place] = 0, False
        foreign = covered & kind["foreign"]
        samples[foreign], covered[foreign] = 0, False
        begin = np.concatenate(([0], np.cumsum(samples)))
        out = np.empty(int(begin[-1]) + kernel.SPARE)
        self._unpack(kind, covered, begin, out)
        channel, rate, quality = (kind[name].copy() for name in ("channel", "rate", "quality"))
        for place, record in self._slow.items():
            channel[place] = self._kinds.channel(self._station(place, record), record.sid)
            rate[place], quality[place] = record.sample_rate_hz, QUALITIES.index(record.quality)
            start_ns[place] = record.start_ns
            with np.errstate(invalid="ignore"):  # a signalling NaN is no number to any stage
                out[begin[place] : begin[place + 1]] = record.samples
        whole = RecordBatch(
            self._kinds.sids,
            self._kinds.stations,
            *(channel, start_ns, rate, begin, quality),
            samples=read_only(out[: begin[-1]]),
            received_ns=self._received_ns,
        )
        return self._without_errors(whole)

    def _station(self, place: int, record: Record) -> str:
        return self._stations[place] or "_".join(record.sid.removeprefix("FDSN:").split("_")[:2])

    def number(self, place: int) -> int:
        """Of the record's kind; -1 where it has none."""
        return self._numbers()[place]

    def _numbers(self) -> list[int]:
        """Of the records' kinds; -1 where a record has none."""
        keys = list(zip(self._stations, self._heads(), strict=True))
        found = list(map(self._kinds.numbers.get, keys))
        return [self._learn(place, keys[place]) if number is None else number for place, number in enumerate(found)]

    def _heads(self) -> list[bytes]:
        """What headers state, less the zeros at its end; of records that are too short for one, nothing."""
        whole = self._begins + _HEAD_END <= self._bytes.size
        heads = (
            self._bytes[np.where(whole, self._begins, 0)[:, np.newaxis] + _HEAD] if whole.any() else np.zeros((0, 0))
        )
        if whole.all():
            return cast("list[bytes]", heads.view(f"S{_HEAD.size}")[:, 0].tolist())
        return [bytes(heads[place]).rstrip(b"\0") if ok else b"" for place, ok in enumerate(whole.tolist())]

    def _learn(self, place: int, key: tuple[str, bytes]) -> int:
        if self._lengths[place] < kernel.HEADER_BYTES:
            return -1
        if key in self._kinds.numbers:  # learnt from one before it
            return self._kinds.numbers[key]
        record = self._by_libmseed(place)
        if record is None:
            return -1
        head = self._payload(place)[: kernel.HEADER_BYTES]
        encoding, data_at, has_us = head[52], int.from_bytes(head[44:46], "big"), head[39] == 2
        channel = self._kinds.channel(self._station(place, record), record.sid)
        covered = _simple(head, self._lengths[place]) and self._agrees(place, record, encoding, data_at, has_us)
        quality = QUALITIES.index(record.quality)
        foreign = self._ours is not None and not self._ours(record.sid)
        rate_hz, length = record.sample_rate_hz, self._lengths[place]
        row = channel, quality, encoding, data_at, length, rate_hz, has_us, covered, foreign
        return self._kinds.add(key, row)

    def _agrees(self, place: int, record: Record, encoding: int, data_at: int, has_us: bool) -> bool:
        """Whether the compiled code makes the same of a record."""
        at, end = self._ends(np.array([place]))
        start_ns, samples = np.zeros(1, np.int64), np.zeros(1, np.int64)
        kernel.read_starts(self._bytes, at, np.array([has_us]), start_ns, samples)
        if start_ns[0] != record.start_ns or samples[0] != record.samples.size:
            return False
        out, whole = np.empty(record.samples.size + kernel.SPARE), np.zeros(1, np.bool_)
        begin = np.array([0, record.samples.size])
        kernel.unpack(self._bytes, at + data_at, end, np.array([encoding]), begin, out, whole)
        return bool(whole[0]) and np.array_equal(out[: record.samples.size], record.samples)

    def _ends(self, places: Int64Array) -> tuple[Int64Array, Int64Array]:
        return self._begins[places], self._stops[places]

    def _payload(self, place: int) -> bytes:
        return bytes(self._data[self._at[place] : self._at[place] + self._lengths[place]])

    def _by_libmseed(self, place: int) -> Record | None:
        if place in self._slow:
            return self._slow[place]
        try:
            self._slow[place] = miniseed.decode(self._payload(place), self._received_ns)
        except RecordError as error:
            self._errors[place] = error.with_traceback(None)  # which would keep the whole buffer
        except UnicodeDecodeError as error:  # the codes in a broken header may be no text
            self._errors[place] = RecordError("malformed", str(error))
        return self._slow.get(place)

    def _starts(self, has_us: AnyArray, covered: AnyArray) -> tuple[Int64Array, Int64Array]:
        start_ns, samples = np.zeros(len(covered), np.int64), np.zeros(len(covered), np.int64)
        places = np.flatnonzero(covered)
        some_ns, some = np.zeros(len(places), np.int64), np.zeros(len(places), np.int64)
        kernel.read_starts(self._bytes, self._ends(places)[0], has_us[places], some_ns, some)
        start_ns[places], samples[places] = some_ns, some
        return start_ns, samples

    def _unpack(self, kind: AnyArray, covered: AnyArray, begin: Int64Array, out: AnyArray) -> None:
        """What is covered; where that fails, libmseed says what is wrong."""
        whole = np.zeros(len(covered), np.bool_)
        encoding = np.where(covered, kind["encoding"], -1)
        kernel.unpack(self._bytes, self._begins + kind["data_at"], self._stops, encoding, begin, out, whole)
        for place in np.flatnonzero(covered & ~whole).tolist():
            record = self._by_libmseed(place)
            if record is not None and record.samples.size != begin[place + 1] - begin[place]:
                del self._slow[place]
                self._errors[place] = RecordError("corrupt", f"record of {record.sid}: another number of samples")

    def _without_errors(self, whole: RecordBatch) -> list[RecordBatch | Undecoded]:
        parts: list[RecordBatch | Undecoded] = []
        first = 0
        for place in [*sorted(self._errors), len(whole)]:
            if place > first:
                parts.append(whole.part(first, place))
            if place < len(whole):
                parts.append(Undecoded(place, self._errors[place]))
            first = place + 1
        return parts


def _simple(head: bytes, length: int) -> bool:
    """Whether the compiled code knows such a header: see kernels.records."""
    blockettes = head[39], head[48:52], head[56:60] if head[39] == 2 else b""
    known = blockettes in (
        (1, b"\x03\xe8\0\0", b""),
        (2, b"\x03\xe8\0\x38", b"\x03\xe9\0\0"),
    )
    stated = head[52] in _ENCODINGS and head[53] == 1 and 1 << min(head[54], 30) == length
    plain = head[6:7] in (b"D", b"R", b"Q", b"M") and head[40:44] == b"\0\0\0\0" and head[46:48] == b"\0\x30"
    return known and stated and plain and kernel.HEADER_BYTES <= int.from_bytes(head[44:46], "big") <= length
