"""One run of a real daemon under a load of known size, and what it took: processor, memory, journal, network."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tscc_stream import package
from tscc_stream.bench import live, load_server, scale_reader
from tscc_stream.bench.live import Child, Counters, LiveError
from tscc_stream.bench.load import SAMPLES, Frames, Scene

QUIET_S = 8.0
"""Before the first trigger: histories are full, channels are no longer new."""
FULL_RATE_HZ, MOST_SLOWER = 1000.0, 2.0
"""Events of channels below that rate are slower (bench.load); how much longer the short average may be for them."""
WINDOW_SAMPLES, WINDOW_RATE_HZ = 500, 250.0
"""Of the model, or of its slower copy."""
SCRAPES = 3
SOME_SECONDS = 2.0
OTHER = "other"
"""The bus with ZeroMQ's own thread, HTTP, main, and what looks on: they have no name that the kernel knows."""
THREADS = ("seedlink", "front", "inference", "back", OTHER)
_MESSAGES = ("message", "sqlite_autoindex_message", "head", "hour")
"""How the names of their tables and indexes begin."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a daemon is given. triggers_per_second: over all channels, each a window; subscribers: of all messages."""

    channels: int
    rate_hz: float
    triggers_per_second: float
    subscribers: int = 1

    @property
    def samples_per_second(self) -> float:
        return self.channels * self.rate_hz

    @property
    def records_per_second(self) -> float:
        """As the generator fills them."""
        return self.samples_per_second / SAMPLES

    @property
    def deliveries_per_second(self) -> float:
        return self.triggers_per_second * self.subscribers


@dataclass(frozen=True, slots=True)
class Stored:
    """After the end of a daemon, of all its run. file_bytes: of the journal; message_bytes, waveform_bytes: in pages
    with their indexes; state_bytes: of the snapshot.
    """

    detections: int = 0
    file_bytes: float = 0.0
    message_bytes: float = 0.0
    waveform_bytes: float = 0.0
    state_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Spent:
    """What one run took. load: with the windows that came, for triggers. seconds: of measurement, start-up and settling
    excluded. batches: that the front thread was given, a second; groups: of windows, that the encoder was given.

    cores: CPU seconds a second, by thread (THREADS), user and system; all of the process, threads that have ended
    included. rss_bytes: at the end. written_bytes: to the disk, a second (0 where the kernel does not say).
    received_bytes: on the network, a second. message_sent_bytes, heartbeat_sent_bytes: to one subscriber, each.
    scrape_seconds, scrape_bytes: of one GET of /metrics. waited_seconds: in which nothing was read for want of room.
    snapshot_seconds: wall time in which the front thread takes one; 0 where it took none. load_cores: what the
    generator took. stored: what the journal holds in the end.
    """

    load: Load
    seconds: float
    cores: dict[str, float]
    batches: float
    groups: float
    rss_bytes: float
    written_bytes: float
    received_bytes: float
    message_sent_bytes: float
    heartbeat_sent_bytes: float
    scrape_seconds: float
    scrape_bytes: float
    waited_seconds: float
    snapshot_seconds: float
    load_cores: float
    stored: Stored

    @property
    def all_cores(self) -> float:
        return sum(self.cores.values())


def run(load: Load, seconds: float, quiet_s: float = QUIET_S) -> Spent:
    """One run in real time. Raises LiveError, with the end of the daemon's log, where a process fails."""
    lasts_s = quiet_s + _first_window_s(load.rate_hz) + seconds
    scene = Scene(load.channels, lasts_s, load.triggers_per_second, rate_hz=load.rate_hz, quiet_s=quiet_s)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            seen = _seen(scene, load, folder)
        except LiveError as error:
            log = folder / "log"
            raise LiveError(f"{error}\n{log.read_text()[-2000:] if log.exists() else ''}") from error
        return replace(seen, stored=_stored(folder / "var" / "journal.sqlite"))


def _first_window_s(rate_hz: float) -> float:
    """From a trigger until its window is there: the model's samples after the onset, and a record that has to fill."""
    return SAMPLES / rate_hz + WINDOW_SAMPLES / min(rate_hz, WINDOW_RATE_HZ)


def _seen(scene: Scene, load: Load, folder: Path) -> Spent:
    """All but what is looked up in the journal after the daemon's end."""
    with ExitStack() as stack:
        lines, told = (stack.enter_context((folder / name).open("wb")) for name in ("log", "told"))
        scene_file = json.dumps(asdict(scene)), str(folder / "sent.npy")
        generator = stack.enter_context(live.child(load_server.__name__, *scene_file))
        config = folder / "config.yaml"
        port = int(generator.line(live.START_SECONDS))
        config.write_text(json.dumps(_settings(scene, port, folder)))
        daemon = stack.enter_context(live.child("tscc_stream", "run", "--config", str(config), log=lines))
        scene = replace(scene, begin_ns=int(generator.line(live.START_SECONDS)))
        where = json.loads((folder / "var" / "endpoints.json").read_text())
        reader = scale_reader.__name__, where["publish"], str(load.subscribers)
        stack.enter_context(live.child(*reader, out=told))
        return _watched(scene, load, generator, daemon, where["metrics"], folder / "told")


def _settings(scene: Scene, port: int, folder: Path) -> dict[str, object]:
    """As `bench latency` has it, slower with the rate; no network events, since triggers are of single channels."""
    slower = max(1.0, FULL_RATE_HZ / scene.rate_hz)
    settings = live.settings(scene, port, folder)
    settings["trigger"] = live.trigger(scene) | {"sta_seconds": live.STA_SECONDS * min(slower, MOST_SLOWER)}
    settings["condition"] = {"band_hz": _band(scene.rate_hz)}
    return settings | {"network": None, "model": _model(scene, folder)}


def _band(rate_hz: float) -> list[float]:
    low, high = live.BAND_HZ
    return [min(low, 0.01 * rate_hz), min(high, 0.4 * rate_hz)]


def _model(scene: Scene, folder: Path) -> str:
    """The package; for channels too slow for it a copy whose windows are as many samples of theirs. It costs the same,
    and its clusters mean nothing.
    """
    found = package.find(f"models/{live.MODEL}")
    document = json.loads((found / "model.json").read_text(encoding="utf-8"))
    if document["band_hz"][1] < scene.rate_hz / 2:
        return str(found)
    slower = document["sample_rate_hz"] / scene.rate_hz
    document |= {"sample_rate_hz": scene.rate_hz, "band_hz": _band(scene.rate_hz)}
    document["warmup_seconds"] *= slower
    made = folder / "model"
    shutil.copytree(found, made)
    (made / "model.json").write_text(json.dumps(document), encoding="utf-8")
    return str(made)


def _watched(scene: Scene, load: Load, generator: Child, daemon: Child, metrics: str, told: Path) -> Spent:
    pid, counters = daemon.process.pid, Counters(metrics)
    time.sleep(max(0.0, scene.begin_ns / 1e9 + scene.quiet_s + _first_window_s(load.rate_hz) - time.time()))
    counted = counters.read()
    before, at_s = _usage(pid), time.monotonic()
    load_seconds = float(generator.line(scene.seconds + live.START_SECONDS))
    after, spent_s = _usage(pid), time.monotonic() - at_s
    rss_bytes = live.rss_mib(pid) * 2**20
    grown = {name: value - counted.get(name, 0.0) for name, value in counters.read().items()}
    time.sleep(SOME_SECONDS)
    scraped = _scraped(pid, metrics)
    messages, message_bytes, beats, beat_bytes = json.loads(told.read_bytes().splitlines()[-1])
    frame_bytes = len(Frames(replace(scene, channels=1, triggers_per_second=0.0), 4).of(0, 1))
    return Spent(
        replace(load, triggers_per_second=grown["tscc_batch_size_sum"] / spent_s),
        spent_s,
        _cores(before, after, spent_s),
        grown["tscc_stage_seconds_count lanes"] / spent_s,
        grown["tscc_batch_size_count"] / spent_s,
        rss_bytes,
        (after.written - before.written) / spent_s,
        scene.records / scene.seconds * frame_bytes,
        message_bytes / max(1, messages),
        beat_bytes / max(1, beats),
        *scraped,
        sum(value for name, value in grown.items() if name.startswith("tscc_seedlink_waiting_seconds_total")),
        grown["tscc_stage_seconds_sum snapshot"] / max(1.0, grown["tscc_stage_seconds_count snapshot"]),
        load_seconds / scene.seconds,
        Stored(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Usage:
    """Of a process so far: CPU seconds by thread, and of all there were; bytes written to the disk."""

    threads: Mapping[tuple[int, str], float]
    seconds: float
    written: int


def _usage(pid: int) -> _Usage:
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    try:
        io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    except OSError:  # somebody else's process, or a kernel without it
        io = {}
    return _Usage(live.thread_seconds(pid), (int(stat[11]) + int(stat[12])) / live.HERTZ, int(io.get("write_bytes", 0)))


def _cores(before: _Usage, after: _Usage, seconds: float) -> dict[str, float]:
    cores = dict.fromkeys(THREADS, 0.0)
    for name, share in live.by_name(before.threads, after.threads, seconds).items():
        cores[thread_of(name)] += share
    cores[OTHER] += (after.seconds - before.seconds) / seconds - sum(cores.values())
    return cores


def thread_of(name: str) -> str:
    """`seedlink 127.0.0...` is one of the readers, `encoder 1` one who helps `inference`."""
    first = name.split(maxsplit=1)[0].split("-", maxsplit=1)[0] if name.split() else ""
    named = "inference" if first == "encoder" else first
    return named if named in THREADS else OTHER


def _scraped(pid: int, metrics: str) -> tuple[float, float]:
    """CPU seconds and bytes of one GET of /metrics, while little else goes on."""
    before, size = _usage(pid).seconds, 0
    for _ in range(SCRAPES):
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=60) as answer:  # our own daemon
            size = len(answer.read())
    return (_usage(pid).seconds - before) / SCRAPES, float(size)


def _stored(journal: Path) -> Stored:
    """What is in the file, by pages (https://sqlite.org/dbstat.html)."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        pages = dict(db.execute("SELECT name, SUM(pgsize) FROM dbstat GROUP BY name"))
        (detections,) = db.execute("SELECT COUNT(*) FROM message WHERE kind = 'detection'").fetchone()
        state = db.execute("SELECT LENGTH(state) + LENGTH(reached) FROM snapshot").fetchone()
    messages = sum(size for name, size in pages.items() if name.startswith(_MESSAGES))
    file_bytes = float(journal.stat().st_size)
    return Stored(detections, file_bytes, messages, pages["waveform"], state[0] if state else 0.0)
