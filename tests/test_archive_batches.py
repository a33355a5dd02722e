"""Archives by compiled code: the same index and the same records as by libmseed, header by header and run by run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_archive import T0, channel, mixed, write

from tscc_stream import miniseed
from tscc_stream.edges import archive, archive_heads
from tscc_stream.messages import Record, RecordBatch

NEW_YEAR_NS = 1_483_228_800_000_000_000
"""2017, after a leap second."""
DAMAGE = st.lists(st.tuples(st.sampled_from(["byte", "head", "cut", "rubbish"]), st.integers(0, 1 << 20)), max_size=4)


@st.composite
def some_file(draw: st.DrawFn) -> bytes:
    """Channels of any packing, with gaps, overlaps, drift and flags, interleaved or not, and then damaged."""
    parts: list[list[bytes]] = []
    for number in range(draw(st.integers(1, 3))):
        start = draw(st.sampled_from([T0, NEW_YEAR_NS - 20_000_000_000])) + 1000 * draw(st.integers(0, 10**6))
        rate, records = draw(st.sampled_from([0.1, 50.0, 99.5, 1000.0])), []
        for _ in range(draw(st.integers(1, 3))):
            n = draw(st.integers(1, 1500))
            rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
            samples = np.cumsum(rng.normal(0.0, draw(st.sampled_from([0.3, 30.0, 1e6])), n)).astype(np.int32)
            records += miniseed.encode(
                f"FDSN:XX_S{number}__H_H_Z", start, rate, samples,
                record_length=draw(st.sampled_from([128, 512, 4096])),
                encoding=draw(st.sampled_from(["steim2", "steim2", "steim1", "int32", "float32"])),
                version=draw(st.sampled_from([2, 2, 2, 3])),
            )  # fmt: skip
            start += round(n / rate * 1e6) * 1000 + draw(st.sampled_from([0, 0, 300, 2000, 10**9, -(10**9)]))
        parts.append(records)
    joined = [record for part in parts for record in part]
    data = bytearray(b"".join(draw(st.permutations(joined)) if draw(st.booleans()) else joined))
    for kind, where in draw(DAMAGE):
        at = where % len(data)
        if kind == "byte":
            data[at] ^= 0x55
        elif kind == "head":
            data[at // 512 * 512 + where % 64] ^= 1 << where % 8
        elif kind == "cut":
            del data[at : at + where % 600 + 1]
        else:
            data[at:at] = bytes(where % 256 for _ in range(where % 600))
    return bytes(data)


def told(record: Record) -> tuple[Any, ...]:
    samples = record.samples.astype(np.float64)
    return record.sid, record.start_ns, record.sample_rate_hz, record.quality, samples.tobytes()


def outcome(path: Path, *, batches: bool, chunk_seconds: float) -> tuple[Any, ...]:
    """Everything that can be seen of an archive; faults by their place."""
    try:
        index = archive.index([path])
    except archive.ArchiveError:
        return ()
    if batches:
        found = [
            told(batch.record(place))
            for batch in archive.iter_batches(index, chunk_seconds=chunk_seconds)
            for place in range(len(batch))
        ]
    else:
        found = [told(record) for record in archive.iter_records(index, chunk_seconds=chunk_seconds)]
    rows = {name: column.tolist() for name, column in index.rows.items() if name != "data_at"}
    return rows, index.sids, found, [text.split(": ")[0] for text in index.faults.texts]


def by_libmseed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_heads.RecordDecoder, "kind", lambda *_: None)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some_file(), st.sampled_from([0.5, 10.0, 3600.0]))
def test_what_compiled_code_finds_is_what_libmseed_finds(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, chunk_seconds: float
) -> None:
    path = tmp_path_factory.mktemp("made") / "x.mseed"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patched:
        by_libmseed(patched)
        expected = outcome(path, batches=False, chunk_seconds=chunk_seconds)
        if expected != outcome(path, batches=False, chunk_seconds=chunk_seconds):
            return  # libmseed makes samples of what lies in memory behind some damaged records
    assert outcome(path, batches=True, chunk_seconds=chunk_seconds) == expected
    assert outcome(path, batches=False, chunk_seconds=chunk_seconds) == expected


def test_ordinary_archives_are_read_by_compiled_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows beyond the first of their kind; records interleaved, of several lengths."""
    made = [channel(f"FDSN:XX_S{n}__H_H_Z", length=length, seed=n) for n, length in enumerate((256, 512, 512, 4096))]
    mixed_up = sorted((record for one in made for record in one.records), key=lambda r: miniseed.decode(r).start_ns)
    (tmp_path / "x.mseed").write_bytes(b"".join(mixed_up))
    monkeypatch.setattr(archive._Indexer, "_add_row", None)
    index = archive.index([tmp_path])
    assert len(index) == len(mixed_up)
    assert (index.rows["data_at"] > 0).all()
    monkeypatch.setattr(archive.miniseed, "decode_run", None)
    monkeypatch.setattr(archive.miniseed, "decode", None)
    found = {sid: np.zeros(0) for sid in index.sids}
    for batch in archive.iter_batches(index, chunk_seconds=7.0):
        for record in map(batch.record, range(len(batch))):
            found[record.sid] = np.concatenate((found[record.sid], record.samples))
    for one in made:
        np.testing.assert_array_equal(found[one.sid], one.samples)


def test_batches_of_every_kind_of_record(tmp_path: Path) -> None:
    index = archive.index([write(tmp_path, mixed())])
    for chunk_seconds in (0.5, 10.0, 3600.0):
        expected = [told(record) for record in archive.iter_records(index, chunk_seconds=chunk_seconds)]
        batches = list(archive.iter_batches(index, chunk_seconds=chunk_seconds))
        assert [told(batch.record(place)) for batch in batches for place in range(len(batch))] == expected
        assert not any(batch.samples.flags.writeable for batch in batches)


def test_a_short_first_chunk_changes_where_chunks_end_and_nothing_else(tmp_path: Path) -> None:
    index = archive.index([write(tmp_path, [channel("FDSN:XX_S1__H_H_Z", encoding="int32", length=256)])])

    def batches(first_seconds: float | None) -> list[RecordBatch]:
        return list(archive.iter_batches(index, chunk_seconds=4.0, first_seconds=first_seconds))

    sizes, ordinary = ([batch.samples.size for batch in batches(seconds)] for seconds in (1.0, None))
    assert sizes[0] < ordinary[0] // 2
    assert max(sizes) == max(ordinary)
    joined, short = (np.concatenate([batch.samples for batch in batches(seconds)]) for seconds in (None, 1.0))
    np.testing.assert_array_equal(joined, short)


def test_a_last_sample_behind_a_leap_second_is_where_libmseed_has_it(tmp_path: Path) -> None:
    start_ns, samples = NEW_YEAR_NS - 30_000_000_000, np.arange(60, dtype=np.int32)
    records = miniseed.encode("FDSN:XX_S1__L_H_Z", start_ns - 60_000_000_000, 1.0, np.arange(60, dtype=np.int32))
    records += miniseed.encode("FDSN:XX_S1__L_H_Z", start_ns, 1.0, samples)
    (tmp_path / "x.mseed").write_bytes(b"".join(records))
    index = archive.index([tmp_path])
    ends = [int(head.endtime) for record in records for head in [miniseed.header(record)]]
    assert ends[1] - ends[0] != 60_000_000_000
    assert index.rows["end_ns"].tolist() == ends


def test_more_files_than_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_OPEN_FILES", 2)
    made = [channel(f"FDSN:XX_S{n}__H_H_Z", seed=n) for n in range(5)]
    index = archive.index([write(tmp_path, made)])
    assert sum(batch.samples.size for batch in archive.iter_batches(index, chunk_seconds=3.0)) == 5 * 30 * 100
