"""packaging/install.sh as root runs it on a machine: in a mount namespace with an /etc and /opt of its own.

Python and systemctl are stand-ins that make nothing but the files that matter here, so that it takes no minute; a real
installation is test_wheelhouse.py's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from in_time import PATIENCE_S

ROOT = Path(__file__).parent.parent
HERE = "mount --bind {folder}/etc /etc && mount --bind {folder}/opt /opt && umask {umask} && exec sh {told}"
PYTHON = """#!/bin/sh
case "$*" in
  -c*) echo 3.99 test ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip "*)
    eval "version=\\${$#}"
    cp "$(dirname "$0")/../../program" "$(dirname "$0")/tscc-stream"
    echo "${version#tscc-stream==}" > "$(dirname "$0")/version" ;;
esac
"""
PROGRAM = """#!/bin/sh
case "$*" in
  "model verify "*) [ ! -e "$(dirname "$0")/../../damaged-$(cat "$(dirname "$0")/version")" ] ;;
  "check-config "*) ! grep "^only_in_" "$2" | grep -v "only_in_$(cat "$(dirname "$0")/version"):" >&2 ;;
esac
"""
SYSTEMCTL = """#!/bin/sh
echo "$*" >> {folder}/systemctl.log
case "$1" in list-units) cat {folder}/active ;; esac
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces need root")


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


@dataclass
class Machine:
    """A machine's /etc and /opt, and what was carried to it."""

    folder: Path

    def carry(self, version: str) -> Path:
        """A wheelhouse without wheels."""
        carried = self.folder / f"wheelhouse-{version}"
        shutil.copytree(ROOT / "systemd", carried / "systemd")
        for path in (ROOT / "packaging/install.sh", ROOT / "config.yaml"):
            shutil.copy(path, carried)
        (carried / "VERSION").write_text(f"{version}\n")
        (carried / "PYTHON").write_text("3.99 test\n")
        return carried

    def install(self, version: str, *arguments: str, umask: str = "022") -> subprocess.CompletedProcess[str]:
        """From the wheelhouse of that version, carried there where it was not."""
        carried = self.folder / f"wheelhouse-{version}"
        if not carried.exists():
            self.carry(version)
        hashed = sorted(path for path in carried.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
        lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(carried)}" for path in hashed]
        (carried / "SHA256SUMS").write_text("\n".join(lines) + "\n")
        told = " ".join([f"{carried}/install.sh", *arguments])
        environment = {"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "PYTHON": f"{self.folder}/bin/python"}
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", HERE.format(folder=self.folder, umask=umask, told=told)],
            env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip

    @property
    def link(self) -> str:
        return os.fspath((self.folder / "opt/tscc-stream").readlink())

    def unit(self, name: str = "tscc-stream.service") -> Path:
        return self.folder / "etc/systemd/system" / name


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    executable(tmp_path / "opt/program", PROGRAM)
    executable(tmp_path / "bin/python", PYTHON)
    executable(tmp_path / "bin/systemctl", SYSTEMCTL.format(folder=tmp_path))
    (tmp_path / "active").touch()
    return Machine(tmp_path)


def well(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _not_entered(path: Path) -> bool:
    """Folders and programs that others cannot use."""
    return (path.is_dir() or path.name in ("python", "tscc-stream")) and not path.stat().st_mode & stat.S_IXOTH


@pytest.mark.parametrize("umask", ["022", "027", "077"])
def test_whatever_the_umask_of_root_others_can_run_the_program_and_read_the_configuration(
    machine: Machine, umask: str
) -> None:
    well(machine.install("0.1.0", umask=umask))
    roots = [machine.folder / "opt/tscc-stream-0.1.0", machine.folder / "etc"]
    made = [*roots, *(path for root in roots for path in root.rglob("*"))]
    shut = [path for path in made if not path.stat().st_mode & stat.S_IROTH or _not_entered(path)]
    assert shut == []
    assert "state_dir: /var/lib/tscc-stream " in (machine.folder / "etc/tscc-stream/config.yaml").read_text()
    assert stat.S_IMODE(machine.unit().stat().st_mode) == 0o644


def test_a_link_that_a_killed_installation_left_is_replaced(machine: Machine) -> None:
    well(machine.install("0.1.0"))
    (machine.folder / "opt/tscc-stream.new").symlink_to("tscc-stream-0.1.0")
    assert "version 0.2.0 is installed" in well(machine.install("0.2.0"))
    assert machine.link == "tscc-stream-0.2.0"
    assert sorted(path.name for path in (machine.folder / "opt").iterdir()) == [
        "program",
        "tscc-stream",
        "tscc-stream-0.1.0",
        "tscc-stream-0.2.0",
    ]
    (machine.folder / "opt/tscc-stream.new").mkdir()
    done = machine.install("0.3.0")
    assert (done.returncode, "could not be pointed to" in done.stderr) == (1, True)
    assert machine.link == "tscc-stream-0.2.0"


def test_a_version_whose_models_do_not_verify_is_not_pointed_to(machine: Machine) -> None:
    well(machine.install("0.1.0"))
    well(machine.install("0.2.0"))
    (machine.folder / "opt/damaged-0.1.0").touch()
    done = machine.install("0.2.0", "--back", "0.1.0")
    assert (done.returncode, "do not verify here" in done.stderr) == (1, True)
    (machine.folder / "opt/damaged-0.3.0").touch()
    done = machine.install("0.3.0")
    assert (done.returncode, "nothing was changed" in done.stderr) == (1, True)
    assert not (machine.folder / "opt/tscc-stream-0.3.0").exists(), "--back would find it"
    assert machine.link == "tscc-stream-0.2.0"


def test_units_go_with_the_version_that_is_pointed_to(machine: Machine) -> None:
    well(machine.install("0.1.0"))
    newer = machine.carry("0.2.0") / "systemd"
    with (newer / "tscc-stream.service").open("a") as unit:
        unit.write("# of 0.2.0\n")
    (newer / "tscc-novel.service").write_text("[Service]\n")
    old = machine.unit().read_text()
    well(machine.install("0.2.0"))
    assert machine.unit().read_text() == f"{old}# of 0.2.0\n"
    said = well(machine.install("0.2.0", "--back", "0.1.0"))
    assert machine.unit().read_text() == old
    assert "tscc-novel.service: this version has no such unit" in said
    assert (machine.folder / "systemctl.log").read_text().count("daemon-reload") == 3
    machine.unit().write_text("changed by hand\n")
    well(machine.install("0.2.0", "--back", "0.1.0"))
    assert machine.unit().read_text() == old
    assert machine.unit("tscc-stream.service.before").read_text() == "changed by hand\n"
    assert not machine.unit("tscc-console.service.before").exists(), "it is the same in both"


def test_every_process_that_goes_on_with_the_old_code_is_named(machine: Machine) -> None:
    assert "systemctl enable --now tscc-stream" in well(machine.install("0.1.0"))
    active = ("tscc-stream.service", "tscc-alert.service", "tscc-console.service")
    (machine.folder / "active").write_text("".join(f"{name} loaded active running What it is\n" for name in active))
    for arguments in ((), ("--back", "0.1.0")):
        said = well(machine.install("0.2.0", *arguments)).splitlines()
        assert said[-1].endswith(": systemctl restart tscc-stream.service tscc-alert.service tscc-console.service")


def test_a_configuration_that_the_other_version_refuses_is_named(machine: Machine) -> None:
    well(machine.install("0.1.0"))
    assert "refuses it" not in well(machine.install("0.2.0"))
    north = machine.folder / "etc/tscc-stream/north.yaml"
    north.write_text("only_in_0.2.0: true\n")
    done = machine.install("0.2.0", "--back", "0.1.0")
    assert "/etc/tscc-stream/north.yaml: this version refuses it" in well(done)
    assert "only_in_0.2.0" in done.stderr
    assert machine.link == "tscc-stream-0.1.0"
