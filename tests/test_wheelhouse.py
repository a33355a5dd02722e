"""A machine without any network is installed from the wheelhouse, and the demo runs there.

Takes a minute, a network to gather the wheels, and root for a network namespace with nothing but loopback: `.ci/run`
asks for it with TSCC_WHEELHOUSE=1.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from in_time import PATIENCE_S

ROOT = Path(__file__).parent.parent
ALONE = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")

pytestmark = [
    pytest.mark.skipif("TSCC_WHEELHOUSE" not in os.environ, reason="TSCC_WHEELHOUSE is not set"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not (ROOT / "dist").is_dir(), reason="`make install` has left no wheel in dist"),
]


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("carried") / "wheelhouse"
    subprocess.run(["sh", ROOT / "packaging/wheelhouse.sh", sys.executable, folder], check=True, timeout=5 * PATIENCE_S)
    return folder


def install(wheelhouse: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    told = [*ALONE, "sh", str(wheelhouse / "install.sh"), *map(str, arguments)]
    environment = {**os.environ, "PYTHON": sys.executable, "PIP_CONFIG_FILE": os.devnull}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(told, env=environment, capture_output=True, text=True, timeout=5 * PATIENCE_S, check=False)


def test_it_installs_without_a_network_and_the_demo_runs(wheelhouse: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "tscc-stream"
    done = install(wheelhouse, "--prefix", prefix)
    assert done.returncode == 0, done.stderr
    version = (wheelhouse / "VERSION").read_text().strip()
    assert prefix.readlink() == Path(f"tscc-stream-{version}")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    demo = subprocess.run(
        [*ALONE, str(prefix / "bin/tscc-stream"), "demo", "--jsonl", "--speed", "100"],
        capture_output=True, text=True, timeout=5 * PATIENCE_S, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert demo.returncode == 0, demo.stderr
    kinds = {json.loads(line)["type"] for line in demo.stdout.splitlines()}
    assert kinds >= {"tscc.detection.v1", "tscc.network_event.v1"}
    again = install(wheelhouse, "--prefix", prefix)
    assert (again.returncode, "is installed and in use" in again.stderr) == (1, True)
    old = tmp_path / "tscc-stream-0.0.1/bin/tscc-stream"
    old.parent.mkdir(parents=True)
    old.write_text("#!/bin/sh\n")
    old.chmod(0o755)
    assert install(wheelhouse, "--prefix", prefix, "--back", "0.0.1").returncode == 0
    assert prefix.readlink() == Path("tscc-stream-0.0.1")
    assert install(wheelhouse, "--prefix", prefix, "--back", version).returncode == 0


def test_what_was_damaged_on_the_way_is_named_and_nothing_changes(wheelhouse: Path, tmp_path: Path) -> None:
    carried = tmp_path / "wheelhouse"
    shutil.copytree(wheelhouse, carried, copy_function=os.link)
    wheel = next((carried / "wheels").glob("msgspec-*.whl"))
    content = bytearray(wheel.read_bytes())
    content[len(content) // 2] ^= 1
    wheel.unlink()
    wheel.write_bytes(content)
    done = install(carried, "--prefix", tmp_path / "there")
    assert done.returncode == 1
    assert f"wheels/{wheel.name}" in done.stdout + done.stderr
    assert "files are damaged or missing" in done.stderr
    (carried / "PYTHON").write_text("2.7 vax\n")
    done = install(carried, "--prefix", tmp_path / "there")
    assert "this wheelhouse is for 2.7 vax" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["wheelhouse"]
