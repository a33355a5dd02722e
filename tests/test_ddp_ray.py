"""`train --ray local`: Ray Train places the processes. Ray listens outward: it runs where there is only loopback."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from in_time import PATIENCE_S
from test_ddp_runs import Here, arguments, command, environment
from test_train import data_set

from tscc_stream.edges.parquet_windows import WindowsError
from tscc_stream.learn import on_ray, stored
from tscc_stream.learn.settings import TrainingError

ALONE = ("unshare", "--net", "--mount", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray Train is not installed: tscc-stream[ray]")
@pytest.mark.usefixtures("one_torch_thread")
def test_two_processes_of_ray_give_the_curve_of_one(tmp_path: Path, here: Here) -> None:
    stored.save(data_set(60), tmp_path / "d")
    told = [*ALONE, *command(tmp_path, "--processes", "2", "--ray", "local")]
    done = subprocess.run(told, env=environment(), capture_output=True, text=True, check=False, timeout=5 * PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert "2 clusters" in done.stdout
    (log,) = (tmp_path / "runs").glob("*/train.log")
    assert "2 processes train together" in log.read_text()
    found = json.loads((log.parent / "metrics.json").read_text())["history"]
    again = arguments(tmp_path)
    again[again.index("--runs") + 1] = str(tmp_path / "alone")
    assert here(*again).returncode == 0
    (alone,) = (tmp_path / "alone").glob("*/metrics.json")
    for one, other in zip(found, json.loads(alone.read_text())["history"], strict=True):
        assert one["surrogate"] == pytest.approx(other["surrogate"], rel=1e-4)


def test_what_any_process_finds_wrong_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(**_: object) -> None:
        raise WindowsError("d/part-00001.parquet: damaged")

    monkeypatch.setattr(on_ray, "train_model", damaged)
    monkeypatch.setattr(on_ray.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(on_ray.distributed, "get_world_size", lambda: 2)
    for _ in range(2):  # Ray may start it again
        on_ray._each({"options": {}, "said": str(tmp_path / "said")})
    assert (tmp_path / "said").read_text() == "d/part-00001.parquet: damaged"


def test_without_ray_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TrainingError, match=r'Ray Train is not installed; expected pip install "tscc-stream\[ray\]"'):
        on_ray.train("local", {}, 2)
