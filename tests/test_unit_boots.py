"""The units under a systemd of their own, in a container: only there is it seen what their filters break.

Needs root, mmdebstrap, systemd-nspawn, and a network for Debian's packages; takes two or three minutes. Asked for
by name: `TSCC_BOOT=bookworm pytest tests/test_unit_boots.py` (or trixie: any suite of Debian).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from made_site import BURSTS_S, CHANNELS, make_archive

import tscc_stream
from tscc_stream import passwords

SUITE = os.environ.get("TSCC_BOOT", "")
UNITS = Path(__file__).parent.parent / "systemd"
TOOLS = ("mmdebstrap", "systemd-nspawn", "unshare")
PACKAGES = ("systemd", "systemd-sysv", "dbus", "libpython3-stdlib")  # the last for the libraries that Python needs
WORD = "correct horse battery"
BOOT = """
mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir -p /run/systemd && exec systemd-nspawn --quiet \
  --directory={root} --register=no --keep-unit --private-network --boot --console=pipe --machine=tscc-boots \
  --bind-ro={base}:/opt/python --bind-ro={packages}:/opt/tscc-stream/lib/{python}/site-packages \
  --bind-ro={source}:/opt/source --setenv=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1
"""
PROBE = Path(__file__).parent / "boot_probe.py"

pytestmark = [
    pytest.mark.skipif(not SUITE, reason="TSCC_BOOT names no suite of Debian to boot"),
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}"),
]


def put(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def install_program(root: Path, python: str) -> None:
    """A virtual environment under /opt/tscc-stream, whose packages are ours; they are mounted at the boot."""
    for folder in ("opt/python", "opt/source", f"opt/tscc-stream/lib/{python}/site-packages"):
        (root / folder).mkdir(parents=True)
    (root / "opt/tscc-stream/bin").mkdir()
    (root / "opt/tscc-stream/bin/python3").symlink_to(f"/opt/python/bin/{python}")
    put(root / "opt/tscc-stream/pyvenv.cfg", "home = /opt/python/bin\ninclude-system-site-packages = false\n")
    script = "#!/opt/tscc-stream/bin/python3\nimport sys\nfrom tscc_stream.cli import main\nsys.exit(main())\n"
    put(root / "opt/tscc-stream/bin/tscc-stream", script, 0o755)
    put(root / "etc/ld.so.conf.d/python.conf", "/opt/python/lib\n")


def install_units(root: Path) -> None:
    """As shipped. The drop-ins only say where our source lies; the probe ends the container."""
    system = root / "etc/systemd/system"
    for unit in UNITS.iterdir():
        put(system / unit.name, unit.read_text(encoding="utf-8"))
        put(system / f"{unit.name}.d/source.conf", "[Service]\nEnvironment=PYTHONPATH=/opt/source\n")
    put(
        system / "replay.service",
        "[Service]\nEnvironment=PYTHONPATH=/opt/source\n"
        "ExecStart=/opt/tscc-stream/bin/tscc-stream serve /opt/archive --bind 127.0.0.1:18000 --speed max\n",
    )
    put(
        system / "probe.service",
        "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\nTimeoutStartSec=200\nExecStartPre=/sbin/ldconfig\n"
        "ExecStart=/opt/tscc-stream/bin/python3 /opt/probe.py\nExecStopPost=/bin/systemctl --no-block poweroff\n",
    )
    wanted = system / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    (wanted / "probe.service").symlink_to("/etc/systemd/system/probe.service")


def install_site(root: Path, name: str, state: str, port: int, *, users: bool) -> None:
    settings: dict[str, Any] = {
        "site": name,
        "seedlink": [{"server": "127.0.0.1:18000", "streams": ["XX_*:HHZ"]}],
        "publish": {"bind": f"tcp://127.0.0.1:{port}", "replay_bind": f"tcp://127.0.0.1:{port + 1}"},
        "metrics": {"bind": f"127.0.0.1:{port + 2}"},
        "state_dir": f"/var/lib/{state}",
    }
    if users:
        settings["metrics"]["users_file"] = "users"
        put(root / f"etc/tscc-stream/{name}.credentials/users", passwords.line_for(name, WORD), 0o600)
    put(root / f"etc/tscc-stream/{name}.yaml", json.dumps(settings, indent=1))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the probe saw inside."""
    root, python = tmp_path_factory.mktemp("boot") / "root", f"python3.{sys.version_info.minor}"
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root],
        check=True, timeout=400,
    )  # fmt: skip
    install_program(root, python)
    install_units(root)
    make_archive(root / "opt/archive")
    put(root / "etc/hosts", "127.0.0.1 localhost\n")
    shutil.copy(PROBE, root / "opt/probe.py")
    install_site(root, "config", "tscc-stream", 6000, users=False)
    for number, name in enumerate(("north", "south"), start=1):
        install_site(root, name, f"tscc-stream/{name}", 6000 + 10 * number, users=True)
    source, packages = Path(tscc_stream.__file__).parents[1], sysconfig.get_path("purelib")
    boot = BOOT.format(root=root, base=sys.base_prefix, packages=packages, python=python, source=source)
    subprocess.run(["unshare", "--mount", "bash", "-c", boot], check=False, timeout=300, capture_output=True)
    return dict(json.loads((root / "opt/found.json").read_text(encoding="utf-8")))


def test_the_unit_starts_torch_classifies_and_ends(found: dict[str, Any]) -> None:
    one = found["tscc-stream"]
    assert (one["start"], one["reload"], one["Result"], one["ExecMainStatus"]) == (0, 0, "success", "0"), one["journal"]
    assert one["detections"] == len(BURSTS_S) * len(CHANNELS)
    assert one["Seccomp"] == "2"
    assert one["CapEff"] == "0000000000000000"


def test_alerts_and_console_run_beside_the_daemon_as_its_user(found: dict[str, Any]) -> None:
    alert, console = found["tscc-alert"], found["tscc-console"]
    for one in (alert, console):
        assert (one["start"], one["Result"], one["ExecMainStatus"]) == (0, "success", "0"), one["journal"]
    assert console["pages"] == dict.fromkeys(("live", "events", "clusters", "health"), 200), console["journal"]
    assert alert["list"] == 0, alert["list says"]


def test_two_sites_run_beside_each_other_as_two_users_with_their_own_secrets(found: dict[str, Any]) -> None:
    north, south = found["tscc-stream@north"], found["tscc-stream@south"]
    for name, site in (("north", north), ("south", south)):
        assert (site["start"], site["Result"], site["ExecMainStatus"]) == (0, "success", "0"), site["journal"]
        assert site["detections"] == len(BURSTS_S) * len(CHANNELS)
        assert site["credentials"] == [f"tscc-stream@{name}.service"], "of all services, it sees its own"
    assert north["Uid"] != south["Uid"]
