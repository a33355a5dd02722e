"""Windows in Parquet files: what was written comes back, whole or not at all; what is none is said in a sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tscc_stream.edges import parquet_windows
from tscc_stream.edges.parquet_windows import Layout, StoredWindows, WindowsError, WindowsWriter

ALL = ("id", "sid", "onset_ns", "y", "cluster", "triggered", "peak_ratio", "model_sha256", "verdict")
LAYOUT = Layout(250.0, 6, 2, ALL, {"window": '{"a": 1}', "note": "Grüße"})


def columns(n: int, begin: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(begin)
    return {
        "id": np.array([f"uid{i}" for i in range(begin, begin + n)], dtype=str),
        "sid": np.array([f"SM.S{i % 3:03d}..SHZ" for i in range(begin, begin + n)], dtype=str),
        "onset_ns": 10**18 + np.arange(begin, begin + n, dtype=np.int64),
        "y": rng.integers(0, 3, n),
        "cluster": rng.integers(0, 3, n),
        "triggered": rng.integers(0, 2, n) == 1,
        "peak_ratio": rng.random(n).astype(np.float32),
        "model_sha256": np.array(["ab" * 32] * n, dtype=str),
        "verdict": np.array(["blast" if i % 5 == 0 else "" for i in range(n)], dtype=str),
        "x": rng.standard_normal((n, 6, 2)).astype(np.float32),
    }


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten windows a row group, three row groups a file."""
    monkeypatch.setattr(parquet_windows, "GROUP_BYTES", 10 * LAYOUT.window_bytes)
    monkeypatch.setattr(parquet_windows, "FILE_BYTES", 30 * LAYOUT.window_bytes)


@pytest.mark.parametrize("name", ["set", "one.parquet"])
def test_a_disk_that_is_full_leaves_nothing_behind(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(writer: pq.ParquetWriter, *_: object, **__: object) -> None:
        writer.is_open = False  # so that it does not try once more when it is collected
        raise OSError(28, "No space left on device")

    def write() -> None:
        with WindowsWriter(tmp_path / name, LAYOUT) as writer:
            writer.write(columns(15))
            for method in ("write_table", "close"):
                monkeypatch.setattr(pq.ParquetWriter, method, full)
            writer.write(columns(15, 15))

    with pytest.raises(OSError, match="No space left"):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["set", "one.parquet"])
@given(sizes=st.lists(st.integers(0, 45), max_size=6))
@settings(max_examples=15)
def test_whatever_is_written_in_whatever_parts_comes_back(
    name: str, sizes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("w") / name
    parts = [columns(n, sum(sizes[:i])) for i, n in enumerate(sizes)]
    with WindowsWriter(path, LAYOUT) as writer:
        for part in parts:
            writer.write(part)
    assert writer.written == sum(sizes)
    assert [one.name for one in path.parent.iterdir()] == [name]
    stored = StoredWindows(path)
    assert stored.layout == LAYOUT
    assert len(stored) == sum(sizes)
    assert all(group.rows <= 10 for group in stored.groups)
    assert len(stored.files) == (1 if name == "one.parquet" else max(1, -(-sum(sizes) // 30)))
    if sum(sizes):
        back = stored.read_all([*ALL, "x"])
        for key in back:
            assert np.array_equal(back[key], np.concatenate([part[key] for part in parts])), key
            assert back[key].dtype.kind == parts[0][key].dtype.kind


def test_pandas_sees_plain_columns(tmp_path: Path) -> None:
    with WindowsWriter(tmp_path / "w.parquet", LAYOUT) as writer:
        writer.write(columns(5))
    table = pq.read_table(tmp_path / "w.parquet")
    assert table.schema.names == [*ALL, "x"]
    assert table.schema.metadata[b"tscc.samples"] == b"6"
    assert table.schema.metadata[b"tscc.sample_rate_hz"] == b"250.0"
    assert np.allclose(table.column("x").to_pylist()[3], columns(5)["x"][3].reshape(-1))


def test_an_exception_leaves_nothing_behind_and_a_full_folder_is_not_touched(tmp_path: Path) -> None:
    def interrupted() -> None:
        with WindowsWriter(tmp_path / "set", LAYOUT) as writer:
            writer.write(columns(25))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "kept").write_text("mine")
    with pytest.raises(WindowsError, match="set: exists already; expected a new name, or an empty folder"):
        WindowsWriter(tmp_path / "set", LAYOUT)
    assert (tmp_path / "set" / "kept").read_text() == "mine"


@pytest.mark.parametrize("name", ["set", "one.parquet"])
def test_what_a_killed_writer_left_is_neither_read_nor_in_the_way(name: str, tmp_path: Path) -> None:
    sets = tmp_path / "sets"

    def begun() -> Path:
        """Where a writer of this number keeps what it has not ended."""
        with WindowsWriter(sets / name, LAYOUT) as writer:
            return writer._fresh

    fresh = begun()
    (sets / name).unlink() if name.endswith("parquet") else shutil.rmtree(sets / name)
    if name == "set":
        fresh.mkdir()
        (fresh / "part-00007.parquet").write_bytes(b"begun")
    else:
        fresh.write_bytes(b"begun")
    with pytest.raises(WindowsError, match=r"holds no \.parquet file"):
        StoredWindows(sets)
    with WindowsWriter(sets / name, LAYOUT) as writer:
        writer.write(columns(5))
    assert [path.name for path in sets.iterdir()] == [name]
    assert len(StoredWindows(sets)) == 5


def test_other_windows_than_said_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WindowsError, match="expected"), WindowsWriter(tmp_path / "set", LAYOUT) as writer:
        writer.write({**columns(3), "x": np.zeros((3, 5, 2), np.float32)})
    assert list(tmp_path.iterdir()) == []


def test_equal_windows_give_equal_bytes_and_others_another_digest(tmp_path: Path) -> None:
    for name, begin in (("a", 0), ("b", 0), ("c", 1)):
        with WindowsWriter(tmp_path / name, LAYOUT) as writer:
            writer.write(columns(50, begin))
    first, same, other = (StoredWindows(tmp_path / name) for name in "abc")
    assert [file.read_bytes() for file in first.files] == [file.read_bytes() for file in same.files]
    assert first.digest() == same.digest() != other.digest()


def broken(path: Path, how: str) -> None:
    payload = bytearray(path.read_bytes())
    if how == "cut off":
        path.write_bytes(payload[: len(payload) // 2])
    elif how == "turned over":
        at = payload.find(columns(50)["x"][2].tobytes())
        payload[at + 5] ^= 0xFF
        path.write_bytes(payload)
    elif how == "text":
        path.write_text("onset,sid\n")
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["cut off", "turned over", "text", "empty"])
def test_a_damaged_file_is_named_in_one_sentence(how: str, tmp_path: Path) -> None:
    with WindowsWriter(tmp_path / "set", LAYOUT) as writer:
        writer.write(columns(50))
    broken(tmp_path / "set/part-00000.parquet", how)
    with pytest.raises(WindowsError, match=r"part-00000.parquet: not a readable Parquet file of windows") as said:
        StoredWindows(tmp_path / "set").read_all(["x"])
    assert "\n" not in str(said.value)


def table(**changed: pa.Array) -> pa.Table:
    made = {
        "sid": pa.array(["A.B..C"]),
        "onset_ns": pa.array([1]),
        "x": pa.array([[1.0] * 12], pa.list_(pa.float32(), 12)),
    }
    return pa.table(made | changed)


@pytest.mark.parametrize(
    ("made", "stated", "said"),
    [
        (table(), {}, "does not say what windows it holds; expected tscc.sample_rate_hz, tscc.samples, tscc.channels"),
        (table(), {"samples": "six"}, "does not say what windows"),
        (table(), {"samples": "-6"}, "are none"),
        (table(), {"samples": "7"}, "column x holds .*expected a list of 14 float32"),
        (table(onset_ns=pa.array([1.5])), {}, "column onset_ns holds double; expected int64"),
        (table().drop_columns("sid"), {}, "column sid is missing; expected sid, onset_ns and x"),
        (table(onset_ns=pa.array([None], pa.int64())), {}, "onset_ns is missing in 1 rows"),
    ],
    ids=str,
)
def test_parquet_files_of_something_else_are_refused(
    made: pa.Table, stated: dict[str, str], said: str, tmp_path: Path
) -> None:
    known = {"sample_rate_hz": "250.0", "samples": "6", "channels": "2"} | stated
    metadata = {} if said.startswith("does not say what windows it") else known
    pq.write_table(made.replace_schema_metadata({f"tscc.{k}": v for k, v in metadata.items()}), tmp_path / "w.parquet")
    with pytest.raises(WindowsError, match=said):
        StoredWindows(tmp_path / "w.parquet").read_all(["sid", "onset_ns", "x"])


def test_what_is_no_set_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WindowsError, match="no such file or folder"):
        StoredWindows(tmp_path / "none")
    with pytest.raises(WindowsError, match=r"holds no \.parquet file"):
        StoredWindows(tmp_path)
    for name, layout in (("a", LAYOUT), ("b", Layout(500.0, 6, 2, ALL))):
        with WindowsWriter(tmp_path / f"set/{name}.parquet", layout) as writer:
            writer.write(columns(5))
    with pytest.raises(WindowsError, match=r"b\.parquet: windows of another layout than those of .*a\.parquet"):
        StoredWindows(tmp_path / "set")
    monkeypatch.setattr(parquet_windows, "LARGEST_GROUP_BYTES", 4 * LAYOUT.window_bytes)
    with pytest.raises(WindowsError, match="row group 0 has 5 windows, 0 MiB; expected at most"):
        StoredWindows(tmp_path / "set/a.parquet").read_all(["x"])
