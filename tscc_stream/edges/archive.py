"""Archives: files and folders of recordings, indexed by record and read in time order with bounded memory.

An index holds numbers only (about 60 bytes a record), never samples; the files are memory-mapped when they are read.
What is not miniSEED is packed once, at indexing, as miniSEED into an unnamed temporary file, so that everything after
the index sees one format. Times are integer ns; `end_ns` is the time of a record's last sample.
"""

from __future__ import annotations

import mmap
import os
import resource
import tempfile
import weakref
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from tscc_stream import miniseed
from tscc_stream.edges import archive_runs, obspy_formats
from tscc_stream.edges.archive_heads import HeadReader, Heads
from tscc_stream.kernels import records as kernel
from tscc_stream.messages import QUALITIES, AnyArray, Int32Array, Int64Array, Record, RecordBatch, read_only
from tscc_stream.sampling import NS_PER_SECOND

_OPEN_FILES = max(16, min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))
"""Mapped at a time, each of which holds a descriptor; files that all have data at the same time are best all mapped."""
_REMEMBERED_FAULTS = 100
_HELD_ROWS = 65_536
"""Whose columns are made at once: of many small files, that is much less work."""
_ERAS_NS = (-9_214_560_000_000_000_000, 9_214_646_400_000_000_000)
"""1678 up to 2262, which 64 bits can hold."""
_TEXT = 0  # encoding of records that hold text


class ArchiveError(Exception):
    """A path that cannot be read as a recording: which, and why."""


class RawRecord(NamedTuple):
    """An original record: times of its first and last sample in ns, source id, sampling rate in Hz, its bytes."""

    start_ns: int
    end_ns: int
    sid: str
    sample_rate_hz: float
    payload: bytes


class Channel(NamedTuple):
    """One channel of an archive: times of its first and last sample in ns, number of records."""

    sid: str
    start_ns: int
    end_ns: int
    records: int


@dataclass
class Faults:
    """What was skipped: how many, and the first hundred in words (path, byte, reason)."""

    count: int = 0
    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.texts) < _REMEMBERED_FAULTS:
            self.texts.append(text)


class _Columns:
    """One growing column per number of a record."""

    TYPES = {  # noqa: RUF012 read only
        "file": "I",
        "offset": "Q",
        "length": "I",
        "sid": "I",
        "start_ns": "q",
        "end_ns": "q",
        "samples": "I",
        "rate": "d",
        "encoding": "b",
        "quality": "b",
        "data_at": "H",  # where in the record compiled code finds its samples; 0: it does not read it
    }

    def __init__(self) -> None:
        self.arrays: dict[str, array[Any]] = {name: array(code) for name, code in self.TYPES.items()}
        self._append = tuple(column.append for column in self.arrays.values())

    def add(self, *values: float) -> None:
        for append, value in zip(self._append, values, strict=True):
            append(value)

    def extend(self, n: int, **values: AnyArray | int) -> None:
        """Add n rows, each value for all of them or one for each."""
        for name, column in self.arrays.items():
            column.frombytes(np.broadcast_to(np.asarray(values[name]).astype(column.typecode), n).tobytes())

    def sealed(self) -> dict[str, AnyArray]:
        """The columns as numpy arrays, ordered by start time (file order where that is equal)."""
        columns = {name: np.frombuffer(column, dtype=column.typecode) for name, column in self.arrays.items()}
        order = np.argsort(columns["start_ns"], kind="stable")
        return {name: column[order] for name, column in columns.items()}


class ArchiveIndex:
    """Where every record of an archive lies. Rows are ordered by start time; `rows[name]` is one column.

    faults: what was skipped, at indexing and later at reading.
    """

    def __init__(
        self, files: list[Path], sids: list[str], rows: dict[str, AnyArray], spool: IO[bytes] | None, faults: Faults
    ) -> None:
        self.files = files
        self.sids = sids
        self.rows = rows
        self.faults = faults
        self._spool = spool
        if spool is not None:
            weakref.finalize(self, spool.close)
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()

    def __len__(self) -> int:
        return len(self.rows["start_ns"])

    @property
    def start_ns(self) -> int:
        """Time of the first sample."""
        return int(self.rows["start_ns"][0])

    @property
    def samples_per_second(self) -> float:
        """Of all channels together, on average over the archive's time."""
        return float(self.rows["samples"].sum()) * NS_PER_SECOND / (self.stop_ns - self.start_ns)

    @property
    def stop_ns(self) -> int:
        """Where the archive would go on: one sample after the last one of whichever channel lasts longest."""
        return int(self._stops_ns().max())

    def _stops_ns(self) -> Int64Array:
        """Of each record [n], one sample after its last."""
        stops: Int64Array = self.rows["end_ns"] + np.rint(NS_PER_SECOND / self.rows["rate"]).astype(np.int64)
        return stops

    def recorded_ns(self, span_ns: tuple[int, int]) -> int:
        """For how long within the span (from, to) any channel has records."""
        return _union_ns(np.clip(self.rows["start_ns"], *span_ns), np.clip(self._stops_ns(), *span_ns))

    def recorded_by_channel_ns(self) -> dict[str, int]:
        """For how long each channel has records, overlaps once; without those that have none."""
        starts, stops = self.rows["start_ns"], self._stops_ns()
        masks = {sid: self.rows["sid"] == number for number, sid in enumerate(self.sids)}
        return {sid: _union_ns(starts[mine], stops[mine]) for sid, mine in masks.items() if mine.any()}

    def payload(self, row: int) -> memoryview:
        """The bytes of one record, valid until some hundreds of other files have been read."""
        offset, length = int(self.rows["offset"][row]), int(self.rows["length"][row])
        return memoryview(self._map(int(self.rows["file"][row])))[offset : offset + length]

    def joined(self, run: Int64Array) -> bytes | memoryview:
        """The bytes of some records: a view where they lie side by side in one file, a copy otherwise."""
        files, offsets, lengths = (self.rows[name][run] for name in ("file", "offset", "length"))
        if (offsets[1:] == offsets[:-1] + lengths[:-1]).all() and (files == files[0]).all():
            return memoryview(self._map(int(files[0])))[int(offsets[0]) : int(offsets[-1]) + int(lengths[-1])]
        return b"".join(self.payload(row) for row in run.tolist())

    def bytes_of(self, file: int) -> AnyArray:
        """A whole file [n] uint8, valid as a payload is."""
        return np.frombuffer(self._map(file), np.uint8)

    def place(self, row: int) -> str:
        """`path at byte n`, for messages."""
        return f"{self.files[self.rows['file'][row]]} at byte {self.rows['offset'][row]}"

    def _map(self, number: int) -> mmap.mmap:
        found = self._maps.get(number)
        if found is not None:
            self._maps.move_to_end(number)
            return found
        if len(self._maps) >= _OPEN_FILES:
            self._maps.popitem(last=False)  # closed by the collector once nothing looks at it any more
        self._maps[number] = mapped = self._open(number)
        return mapped

    def _open(self, number: int) -> mmap.mmap:
        if number == len(self.files) - 1 and self._spool is not None:
            return mmap.mmap(self._spool.fileno(), 0, access=mmap.ACCESS_READ)
        path = self.files[number]
        try:
            with path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ArchiveError(f"{path}: cannot be read any more: {error}") from error


def _union_ns(begin: Int64Array, end: Int64Array) -> int:
    """How long some stretches of time, ordered by their begin, are together; what several have counts once."""
    before = np.maximum.accumulate(np.concatenate((begin[:1], end[:-1])))
    return int(np.maximum(0, end - np.maximum(begin, before)).sum())


def index(paths: Iterable[str | os.PathLike[str]]) -> ArchiveIndex:
    """The records under files and folders (searched recursively, in the order of their names).

    A path that is given must be readable; what lies in a folder and is no recording is skipped and counted in
    `faults`, as are corrupt records. Raises ArchiveError naming the path, and where nothing at all was found.
    """
    return _Indexer().run([Path(path) for path in paths])


def files_of(paths: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[Path, bool]]:
    """The files that `index` would read, in its order, and whether each was given itself. Raises ArchiveError."""
    for path in map(Path, paths):
        try:
            there, folder = path.exists(), path.is_dir()
        except OSError as error:
            raise ArchiveError(f"{path}: cannot be read: {error.strerror}") from error
        if not there:
            raise ArchiveError(f"{path}: no such file or folder")
        if folder:
            yield from ((file, False) for file in _inside(path, set()))
        else:
            yield path, True


def _inside(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """The files of a folder in the order of their names, through links as well, each folder once. What cannot be looked
    into, and a link to nothing, is among them: who opens it learns why.
    """
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        yield folder
        return
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in ordered:
        kind = _kind(entry, folder / entry.name)
        if kind == "folder":
            yield from _inside(folder / entry.name, seen)
        elif kind == "file":
            yield folder / entry.name


def _kind(entry: os.DirEntry[str], path: Path) -> Literal["folder", "file", "neither"]:
    try:
        linked = entry.is_symlink()
        there = path if linked else entry  # a path knows links that lead to themselves
        if there.is_dir():
            return "folder"
        return "file" if there.is_file() or (linked and not path.exists()) else "neither"
    except OSError:  # nobody may look there, or the disk behind it has gone
        return "file"


def index_files(files: Iterable[tuple[Path, bool]], spool: Path) -> ArchiveIndex:
    """The records of some files as `files_of` gives them, none perhaps; others than miniSEED are packed into `spool`.

    Raises ArchiveError where a file that was given itself is no recording.
    """
    return _Indexer(spool).some(files)


def index_of(records: Iterable[Record]) -> ArchiveIndex:
    """The same of records that are in memory. Raises ArchiveError where there is none, or one fits no format."""
    return _Indexer().hold(records)


def channels(archive: ArchiveIndex) -> list[Channel]:
    """The channels of an archive with the times of their first and last sample, ordered by source id."""
    order = np.argsort(archive.rows["sid"], kind="stable")  # still by start within a channel
    sids = archive.rows["sid"][order]
    firsts = np.flatnonzero(np.diff(sids, prepend=np.int64(-1)))
    starts, ends = archive.rows["start_ns"][order], archive.rows["end_ns"][order]
    lasts = np.maximum.reduceat(ends, firsts)
    counts = np.diff(firsts, append=len(sids))
    names = [archive.sids[number] for number in sids[firsts]]
    return sorted(map(Channel, names, starts[firsts].tolist(), lasts.tolist(), counts.tolist()))


def iter_raw(archive: ArchiveIndex) -> Iterator[RawRecord]:
    """The original records in the order in which they were complete: by the time of their last sample."""
    rows = archive.rows
    for row in np.argsort(rows["end_ns"], kind="stable"):
        yield RawRecord(
            int(rows["start_ns"][row]),
            int(rows["end_ns"][row]),
            archive.sids[rows["sid"][row]],
            float(rows["rate"][row]),
            bytes(archive.payload(row)),
        )


def iter_records(archive: ArchiveIndex, *, chunk_seconds: float = 10.0) -> Iterator[Record]:
    """The decoded records of all channels in order of start time, contiguous ones of a channel joined.

    Joined are only records whose stated times agree to a microsecond, within `chunk_seconds` of data time, which also
    bounds the memory: one chunk of all channels. Overlaps, duplicates and gaps come through as they are. Records that
    cannot be decoded are skipped and counted in `archive.faults`.
    """
    for chunk in archive_runs.chunks(archive.rows, chunk_seconds):
        for number in range(len(chunk)):
            yield from _decoded(archive, chunk.run(number))


def iter_batches(
    archive: ArchiveIndex, *, chunk_seconds: float = 10.0, first_seconds: float | None = None
) -> Iterator[RecordBatch]:
    """The same, the records of each chunk side by side, decoded several times as fast.

    first_seconds: length of the first chunk, where it is to be shorter; each of the following is twice as long as the
    one before, up to chunk_seconds.
    """
    for chunk in archive_runs.chunks(archive.rows, chunk_seconds, first_seconds):
        batch = _batch(archive, chunk)
        if len(batch):
            yield batch


def _batch(archive: ArchiveIndex, chunk: archive_runs.Chunk) -> RecordBatch:
    samples, whole = _unpacked(archive, chunk)
    if not whole.all():
        return _partly(archive, chunk, samples, np.logical_and.reduceat(whole, chunk.begin[:-1]))
    rows, first = archive.rows, chunk.rows[chunk.begin[:-1]]
    return RecordBatch(
        archive.sids,
        [""] * len(archive.sids),
        channel=rows["sid"][first].astype(np.int64),
        start_ns=rows["start_ns"][first],
        sample_rate_hz=rows["rate"][first],
        begin=chunk.samples[chunk.begin],
        quality=rows["quality"][first].astype(np.int64),
        samples=read_only(samples),
    )


def _unpacked(archive: ArchiveIndex, chunk: archive_runs.Chunk) -> tuple[Int32Array, AnyArray]:
    """Samples of a chunk by compiled code, and of which rows [n] that holds; the others are undefined."""
    files, at, length, encoding, data_at = (
        archive.rows[name][chunk.rows].astype(np.int64) for name in ("file", "offset", "length", "encoding", "data_at")
    )
    encoding[data_at == 0] = -1
    out, whole = np.empty(chunk.samples[-1] + kernel.SPARE, np.int32), np.zeros(len(at), np.bool_)
    edges = np.concatenate(([0], np.flatnonzero(np.diff(files)) + 1, [len(files)]))
    for few in range(0, len(edges) - 1, _OPEN_FILES):
        ends = edges[few : few + _OPEN_FILES + 1]
        data = [archive.bytes_of(file) for file in files[ends[:-1]].tolist()]
        some = slice(ends[0], ends[-1])
        kernel.unpack_of_many(
            np.repeat([each.ctypes.data for each in data], np.diff(ends)),
            at[some] + data_at[some],
            at[some] + length[some],
            encoding[some],
            chunk.samples[ends[0] : ends[-1] + 1],
            out,
            whole[some],
        )
    return out[: chunk.samples[-1]], whole


def _partly(archive: ArchiveIndex, chunk: archive_runs.Chunk, samples: Int32Array, whole: AnyArray) -> RecordBatch:
    """Those runs by libmseed that are not whole."""
    records: list[Record] = []
    for number in range(len(chunk)):
        run = chunk.run(number)
        if whole[number]:
            inside = samples[slice(*chunk.samples[chunk.begin[number : number + 2]])]
            records.append(_record(archive, run, inside))
        else:
            records += _decoded(archive, run)
    numbers = {sid: number for number, sid in enumerate(archive.sids)}
    begin = np.cumsum([0, *(record.samples.size for record in records)])
    out = np.empty(begin[-1])
    for record, first, last in zip(records, begin[:-1], begin[1:], strict=True):
        with np.errstate(invalid="ignore"):  # a signalling NaN is no number to any stage
            out[first:last] = record.samples
    return RecordBatch(
        archive.sids,
        [""] * len(archive.sids),
        channel=np.array([numbers[record.sid] for record in records], np.int64),
        start_ns=np.array([record.start_ns for record in records], np.int64),
        sample_rate_hz=np.array([record.sample_rate_hz for record in records], np.float64),
        begin=begin,
        quality=np.array([QUALITIES.index(record.quality) for record in records], np.int64),
        samples=read_only(out),
    )


def _record(archive: ArchiveIndex, run: Int64Array, samples: AnyArray) -> Record:
    """Of an unbroken run."""
    rows, first = archive.rows, run[0]
    sid, quality = archive.sids[rows["sid"][first]], QUALITIES[rows["quality"][first]]
    return Record(sid, int(rows["start_ns"][first]), float(rows["rate"][first]), samples, quality)


def _decoded(archive: ArchiveIndex, run: Int64Array) -> Iterator[Record]:
    try:
        samples = miniseed.decode_run(archive.joined(run), int(archive.rows["samples"][run].sum()))
    except miniseed.RecordError:
        yield from _one_by_one(archive, run)
        return
    yield _record(archive, run, samples)


def _one_by_one(archive: ArchiveIndex, run: Int64Array) -> Iterator[Record]:
    for row in run.tolist():
        try:
            yield miniseed.decode(archive.payload(row))
        except miniseed.RecordError as error:
            archive.faults.add(f"{archive.place(row)}: {error}")


class _Indexer:
    """spool: where other formats are packed; an unnamed temporary file without it."""

    def __init__(self, spool: Path | None = None) -> None:
        self._spool_path = spool
        self._files: list[Path] = []
        self._sids: dict[str, int] = {}
        self._columns = _Columns()
        self._heads = HeadReader()
        self._held: list[tuple[int, Heads]] = []
        self._held_rows = 0
        self._faults = Faults()
        self._spool: IO[bytes] | None = None

    def run(self, paths: list[Path]) -> ArchiveIndex:
        for path, given in files_of(paths):
            self._add_file(path) if given else self._add_file_of_folder(path)
        return self._sealed(", ".join(str(path) for path in paths))

    def some(self, files: Iterable[tuple[Path, bool]]) -> ArchiveIndex:
        for path, given in files:
            self._add_file(path) if given else self._add_file_of_folder(path)
        return self._whole()

    def hold(self, records: Iterable[Record]) -> ArchiveIndex:
        try:
            self._pack(records)
        except ValueError as error:
            raise ArchiveError(f"a trace cannot be used: {error}") from error
        return self._sealed("the traces")

    def _sealed(self, named: str) -> ArchiveIndex:
        found = self._whole()
        if not len(found):
            reasons = "; ".join(self._faults.texts[:3])
            raise ArchiveError(f"{named}: no recording found{': ' if reasons else ''}{reasons}")
        return found

    def _whole(self) -> ArchiveIndex:
        if self._spool is not None:
            self._spool.flush()
            if self._spool_path is not None:
                os.fsync(self._spool.fileno())  # before an index that lasts says where in it records lie
            self._add_rows_of(self._spool_path or Path("(other formats)"), self._spool)
        self._add_held()
        return ArchiveIndex(self._files, list(self._sids), self._columns.sealed(), self._spool, self._faults)

    def _add_file_of_folder(self, path: Path) -> None:
        try:
            self._add_file(path)
        except ArchiveError as error:
            self._faults.add(str(error))

    def _add_file(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                if miniseed.starts_record(file.read(64)):
                    self._add_rows_of(path, file)
                    return
        except OSError as error:
            raise ArchiveError(f"{path}: cannot be read: {error.strerror}") from error
        self._add_foreign(path)

    def _add_rows_of(self, path: Path, file: IO[bytes]) -> None:
        """One row per record of a miniSEED file; where it is corrupt, reading goes on at the next record."""
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._files.append(path)
        offset = 0
        while offset < len(data):
            heads = self._heads.read(data, offset)
            self._add_heads(heads)
            offset = heads.end if heads.more else self._add_rows(heads.end, data)

    def _add_heads(self, heads: Heads) -> None:
        """Rows of ordinary records, to be added with those of other files."""
        self._held.append((len(self._files) - 1, heads))
        self._held_rows += len(heads.at)
        if self._held_rows >= _HELD_ROWS:
            self._add_held()

    def _add_held(self) -> None:
        if not self._held:
            return
        stretches = np.concatenate([heads.stretches for _, heads in self._held])
        kinds = [kind for _, heads in self._held for kind in heads.kinds]

        def one(name: str) -> AnyArray:
            return np.concatenate([getattr(heads, name) for _, heads in self._held])

        def alike(values: list[Any]) -> AnyArray:
            return np.repeat(values, stretches)

        self._columns.extend(
            self._held_rows,
            file=np.repeat([file for file, _ in self._held], [len(heads.at) for _, heads in self._held]),
            **{name: one(name) for name in ("length", "start_ns", "end_ns", "samples")},
            offset=one("at"),
            sid=alike([self._sids.setdefault(kind.sid, len(self._sids)) for kind in kinds]),
            rate=alike([kind.sample_rate_hz for kind in kinds]),
            encoding=alike([kind.encoding for kind in kinds]),
            quality=alike([kind.quality for kind in kinds]),
            data_at=alike([kind.data_at for kind in kinds]),
        )
        self._held, self._held_rows = [], 0

    def _add_rows(self, base: int, data: mmap.mmap) -> int:
        """Rows from byte `base` up to an ordinary record, the end, or the next corrupt record; where to go on."""
        following = base
        try:
            for offset, msr in miniseed.split(memoryview(data)[base:]):
                following = base + offset + msr.reclen
                if msr.samplecnt > 0 and msr.encoding != _TEXT:
                    self._add_row(base + offset, msr)
                if self._heads.may_read(data, following):
                    return following
        except miniseed.RecordError as error:
            self._faults.add(f"{self._files[-1]} at byte {following}: {error.__cause__ or error}")
            return miniseed.find_record(data, following + 1)
        return len(data)

    def _add_row(self, offset: int, msr: miniseed.Header) -> None:
        file, rate = len(self._files) - 1, float(msr.samprate)
        if not 0.0 < rate < 1e9:
            self._faults.add(f"{self._files[file]} at byte {offset}: states a sampling rate of {rate:g} Hz")
            return
        self._add_held()  # rows are in the order of the files
        sid = self._sids.setdefault(msr.sourceid, len(self._sids))
        quality = QUALITIES.index(miniseed.quality_of(msr))
        times = int(msr.starttime), int(msr.endtime)
        self._columns.add(file, offset, msr.reclen, sid, *times, int(msr.samplecnt), rate, msr.encoding, quality, 0)

    def _add_foreign(self, path: Path) -> None:
        """Another format, packed as miniSEED at the end of the spool."""
        try:
            self._pack(obspy_formats.read_recording(path))
        except ValueError as error:
            raise ArchiveError(f"{path}: {error}") from error

    def _pack(self, records: Iterable[Record]) -> None:
        """All of them or, where one cannot be packed, none. Raises ValueError."""
        packed = [piece for record in records for piece in _packed(record)]
        if packed and self._spool is None:
            self._spool = self._opened()
        if self._spool is not None:
            self._spool.writelines(packed)

    def _opened(self) -> IO[bytes]:
        if self._spool_path is not None:
            return self._spool_path.open("w+b")
        return tempfile.TemporaryFile(prefix="tscc-stream-")  # lives as long as the index


def _packed(record: Record) -> list[bytes]:
    """A recording as miniSEED 2, or as version 3 where version 2 cannot state its start or rate exactly.

    Raises ValueError where it fits neither.
    """
    if not _ERAS_NS[0] <= record.start_ns < _ERAS_NS[1]:
        raise ValueError(f"{record.sid} starts {record.start_ns} ns after 1970; expected a time from 1678 to 2261")
    encodings: dict[str, tuple[miniseed.Encoding, ...]] = {"i": ("steim2", "int32"), "f": ("float32",)}
    *others, last = encodings.get(record.samples.dtype.kind, ("float64",))
    if record.samples.dtype == np.float64:
        others, last = [], "float64"
    for encoding in others:
        try:
            return _exact(record, encoding)
        except miniseed.RecordError:  # differences beyond 30 bits: the plain words hold them
            continue
    return _exact(record, last)


def _exact(record: Record, encoding: miniseed.Encoding) -> list[bytes]:
    made = miniseed.encode(record.sid, record.start_ns, record.sample_rate_hz, record.samples, encoding=encoding)
    head = miniseed.header(made[0])
    if head.starttime == record.start_ns and head.samprate == record.sample_rate_hz:
        return made
    return miniseed.encode(
        record.sid, record.start_ns, record.sample_rate_hz, record.samples, encoding=encoding, version=3
    )
