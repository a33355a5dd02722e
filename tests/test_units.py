"""The systemd unit is well-formed and stays hardened."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from in_time import PATIENCE_S

from tscc_stream.apps import bridge_run
from tscc_stream.apps.alert_run import DRAIN_SECONDS
from tscc_stream.daemon import END_SECONDS

UNITS = Path(__file__).parent.parent / "systemd"
NAMES = ("tscc-stream.service", "tscc-stream@.service")
SHARD, COINCIDE = "tscc-stream-shard@.service", "tscc-coincide.service"
ALERT, CONSOLE, BRIDGE = "tscc-alert.service", "tscc-console.service", "tscc-bridge.service"
BESIDE = (ALERT, CONSOLE, BRIDGE)
OF_SITES = {NAMES[0]: NAMES[1], **{name: name.replace(".", "@.") for name in BESIDE}}
"""Each unit, and its form for several sites."""
MANY_SOURCES = {"SystemCallFilter", "LimitNOFILE"}
PROGRAM = "/opt/tscc-stream/bin/tscc-stream"
HIGHEST_EXPOSURE = 1.5

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture(params=[*(name for both in OF_SITES.items() for name in both), SHARD, COINCIDE])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit as it is shipped, with a program that this machine has: verify looks for it. A template as an instance."""
    shipped = (UNITS / request.param).read_text(encoding="utf-8")
    copy = tmp_path / request.param.replace("@.", "@7.")
    copy.write_text(shipped.replace(PROGRAM, "/bin/true"), encoding="utf-8")
    return copy


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


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


@pytest.mark.parametrize("name", [*NAMES, SHARD])
def test_an_end_has_the_time_that_it_may_take(name: str) -> None:
    """SIGKILL in the middle of it would look like a crash, and the windows in the encoder like its cause."""
    assert END_SECONDS == 37.0, "the sum that the units' comments show"
    assert f"{END_SECONDS:g} s in all" in (UNITS / name).read_text(encoding="utf-8")
    assert int(settings_of(name)["TimeoutStopSec"][0]) >= END_SECONDS + 5


@pytest.mark.parametrize("name", [*NAMES, SHARD, COINCIDE, *BESIDE])
def test_what_zeromq_aborts_without(name: str) -> None:
    """Seen when the unit was really started: libzmq ends the process where these are refused."""
    settings = settings_of(name)
    assert {"AF_NETLINK", "AF_INET", "AF_INET6", "AF_UNIX"} == set(settings["RestrictAddressFamilies"][0].split())
    allowed, refused, again = settings["SystemCallFilter"]
    assert (allowed, refused) == ("@system-service", "~@privileged @resources")
    assert "sched_setscheduler" in again.split()


@pytest.mark.parametrize("name", OF_SITES)
def test_the_form_for_several_sites_differs_only_in_names(name: str) -> None:
    one, many = settings_of(name), settings_of(OF_SITES[name])
    as_one = {key: [value.replace("/%i", "") for value in values] for key, values in many.items()}
    differing = {key for key in one.keys() | many.keys() if one.get(key) != as_one.get(key)}
    assert differing == {"Description", "ExecStart", "LoadCredential", "User"} | (
        {"After"} if name in BESIDE else set()
    )
    assert many["User"] == ["tscc-%i"]
    assert many["ExecStart"] == [one["ExecStart"][0].replace("config.yaml", "%i.yaml")]


def test_the_form_for_shards_differs_in_names_and_has_one_configuration() -> None:
    one, shard = settings_of(NAMES[0]), settings_of(SHARD)
    as_one = {key: [value.replace("/shard-%i", "") for value in values] for key, values in shard.items()}
    differing = {key for key in one.keys() | shard.keys() if one.get(key) != as_one.get(key)}
    assert differing == {"Description", "ExecStart", "User"}
    assert shard["User"] == ["tscc-shard-%i"]
    assert shard["ExecStart"] == [one["ExecStart"][0] + " --shard %i"]


def test_network_events_over_many_daemons_have_a_user_and_a_folder_of_their_own() -> None:
    unit = settings_of(COINCIDE)
    assert unit["ExecStart"] == [f"{PROGRAM} coincide --config /etc/tscc-stream/coincide.yaml"]
    assert (unit["User"], unit["StateDirectory"]) == (["tscc-coincide"], ["tscc-coincide"])
    assert unit["LoadCredential"] == ["credentials:/etc/tscc-stream/coincide.credentials"]


@pytest.mark.parametrize(
    ("name", "command", "own"),
    [(ALERT, "alert run", MANY_SOURCES), (BRIDGE, "bridge", MANY_SOURCES), (CONSOLE, "console", set())],
)
def test_what_runs_beside_shares_user_state_and_secrets_with_the_daemon(name: str, command: str, own: set[str]) -> None:
    """Of another user, the state folder would be taken away from the daemon."""
    daemon, beside = settings_of(NAMES[0]), settings_of(name)
    assert (beside["DynamicUser"], beside["User"]) == (["yes"], [NAMES[0].removesuffix(".service")])
    own = own | {"Description", "After", "ExecStart", "ExecReload", "User", "TimeoutStartSec", "TimeoutStopSec"}
    assert {key for key in daemon.keys() | beside.keys() if daemon.get(key) != beside.get(key)} == own
    assert beside["ExecStart"] == [f"{PROGRAM} {command} --config /etc/tscc-stream/config.yaml"]


@pytest.mark.parametrize("name", [ALERT, BRIDGE, COINCIDE])
def test_two_hundred_sources_have_enough_open_files(name: str) -> None:
    assert int(settings_of(name)["LimitNOFILE"][0]) >= 200 * 2 * 20 * 2


@pytest.mark.parametrize(("name", "drain_seconds"), [(ALERT, DRAIN_SECONDS), (BRIDGE, bridge_run.DRAIN_SECONDS)])
def test_alerts_and_bridge_need_no_priority_and_have_time_to_deliver(name: str, drain_seconds: float) -> None:
    unit = settings_of(name)
    assert unit["SystemCallFilter"] == ["@system-service", "~@privileged @resources", "sched_setscheduler"]
    assert int(unit["TimeoutStopSec"][0]) >= drain_seconds + 5
