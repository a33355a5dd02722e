"""`scan --ray`: the rows of `classify`, whoever is killed meanwhile; one sentence where there is no cluster."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from in_time import PATIENCE_S
from made_scan import Reference, assert_equal, configured, day_files, reference
from made_site import make_archive

from tscc_stream.scan import on_ray
from tscc_stream.scan.layout import Layout, ScanError

ALONE = (
    *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("sh", "-c", 'ip link set lo up && "$@"; exit $?', "sh"),
)
"""Whatever Ray leaves ends with the namespace."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    return day_files(make_archive(folder / "whole"), folder / "sds", 40.0)


@pytest.fixture(scope="module")
def expected(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference([archive], configured(tmp_path_factory.mktemp("classify")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def seen(archive: Path, folder: Path) -> dict[str, Any]:
    """What came of all scans by Ray, in one namespace."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: tscc-stream[ray]")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    told = [*ALONE, sys.executable, str(Path(__file__).parent / "ray_scans.py"), str(archive), str(folder)]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": 64 * "a"}
    done = subprocess.run(told, capture_output=True, text=True, timeout=5 * PATIENCE_S, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((folder / "seen.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("who", ["worker", "encoder"])
def test_who_is_killed_costs_nothing(who: str, seen: dict[str, Any], folder: Path, expected: Reference) -> None:
    came = seen[who]
    assert came["killed"]
    assert came["lost"], "nothing was under way when it was killed"
    assert came["status"] == 0
    assert len(expected.detections) > 10
    assert_equal(folder / who, expected)


def test_an_end_is_asked_for_and_a_cluster_goes_on_with_it(
    seen: dict[str, Any], folder: Path, expected: Reference
) -> None:
    came = seen["interrupted"]
    assert came["status"] == 128 + 15
    assert came["said"] == ""
    assert 0 < came["parts"] < 20
    assert came["raylets"] == 1, "that of the cluster stays, our own ends"
    assert seen["continued"] == {"status": 0, "said": ""}
    assert_equal(folder / "interrupted", expected)


@pytest.mark.parametrize(("name", "why"), [("closed", "Connection refused"), ("silent", "no answer within 3 s")])
def test_no_cluster(name: str, why: str, seen: dict[str, Any]) -> None:
    assert seen[name].startswith("--ray 127.0.0.1:")
    assert why in seen[name]
    assert "\n" not in seen[name]


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ScanError, match=r"^--ray local: Ray is not installed; expected tscc-stream\[ray\]$"):
        on_ray.placing("local")


@pytest.mark.parametrize("address", ["here", "10.0.0.2", "10.0.0.2:0", "ray://10.0.0.2:10001", ":6379"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: tscc-stream[ray]")
    with pytest.raises(ScanError, match=f"^--ray {address}: expected local, off or HOST:PORT"):
        on_ray.placing(address)


def test_a_node_must_see_the_folder_and_have_our_version(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert on_ray.unfit_for(layout, on_ray.__version__).startswith(f"does not see {layout.job}; expected --out on a")
    assert "expected 9.9" in on_ray.unfit_for(layout, "9.9")
