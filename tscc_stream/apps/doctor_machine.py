"""What `doctor` looks at on any machine: Python and packages, torch, memory, open files, clock, compiled loops."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from tscc_stream import __version__
from tscc_stream.apps import machine_clock
from tscc_stream.apps.finding import Check, Finding, fail, ok, some, warn
from tscc_stream.apps.machine_clock import ClockError

OLDEST_PYTHON: Final = (3, 11)
LITTLE_MEMORY, VERY_LITTLE_MEMORY = 1 << 30, 300 << 20
FEW_FILES: Final = 1024
EARLIEST_S: Final = 1_767_225_600  # 2026-01-01: this program is no older
LATEST_S: Final = 4_102_444_800  # 2100-01-01
_ERROR_SECONDS: Final = 1.0
"""Of the clock, at most, as the kernel estimates it, beyond which ages of data mean little."""


def checks(device: str = "auto") -> list[Check]:
    """device: inference.device."""
    return [
        Check("python", python),
        Check("packages", packages),
        Check("torch", lambda: torch_runs(device), patience=3.0),
        Check("memory", memory),
        Check("open files", open_files),
        Check("clock", clock),
        Check("compiled loops", compiled_loops, patience=3.0),
    ]


def python() -> list[Finding]:
    found = f"{platform.python_version()} in {sys.prefix}, tscc-stream {__version__}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return [fail("python", found, "install Python 3.11 or newer and make the environment anew")]
    return [ok("python", found)]


def packages() -> list[Finding]:
    """Those that tscc-stream needs, beside what their metadata ask for."""
    try:
        required = metadata.requires("tscc-stream") or []
    except metadata.PackageNotFoundError:
        return [warn("packages", "tscc-stream is not installed here, it runs from its source", "pip install it")]
    wrong, have = [], []
    for requirement in required:
        if "extra ==" in requirement:
            continue
        name, wanted = _parted(requirement)
        version = _version(name)
        have.append(f"{name} {version}")
        if version is None or not fits(version, wanted):
            wrong.append(f"{name} {version or 'is missing'}{f', expected {wanted}' if wanted else ''}")
    if wrong:
        todo = "install tscc-stream anew with its constraints file: pip install -c constraints.txt tscc_stream-*.whl"
        return [fail("packages", some(wrong, 5), todo)]
    return [ok("packages", some(have, 30))]


def _parted(requirement: str) -> tuple[str, str]:
    match = re.match(r"([A-Za-z0-9._-]+)\s*([^;]*)", requirement)
    return (match.group(1), match.group(2).strip()) if match else (requirement, "")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def fits(version: str, wanted: str) -> bool:
    """Whether a version keeps to `>=2.6,<2.14`: numbers alone, as our own requirements have them."""
    has = _numbers(version)
    bounds = re.findall(r"(>=|<)\s*([0-9.]+)", wanted)
    return all(has >= _numbers(limit) if sign == ">=" else has < _numbers(limit) for sign, limit in bounds)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"[0-9]+(\.[0-9]+)*", version)
    parts = [int(part) for part in match.group().split(".")] if match else [0]
    return tuple(parts + [0] * (4 - len(parts)))


def torch_runs(device: str) -> list[Finding]:
    """Whether the library that runs the model loads, and on what."""
    try:
        import torch  # noqa: PLC0415 takes seconds
    except (ImportError, OSError) as error:
        return [fail("torch", f"does not load: {error}", "install it anew: pip install -c constraints.txt torch")]
    version = torch.__version__
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        return [ok("torch", f"{version} on {name} ({torch.cuda.device_count()} CUDA device(s))")]
    if device.startswith("cuda"):
        todo = "look at nvidia-smi, install a torch that is built for CUDA, or say inference.device: auto"
        return [fail("torch", f"{version}: no CUDA device, and inference.device is {device}", todo)]
    return [ok("torch", f"{version} on the CPU ({torch.backends.cpu.get_cpu_capability()}); no CUDA device")]


def memory() -> list[Finding]:
    available, limit = _available(), _limit()
    least = min(available, limit)
    cores = len(os.sched_getaffinity(0))
    found = f"{available / 2**30:.1f} GiB available, {cores} core(s)"
    if limit < available:
        found += f", limited to {limit / 2**30:.1f} GiB for this group of processes"
    if least < VERY_LITTLE_MEMORY:
        return [fail("memory", found, "give it memory: the daemon needs about 0.5 GiB for 100 channels")]
    if least < LITTLE_MEMORY:
        return [warn("memory", found, "end what else runs here, or give it more: at least 1 GiB is comfortable")]
    return [ok("memory", found)]


def _available() -> float:
    match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    return float(match.group(1)) * 1024 if match else float("inf")


def _limit() -> float:
    """What the control group of this process leaves; infinite where there is none."""
    try:
        most = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii").strip()
        return float("inf") if most == "max" else float(most) - float(used)
    except (OSError, ValueError):
        return float("inf")


def open_files() -> list[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        todo = f"raise it: LimitNOFILE={FEW_FILES} in the unit, or ulimit -n {FEW_FILES}"
        return [warn("open files", f"at most {soft} per process", todo)]
    return [ok("open files", f"at most {'any number' if soft == resource.RLIM_INFINITY else soft} per process")]


def clock() -> list[Finding]:
    """Whether the kernel thinks that its clock is right: whoever disciplines it (chrony, ntpd, timesyncd) says so."""
    now_s = time.time()
    told = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    if not EARLIEST_S < now_s < LATEST_S:
        return [fail("clock", f"says {told}", "set it (timedatectl set-time), and let chrony or timesyncd keep it")]
    return list(_discipline(told))


def _discipline(told: str) -> Iterator[Finding]:
    try:
        kept = machine_clock.ask()
    except ClockError as error:
        yield warn(
            "clock", f"{told}; whether it is synchronised cannot be told here: {error}", "look at it on the host"
        )
        return
    if not kept.synchronised:
        todo = "onsets are as good as the clock of the recorders, ages of data as good as this one: enable chrony"
        yield warn("clock", f"{told}; not synchronised", f"{todo} or systemd-timesyncd with a server of your network")
    elif kept.error_s > _ERROR_SECONDS:
        todo = "look at `chronyc tracking` or `timedatectl timesync-status`: its server may be out of reach"
        yield warn("clock", f"{told}; synchronised, but may be {kept.error_s:.1f} s off", todo)
    else:
        yield ok("clock", f"{told}; synchronised, at most {kept.error_s:.3f} s off")


def compiled_loops() -> list[Finding]:
    """Whether what numba compiles can be kept."""
    try:
        from tscc_stream.kernels import compiled  # noqa: PLC0415 takes a second
    except ImportError as error:
        return [fail("compiled loops", f"numba does not load: {error}", "pip install -c constraints.txt numba")]
    named, source = os.environ.get("NUMBA_CACHE_DIR"), Path(compiled.__file__).parent
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folders = [Path(named)] if named else [source / "__pycache__", home / "numba"]  # in the order in which numba tries
    folder = next((one for one in folders if _can_write(one)), None)
    if folder is not None:
        return [ok("compiled loops", f"kept in {folder}")]
    todo = (
        "set NUMBA_CACHE_DIR to a folder that the daemon's user may write to (the units do), else each start compiles"
    )
    return [warn("compiled loops", f"cannot be kept: {folders[0]} cannot be written to", todo)]


def _can_write(folder: Path) -> bool:
    """By trying, in the nearest folder that is there."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
