"""The systemd unit is well-formed and stays hardened."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tscc_stream.apps.alert_run import DRAIN_SECONDS
from tscc_stream.daemon import END_SECONDS

UNITS = Path(__file__).parent.parent / "systemd"
NAMES = ("tscc-stream.service", "tscc-stream@.service")
ALERT = "tscc-alert.service"
PROGRAM = "/opt/tscc-stream/bin/tscc-stream"
HIGHEST_EXPOSURE = 1.5

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture(params=(*NAMES, ALERT))
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit as it is shipped, with a program that this machine has: verify looks for it. A template as an instance."""
    shipped = (UNITS / request.param).read_text(encoding="utf-8")
    copy = tmp_path / request.param.replace("@.", "@north.")
    copy.write_text(shipped.replace(PROGRAM, "/bin/true"), encoding="utf-8")
    return copy


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


@needs_systemd
def test_verify_finds_nothing(unit: Path) -> None:
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, [line for line in done.stderr.splitlines() if "tscc-stream" in line]) == (0, [])


@needs_systemd
def test_exposure_stays_low(unit: Path) -> None:
    done = analyze("security", "--offline=true", "--no-pager", str(unit))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found.group(1)) <= HIGHEST_EXPOSURE, done.stdout


def settings_of(name: str) -> dict[str, list[str]]:
    """Each setting of a unit with its values in order."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize(
    ("name", "configuration", "folder"),
    [(NAMES[0], "/etc/tscc-stream/config", "tscc-stream"), (NAMES[1], "/etc/tscc-stream/%i", "tscc-stream/%i")],
)
def test_what_the_program_relies_on(name: str, configuration: str, folder: str) -> None:
    """Settings whose loss no analysis reports: without them it is killed, runs slowly, or cannot store anything."""
    settings = settings_of(name)
    assert settings["Type"] == ["notify"]
    assert settings["ExecStart"] == [f"{PROGRAM} run --config {configuration}.yaml"]
    assert int(settings["WatchdogSec"][0]) > 0
    assert settings["DynamicUser"] == ["yes"]
    assert settings["StateDirectory"] == settings["CacheDirectory"] == [folder]
    assert settings["WorkingDirectory"] == [f"/var/lib/{folder}"]
    assert settings["RestartPreventExitStatus"] == ["2"]
    assert f"NUMBA_CACHE_DIR=/var/cache/{folder}" in settings["Environment"][0].split()
    assert settings["LoadCredential"] == [f"credentials:{configuration}.credentials"]
    assert settings["SetCredential"] == ["credentials:none"], "a missing folder must not keep it from starting"
    assert "MemoryDenyWriteExecute" not in settings, "code is compiled at run time"
    assert "ProcSubset" not in settings, "torch needs /proc/cpuinfo"


@pytest.mark.parametrize("name", NAMES)
def test_an_end_has_the_time_that_it_may_take(name: str) -> None:
    """SIGKILL in the middle of it would look like a crash, and the windows in the encoder like its cause."""
    assert END_SECONDS == 37.0, "the sum that the units' comments show"
    assert f"{END_SECONDS:g} s in all" in (UNITS / name).read_text(encoding="utf-8")
    assert int(settings_of(name)["TimeoutStopSec"][0]) >= END_SECONDS + 5


@pytest.mark.parametrize("name", NAMES)
def test_what_zeromq_aborts_without(name: str) -> None:
    """Seen when the unit was really started: libzmq ends the process where these are refused."""
    settings = settings_of(name)
    assert {"AF_NETLINK", "AF_INET", "AF_INET6", "AF_UNIX"} == set(settings["RestrictAddressFamilies"][0].split())
    allowed, refused, again = settings["SystemCallFilter"]
    assert (allowed, refused) == ("@system-service", "~@privileged @resources")
    assert "sched_setscheduler" in again.split()


def test_the_two_units_differ_only_in_names() -> None:
    one, many = (settings_of(name) for name in NAMES)
    as_one = {key: [value.replace("/%i", "") for value in values] for key, values in many.items()}
    differing = {key for key in one.keys() | many.keys() if one.get(key) != as_one.get(key)}
    assert differing == {"Description", "ExecStart", "LoadCredential", "User"}


def test_the_alerts_share_user_state_and_secrets_with_the_daemon() -> None:
    """Of another user, the state folder would be taken away from the daemon."""
    daemon, alert = settings_of(NAMES[0]), settings_of(ALERT)
    assert (alert["DynamicUser"], alert["User"]) == (["yes"], [NAMES[0].removesuffix(".service")])
    own = {"Description", "After", "ExecStart", "ExecReload", "User", "TimeoutStartSec", "TimeoutStopSec"}
    differing = {key for key in daemon.keys() | alert.keys() if daemon.get(key) != alert.get(key)}
    assert differing == own | {"SystemCallFilter"}
    assert alert["ExecStart"] == [f"{PROGRAM} alert run --config /etc/tscc-stream/config.yaml"]
    assert alert["SystemCallFilter"] == ["@system-service", "~@privileged @resources", "sched_setscheduler"]
    assert int(alert["TimeoutStopSec"][0]) >= DRAIN_SECONDS + 5
