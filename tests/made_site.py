"""A small site for tests: recordings with known bursts, a configuration, and the program's commands as processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from forked import Forked
from in_time import PATIENCE_S

from tscc_stream import miniseed, package
from tscc_stream.source_id import from_nslc

START_NS = 1_700_000_000 * 10**9
RATE_HZ = 100.0
CHANNELS = ("XX.A..HHZ", "XX.B..HHZ", "XX.C..HHZ", "XX.D..HHZ")
BURSTS_S = (31, 55, 78, 101, 126)
SECONDS = 150


def samples_of(number: int, rate_hz: float = RATE_HZ) -> np.ndarray:
    """Noise of some hundred counts and, on every channel a little later, bursts within 10 to 20 Hz."""
    rng = np.random.default_rng(number)
    data = 300.0 * rng.standard_normal(int(SECONDS * rate_hz))
    t = np.arange(int(4 * rate_hz)) / rate_hz
    for count, second in enumerate(BURSTS_S):
        burst = 20_000.0 * (1 + count) * np.exp(-2.0 * t) * np.sin(2 * np.pi * (12 + count) * t)
        at = int((second + 0.31 * number) * rate_hz)
        data[at : at + t.size] += burst[: max(0, data.size - at)]
    return np.round(data).astype(np.int32)


def make_archive(
    folder: Path, *, rate_hz: float = RATE_HZ, channels: tuple[str, ...] = CHANNELS, **packing: Any
) -> Path:
    """One miniSEED file per channel; packing: as miniseed.encode takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, nslc in enumerate(channels):
        records = miniseed.encode(from_nslc(nslc), START_NS, rate_hz, samples_of(number, rate_hz), **packing)
        (folder / f"{nslc}.mseed").write_bytes(b"".join(records))
    return folder


ODD_SID = "FDSN:XX_ODD__EHZ"
"""miniSEED 3 allows it, and it names no channel."""


def add_odd_channel(folder: Path) -> None:
    """A recording of a source id that names no channel, beside those of `make_archive`."""
    records = miniseed.encode(ODD_SID, START_NS, RATE_HZ, samples_of(0), version=3)
    (folder / "odd.mseed").write_bytes(b"".join(records))


def settings(folder: Path, server: str = "127.0.0.1:18000", **over: Any) -> dict[str, Any]:
    return {
        "site": "test",
        "seedlink": [{"server": server, "streams": ["XX_*:HHZ"], "timeout_seconds": 2.0}],
        "model": str(package.find("models/demo")),
        "network": {"min_channels": 3, "patience_seconds": 1.0},
        "publish": {"bind": "tcp://127.0.0.1:0", "replay_bind": "tcp://127.0.0.1:0", "heartbeat_seconds": 0.2},
        "metrics": {"bind": "127.0.0.1:0"},
        "state_dir": str(folder / "state"),
        **over,
    }


def write_settings(folder: Path, *args: Any, **over: Any) -> Path:
    path = folder / "site.yaml"
    path.write_text(json.dumps(settings(folder, *args, **over), indent=1))  # JSON is YAML
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", "tscc_stream", *map(str, arguments)]


Here = Callable[..., subprocess.CompletedProcess[str]]
"""The fixture `here`: as `finished`, in the test's process."""


def finished(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command that has ended."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def command_after(begin: str, *arguments: object) -> list[str]:
    """The program as well, in a process that carries out some Python first: shorter queues, less patience."""
    text = f"{begin}; from tscc_stream.cli import program; program()"
    return [sys.executable, "-P", "-c", text, *map(str, arguments)]


class Running:
    """A command that runs: its stderr can be waited for. Ended by SIGTERM when the block ends.

    It need not load the program (`forked`), unless it is fresh. inside: a program that prepares something and then
    becomes the command that follows it, which is fresh. begin: as command_after has it.
    """

    def __init__(self, *arguments: object, inside: tuple[str, ...] = (), begin: str = "", fresh: bool = False) -> None:
        self._process: subprocess.Popen[bytes] | Forked
        read, write = os.pipe()
        self._stderr = os.fdopen(read, encoding="utf-8")
        with os.fdopen(write, "wb") as stderr, Path(os.devnull).open("wb") as nowhere:
            if inside or fresh:
                told = command_after(begin, *arguments) if begin else command(*arguments)
                self._process = subprocess.Popen(
                    [*inside, *told], stdin=subprocess.DEVNULL, stdout=nowhere, stderr=stderr
                )
            else:
                self._process = Forked(begin, [str(one) for one in arguments], nowhere.fileno(), stderr.fileno())
        self._lines: list[str] = []
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._stderr:
            with self._grown:
                self._lines.append(line.rstrip())
                self._grown.notify_all()
        with self._grown:
            self._lines.append("(ended)")
            self._grown.notify_all()

    def wait_for(self, pattern: str, timeout: float = PATIENCE_S) -> re.Match[str]:
        """The first line of stderr that holds the pattern."""
        deadline, seen = time.monotonic() + timeout, 0
        with self._grown:
            while True:
                for line in self._lines[seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = len(self._lines)
                if "(ended)" in self._lines or not self._grown.wait(deadline - time.monotonic()):
                    raise AssertionError(f"no line with {pattern!r} in:\n" + "\n".join(self._lines))

    def stop(self, number: int = signal.SIGTERM, timeout: float = PATIENCE_S) -> int:
        """Send a signal and wait; the exit status."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(timeout)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, number: int) -> None:
        """A signal that does not end it."""
        self._process.send_signal(number)

    def wait(self, timeout: float = PATIENCE_S) -> int:
        return self._process.wait(timeout)

    @property
    def text(self) -> str:
        self._reader.join(PATIENCE_S)
        return "\n".join(self._lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._process.poll() is None:
                self.stop()
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._reader.join(PATIENCE_S)
            self._stderr.close()


def serving(archive: Path, *options: object) -> tuple[Running, str]:
    """A replay server as a process of its own, and its address."""
    server = Running("serve", archive, "--bind", "127.0.0.1:0", *options)
    return server, server.wait_for(r"listening on (\S+)").group(1)
