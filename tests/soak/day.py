"""A day of data through a real socket, as fast as it goes: does memory grow, do files stay open, does the journal keep
to its retention?

    PYTHONPATH=tests python tests/soak/day.py [--hours 24] [--channels 64] [--rate 500] [--every 1]

A replay server plays a looped archive into a daemon; once every `--every` hours of data a line tells the daemon's
resident memory, its open files, the journal's used and whole size, detections, and hours of data per hour.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from made_site import Running, settings

from tscc_stream import miniseed
from tscc_stream.edges.sqlite import JournalFile
from tscc_stream.source_id import from_nslc

LOOP_SECONDS = 600
BURSTS = (150, 360, 540)
"""Seconds of the loop at which every channel has an event: 18 an hour."""
START_NS = 1_700_000_000 * 10**9


def write_archive(folder: Path, channels: int, rate_hz: float) -> None:
    """Noise of a few counts, so that a record holds many samples; bursts a little later on every channel."""
    folder.mkdir()
    t = np.arange(int(3 * rate_hz)) / rate_hz
    burst = np.exp(-3.0 * t) * np.sin(2 * np.pi * 14.0 * t)
    for number in range(channels):
        rng = np.random.default_rng(number)
        data = 20.0 * rng.standard_normal(int(LOOP_SECONDS * rate_hz))
        for second in BURSTS:
            at = int((second + 0.05 * number) * rate_hz)
            data[at : at + t.size] += 4000.0 * burst
        nslc = f"XX.D{number:03}..HHZ"
        records = miniseed.encode(from_nslc(nslc), START_NS, rate_hz, np.round(data).astype(np.int32))
        (folder / f"{nslc}.mseed").write_bytes(b"".join(records))


class Observed:
    """What the daemon says of itself and the system says of it."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._where: dict[str, Any] = json.loads((state / "endpoints.json").read_text())
        self._pid = int(self._where["pid"])

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self._where['metrics']}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    def data_seconds(self, text: str) -> float:
        """Of the channel that is furthest behind."""
        stamps = re.findall(r"^tscc_last_sample_timestamp_seconds\{[^}]*\} (\S+)$", text, re.M)
        return min((float(stamp) for stamp in stamps), default=0.0) - START_NS / 1e9

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self._pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found.group(1)) / 1024 if found else 0.0

    def files(self) -> int:
        return len(list(Path(f"/proc/{self._pid}/fd").iterdir()))

    def cpu_seconds(self) -> float:
        words = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / 100

    def journal_mib(self) -> float:
        return sum(path.stat().st_size for path in self._state.glob("journal.sqlite*")) / 2**20


def _value(text: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.M))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--every", type=float, default=1.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="day-") as made:
        folder = Path(made)
        write_archive(folder / "archive", given.channels, given.rate)
        server = Running("serve", folder / "archive", "--bind", "127.0.0.1:0", "--speed", "max", "--loop")
        address = server.wait_for(r"listening on (\S+)").group(1)
        streams = [{"server": address, "streams": ["XX_*:HHZ"], "timeout_seconds": 30.0}]
        retention = {"days": 1.0, "max_gib": 0.05}
        known = settings(folder, seedlink=streams, retention=retention, trigger={"trigger_on": 6.0})
        path = folder / "site.yaml"
        path.write_text(json.dumps(known))
        with server, Running("run", "--config", path) as running:
            running.wait_for("ready: ")
            _watch(Observed(folder / "state"), given.hours, given.every)
            sys.stdout.write(f"run ends with {running.stop()}\n")
        with JournalFile(folder / "state" / "journal.sqlite") as journal:
            sys.stdout.write(
                f"journal: {journal.used_bytes / 2**20:.1f} MiB used, at most {0.05 * 1024:.1f} are kept\n"
            )
    return 0


def _watch(daemon: Observed, hours: float, every: float) -> None:
    sys.stdout.write("hours  RSS MiB  files  journal MiB  detections  dropped  gaps  CPU s  times real time\n")
    began, due = time.monotonic(), every
    while due <= hours + 1e-9:
        time.sleep(1.0)
        text = daemon.metrics()
        reached = daemon.data_seconds(text) / 3600
        if reached < due:
            continue
        sys.stdout.write(
            f"{reached:5.2f}  {daemon.rss_mib():7.1f}  {daemon.files():5}  {daemon.journal_mib():11.1f}  "
            f"{_value(text, 'tscc_detections_total'):10.0f}  {_value(text, 'tscc_windows_dropped_total'):7.0f}  "
            f"{_value(text, 'tscc_gaps_total'):4.0f}  {daemon.cpu_seconds():5.0f}  "
            f"{3600 * reached / (time.monotonic() - began):7.0f}\n"
        )
        sys.stdout.flush()
        due += every


if __name__ == "__main__":
    sys.exit(main())
