"""Where the records of an archive lie, a batch of files at a time, so that neither memory nor workers ever need all.

A batch is some files of one folder. What is found in it is kept under the digest of their names, sizes and times and of
how time is cut: rows of all records, ordered by source id and start, and beside them a list of its files and of which
channels these hold.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from tscc_stream.edges import archive
from tscc_stream.messages import AnyArray
from tscc_stream.scan.job import digest
from tscc_stream.scan.layout import Layout, write, write_json

FILES_OF_A_BATCH = 64
BYTES_OF_A_BATCH = 1 << 30
_ROW = np.dtype(
    [
        *(
            ("sid", "<u4"),
            ("start_ns", "<i8"),
            ("file", "<u4"),
            ("offset", "<u8"),
            ("length", "<u4"),
            ("end_ns", "<i8"),
        ),
        *(("samples", "<u4"), ("rate", "<f8"), ("encoding", "i1"), ("quality", "i1"), ("data_at", "<u2")),
    ]
)


class FileState(NamedTuple):
    """What tells that a file has changed. modified_ns: when it was last written; number: of its inode."""

    size: int
    modified_ns: int
    number: int


class File(msgspec.Struct, frozen=True):
    """One file of the archive. root: which of the paths given it is of; given: it is that path itself. path, and name
    below the path given: as the system has them, whatever their encoding.
    """

    path: bytes
    name: bytes
    root: int
    given: bool
    state: FileState


class Batch(msgspec.Struct, frozen=True):
    """Files that are indexed together."""

    digest: str
    files: list[File]


class Piece(msgspec.Struct, frozen=True):
    """The records of one channel in one file. parts: numbers of the stretches of time in which any starts, with how
    many seconds of samples; first_ns, end_ns: times of the first and of the last sample.
    """

    file: int
    sid: str
    parts: list[tuple[int, float]]
    first_ns: int
    end_ns: int


class Contents(msgspec.Struct, frozen=True):
    """What is in a batch. files: as rows count them, the last one perhaps the spool of other formats; roots: of which
    path given each is; inputs: of each, what tells that it has changed; states: of each, when it was indexed.

    sids: as rows count them, in their order; bounds: their rows [sids + 1]. skipped: how many faults, and the first in
    words.
    """

    files: list[bytes]
    roots: list[int]
    inputs: list[str]
    states: list[FileState | None]
    sids: list[str]
    bounds: list[int]
    pieces: list[Piece]
    skipped: int
    told: list[str]


def batches(paths: list[str], part_ns: int) -> Iterator[Batch]:
    """The files under some paths in batches. part_ns: how long a stretch of time is. Raises ArchiveError."""
    for root, path in enumerate(paths):
        files = (_file(file, Path(path), root, given) for file, given in archive.files_of([path]))
        for _, some in itertools.groupby(files, lambda file: file.path.rpartition(b"/")[0]):
            yield from (_batch(few, part_ns) for few in _split(some))


def _file(path: Path, top: Path, root: int, given: bool) -> File:
    name = path.name if given else path.relative_to(top)
    return File(os.fsencode(path), os.fsencode(name), root, given, _state(path))


def _state(path: Path) -> FileState:
    """Zeros of what cannot be looked at, which whoever reads it says."""
    try:
        stat = path.stat()
    except OSError:
        return FileState(0, 0, 0)
    return FileState(stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _split(files: Iterable[File]) -> Iterator[list[File]]:
    batch: list[File] = []
    for file in files:
        full = (
            len(batch) >= FILES_OF_A_BATCH or sum(one.state.size for one in batch) + file.state.size > BYTES_OF_A_BATCH
        )
        if batch and full:
            yield batch
            batch = []
        batch.append(file)
    yield batch


def _batch(files: list[File], part_ns: int) -> Batch:
    stated = [[file.path.hex(), file.name.hex(), file.root, file.given, *file.state[:2]] for file in files]
    return Batch(digest([part_ns, *stated]), files)


def extent(batch: Batch) -> str:
    """Its files, for people."""
    first, last = (printable(os.fsdecode(batch.files[place].path)) for place in (0, -1))
    return first if first == last else f"one of the {len(batch.files)} files from {first} to {last}"


def plan(layout: Layout, batch: Batch) -> bool:
    """Whether the batch is still to be indexed; then what `run` needs is written down."""
    if layout.batch(batch.digest, ".json").exists():
        return False
    write_json(layout.batch(batch.digest, ".todo"), batch)
    return True


def run(layout: Layout, name: str, part_ns: int) -> None:
    """Index one batch, unless that is done. part_ns: how long a stretch of time is.

    Raises ArchiveError where a path that was given is no recording.
    """
    if layout.batch(name, ".json").exists():
        return
    todo = layout.batch(name, ".todo")
    batch = msgspec.json.decode(todo.read_bytes(), type=Batch)
    spool = layout.batch(name, ".mseed")
    found = archive.index_files([(_path(file.path), file.given) for file in batch.files], spool)
    rows = _rows(found)
    buffer = io.BytesIO()
    np.save(buffer, rows)
    write(layout.batch(name, ".npy"), buffer.getvalue())
    write_json(layout.batch(name, ".json"), _contents(batch, found, rows, part_ns))
    todo.unlink(missing_ok=True)


def _contents(batch: Batch, found: archive.ArchiveIndex, rows: AnyArray, part_ns: int) -> Contents:
    known = {file.path: file for file in batch.files}
    files, sids = [os.fsencode(path) for path in found.files], sorted(found.sids)
    bounds = np.searchsorted(rows["sid"], np.arange(len(sids) + 1)).tolist()
    return Contents(
        files,
        [known.get(path, batch.files[0]).root for path in files],
        [_identity(known[path]) if path in known else batch.digest for path in files],
        [known[path].state if path in known else None for path in files],
        sids,
        bounds,
        _pieces(rows, sids, part_ns),
        found.faults.count,
        [printable(text) for text in found.faults.texts],
    )


def _identity(file: File) -> str:
    """Of a file that was moved together with its archive, the same."""
    return digest([file.name.hex(), *file.state[:2]])


def _rows(found: archive.ArchiveIndex) -> AnyArray:
    """Ordered by source id, then start, then as the files have them."""
    place = {sid: number for number, sid in enumerate(sorted(found.sids))}
    numbers = np.array([place[sid] for sid in found.sids], np.uint32)
    rows = np.zeros(len(found), _ROW)
    for name in _ROW.names or ():
        rows[name] = found.rows[name]
    if len(rows):
        rows["sid"] = numbers[rows["sid"]]
    ordered: AnyArray = rows[np.argsort(rows["sid"], kind="stable")]
    return ordered


def _pieces(rows: AnyArray, sids: list[str], part_ns: int) -> list[Piece]:
    order = np.lexsort((rows["file"], rows["sid"]))  # still by start within each
    rows = rows[order]
    changes = (np.diff(rows["sid"].astype(np.int64), prepend=-1) != 0) | (
        np.diff(rows["file"].astype(np.int64), prepend=-1) != 0
    )
    bounds = np.append(np.flatnonzero(changes), len(rows)).tolist()
    return [_piece(rows[first:last], sids, part_ns) for first, last in itertools.pairwise(bounds)]


def _piece(rows: AnyArray, sids: list[str], part_ns: int) -> Piece:
    starts = rows["start_ns"]
    numbers, which = np.unique(starts // part_ns, return_inverse=True)
    seconds = np.bincount(which, rows["samples"] / rows["rate"])
    parts = list(zip(numbers.tolist(), seconds.tolist(), strict=True))
    return Piece(int(rows["file"][0]), sids[rows["sid"][0]], parts, int(starts[0]), int(rows["end_ns"].max()))


@lru_cache(256)
def contents(layout: Layout, name: str) -> Contents:
    """Of a batch that is indexed: the same for ever, as its name says everything that it depends on."""
    return msgspec.json.decode(layout.batch(name, ".json").read_bytes(), type=Contents)


def rows_of(layout: Layout, names: list[str], sids: list[str], span_ns: tuple[int, int]) -> archive.ArchiveIndex:
    """The records of some channels that start within a span (from, and without, to), out of the batches named.

    They are in the order in which `archive.index` would have them.
    """
    parts: list[AnyArray] = []
    files: list[Path] = []
    order: list[tuple[bool, int, Path]] = []
    for name in names:
        inside = contents(layout, name)
        stored = np.load(layout.batch(name, ".npy"), mmap_mode="r")
        for sid in sids:
            if sid in inside.sids:
                number = inside.sids.index(sid)
                some = _within(stored[slice(*inside.bounds[number : number + 2])], span_ns)
                some["sid"] = sids.index(sid)
                some["file"] += len(files)
                parts.append(some)
        paths = list(map(_path, inside.files))
        files += paths
        spool = layout.batch(name, ".mseed")
        order += [(path == spool, root, path) for path, root in zip(paths, inside.roots, strict=True)]
    rows = np.concatenate(parts) if parts else np.zeros(0, _ROW)
    rank = np.zeros(len(files), np.int64)
    rank[sorted(range(len(files)), key=order.__getitem__)] = np.arange(len(files))
    rows = rows[np.lexsort((rows["offset"], rank[rows["file"]], rows["start_ns"]))]
    columns = {name: np.ascontiguousarray(rows[name]) for name in _ROW.names or ()}
    return archive.ArchiveIndex(files, sids, columns, None, archive.Faults())


def changed(layout: Layout, names: list[str], found: archive.ArchiveIndex) -> Path | None:
    """A file with some of these records, out of the batches named, that is no more as it was indexed.

    One that has grown is: the records that were found are still there.
    """
    states: dict[bytes, FileState | None] = {}
    for name in names:
        inside = contents(layout, name)
        states.update(zip(inside.files, inside.states, strict=True))
    for number in np.unique(found.rows["file"]).tolist():
        path: Path = found.files[number]
        then, now = states[os.fsencode(path)], _state(path)
        grown = then is not None and now.number == then.number and now.size > then.size
        if then is not None and now[:2] != then[:2] and not grown:
            return path
    return None


def printable(text: str) -> str:
    """As a file of ours can hold it: names of files may be of any bytes."""
    return text.encode(errors="backslashreplace").decode()


def _path(name: bytes) -> Path:
    return Path(os.fsdecode(name))


def _within(rows: AnyArray, span_ns: tuple[int, int]) -> AnyArray:
    begin, end = np.searchsorted(rows["start_ns"], span_ns)
    return np.array(rows[begin:end])
