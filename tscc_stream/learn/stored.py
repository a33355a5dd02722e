"""Data sets on disk, of either kind: npz, which is read whole, and Parquet, which is read as far as is wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tscc_stream.edges.parquet_windows import Group, Layout, StoredWindows, WindowsWriter, is_windows
from tscc_stream.learn import dataset
from tscc_stream.learn.dataset import DataSet, WindowShape
from tscc_stream.messages import AnyArray, Float32Array, Int64Array

COLUMNS = ("sid", "onset_ns", "y", "triggered", "cluster", "model_sha256", "peak_ratio", "verdict")
"""Of a data set, those that Parquet has too, beside x."""


def load(path: Path, most: int | None = None) -> DataSet:
    """A whole data set of either kind; of Parquet with more than `most` windows, so many that are spread over it.
    Windows that hold no signal are left out and counted in the log.

    Raises DataSetError or WindowsError, saying what is wrong and where.
    """
    if not is_windows(path):
        return dataset.load(path)
    stored = StoredWindows(path)
    data = with_samples(index(stored), stored, spread(len(stored), most))
    return data.take(np.flatnonzero(dataset.usable(data.x, path)))


def fit(stored: StoredWindows) -> Int64Array:
    """Numbers of the windows that hold a signal, ascending; the others are counted in the log. Every window is read,
    a row group's at a time, so that nothing turns up in the middle of a training.

    Raises WindowsError, and DataSetError where windows are damaged, or none can be trained on.
    """
    found = [dataset.hold_signal(x) for x in read_rows(stored, np.arange(len(stored)))]
    fit = np.concatenate(found) if found else np.zeros(0, bool)
    dataset.tell_left_out(stored.path, int((~fit).sum()), len(fit))
    return np.flatnonzero(fit)


def spread(count: int, most: int | None) -> Int64Array:
    """Numbers of at most so many of `count` things, evenly spread."""
    if most is None or count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).astype(np.int64)


def index(stored: StoredWindows) -> DataSet:
    """What is known of all windows but their samples: x has the right shape and no content, nor takes it memory."""
    layout = stored.layout
    names = [name for name in COLUMNS if name in layout.columns]
    columns: dict[str, Any] = stored.read_all(names)
    x = np.broadcast_to(np.float32(0.0), (len(stored), layout.samples, layout.channels))
    window = layout.facts.get("window")
    return DataSet(
        x=x,
        sample_rate_hz=layout.sample_rate_hz,
        y_names=tuple(json.loads(layout.facts.get("y_names", "[]"))),
        window=None if window is None else dataset.read_shape(window),
        **columns,
    )


def known_of(data: DataSet, rows: AnyArray) -> DataSet:
    """The chosen windows of what `index` gives, again without samples."""
    x = np.broadcast_to(np.float32(0.0), (len(rows), *data.x.shape[1:]))
    return data.take(rows, x)


def with_samples(data: DataSet, stored: StoredWindows, rows: Int64Array) -> DataSet:
    """The chosen windows, ascending, of what `index` gives, with their samples."""
    parts = list(read_rows(stored, rows))
    x = np.concatenate(parts) if parts else np.empty((0, *data.x.shape[1:]), np.float32)
    return data.take(rows, x)


def read_rows(stored: StoredWindows, rows: Int64Array) -> Iterator[Float32Array]:
    """Samples of windows by ascending number, a row group's at a time; those that none are wanted of are not read.

    Raises WindowsError, and DataSetError where windows are damaged.
    """
    begins = np.searchsorted(rows, [group.first for group in stored.groups])
    for group, begin, end in zip(stored.groups, begins, [*begins[1:], len(rows)], strict=True):
        if begin < end:
            yield read_group(stored, group, rows[begin:end])


def read_group(stored: StoredWindows, group: Group, rows: Int64Array) -> Float32Array:
    """Samples of windows by number, in any order, all of them of one row group. Raises as `read_rows`."""
    found = stored.read(group, ["sid", "x"])
    wanted = rows - group.first
    x: Float32Array = found["x"][wanted]
    dataset.check_windows(x, found["sid"][wanted], f"{stored.path}: of the windows from number {group.first} on, ")
    return x


def layout_of(shape: WindowShape | None, data: DataSet) -> Layout:
    """How Parquet keeps a data set."""
    columns = tuple(name for name in COLUMNS if getattr(data, name) is not None)
    facts = {} if shape is None else {"window": dataset.written_shape(shape)}
    if data.y is not None:
        facts["y_names"] = json.dumps(data.y_names)
    _, samples, channels = data.x.shape
    return Layout(data.sample_rate_hz, samples, channels, columns, facts)


def columns_of(data: DataSet) -> dict[str, AnyArray]:
    """As WindowsWriter takes them."""
    return {name: part for name in (*COLUMNS, "x") if (part := getattr(data, name)) is not None}


def save(data: DataSet, path: Path) -> None:
    """Write a data set as its name says: a folder or a name in .parquet, else npz; whole, or not at all."""
    if not writes_parquet(path):
        dataset.save(data, path)
        return
    with WindowsWriter(path, layout_of(data.window, data)) as writer:
        writer.write(columns_of(data))


def writes_parquet(path: Path) -> bool:
    """Whether a data set of this name is to be Parquet: a name in .parquet, one without an ending, or a folder."""
    return path.suffix in {"", ".parquet"} or path.is_dir()
