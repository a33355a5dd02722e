"""`train` by several processes, as people start it: ended by a signal and taken up again, told what went wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from in_time import PATIENCE_S
from test_train import data_set

from tscc_stream.learn import many, stored

Here = Callable[..., subprocess.CompletedProcess[str]]
FEW = ("--clusters", "2", "--device", "cpu", "--set", "hidden=6", "--set", "depth=2", "--batch-size", "8")


def arguments(folder: Path, *more: str, epochs: int = 2) -> list[str]:
    given = ["--data", str(folder / "d"), "--out", str(folder / "m"), "--runs", str(folder / "runs")]
    lengths = ["--epochs-pretrain", str(epochs), "--epochs-finetune", "1"]
    return ["train", *given, *FEW, *lengths, *more]


def command(folder: Path, *more: str, epochs: int = 2) -> list[str]:
    return [sys.executable, "-m", "tscc_stream", *arguments(folder, *more, epochs=epochs)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def curve(folder: Path) -> list[dict[str, float]]:
    (path,) = (folder / "runs").glob("*/metrics.json")
    return json.loads(path.read_text())["history"]


def children(pid: int) -> list[int]:
    """Processes that train: those of a process that hold the gloo threads are started by spawn."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in found if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]


@pytest.mark.usefixtures("one_torch_thread")
def test_a_run_whose_process_is_killed_is_taken_up_by_another_number_with_the_same_curve(
    tmp_path: Path, here: Here
) -> None:
    for name in ("cut", "whole"):
        (tmp_path / name).mkdir()
        stored.save(data_set(160), tmp_path / name / "d")
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    running = subprocess.Popen(command(cut, "--processes", "2", epochs=16), env=environment(), stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, text=True)  # fmt: skip
    deadline = time.monotonic() + PATIENCE_S
    while not (there := list((cut / "runs").glob("*/checkpoint.pt"))):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(children(running.pid)[1], signal.SIGKILL)
    _, said = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 1
    assert said == "tscc-stream: process 1 of 2 was ended by SIGKILL; the others were ended too\n"
    assert not (cut / "m").exists()
    assert not (there[0].parent / "metrics.json").exists()
    for folder in (cut, whole):  # by one process
        done = here(*arguments(folder, epochs=16))
        assert done.returncode == 0, done.stderr
    assert "resumed after epoch" in (there[0].parent / "train.log").read_text()
    assert len(curve(cut)) == 17
    for one, other in zip(curve(cut), curve(whole), strict=True):
        assert one["surrogate"] == pytest.approx(other["surrogate"], rel=1e-4)
        assert one["clustering"] == pytest.approx(other["clustering"], rel=1e-2, abs=1e-6)


class EndsBetween:
    """A process that ends between one look at it and the next."""

    def __init__(self, sentinel: int) -> None:
        self.sentinel = sentinel
        self.looks = 0

    @property
    def exitcode(self) -> int | None:
        self.looks += 1
        return None if self.looks == 1 else 0


def test_all_that_end_at_once_are_not_waited_for_for_ever() -> None:
    kept, closed = os.pipe()
    os.close(closed)
    codes: list[int | None] = []
    waiting = Thread(target=lambda: codes.extend(many._ended([EndsBetween(kept)])), daemon=True)
    waiting.start()
    waiting.join(PATIENCE_S)
    os.close(kept)
    assert codes == [0]


def test_torchrun_starts_the_processes_as_well_and_what_is_wrong_is_one_sentence(tmp_path: Path) -> None:
    stored.save(data_set(60), tmp_path / "d")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = [*torchrun, *command(tmp_path)[1:]]
    done = subprocess.run(program, env=environment() | {"GLOO_SOCKET_IFNAME": "lo"}, capture_output=True, text=True,
                          check=False, timeout=PATIENCE_S)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 clusters") == 1
    assert len(curve(tmp_path)) == 3
    (log,) = (tmp_path / "runs").glob("*/train.log")
    assert "2 processes train together" in log.read_text()
    payload = bytearray((tmp_path / "d/part-00000.parquet").read_bytes())
    payload[2000] ^= 0xFF
    (tmp_path / "d/part-00000.parquet").write_bytes(payload)
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(command(tmp_path, "--processes", "2"), env=environment() | {"TMPDIR": str(tmp_path / "tmp")},
                          capture_output=True, text=True, check=False, timeout=PATIENCE_S)  # fmt: skip
    assert done.returncode == 1
    assert list((tmp_path / "tmp").iterdir()) == []
    assert done.stderr.startswith(f"tscc-stream: {tmp_path}/d/part-00000.parquet: not a readable Parquet file")
    assert done.stderr.count("\n") == 1
