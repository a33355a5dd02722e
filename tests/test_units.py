"""The systemd unit is well-formed and stays hardened."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parent.parent / "systemd" / "tscc-stream.service"
PROGRAM = "/opt/tscc-stream/bin/tscc-stream"
HIGHEST_EXPOSURE = 1.5

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit as it is shipped, with a program that this machine has: verify looks for it."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace(PROGRAM, "/bin/true"), encoding="utf-8")
    return copy


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


@needs_systemd
def test_verify_finds_nothing(unit: Path) -> None:
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, [line for line in done.stderr.splitlines() if unit.name in line]) == (0, [])


@needs_systemd
def test_exposure_stays_low(unit: Path) -> None:
    done = analyze("security", "--offline=true", "--no-pager", str(unit))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found.group(1)) <= HIGHEST_EXPOSURE, done.stdout


def test_what_the_program_relies_on() -> None:
    """Settings whose loss no analysis reports: without them it is killed, runs slowly, or cannot store anything."""
    lines = [line.strip() for line in UNIT.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("SystemCallFilter"))
    assert settings["Type"] == "notify"
    assert settings["ExecStart"] == f"{PROGRAM} run --config /etc/tscc-stream/config.yaml"
    assert int(settings["WatchdogSec"]) > 0
    assert settings["DynamicUser"] == "yes"
    assert settings["StateDirectory"] == settings["CacheDirectory"] == "tscc-stream"
    assert settings["RestartPreventExitStatus"] == "2"
    assert "NUMBA_CACHE_DIR=/var/cache/tscc-stream" in settings["Environment"]
    assert "MemoryDenyWriteExecute" not in settings, "code is compiled at run time"
    assert "ProcSubset" not in settings, "torch needs /proc/cpuinfo"
