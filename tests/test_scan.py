"""`scan`: the rows of `classify`, however the archive was cut, and through whatever happened meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_time import PATIENCE_S
from made_scan import PART_HOURS, Here, Reference, assert_equal, configured, day_files, reference, scan
from made_site import command, make_archive, write_settings

from tscc_stream.scan.local import Local
from tscc_stream.scan.placement import Task


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four channels with a gap, duplicates and an overlap, in day-like files."""
    folder = tmp_path_factory.mktemp("site")
    whole = make_archive(folder / "whole", record_length=256)
    for number, path in enumerate(sorted(whole.iterdir())):
        data = path.read_bytes()
        records = [data[at : at + 256] for at in range(0, len(data), 256)]
        del records[100 + 10 * number : 103 + 10 * number]  # a gap of some seconds
        records += records[40:60] if number == 1 else []  # sent twice
        path.write_bytes(b"".join(records))
    return day_files(whole, folder / "sds", 40.0)


@pytest.fixture(scope="module")
def expected(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference([site], configured(tmp_path_factory.mktemp("classify")))


def test_the_rows_are_those_of_classify(site: Path, expected: Reference, tmp_path: Path) -> None:
    assert scan([site], tmp_path / "out", configured(tmp_path)) == 0
    assert len(expected.detections) > 10
    assert len(expected.network) > 3
    assert_equal(tmp_path / "out", expected)


@settings(max_examples=5)
@given(hours=st.floats(0.003, 0.05))
def test_any_cut_gives_the_same_rows(
    site: Path, expected: Reference, tmp_path_factory: pytest.TempPathFactory, hours: float
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    scan([site], folder / "out", configured(folder), part_hours=hours)
    assert_equal(folder / "out", expected)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_processes_gives_the_same_rows(
    workers: int, site: Path, expected: Reference, tmp_path: Path
) -> None:
    assert scan([site], tmp_path / "out", configured(tmp_path), Local, workers=workers) == 0
    assert_equal(tmp_path / "out", expected)


class _Killing(Local):
    """Kills the first worker that has a part to do, while it does it."""

    killed = 0

    def submit(self, task: Task) -> None:
        super().submit(task)
        if task.kind == "part" and not self.killed:
            self.killed = self.pids[0]
            os.kill(self.killed, signal.SIGKILL)


def test_a_worker_that_is_killed_costs_nothing(site: Path, expected: Reference, tmp_path: Path) -> None:
    made: list[_Killing] = []

    def place(folder: Path, workers: int) -> _Killing:
        made.append(_Killing(folder, workers))
        return made[0]

    assert scan([site], tmp_path / "out", configured(tmp_path), place, workers=2) == 0
    assert made[0].killed
    assert_equal(tmp_path / "out", expected)


def test_a_scan_that_is_killed_goes_on_where_it_stood(site: Path, expected: Reference, tmp_path: Path) -> None:
    out, file = tmp_path / "out", write_settings(tmp_path)
    told = command("scan", site, "--out", out, "--config", file, "--workers", 2, "--part-hours", PART_HOURS)
    process = subprocess.Popen(told, stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(out.glob("state/parts/*/*.part")):
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait(PATIENCE_S)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("state/parts/*/*.part")}
    assert scan([site], out, configured(tmp_path)) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_equal(out, expected)


def test_a_second_run_changes_nothing(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    scan([site], out, configured(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in (out / "detections").rglob("*")}
    made: list[Here] = []

    def place(folder: Path, _workers: int) -> Here:
        made.append(Here(folder))
        return made[0]

    assert scan([site], out, configured(tmp_path), place) == 0
    assert made[0].tasks == []
    assert {path: path.stat().st_mtime_ns for path in (out / "detections").rglob("*")} == before
