"""A real daemon under a load of many channels, each in a process of its own, and what is seen of it from outside."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from tscc_stream.bench import latency_reader, load_server
from tscc_stream.bench.load import Scene
from tscc_stream.messages import Int64Array

MODEL = "rutford"
BAND_HZ = (10.0, 120.0)
STA_SECONDS, TRIGGER_ON, TRIGGER_OFF = 0.1, 6.0, 1.5
MOST_LTA_SECONDS = 10.0
START_SECONDS = 120.0
SETTLE_SECONDS = 2.0
"""How long after the last record a window may come."""
HERTZ = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class LiveError(RuntimeError):
    """A process of the bench ended before its time, or did not start."""


@dataclass(frozen=True, slots=True)
class Detection:
    """As a subscriber received it. channel: number in the scene; onset_ns: data time; at_ns: monotonic."""

    channel: int
    onset_ns: int
    at_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """One run. scene: with its begin_ns; sent_ns: monotonic, by record; detections: in the order of their receipt.

    cores: CPU seconds a second by thread of the process that was watched, from the load's quiet_s on; rss_mib at the
    end; counters: what its metrics have grown by in the same time; load_cores: of the generator.
    """

    scene: Scene
    sent_ns: Int64Array
    detections: list[Detection]
    cores: dict[str, float]
    rss_mib: float
    counters: dict[str, float]
    load_cores: float


class Child:
    """A process that tells us something, line by line."""

    def __init__(self, *arguments: str, out: IO[bytes] | int = subprocess.PIPE, log: IO[bytes] | None = None) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdout=out, stderr=log, bufsize=0, env=environment
        )
        self._name = arguments[0].rpartition(".")[2]

    def line(self, seconds: float) -> str:
        """The next line. Raises LiveError where none comes in time."""
        out = self.process.stdout
        if out is None or not select.select([out], [], [], seconds)[0]:
            raise LiveError(f"{self._name}: said nothing within {seconds:g} s")
        line = out.readline()
        if not line:
            raise LiveError(f"{self._name}: ended with status {self.process.wait()}")
        return line.decode().strip()

    def end(self) -> None:
        """SIGTERM, and SIGKILL where that is not enough."""
        self.process.terminate()
        try:
            self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


@contextmanager
def child(*arguments: str, out: IO[bytes] | int = subprocess.PIPE, log: IO[bytes] | None = None) -> Iterator[Child]:
    one = Child(*arguments, out=out, log=log)
    try:
        yield one
    finally:
        one.end()


def lta_seconds(scene: Scene) -> float:
    """Full well before the first event."""
    return min(MOST_LTA_SECONDS, scene.quiet_s - 4.0)


def trigger(scene: Scene) -> dict[str, float]:
    """That of the configuration."""
    return {
        "sta_seconds": STA_SECONDS,
        "lta_seconds": lta_seconds(scene),
        "trigger_on": TRIGGER_ON,
        "trigger_off": TRIGGER_OFF,
    }


def settings(scene: Scene, port: int, folder: Path) -> dict[str, object]:
    """The daemon's configuration for a scene: free ports, state in the folder."""
    return {
        "site": "bench",
        "seedlink": [{"server": f"127.0.0.1:{port}", "streams": ["XX_*:GHZ"]}],
        "model": f"models/{MODEL}",
        "condition": {"band_hz": list(BAND_HZ)},
        "trigger": trigger(scene),
        "network": {"min_channels": 3},
        "publish": {"bind": "tcp://127.0.0.1:0", "replay_bind": "tcp://127.0.0.1:0"},
        "metrics": {"bind": "127.0.0.1:0"},
        "state_dir": str(folder / "var"),
    }


def _nothing(_config: Path) -> AbstractContextManager[None]:
    return nullcontext()


def watch_daemon(scene: Scene, beside: Callable[[Path], AbstractContextManager[None]] = _nothing) -> Watched:
    """The scene through `tscc-stream run`. Raises LiveError with the end of the daemon's log.

    beside: what runs meanwhile, made with the daemon's configuration once it is up.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sent, told, log = folder / "sent.npy", folder / "told", folder / "log"
        try:
            with child(load_server.__name__, json.dumps(asdict(scene)), str(sent)) as load, log.open("wb") as lines:
                config = folder / "config.yaml"
                config.write_text(json.dumps(settings(scene, int(load.line(START_SECONDS)), folder)))  # JSON is YAML
                with child("tscc_stream", "run", "--config", str(config), log=lines) as daemon:
                    scene = replace(scene, begin_ns=int(load.line(START_SECONDS)))
                    where = json.loads((folder / "var" / "endpoints.json").read_text())
                    subscriber = latency_reader.__name__, where["publish"], where["replay"]
                    with told.open("wb") as out, child(*subscriber, out=out), beside(config):
                        return _watched(scene, load, daemon, Counters(where["metrics"]), sent, told)
        except LiveError as error:
            raise LiveError(f"{error}\n{log.read_text()[-2000:] if log.exists() else ''}") from error


def watch_field(scene: Scene, arguments: list[str], port_at: int) -> Watched:
    """The scene through another program, whose argument number `port_at` is the port."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sent, told, log = folder / "sent.npy", folder / "told", folder / "log"
        with child(load_server.__name__, json.dumps(asdict(scene)), str(sent)) as load, log.open("wb") as lines:
            given = [*arguments[:port_at], load.line(START_SECONDS), *arguments[port_at:]]
            with told.open("wb") as out, child(*given, out=out, log=lines) as program:
                scene = replace(scene, begin_ns=int(load.line(START_SECONDS)))
                return _watched(scene, load, program, None, sent, told)


class Counters:
    """What a daemon counts."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}/metrics"

    def read(self) -> dict[str, float]:
        with urllib.request.urlopen(self._url, timeout=30) as answer:  # noqa: S310  # our own daemon
            families = text_string_to_metric_families(answer.read().decode())
        return {
            f"{sample.name}{''.join(sorted(f' {value}' for value in sample.labels.values()))}": sample.value
            for family in families
            for sample in family.samples
            if "sid" not in sample.labels and "le" not in sample.labels
        }


def _watched(scene: Scene, load: Child, watched: Child, metrics: Counters | None, sent: Path, told: Path) -> Watched:
    begin_s = scene.begin_ns / 1e9
    time.sleep(max(0.0, begin_s + scene.quiet_s - time.time()))
    pid = watched.process.pid
    threads, counted, at_s = thread_seconds(pid), metrics.read() if metrics else {}, time.monotonic()
    load_seconds = float(load.line(scene.seconds + START_SECONDS))
    time.sleep(SETTLE_SECONDS)
    spent_s = time.monotonic() - at_s
    later = thread_seconds(pid)
    grown = {name: value - counted.get(name, 0.0) for name, value in (metrics.read() if metrics else {}).items()}
    sent_ns: Int64Array = np.load(sent)
    channels = {sid: number for number, sid in enumerate(scene.sids)}
    lines = [json.loads(line) for line in told.read_bytes().splitlines()]
    return Watched(
        scene,
        sent_ns,
        [Detection(channels[line[0]], line[1], line[2]) for line in lines if isinstance(line, list)],
        by_name(threads, later, spent_s),
        rss_mib(pid),
        grown,
        load_seconds / scene.seconds,
    )


def thread_seconds(pid: int) -> dict[tuple[int, str], float]:
    """CPU seconds by thread: (number, name)."""
    seconds = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has ended
            continue
        user, system = rest.split()[11:13]
        seconds[int(task.name), name] = (int(user) + int(system)) / HERTZ
    return seconds


def by_name(
    before: Mapping[tuple[int, str], float], after: Mapping[tuple[int, str], float], seconds: float
) -> dict[str, float]:
    """CPU seconds a second by name of thread, the most first."""
    cores: dict[str, float] = {}
    for (number, name), spent in after.items():
        grown = spent - before.get((number, name), 0.0)
        cores[name] = cores.get(name, 0.0) + grown / seconds
    return dict(sorted(cores.items(), key=lambda one: -one[1]))


def rss_mib(pid: int | str = "self") -> float:
    """Resident memory of a process, MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 2**20
