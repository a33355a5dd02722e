"""Scans by Ray, for test_scan_ray.py: in namespaces of their own: Ray listens wherever it can, and leaves processes.

    python ray_scans.py ARCHIVE FOLDER

One cluster, of this machine alone, for all of them. What was seen goes to FOLDER/seen.json.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from in_time import PATIENCE_S
from made_scan import PART_HOURS, configured, scan
from made_site import command, write_settings

from tscc_stream.scan import on_ray
from tscc_stream.scan.layout import ScanError
from tscc_stream.scan.on_ray import OnRay
from tscc_stream.scan.placement import Done, Task

PROGRESS = re.compile(r"^tscc-stream: \w+: [\d,.]+ of [\d,.]+ .*\n", re.MULTILINE)
"""What a scan says now and then, the more often the slower it is."""
RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]


def titled(title: str) -> list[int]:
    """Processes by the beginning of what they call themselves."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (path / "cmdline").read_bytes().startswith(title.encode()):
                found.append(int(path.name))
    return found


@dataclass
class Killing:
    """Makes placements that kill a process in the middle of its work: it is stopped, and killed when all wait for it.

    Until work was lost with it: an encoder that is killed before it was ready is only waited for longer.

    title: of the process.
    """

    title: str
    address: str
    encoders: int = 0
    stopped: int | None = None
    killed: list[int] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def place(self, folder: Path, workers: int) -> OnRay:
        test = self

        class Placement(OnRay):
            def submit(self, task: Task) -> None:
                super().submit(task)
                while task.kind == "part" and not test.lost and test.stopped is None and not self.any_done():
                    test.stop()
                    time.sleep(0.002)

            def any_done(self) -> bool:
                return bool(ray.wait(list(self._under_way), timeout=0)[0])

            def wait(self, seconds: float) -> list[Done]:
                done = super().wait(seconds)
                test.lost += [one.error for one in done if one.lost]
                if not done and test.stopped is not None:
                    test.kill(test.stopped)
                return done

        return Placement(folder, workers, self.address, self.encoders)

    def stop(self) -> None:
        for pid in [pid for pid in titled(self.title) if pid not in self.killed][:1]:
            os.kill(pid, signal.SIGSTOP)
            self.stopped = pid

    def kill(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.killed.append(pid)
        self.stopped = None


def cluster() -> str:
    """The address of one, which ends with the namespace."""
    told = [*RAY, "start", "--head", "--port=6379", "--num-cpus=2", "--node-ip-address=127.0.0.1",
            "--include-dashboard=false", "--object-store-memory=100000000", "--disable-usage-stats"]  # fmt: skip
    subprocess.run(told, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=PATIENCE_S)
    return "127.0.0.1:6379"


def refused(archive: Path, folder: Path, address: str) -> str:
    def place(out: Path, workers: int) -> OnRay:
        return OnRay(out, workers, address)

    try:
        scan([archive], folder / "refused", configured(folder), place)
    except ScanError as error:
        return str(error)
    return ""


def interrupted(archive: Path, out: Path, settings: Path) -> dict[str, Any]:
    """`--ray local`, asked to end when some of it is done."""
    told = command("scan", archive, "--out", out, "--config", settings, "--ray", "local", "--part-hours", PART_HOURS)
    process = subprocess.Popen(told, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("state/parts/*/*.part")) and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate(timeout=PATIENCE_S)
    done = len(list(out.glob("state/parts/*/*.part")))
    raylets = titled(str(Path(ray.__file__).parent / "core/src/ray/raylet/raylet"))
    return {"status": process.returncode, "said": PROGRESS.sub("", said), "parts": done, "raylets": len(raylets)}


def timed(name: str, work: Callable[[], Any], seen: dict[str, Any]) -> None:
    begin = time.monotonic()
    seen[name] = work()
    sys.stderr.write(f"{name}: {time.monotonic() - begin:.1f} s\n")


def main(archive: Path, folder: Path) -> None:
    seen: dict[str, Any] = {}
    settings = configured(folder)
    file = write_settings(folder)

    def killed(killing: Killing, out: str) -> dict[str, Any]:
        status = scan([archive], folder / out, settings, killing.place, workers=2)
        return {"status": status, "killed": killing.killed, "lost": killing.lost}

    address = cluster()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        timed("worker", lambda: killed(Killing("ray::scan part", address), "worker"), seen)
        timed("encoder", lambda: killed(Killing("ray::RayEncoder", address, encoders=1), "encoder"), seen)
        timed("interrupted", lambda: interrupted(archive, folder / "interrupted", file), seen)
        told = command("scan", archive, "--out", folder / "interrupted", "--config", file, "--ray", address,
                       "--part-hours", PART_HOURS)  # fmt: skip
        done = subprocess.run(told, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        seen["continued"] = {"status": done.returncode, "said": PROGRESS.sub("", done.stderr)}
        on_ray.JOIN_SECONDS = 3.0
        timed("closed", lambda: refused(archive, folder, "127.0.0.1:9"), seen)
        timed("silent", lambda: refused(archive, folder, f"127.0.0.1:{silent.getsockname()[1]}"), seen)
    (folder / "seen.json").write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
