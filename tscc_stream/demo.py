"""`demo`: recordings of real earthquakes, or a simulated mine, through a real daemon over a real socket.

An embedded SeedLink server plays them; the daemon runs as its own process with temporary state on free ports; what is
shown is what a subscriber receives from the bus.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tscc_stream import config, package
from tscc_stream.activation import ENDPOINTS_FILE
from tscc_stream.client import Received, Subscriber
from tscc_stream.edges import archive
from tscc_stream.histogram import quantiles_of
from tscc_stream.serve.mine import simulate
from tscc_stream.serve.replay import ReplayOptions
from tscc_stream.serve.server import ReplayServer, ServerOptions
from tscc_stream.source_id import to_nslc
from tscc_stream.tail import as_json, as_text

RECORDINGS = (
    "BW.UH1._.SHZ.D.2010.147.cut.slist.gz",
    "BW.UH2._.SHZ.D.2010.147.cut.slist.gz",
    "BW.UH3._.SHZ.D.2010.147.cut.slist.gz",
    "BW.UH4._.EHZ.D.2010.147.cut.slist.gz",
)
"""Unterhaching, 2010-05-27: induced earthquakes beside a geothermal plant; obspy ships them, and its tests name the
three events in them."""
READY_SECONDS = 120.0
QUIET_SECONDS = 3.0
PATIENCE_SECONDS = 2.0
STOP_SECONDS = 30.0
_ROWS = 18
_COLUMNS = ("time", "channel", "cluster", "membership", "p-value", "ratio", "duration")


class DemoError(RuntimeError):
    """The demo could not be carried out, and why."""


@dataclass(frozen=True, slots=True)
class _Scene:
    """What is played: paths, stream patterns, and what it is in words."""

    paths: list[Path]
    streams: list[str]
    text: str


@dataclass
class Tally:
    """What came over the bus. clusters: uid -> cluster name; events: final network events."""

    messages: int = 0
    names: Counter[str] = field(default_factory=Counter)
    clusters: dict[str, tuple[str, str]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    disconnected: bool = False

    def add(self, received: Received) -> None:
        body = received.body
        self.messages += 1
        if body["type"] == "tscc.detection.v1":
            name = body["data"]["cluster"]["name"]
            self.names[name] += 1
            self.clusters[body["id"]] = (body["subject"], name)
        elif body["type"] == "tscc.network_event.v1" and body["data"]["final"]:
            self.events.append(body)
        elif received.topic == "status.seedlink.":
            self.disconnected = body["data"]["connected"] is False


class View(Protocol):
    """How messages are shown as they come."""

    def show(self, received: Received) -> None: ...


class _JsonLines:
    def show(self, received: Received) -> None:
        print(as_json(received), flush=True)  # noqa: T201 the command's output


class _PlainLines:
    def show(self, received: Received) -> None:
        print(as_text(received), flush=True)  # noqa: T201 the command's output


class _LiveTable:
    """The last detections and network events as a table that is drawn anew with each."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._rows: list[tuple[str, ...]] = []

    def show(self, received: Received) -> None:
        row = _row(received.body)
        if row is not None:
            self._rows = [*self._rows, row][-_ROWS:]
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        table = Table(*_COLUMNS, title="detections as they come over the bus")
        for row in self._rows:
            table.add_row(*row, style="bold" if row[1].startswith("network") else None)
        return table


def _row(body: dict[str, Any]) -> tuple[str, ...] | None:
    data, clock = body["data"], body["time"][11:23]
    if body["type"] == "tscc.detection.v1":
        cluster = data["cluster"]
        p_value = "-" if cluster["p_value"] is None else f"{cluster['p_value']:.2f}"
        membership = f"{cluster['membership'][cluster['id']]:.2f}"
        ratio, duration = f"{data['peak_ratio']:.1f}", f"{data['duration_s']:.1f} s"
        return (clock, to_nslc(body["subject"]), cluster["name"], membership, p_value, ratio, duration)
    if body["type"] == "tscc.network_event.v1" and data["final"]:
        channels = f"network: {len(data['channels'])} channels"
        return (clock, channels, data["cluster"]["name"], "", "", "", f"{data['duration_s']:.1f} s")
    return None


def demo(simulate_channels: int | None, speed: float, *, jsonl: bool, keep_running: bool) -> int:
    """Runs the whole path once; 0 when it ended as it should. jsonl: messages alone on stdout, all else on stderr."""
    if speed <= 0:
        raise DemoError(f"--speed {speed:g}: expected more than 0")
    say = Console(stderr=jsonl)
    with tempfile.TemporaryDirectory(prefix="tscc-stream-demo-") as name:
        folder = Path(name)
        scene = _recordings() if simulate_channels is None else _simulation(simulate_channels, folder / "mine")
        say.print(f"playing {scene.text} at {speed:g} times real time")
        options = ServerOptions(ReplayOptions(speed), once=True, wait_for_client=True)
        with ReplayServer(archive.index(scene.paths), options=options) as server:
            host, port = server.address
            with _daemon(_configuration(scene, f"{host}:{port}", folder), folder) as (process, endpoints):
                tally, metrics = _follow(server, endpoints, jsonl=jsonl, say=say, keep_running=keep_running)
                _end(process)
    _summarise(tally, metrics, say)
    return 0


def _recordings() -> _Scene:
    folder = Path(str(resources.files("obspy.signal"))) / "tests" / "data"
    paths = [folder / name for name in RECORDINGS]
    if missing := [path.name for path in paths if not path.exists()]:
        raise DemoError(f"obspy's recording {missing[0]} is not installed; `demo --simulate 8` needs none")
    return _Scene(paths, ["BW_*:?HZ"], "four minutes of Unterhaching, 2010-05-27")


def _simulation(channels: int, folder: Path) -> _Scene:
    simulate(folder, channels=channels, seconds=240.0, rate_hz=100.0, seed=1001)
    return _Scene([folder], ["*_*"], f"four minutes of a simulated mine with {channels} channels")


def _configuration(scene: _Scene, server: str, folder: Path) -> Path:
    """The shipped configuration, with this run's addresses and a temporary state."""
    shipped = config.shipped().model_dump(mode="json")
    shipped["seedlink"] = [{"server": server, "streams": scene.streams}]
    shipped["model"] = str(package.find("models/demo"))
    shipped["network"] |= {"patience_seconds": PATIENCE_SECONDS}
    shipped["publish"] |= {"bind": "tcp://127.0.0.1:0", "replay_bind": "tcp://127.0.0.1:0"}
    shipped["metrics"] = {"bind": "127.0.0.1:0"}
    shipped["state_dir"] = str(folder / "state")
    path = folder / "config.yaml"
    path.write_text(json.dumps(shipped, indent=1), encoding="utf-8")  # JSON is YAML
    return path


@contextmanager
def _daemon(configuration: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """A daemon process that has said it is ready, and where it listens; it is gone when this ends."""
    log = folder / "daemon.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, log.open("wb") as stderr:
        notify.bind(str(folder / "notify"))
        environment = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")}
        command = [sys.executable, "-P", "-m", "tscc_stream", "run", "--config", str(configuration)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env=environment)
        try:
            _wait_until_ready(process, notify, log)
            yield process, json.loads((folder / "state" / ENDPOINTS_FILE).read_text(encoding="utf-8"))
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], notify: socket.socket, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        readable, _, _ = select.select([notify], [], [], 0.2)
        if readable and b"READY=1" in notify.recv(4096):
            return
    why = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    raise DemoError(f"the daemon did not start: {' '.join(why) or f'not ready within {READY_SECONDS:g} s'}")


def _follow(
    server: ReplayServer, endpoints: dict[str, Any], *, jsonl: bool, say: Console, keep_running: bool
) -> tuple[Tally, str]:
    """Every message from the first to the last, shown as it comes; then the daemon's metrics."""
    tally = Tally()
    with Subscriber(endpoints["publish"], endpoints["replay"], since=0) as subscriber, _view(jsonl, say) as view:
        for received in _until_played_out(subscriber, server, tally):
            view.show(received)
        if keep_running:
            say.print(f"still running: {endpoints['publish']}, http://{endpoints['metrics']}/metrics; Ctrl-C ends it")
            _keep_showing(subscriber, view)
    with urllib.request.urlopen(f"http://{endpoints['metrics']}/metrics", timeout=10) as answer:
        return tally, answer.read().decode()


def _until_played_out(subscriber: Subscriber, server: ReplayServer, tally: Tally) -> Iterator[Received]:
    """Until everything was played, the daemon has seen the server go, and nothing more comes."""
    while True:
        received = subscriber.receive(QUIET_SECONDS if tally.disconnected else 0.5)
        if received is not None:
            tally.add(received)
            yield received
        elif tally.disconnected:
            if not server.done.is_set():
                raise DemoError("the daemon lost the embedded server before everything was played")
            return


def _keep_showing(subscriber: Subscriber, view: View) -> None:
    try:
        for received in subscriber:
            view.show(received)
    except KeyboardInterrupt:
        return


@contextmanager
def _view(jsonl: bool, say: Console) -> Iterator[View]:
    if jsonl:
        yield _JsonLines()
    elif say.is_terminal:
        with Live(console=say, auto_refresh=False) as live:
            yield _LiveTable(live)
    else:
        yield _PlainLines()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"the daemon did not end within {STOP_SECONDS:g} s of SIGTERM") from error
    if status != 0:
        raise DemoError(f"the daemon ended with {status}")


def _summarise(tally: Tally, metrics: str, say: Console) -> None:
    families = {family.name: family for family in text_string_to_metric_families(metrics)}
    samples = families["tscc_samples"].samples
    total = int(sum(s.value for s in samples if s.name.endswith("_total")))
    channels = len({s.labels["sid"] for s in samples if s.name.endswith("_total")})
    triggers = int(families["tscc_triggers"].samples[0].value)
    say.print(f"\n{channels} channels, {total:,} samples, {triggers} triggers, {sum(tally.names.values())} detections")
    for name, number in tally.names.most_common():
        say.print(f"  {number:4d}  {name}")
    say.print(f"{len(tally.events)} network events")
    for event in tally.events:
        say.print(f"  {event['time']}  {event['data']['duration_s']:.2f} s  {_voters(event, tally)}", soft_wrap=True)
    samples = families["tscc_sample_to_publish_seconds"].samples
    buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name.endswith("_bucket")]
    if quantiles := quantiles_of(buckets, (0.5, 0.95, 0.99)):
        text = ", ".join(f"p{100 * q:g} {1000 * seconds:.0f} ms" for q, seconds in quantiles.items())
        say.print(f"last needed sample received to published: {text}")


def _voters(event: dict[str, Any], tally: Tally) -> str:
    """`BW.UH3..SHZ microseismic; BW.UH2..SHZ ...`: every channel with its own cluster."""
    clusters = dict(tally.clusters[uid] for uid in event["data"]["detections"] if uid in tally.clusters)
    return "; ".join(f"{to_nslc(sid)} {clusters.get(sid, 'no window')}" for sid in event["data"]["channels"])
