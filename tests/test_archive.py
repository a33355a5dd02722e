from __future__ import annotations

import os
import random
import tracemalloc
from pathlib import Path

import numpy as np
import obspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_archive import T0, Made, channel, joined, mixed, write

from tscc_stream import miniseed
from tscc_stream.edges import archive
from tscc_stream.messages import Record


def by_channel(records: list[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.sid, []).append(record)
    return found


def assert_same(records: list[Record], made: list[Made]) -> None:
    found = by_channel(records)
    assert sorted(found) == sorted({one.sid for one in made})
    for one in made:
        start, samples = joined([(r.start_ns, r.samples) for r in found[one.sid]], one.rate)
        assert start == one.start_ns
        assert samples.dtype == one.samples.dtype
        assert np.array_equal(samples, one.samples)
        assert {r.sample_rate_hz for r in found[one.sid]} == {one.rate}


@pytest.mark.parametrize("chunk_seconds", [0.5, 10.0, 3600.0])
def test_every_kind_of_record_comes_out_unchanged_in_time_order(tmp_path: Path, chunk_seconds: float) -> None:
    made = mixed()
    index = archive.index([write(tmp_path, made)])
    records = list(archive.iter_records(index, chunk_seconds=chunk_seconds))
    assert_same(records, made)
    for own in by_channel(records).values():
        starts = [record.start_ns for record in own]
        assert starts == sorted(starts)
    assert not any(record.samples.flags.writeable for record in records)
    assert index.faults.count == 0


def test_records_of_one_chunk_are_joined(tmp_path: Path) -> None:
    made = [channel("FDSN:XX_AAA__H_H_Z", seconds=60)]
    index = archive.index([write(tmp_path, made)])
    assert len(index) == len(made[0].records) > 10
    assert len(list(archive.iter_records(index, chunk_seconds=100))) == 1


def test_recorded_time_counts_what_any_channel_has_and_no_gap(tmp_path: Path) -> None:
    """Three channels: 30 s, 30 s that begin 10 s later, and 5 s after a gap of an hour."""
    second = 1_000_000_000
    made = [
        channel("FDSN:XX_AAA__H_H_Z"),
        channel("FDSN:XX_BBB__H_H_Z", start_ns=T0 + 10 * second),
        channel("FDSN:XX_CCC__H_H_Z", start_ns=T0 + 3600 * second, seconds=5),
    ]
    index = archive.index([write(tmp_path, made)])
    assert index.recorded_ns((index.start_ns, index.stop_ns)) == 45 * second
    assert index.recorded_ns((T0 + 35 * second, T0 + 3602 * second)) == 7 * second
    assert index.recorded_ns((T0 + 50 * second, T0 + 60 * second)) == 0


def test_no_record_of_another_chunk_is_held(tmp_path: Path) -> None:
    """Order across channels: nothing comes that starts a whole chunk before something already seen."""
    index = archive.index([write(tmp_path, mixed())])
    latest = 0
    for record in archive.iter_records(index, chunk_seconds=2.0):
        assert record.start_ns > latest - 2_000_000_000
        latest = max(latest, record.start_ns)


def test_files_out_of_order_are_sorted_by_time(tmp_path: Path) -> None:
    first = channel("FDSN:XX_AAA__H_H_Z", seconds=10, seed=1)
    second = channel("FDSN:XX_AAA__H_H_Z", seconds=10, seed=2, start_ns=T0 + 10_000_000_000)
    (tmp_path / "a").write_bytes(b"".join(second.records))
    (tmp_path / "b").write_bytes(b"".join(first.records))
    records = list(archive.iter_records(archive.index([tmp_path])))
    _, samples = joined([(r.start_ns, r.samples) for r in records], 100.0)
    assert np.array_equal(samples, np.concatenate([first.samples, second.samples]))


def test_shuffled_interleaved_records_in_one_file(tmp_path: Path) -> None:
    made = mixed()
    mixed_up = [record for one in made for record in one.records]
    random.Random(5).shuffle(mixed_up)  # noqa: S311 not for secrets
    (tmp_path / "all.mseed").write_bytes(b"".join(mixed_up))
    assert_same(list(archive.iter_records(archive.index([tmp_path / "all.mseed"]))), made)


def test_gaps_duplicates_and_overlaps_come_through(tmp_path: Path) -> None:
    made = channel("FDSN:XX_AAA__H_H_Z", seconds=60)
    one, two, three, *rest = made.records
    path = tmp_path / "x.mseed"
    path.write_bytes(b"".join([one, two, two, three, *rest[2:]]))
    records = list(archive.iter_records(archive.index([path]), chunk_seconds=100))
    lengths = [miniseed.decode(record).samples.size for record in made.records]
    assert sum(len(record.samples) for record in records) == 60 * 100 + lengths[1] - lengths[3] - lengths[4]
    starts = [record.start_ns for record in records]
    assert starts.count(miniseed.decode(two).start_ns) >= 1
    assert miniseed.decode(rest[2]).start_ns in starts  # a fresh Record behind the gap


def test_a_clock_that_runs_away_is_not_joined_over(tmp_path: Path) -> None:
    """Each record 400 ns late against the one before: the joined time never strays over a microsecond."""
    parts = []
    start = T0
    for number in range(20):
        parts += miniseed.encode("FDSN:XX_AAA__H_H_Z", start, 100.0, np.full(100, number, np.int32), version=3)
        start += 1_000_000_400
    (tmp_path / "x").write_bytes(b"".join(parts))
    records = list(archive.iter_records(archive.index([tmp_path]), chunk_seconds=1000))
    assert sum(len(record.samples) for record in records) == 2000
    for record in records:
        last_second = int(record.samples[-1])
        stated = T0 + last_second * 1_000_000_400
        assert abs(record.start_ns + (len(record.samples) - 100) * 10_000_000 - stated) <= 1000


def test_quality_flags_break_a_run_and_are_kept(tmp_path: Path) -> None:
    made = channel("FDSN:XX_AAA__H_H_Z", seconds=60)
    marked = [bytearray(record) for record in made.records]
    marked[3][38] |= 0x80  # data quality flags, bit 7: time tag questionable (SEED manual, fixed header)
    (tmp_path / "x").write_bytes(b"".join(marked))
    records = list(archive.iter_records(archive.index([tmp_path]), chunk_seconds=100))
    assert [record.quality for record in records] == [frozenset(), frozenset({"timing"}), frozenset()]
    assert np.array_equal(np.concatenate([record.samples for record in records]), made.samples)


def test_a_corrupt_header_costs_one_record(tmp_path: Path) -> None:
    made = channel("FDSN:XX_AAA__H_H_Z", seconds=60)
    broken = b"\xff" * 512
    path = tmp_path / "x.mseed"
    path.write_bytes(b"".join([*made.records[:4], broken, *made.records[5:]]))
    index = archive.index([path])
    assert len(index) == len(made.records) - 1
    assert index.faults.count == 1
    assert str(path) in index.faults.texts[0]
    assert "2048" in index.faults.texts[0]
    assert len(list(archive.iter_records(index, chunk_seconds=100))) == 2


def test_corrupt_samples_cost_one_record(tmp_path: Path) -> None:
    made = channel("FDSN:XX_AAA__H_H_Z", seconds=60)
    damaged = bytearray(made.records[4])
    damaged[52] = 77  # blockette 1000: no such encoding
    (tmp_path / "x.mseed").write_bytes(b"".join([*made.records[:4], bytes(damaged), *made.records[5:]]))
    index = archive.index([tmp_path])
    records = list(archive.iter_records(index, chunk_seconds=100))
    lost = miniseed.decode(made.records[4]).samples.size
    assert sum(len(record.samples) for record in records) == 6000 - lost
    assert index.faults.count == 1


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rubbish_anywhere_never_raises_and_never_invents(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    made = channel("FDSN:XX_AAA__H_H_Z", seconds=20)
    raw = bytearray(b"".join(made.records))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(512, len(raw) - 1))
        raw[at : at + data.draw(st.integers(1, 700))] = data.draw(st.binary(min_size=1, max_size=700))
    path = tmp_path_factory.mktemp("rubbish") / "x.mseed"
    path.write_bytes(raw)
    index = archive.index([path])
    records = list(archive.iter_records(index))
    assert records[0].start_ns == T0
    assert all(len(record.samples) > 0 for record in records)


def test_a_file_that_is_no_recording_is_named_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("nothing of the kind\n")
    with pytest.raises(archive.ArchiveError) as caught:
        archive.index([path])
    assert str(caught.value) == f"{path}: neither miniSEED nor any other format that obspy knows"


def test_missing_empty_and_pickled_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(archive.ArchiveError, match="no such file or folder"):
        archive.index([tmp_path / "nowhere"])
    with pytest.raises(archive.ArchiveError, match="no recording found"):
        archive.index([tmp_path])
    (tmp_path / "empty").touch()
    with pytest.raises(archive.ArchiveError, match="empty"):
        archive.index([tmp_path / "empty"])


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    """A pickle whose first bytes name obspy's Stream class is loaded by obspy, and with it runs any code."""
    target = tmp_path / "ran"
    path = tmp_path / "x.pickle"
    path.write_bytes(b"S'obspy.core.stream'\n0cos\nsystem\n(S'touch " + str(target).encode() + b"'\ntR.")
    with pytest.raises(archive.ArchiveError):
        archive.index([path])
    assert not target.exists()


def test_other_files_in_a_folder_are_skipped_and_reported(tmp_path: Path) -> None:
    made = mixed()
    write(tmp_path / "deep" / "er", made)
    (tmp_path / "events.csv").write_text("a,b\n1,2\n")
    index = archive.index([tmp_path])
    assert index.faults.count == 1
    assert "events.csv" in index.faults.texts[0]
    assert_same(list(archive.iter_records(index)), made)


def slist(path: Path, samples: np.ndarray, start: str = "2010-01-01T00:00:00.123456") -> None:
    kind = "INTEGER" if samples.dtype.kind == "i" else "FLOAT"
    head = f"TIMESERIES XX_TXT__HHZ_D, {len(samples)} samples, 100 sps, {start}, SLIST, {kind}, Counts\n"
    path.write_text(head + "\n".join(str(value) for value in samples) + "\n")


@pytest.mark.parametrize(
    "samples", [np.arange(-900, 900), np.array([2**31 - 1, -(2**31), 5] * 300), np.arange(700) / 8]
)
def test_another_format_reads_like_miniseed(tmp_path: Path, samples: np.ndarray) -> None:
    slist(tmp_path / "x.slist", samples)
    index = archive.index([tmp_path / "x.slist"])
    (only,) = archive.iter_records(index, chunk_seconds=100)
    assert (only.sid, only.start_ns, only.sample_rate_hz) == ("FDSN:XX_TXT__H_H_Z", T0, 100.0)
    assert np.array_equal(only.samples, samples)
    raw = b"".join(record.payload for record in archive.iter_raw(index))
    assert np.array_equal(miniseed.decode_run(raw, len(samples)), samples)


@pytest.mark.parametrize(("start_ns", "rate"), [(T0 + 789, 100.0), (T0, 1234.56789012)])
def test_what_miniseed_2_cannot_state_stays_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_ns: int, rate: float
) -> None:
    recording = Record("FDSN:XX_TXT__H_H_Z", start_ns, rate, np.arange(50, dtype=np.int32))
    monkeypatch.setattr(archive.obspy_formats, "read_recording", lambda _: [recording])
    (tmp_path / "x").write_bytes(b"anything")
    (only,) = archive.iter_records(archive.index([tmp_path / "x"]))
    assert (only.start_ns, only.sample_rate_hz) == (start_ns, rate)


def test_raw_records_are_the_original_bytes_in_order_of_completion(tmp_path: Path) -> None:
    made = mixed()
    raw = list(archive.iter_raw(archive.index([write(tmp_path, made)])))
    assert [record.end_ns for record in raw] == sorted(record.end_ns for record in raw)
    for one in made:
        assert tuple(record.payload for record in raw if record.sid == one.sid) == one.records
    for record in raw:
        decoded = miniseed.decode(record.payload)
        assert (decoded.sid, decoded.start_ns, decoded.sample_rate_hz) == (
            record.sid,
            record.start_ns,
            record.sample_rate_hz,
        )


def test_channels_say_first_and_last_sample(tmp_path: Path) -> None:
    made = mixed()
    found = archive.channels(archive.index([write(tmp_path, made)]))
    assert [entry.sid for entry in found] == sorted(one.sid for one in made)
    for entry in found:
        one = next(one for one in made if one.sid == entry.sid)
        last = one.start_ns + round((len(one.samples) - 1) * 1e9 / one.rate)
        assert (entry.start_ns, entry.end_ns, entry.records) == (one.start_ns, last, len(one.records))


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    """An hour and a half at 100 Hz: the decoded samples of all would be 2 MB, one chunk of 10 s is 4 kB."""
    write(tmp_path, [channel("FDSN:XX_AAA__H_H_Z", seconds=5000, seed=7)])
    index = archive.index([tmp_path])
    tracemalloc.start()
    count = sum(len(record.samples) for record in archive.iter_records(index))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 500_000
    assert peak < 300_000


def sac(path: Path, station: str = "TXT", start: str = "2010-01-01T00:00:00") -> None:
    trace = obspy.Trace(np.arange(500, dtype=np.float32), {"network": "XX", "station": station, "channel": "HHZ"})
    trace.stats.starttime, trace.stats.sampling_rate = obspy.UTCDateTime(start), 100.0
    trace.write(str(path), format="SAC")


@pytest.mark.parametrize("given", [{"station": "ABCDEFGH"}, {"start": "1600-01-01"}, {"start": "2300-01-01"}])
def test_a_file_of_another_format_that_cannot_be_packed_is_skipped(tmp_path: Path, given: dict[str, str]) -> None:
    sac(tmp_path / "x.sac", **given)
    with pytest.raises(archive.ArchiveError, match=r"x\.sac: .*XX_"):
        archive.index([tmp_path / "x.sac"])
    made = [channel("FDSN:XX_AAA__H_H_Z")]
    write(tmp_path, made)
    index = archive.index([tmp_path])
    assert_same(list(archive.iter_records(index)), made)
    assert [text.split(": ")[0] for text in index.faults.texts] == [f"{tmp_path}/x.sac"]


def test_a_file_of_which_one_trace_cannot_be_packed_is_skipped_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = np.arange(50, dtype=np.int32)
    traces = [Record("FDSN:XX_TXT__H_H_Z", T0, 100.0, samples), Record("FDSN:XX_TXT__H_H_N", 2**63, 100.0, samples)]
    monkeypatch.setattr(archive.obspy_formats, "read_recording", lambda _: traces)
    (tmp_path / "x").write_bytes(b"anything")
    made = [channel("FDSN:XX_AAA__H_H_Z")]
    index = archive.index([write(tmp_path, made)])
    assert_same(list(archive.iter_records(index)), made)
    assert index.faults.count == 1
    with pytest.raises(archive.ArchiveError, match="a trace cannot be used: FDSN:XX_TXT__H_H_N starts"):
        archive.index_of(traces)


def test_what_is_packed_is_on_the_disk_before_an_index_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slist(tmp_path / "x.slist", np.arange(500))
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(Path(f"/proc/self/fd/{file}").readlink()))
    archive.index_files([(tmp_path / "x.slist", True)], tmp_path / "spool")
    assert synced == [tmp_path / "spool"]
    archive.index([tmp_path / "x.slist"])  # whose spool is gone with the program
    assert len(synced) == 1


def test_a_link_into_something_that_cannot_be_looked_at_is_told(tmp_path: Path) -> None:
    made = [channel("FDSN:XX_AAA__H_H_Z")]
    write(tmp_path / "site", made)
    (tmp_path / "site" / "far").symlink_to(
        "x" * 300
    )  # no file system takes the name: an error like that of a lost disk
    index = archive.index([tmp_path / "site"])
    assert_same(list(archive.iter_records(index)), made)
    assert index.faults.texts == [f"{tmp_path}/site/far: cannot be read: File name too long"]
    with pytest.raises(archive.ArchiveError, match="far: cannot be read: File name too long"):
        archive.index([tmp_path / "site" / "far"])


def test_recorded_time_of_each_channel_counts_overlaps_once(tmp_path: Path) -> None:
    second = 1_000_000_000
    made = [
        channel("FDSN:XX_AAA__H_H_Z"),
        channel("FDSN:XX_AAA__H_H_Z", start_ns=T0 + 10 * second),
        channel("FDSN:XX_BBB__H_H_Z", start_ns=T0 + 3600 * second, seconds=5),
    ]
    found = archive.index([write(tmp_path, made)]).recorded_by_channel_ns()
    assert found == {"FDSN:XX_AAA__H_H_Z": 40 * second, "FDSN:XX_BBB__H_H_Z": 5 * second}


def test_folders_are_read_through_links_once_and_a_link_to_nothing_is_told(tmp_path: Path) -> None:
    made = [channel("FDSN:XX_AAA__H_H_Z"), channel("FDSN:XX_BBB__H_H_Z")]
    disk, years = tmp_path / "disk", tmp_path / "years"
    for folder, one in ((disk, made[0]), (years / "2020", made[1])):
        folder.mkdir(parents=True)
        write(folder, [one])
    (years / "2019").symlink_to(disk)
    (years / "2021").symlink_to(tmp_path / "not mounted")
    (years / "self").symlink_to(years / "self")
    (disk / "up").symlink_to(years)
    index = archive.index([years])
    assert_same(list(archive.iter_records(index)), made)
    assert len(index) == sum(len(one.records) for one in made)
    assert [text.split(": ")[0] for text in index.faults.texts] == [f"{years}/2021", f"{years}/self"]
