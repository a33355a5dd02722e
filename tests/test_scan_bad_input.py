"""What goes wrong with a scan is one sentence, and nothing that was done is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest
from in_time import PATIENCE_S
from made_scan import MODEL, PART_HOURS, Here, assert_equal, configured, day_files, reference, rows_of, scan
from made_site import CHANNELS, command, finished, make_archive, write_settings

from tscc_stream import package
from tscc_stream.edges.archive import ArchiveError
from tscc_stream.edges.parquet_windows import StoredWindows
from tscc_stream.learn.dataset import shape_of
from tscc_stream.learn.stored import index
from tscc_stream.messages import Trigger
from tscc_stream.scan import part, run, summary
from tscc_stream.scan.layout import Layout, ScanError, taken
from tscc_stream.scan.part_file import Marker
from tscc_stream.scan.placement import Done, Task
from tscc_stream.scan.triggers import Triggers

NAME = "FDSN:XX_B__H_H_Z"


@pytest.fixture(scope="module")
def archive_of_four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four")
    return day_files(make_archive(folder / "whole"), folder / "sds", 40.0)


def _parts(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.glob("state/parts/*/*.part")}


def test_a_part_that_every_worker_dies_of_is_named_and_the_rest_is_scanned(
    archive_of_four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[Task] = []

    def fails(task: Task) -> Done | None:
        """Every worker dies of the second part of one channel."""
        if task.name != NAME:
            return None
        tried.append(task)
        return Done(task, "its process ended by signal SIGSEGV", lost=True) if task != tried[0] else None

    out = tmp_path / "out"
    status = scan([archive_of_four], out, configured(tmp_path), lambda folder, _: Here(folder, fails=fails))
    assert status == 1
    assert len(tried) == 4  # the first part went well, the second was tried three times
    said = "XX.B..HHZ: not scanned to its end: its process ended by signal SIGSEGV, 3 times"
    assert said in capsys.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["not_to_the_end"]) == ["XX.B..HHZ"]
    assert {row["sid"] for row in rows_of(out / "detections")} >= {CHANNELS[0], CHANNELS[2], CHANNELS[3]}
    assert scan([archive_of_four], out, configured(tmp_path)) == 0  # another time it goes on
    assert_equal(out, reference([archive_of_four], configured(tmp_path)))


def test_a_file_that_changed_costs_its_channel_from_there_on(
    archive_of_four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site, out, settings = tmp_path / "site", tmp_path / "out", configured(tmp_path)
    shutil.copytree(archive_of_four, site)
    scan([site], out, settings)
    before = _parts(out)
    changed = next(site.rglob("XX.B..HHZ.D.2"))
    changed.write_bytes(changed.read_bytes()[: 512 * 3])
    assert scan([site], out, settings) == 0
    redone = [path for path, at in _parts(out).items() if before[path] != at]
    assert 0 < len(redone) < len(list((out / "state/parts").glob("*XX_B*/*.part")))
    assert {path.parent.name for path in redone} == {"FDSN%3AXX_B__H_H_Z"}
    assert "XX.B..HHZ: the archive has changed: scanned again from part 3 on" in capsys.readouterr().err
    assert_equal(out, reference([site], settings))


def test_an_archive_that_grew_is_scanned_from_where_it_ended(
    archive_of_four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site, out, settings = tmp_path / "site", tmp_path / "out", configured(tmp_path)
    shutil.copytree(archive_of_four, site)
    later = {path: path.read_bytes() for path in sorted(site.rglob("*.D.[23]"))}
    for path in later:
        path.unlink()
    hours = 40.0 / 3600.0  # as long as a file: a window that is pending at its end is dropped, but not for ever
    scan([site], out, settings, part_hours=hours)
    before = _parts(out)
    for path, data in later.items():
        path.write_bytes(data)
    assert scan([site], out, settings, part_hours=hours) == 0
    assert sum(_parts(out)[path] == at for path, at in before.items()) == len(CHANNELS)
    assert capsys.readouterr().err == ""  # what was there before is as it was
    assert_equal(out, reference([site], settings))


def test_an_archive_that_grew_beyond_a_small_one_has_rows_of_one_encoder(
    archive_of_four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site, out, settings = tmp_path / "site", tmp_path / "out", configured(tmp_path)
    shutil.copytree(archive_of_four, site)
    monkeypatch.setattr(run, "FEW_HOURS", 0.1)  # 0.04 for each channel
    late = next(site.rglob("XX.B..HHZ.D.0")).parent
    late.rename(tmp_path / "late")
    late_too = next(site.rglob("XX.C..HHZ.D.0")).parent
    late_too.rename(tmp_path / "late too")
    scan([site], out, settings)
    before = _parts(out)
    (tmp_path / "late").rename(late)
    (tmp_path / "late too").rename(late_too)
    assert scan([site], out, settings) == 0
    said = "the archive has more than 0.1 channel-hours now, for another form of the encoder: scanned again"
    assert capsys.readouterr().err == f"tscc-stream: {said}\n"
    assert not before.items() & _parts(out).items()


def _changing(site: Path, number: int, change: Callable[[Path], None]) -> Callable[[Path, int], Here]:
    """The file of one channel's third day changes before the task of that number."""

    def fails(_: Task) -> None:
        if len(here[0].tasks) == number:
            change(next(site.rglob("XX.B*.D.2")))

    here: list[Here] = []

    def place(folder: Path, _: int) -> Here:
        here.append(Here(folder, fails=fails))
        return here[0]

    return place


def _swapped(path: Path) -> None:
    fresh = path.with_name("fresh")
    fresh.write_bytes(next(path.parents[2].rglob("XX.C*.D.2")).read_bytes())
    fresh.replace(path)


def test_a_file_that_changes_while_it_is_scanned_is_named_and_scanned_again(
    archive_of_four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site, out, settings = tmp_path / "site", tmp_path / "out", configured(tmp_path)
    shutil.copytree(archive_of_four, site)
    assert scan([site], out, settings, _changing(site, 8, _swapped)) == 1
    said = capsys.readouterr().err
    assert re.search(r"XX\.B\.\.HHZ: not scanned to its end: .*XX\.B\.\.HHZ\.D\.2: has changed", said)
    assert len({row["sid"] for row in rows_of(out / "detections")}) == len(CHANNELS)
    assert scan([site], out, settings) == 0
    assert_equal(out, reference([site], settings))


def test_a_file_that_grows_while_it_is_scanned_is_scanned_as_far_as_it_was(
    archive_of_four: Path, tmp_path: Path
) -> None:
    site, out, settings = tmp_path / "site", tmp_path / "out", configured(tmp_path)
    shutil.copytree(archive_of_four, site)
    path = next(site.rglob("XX.B*.D.2"))
    data = path.read_bytes()
    path.write_bytes(data[: 10 * 4096])
    before = reference([site], settings)

    def grow(path: Path) -> None:
        with path.open("ab") as file:
            file.write(data[10 * 4096 :])

    assert scan([site], out, settings, _changing(site, 8, grow)) == 0
    assert_equal(out, before)
    assert scan([site], out, settings) == 0
    assert_equal(out, reference([site], settings))


def test_names_of_any_bytes(archive_of_four: Path, tmp_path: Path) -> None:
    site, out, settings = tmp_path / "site", tmp_path / "out", configured(tmp_path)
    shutil.copytree(archive_of_four, site)
    path = next(site.rglob("XX.B*.D.2"))
    os.rename(path, os.fsencode(path.parent) + b"/M\xfcller")  # noqa: PTH104  # no text
    Path(os.fsdecode(os.fsencode(site) + b"/r\xfcbbish")).write_text("none")
    assert scan([site], out, settings) == 0
    assert "r\\udcfcbbish" in (out / "summary.md").read_text()
    assert_equal(out, reference([site], settings))


def test_the_windows_are_those_of_the_rows(archive_of_four: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    scan([archive_of_four], out, configured(tmp_path), windows=True)
    stored = StoredWindows(out / "windows")
    assert sorted(stored.read_all(["id"])["id"].tolist()) == sorted(row["id"] for row in rows_of(out / "detections"))
    assert stored.read_all(["x"])["x"].shape[1:] == (500, 1)
    shape = index(stored).window  # what a model that is trained on them will state of itself
    assert shape == shape_of(package.load(MODEL).spec)


def test_windows_that_training_cannot_use_are_not_stored_and_counted(
    archive_of_four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One channel alone does not trigger where it is constant: here windows that begin below zero count as such."""
    monkeypatch.setattr(part, "hold_signal", lambda x: x[:, 0, 0] > 0.0)
    out = tmp_path / "out"
    scan([archive_of_four], out, configured(tmp_path), windows=True)
    said = json.loads((out / "summary.json").read_text())
    left_out = said["windows_without_signal"]
    assert 0 < left_out < said["detections"]
    assert len(StoredWindows(out / "windows")) == said["detections"] - left_out
    page = (out / "summary.md").read_text()
    assert f"Windows not stored, since a channel of theirs is constant, as of a sensor at its rail: {left_out}" in page


def test_every_record_that_cannot_be_decoded_is_counted(tmp_path: Path) -> None:
    site, out = make_archive(tmp_path / "site", channels=("XX.A..HHZ",), record_length=256), tmp_path / "out"
    path = site / "XX.A..HHZ.mseed"
    data = bytearray(path.read_bytes())
    for at in range(0, 256 * 120, 256):
        data[at + 52] = 77  # blockette 1000: no such encoding
    path.write_bytes(data)
    scan([site], out, configured(tmp_path), part_hours=1.0)
    told = json.loads((out / "summary.json").read_text())["skipped"]
    assert (told["count"], len(told["first"])) == (120, 100)


def test_the_folders_are_partitioned_by_year_and_month(archive_of_four: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    scan([archive_of_four], out, configured(tmp_path))
    rows = pa.dataset.dataset(out / "detections", format="parquet", partitioning="hive").to_table().to_pylist()
    assert {(row["year"], row["month"]) for row in rows} == {(row["time"].year, row["time"].month) for row in rows}
    assert [path.name for path in out.rglob("detections/**/*.parquet")] == ["2023-11-14.parquet"]


def test_what_is_taken_away_or_not_whole_is_made_again(
    archive_of_four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, settings = tmp_path / "out", configured(tmp_path)
    scan([archive_of_four], out, settings, windows=True)
    written = {path for path in out.rglob("*") if path.is_file()}
    lost = [
        next((out / "windows").rglob("*.parquet")),
        next((out / "detections").rglob("*.parquet")),
        out / "channels.png",
    ]
    for path in lost:
        path.unlink()
    capsys.readouterr()
    killed = [out / "state/parts/.1.part.4711", out / "windows/.1.parquet.4711", out / "state/index/abcdef.npy"]
    for path in killed:
        path.write_bytes(b"begun")
    assert scan([archive_of_four], out, settings, windows=True) == 0
    assert {path for path in out.rglob("*") if path.is_file()} == written
    assert capsys.readouterr().err == ""  # nothing of the archive has changed
    assert_equal(out, reference([archive_of_four], settings))


def test_a_batch_that_every_worker_dies_of_is_named(archive_of_four: Path, tmp_path: Path) -> None:
    def fails(task: Task) -> Done:
        return Done(task, "its process ended by signal SIGBUS", lost=True)

    named = r"one of the 4 files from .*D\.0 to .*D\.3: its process ended by signal SIGBUS, 3 times"
    with pytest.raises(ScanError, match=named):
        scan([archive_of_four], tmp_path / "out", configured(tmp_path), lambda folder, _: Here(folder, fails=fails))


def test_one_wrong_clock_does_not_fill_the_memory() -> None:
    def done(number: int) -> tuple[str, int, Marker]:
        said = Marker("", 1, 1, {NAME: 5 * 10**8}, (0, 0, 0), (0, 0, 0), {}, {}, {}, {}, 0, [])
        return "", number, said

    names, span_ns, shares = summary._coverage([done(0), done(1), done(6 * 10**9)], 10**9)
    assert names == ["XX.B..HHZ"]
    assert span_ns[0] == 0
    assert span_ns[1] >= 6 * 10**18
    assert shares.shape[1] <= summary.MOST_COLUMNS
    assert shares.sum() == pytest.approx(1.5e9 / (span_ns[1] / shares.shape[1]))


def test_files_that_are_gone_are_told_and_their_rows_go(
    archive_of_four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site, out, settings = tmp_path / "site", tmp_path / "out", configured(tmp_path)
    shutil.copytree(archive_of_four, site)
    scan([site], out, settings)
    (site / "2023/XX").rename(tmp_path / "away")
    shutil.copytree(tmp_path / "away", site / "2023/XX", ignore=lambda *_: ["B"])
    next(site.rglob("XX.C*.D.0")).unlink()
    assert scan([site], out, settings) == 0
    assert re.search(
        r"XX\.B\.\.HHZ and 1 more channels: 0\.05 channel-hours .* no longer there", capsys.readouterr().err
    )
    assert_equal(out, reference([site], settings))
    assert scan([site], out, settings) == 0
    assert capsys.readouterr().err == ""


def test_folders_without_rows_have_the_columns_of_their_place(archive_of_four: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    scan([archive_of_four], out, configured(tmp_path, network=None))
    found = pa.dataset.dataset(out / "network_events", format="parquet", partitioning="hive")
    assert (found.schema.field("year").type, found.schema.field("month").type) == (pa.int32(), pa.int32())
    assert found.to_table(filter=pa.dataset.field("year") == 2023).num_rows == 0


def test_the_state_of_triggers_is_that_of_its_time() -> None:
    triggers = Triggers()
    triggers.tell(Trigger(NAME, 100.0, 0, 10), "w")
    triggers.tell(Trigger("FDSN:XX_C__H_H_Z", 100.0, 0, 10), "w")
    triggers.tell(Trigger(NAME, 100.0, 0, 10, 5, 50), "w")
    state = triggers.snapshot()
    triggers.tell(Trigger("FDSN:XX_C__H_H_Z", 100.0, 0, 10, 6, 60), "w")
    assert [told.off_ns for told in state.open] == [None]
    assert [told.sid for told in state.closed] == [NAME]


def _disk_full(tasks: int) -> Iterator[bool]:
    yield from (False for _ in range(tasks))
    while True:
        yield True


def test_a_full_disk_ends_the_scan_with_one_sentence_and_keeps_what_was_done(
    archive_of_four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, settings, full = tmp_path / "out", configured(tmp_path), _disk_full(6)
    synced = os.fsync

    def fsync(file: int) -> None:
        synced(file)
        if "state/parts" in str(Path(f"/proc/self/fd/{file}").readlink()) and next(full):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ScanError, match=r"state/parts/.*\.part: No space left on device"):
        scan([archive_of_four], out, settings)
    monkeypatch.undo()
    kept = _parts(out)
    assert len(kept) == 6
    assert not list((out / "state/parts").rglob(".*"))
    assert scan([archive_of_four], out, settings) == 0
    assert {path: at for path, at in _parts(out).items() if path in kept} == kept
    assert_equal(out, reference([archive_of_four], settings))


def test_another_model_or_trigger_needs_another_folder(archive_of_four: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    scan([archive_of_four], out, configured(tmp_path))
    with pytest.raises(ScanError, match="holds a scan with another trigger; expected another folder"):
        scan([archive_of_four], out, configured(tmp_path, trigger={"trigger_on": 4.0}))
    with pytest.raises(ScanError, match="another part-hours"):
        scan([archive_of_four], out, configured(tmp_path), part_hours=1.0)
    with pytest.raises(ScanError, match=r"holds a scan of .*; expected that archive"):
        scan([archive_of_four.parent / "whole"], out, configured(tmp_path))
    assert scan([archive_of_four], out, configured(tmp_path, network=None)) == 0  # of which parts do not depend
    assert rows_of(out / "network_events") == []


def test_a_folder_that_holds_something_else_is_left_alone(archive_of_four: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ScanError, match=r"holds something else \(thesis\.tex\)"):
        scan([archive_of_four], out, configured(tmp_path))
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    with pytest.raises(ScanError, match="lies within the archive"):
        scan([archive_of_four], archive_of_four / "out", configured(tmp_path))
    assert not (archive_of_four / "out").exists()


def test_a_scan_that_found_nothing_leaves_the_folder_to_another(archive_of_four: Path, tmp_path: Path) -> None:
    site, out = tmp_path / "site", tmp_path / "out"
    with pytest.raises(ArchiveError, match="no such file or folder"):
        scan([site], out, configured(tmp_path))
    site.mkdir()
    with pytest.raises(ArchiveError, match="no recording found"):
        scan([site], out, configured(tmp_path))
    assert not out.exists()
    (site / "notes.txt").write_text("nothing to hear")
    with pytest.raises(ArchiveError, match=r"no recording found: .*notes\.txt"):
        scan([site], out, configured(tmp_path))
    assert scan([archive_of_four], out, configured(tmp_path)) == 0
    assert_equal(out, reference([archive_of_four], configured(tmp_path)))


def test_a_folder_that_was_deleted_can_be_scanned_with_other_parts(archive_of_four: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    scan([archive_of_four], out, configured(tmp_path), part_hours=1.0)
    shutil.rmtree(out)
    scan([archive_of_four], out, configured(tmp_path))
    assert_equal(out, reference([archive_of_four], configured(tmp_path)))


def test_one_scan_at_a_time(archive_of_four: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with taken(Layout(out)), pytest.raises(ScanError, match="another scan works on it"):
        scan([archive_of_four], out, configured(tmp_path))


def test_an_archive_without_recordings(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    with pytest.raises(ArchiveError, match="site: no recording found"):
        scan([site], tmp_path / "out", configured(tmp_path))
    (site / "notes.txt").write_text("nothing to hear")
    with pytest.raises(ArchiveError, match=r"no recording found: .*notes\.txt"):
        scan([site], tmp_path / "out", configured(tmp_path))
    with pytest.raises(ScanError, match=r"notes\.txt"):
        scan([site / "notes.txt"], tmp_path / "other", configured(tmp_path))


def test_the_command_says_one_sentence(archive_of_four: Path, tmp_path: Path) -> None:
    done = finished("scan", tmp_path / "nowhere", "--out", tmp_path / "out", "--config", write_settings(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"tscc-stream: {tmp_path / 'nowhere'}: no such file or folder\n"
    done = finished("scan", archive_of_four, "--out", tmp_path / "out", "--workers", "many")
    assert done.stderr == "tscc-stream: --workers many: expected auto or a whole number from 1 to 1024\n"
    assert done.returncode == 2


def test_no_process_outlives_an_interrupted_scan(archive_of_four: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    many = PART_HOURS / 10  # so that it cannot have ended before it is interrupted
    told = command("scan", archive_of_four, "--out", out, "--config", write_settings(tmp_path), "--part-hours", many)
    process = subprocess.Popen(told, stderr=subprocess.PIPE, start_new_session=True)
    while not list(out.glob("state/parts/*/*.part")):
        assert process.poll() is None
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)  # which waits until nobody holds its standard error any more
    assert (process.returncode, said) == (130, b"")
