"""Windows in Parquet files, written and read a row group at a time, so that there may be more than memory holds.

Columns of a file, one row a window: sid (NET.STA.LOC.CHA), onset_ns (int64), x (float32, a list of fixed size
samples x channels, row-major [samples, channels], in counts before normalisation); where they are known also id (text,
for instance the uid of a detection), y, cluster (int64), triggered (bool), peak_ratio (float32), model_sha256, verdict.
The schema's metadata has tscc.sample_rate_hz, tscc.samples, tscc.channels, and under tscc.<name> whatever else was said
of the windows, as text. A set of windows is one file, or a folder of them; all files of a folder say the same.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tscc_stream.messages import AnyArray

SUFFIX = ".parquet"
GROUP_BYTES = 2 << 20
"""Of samples in a row group, about: what is read at a time."""
LARGEST_GROUP_BYTES = 256 << 20
"""Of a row group that somebody else wrote, beyond which memory would not be bounded."""
FILE_BYTES = 256 << 20
"""Of samples in a file of a folder, about."""
_PREFIX = "tscc."
_STATED = ("sample_rate_hz", "samples", "channels")
_TEXTS = ("id", "sid", "model_sha256", "verdict")
_KINDS: dict[str, Any] = {
    "id": pa.string(),
    "sid": pa.string(),
    "onset_ns": pa.int64(),
    "y": pa.int64(),
    "cluster": pa.int64(),
    "triggered": pa.bool_(),
    "peak_ratio": pa.float32(),
    "model_sha256": pa.string(),
    "verdict": pa.string(),
}
"""Columns beside x, in the order of a file."""
NEEDED = ("sid", "onset_ns")

Columns = Mapping[str, AnyArray]
"""Name -> values [n]; x is [n, samples, channels] float32."""


class WindowsError(ValueError):
    """Files that hold no windows as expected here: which, and what is wrong."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What all windows of a set have in common. columns: those there are beside x, `NEEDED` among them; facts: texts
    that are kept beside the windows, by name.
    """

    sample_rate_hz: float
    samples: int
    channels: int
    columns: tuple[str, ...] = NEEDED
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def window_bytes(self) -> int:
        """Of the samples of one window."""
        return 4 * self.samples * self.channels

    def schema(self) -> Any:  # noqa: ANN401 pyarrow is untyped
        """As files have it."""
        names = [name for name in _KINDS if name in self.columns]
        fields = [pa.field(name, _KINDS[name], nullable=name == "id") for name in names]
        sample = pa.field("element", pa.float32(), nullable=False)
        fields.append(pa.field("x", pa.list_(sample, self.samples * self.channels), nullable=False))
        stated = {name: f"{getattr(self, name)!r}" for name in _STATED} | dict(self.facts)
        return pa.schema(fields, metadata={f"{_PREFIX}{name}": text for name, text in stated.items()})


class WindowsWriter:
    """Writes a set of windows: a file where the name ends in .parquet, else a folder of files. Use as a context.

    What was written appears under its name at the end, whole, and not at all where the context ends by an exception.
    Raises WindowsError where a folder of that name holds something already.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self.written = 0
        self._single = path.suffix == SUFFIX
        if not self._single and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise WindowsError(f"{path}: exists already; expected a new name, or an empty folder")
        self._schema = layout.schema()
        self._group = max(1, GROUP_BYTES // layout.window_bytes)
        self._per_file = self._group * max(1, FILE_BYTES // (self._group * layout.window_bytes))
        self._fresh = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
        self._waiting: list[Any] = []
        self._file: Any = None
        self._in_file = self._files = 0

    def __enter__(self) -> WindowsWriter:
        self._discard()  # of a killed process that had the same number: in a container they all have
        self._fresh.parent.mkdir(parents=True, exist_ok=True)
        if not self._single:
            self._fresh.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._end()
        finally:
            self._discard()

    def write(self, columns: Columns) -> None:
        """More windows, in the order of the set. Raises WindowsError where they have another layout."""
        table = self._table(columns)
        self.written += len(table)
        self._waiting.append(table)
        waiting = sum(map(len, self._waiting))
        if waiting >= self._group:
            joined = pa.concat_tables(self._waiting)
            whole = waiting - waiting % self._group
            for at in range(0, whole, self._group):
                self._put(joined.slice(at, self._group))
            self._waiting = [joined.slice(whole).combine_chunks()]

    def _table(self, columns: Columns) -> Any:  # noqa: ANN401 pyarrow is untyped
        x, shape = columns["x"], (self.layout.samples, self.layout.channels)
        if x.shape[1:] != shape or set(columns) != {*self.layout.columns, "x"}:
            found, expected = sorted(columns), sorted({*self.layout.columns, "x"})
            raise WindowsError(
                f"{self.path}: windows {list(x.shape[1:])} with {found}; expected {list(shape)} with {expected}"
            )
        flat = pa.array(np.ascontiguousarray(x, np.float32).reshape(-1))
        made = {
            name: pa.array(list(columns[name]) if name in _TEXTS else columns[name]) for name in self.layout.columns
        }
        arrays = [
            pa.FixedSizeListArray.from_arrays(flat, type=one.type) if one.name == "x" else made[one.name].cast(one.type)
            for one in self._schema
        ]
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _put(self, table: Any) -> None:  # noqa: ANN401 pyarrow is untyped
        """One row group."""
        if self._file is None:
            path = self._fresh if self._single else self._fresh / f"part-{self._files:05d}{SUFFIX}"
            texts = [name for name in _TEXTS if name in self.layout.columns]
            # Floats of noise do not compress; sums over pages tell of a damaged disk.
            self._file = pq.ParquetWriter(
                path, self._schema, compression="none", use_dictionary=texts, write_page_checksum=True
            )
            self._files, self._in_file = self._files + 1, 0
        self._file.write_table(table, row_group_size=max(1, len(table)))
        self._in_file += len(table)
        if not self._single and self._in_file >= self._per_file:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _discard(self) -> None:
        """What has not got its name."""
        with suppress(OSError, pa.ArrowException):  # a full disk takes no end of a file either; that was said already
            self._close()
        if self._fresh.is_dir():
            shutil.rmtree(self._fresh)
        self._fresh.unlink(missing_ok=True)

    def _end(self) -> None:
        left = pa.concat_tables(self._waiting) if self._waiting else self._schema.empty_table()
        if len(left) or not self._files:
            self._put(left)
        self._close()
        for file in [self._fresh] if self._single else self._fresh.iterdir():
            _sync(file)
        if self.path.is_dir():  # an empty one
            self.path.rmdir()
        self._fresh.replace(self.path)


def _sync(path: Path) -> None:
    """Onto the disk, so that a loss of power leaves no name without content."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


class Group(NamedTuple):
    """A row group. file: its number; place: within the file; rows: how many windows; first: the number of its first."""

    file: int
    place: int
    rows: int
    first: int


class StoredWindows:
    """A set of windows in Parquet. groups: its row groups, in the order of the windows' numbers.

    Raises WindowsError where there is none, or where files say different things.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = _files_of(path)
        self._metadata = [_metadata(file) for file in self.files]
        layouts = [_layout(file, one.schema.to_arrow_schema()) for file, one in self._both()]
        self.layout = layouts[0]
        for file, layout in zip(self.files, layouts, strict=True):
            if layout != self.layout:
                raise WindowsError(f"{file}: windows of another layout than those of {self.files[0]}: {layout}")
        self.groups: list[Group] = []
        for number, one in enumerate(self._metadata):
            for place in range(one.num_row_groups):
                rows = one.row_group(place).num_rows
                self.groups.append(Group(number, place, rows, len(self)))

    def __len__(self) -> int:
        return self.groups[-1].first + self.groups[-1].rows if self.groups else 0

    def _both(self) -> Iterator[tuple[Path, Any]]:
        return zip(self.files, self._metadata, strict=True)

    def read(self, group: Group, columns: Sequence[str]) -> dict[str, AnyArray]:
        """Columns of one row group, by name; x as [rows, samples, channels]. Raises WindowsError where they cannot be
        read.
        """
        file = self.files[group.file]
        if "x" in columns and group.rows * self.layout.window_bytes > LARGEST_GROUP_BYTES:
            raise WindowsError(
                f"{file}: row group {group.place} has {group.rows} windows, "
                f"{group.rows * self.layout.window_bytes >> 20} MiB; expected at most {LARGEST_GROUP_BYTES >> 20} MiB"
            )
        with _complaining(file):
            source = pq.ParquetFile(file, metadata=self._metadata[group.file], page_checksum_verification=True)
            with source:
                table = source.read_row_group(group.place, columns=list(columns), use_threads=False)
            return {name: self._values(table.column(name).combine_chunks(), name) for name in columns}

    def read_all(self, columns: Sequence[str]) -> dict[str, AnyArray]:
        """Columns of all windows; not for x where there is more than memory holds."""
        parts = [self.read(group, columns) for group in self.groups]
        return {name: np.concatenate([part[name] for part in parts]) for name in columns}

    def _values(self, column: Any, name: str) -> AnyArray:  # noqa: ANN401 pyarrow is untyped
        if column.null_count and name != "id":
            raise WindowsError(f"{self.path}: {name} is missing in {column.null_count} rows")
        if name == "x":
            values: AnyArray = column.flatten().to_numpy(zero_copy_only=False)
            return values.reshape(-1, self.layout.samples, self.layout.channels)
        if name in _TEXTS:
            coded = column.dictionary_encode(null_encoding="encode")
            texts = np.array([text or "" for text in coded.dictionary.to_pylist()], dtype=str)
            return texts[coded.indices.to_numpy()] if len(column) else texts
        found: AnyArray = column.to_numpy(zero_copy_only=False)
        return found

    def digest(self) -> str:
        """SHA-256 that tells one set from another: of every file's place, size and description, in which are the
        sizes, places and extremes of all columns, but not of the samples themselves.
        """
        digest = hashlib.sha256()
        for file, one in self._both():
            name = file.name if file == self.path else str(file.relative_to(self.path))
            digest.update(f"{name} {file.stat().st_size} {one.to_dict()}\n".encode())
        return digest.hexdigest()


def is_windows(path: Path) -> bool:
    """Whether a path names a set of windows in Parquet, rather than an npz file."""
    return path.suffix == SUFFIX or path.is_dir()


def _files_of(path: Path) -> list[Path]:
    """Without those whose name, or a folder's on the way to them, says that they are no data: unfinished ones do."""
    if path.is_file():
        return [path]
    if not path.exists():
        raise WindowsError(f"{path}: no such file or folder")
    found = sorted(path.rglob(f"*{SUFFIX}"))
    inside = [file for file in found if not any(part[0] in "._" for part in file.relative_to(path).parts)]
    if not inside:
        raise WindowsError(f"{path}: holds no {SUFFIX} file")
    return inside


@contextmanager
def _complaining(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise WindowsError(f"{file}: not a readable Parquet file of windows, or a damaged one: {said}") from error


def _metadata(file: Path) -> Any:  # noqa: ANN401 pyarrow is untyped
    with _complaining(file):
        return pq.read_metadata(file)


def _layout(file: Path, schema: Any) -> Layout:  # noqa: ANN401 pyarrow is untyped
    stated = {
        key.decode().removeprefix(_PREFIX): value.decode("utf-8", "replace")
        for key, value in (schema.metadata or {}).items()
        if key.decode("utf-8", "replace").startswith(_PREFIX)
    }
    try:
        rate, samples, channels = (
            kind(stated.pop(name)) for kind, name in zip((float, int, int), _STATED, strict=True)
        )
    except (KeyError, ValueError) as error:
        named = ", ".join(f"{_PREFIX}{name}" for name in _STATED)
        raise WindowsError(f"{file}: does not say what windows it holds; expected {named} in its metadata") from error
    if not (0.0 < rate < np.inf and samples > 0 and channels > 0):
        raise WindowsError(f"{file}: windows of {samples} samples x {channels} channels at {rate:g} Hz are none")
    _check_columns(file, schema, samples * channels)
    columns = tuple(name for name in _KINDS if name in schema.names)
    return Layout(rate, samples, channels, columns, stated)


def _check_columns(file: Path, schema: Any, size: int) -> None:  # noqa: ANN401 pyarrow is untyped
    for name in (*NEEDED, "x"):
        if name not in schema.names:
            raise WindowsError(f"{file}: column {name} is missing; expected sid, onset_ns and x")
    for name in schema.names:
        found, expected = schema.field(name).type, _KINDS.get(name)
        if expected is not None and found != expected:
            raise WindowsError(f"{file}: column {name} holds {found}; expected {expected}")
    x = schema.field("x").type
    if not (pa.types.is_fixed_size_list(x) and x.value_type == pa.float32() and x.list_size == size):
        raise WindowsError(f"{file}: column x holds {x}; expected a list of {size} float32")
