"""`bench console`: from the server's socket to the browser's picture, and what open consoles cost the daemon.

`console_drawn`: a wall of 50 channels at 500 Hz in a real chromium, as `tscc-stream console` serves it. A latency runs
from the moment at which the load server hands a record to its socket (its monotonic clock, set against the wall clock)
until the frame after the one in which the page has drawn the record's last sample (the page's clock, set against the
same wall clock). How long a record takes to fill lies before it. `field` is the limit that was set, 300 ms.

`console_daemon_p99`: `bench latency`'s 100 channels through a real daemon, alone (`field`), with five consoles open on
50 of these channels, and with a chromium beside them. The five are read by console_reader, which unpacks everything and
draws nothing: where the daemon runs there are no five browsers, and on a machine of two cores a browser's own drawing
would be measured, which the last variant shows. The console's own SeedLink connection is to a load server of its own,
since one serves a single client.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from tscc_stream.activation import ENDPOINTS_FILE
from tscc_stream.bench import console_reader, latency, live, load_server
from tscc_stream.bench.console_browser import Drawn, chromium
from tscc_stream.bench.live import Child, LiveError, child
from tscc_stream.bench.load import Scene
from tscc_stream.bench.measure import FIELD, Figure, Results
from tscc_stream.edges.daemon_view import newest_samples
from tscc_stream.messages import Float64Array
from tscc_stream.source_id import from_nslc

TRACES, RATE_HZ = 50, 500.0
LIMIT_MS, LIMIT_RATIO = 300.0, 1.2
PAGES = 5
ROUNDS = 3
"""Of one turn of each variant: of the 250 detections of a turn, the slowest two or three would decide."""
WARM_SECONDS = 6.0
CHANNELS = ",".join(f"XX.L00{tens}*" for tens in range(5))
"""The first fifty."""
_READY = re.compile(r"console on http://(\S+)/")


def run(drawn_seconds: float = 40.0, scene: Scene | None = None, rounds: int = ROUNDS) -> Results:
    """Percentiles of the drawing; the daemon's, without and with consoles in turn. About a quarter of an hour.

    Raises BrowserError, LiveError and LatencyError.
    """
    drawn = watch_wall(Scene(TRACES, drawn_seconds, 0.0, rate_hz=RATE_HZ))
    scene = scene or Scene(100, 75.0, 4.0, quiet_s=14.0)
    _, reach = latency._needed()  # the same windows
    beside: dict[str, Callable[[Path], AbstractContextManager[None]] | None] = {
        FIELD: None,
        f"consoles_{PAGES}": lambda config: consoles(config, scene, browser=False),
        f"consoles_{PAGES}_and_chromium": lambda config: consoles(config, scene, browser=True),
    }
    turns: dict[str, list[Float64Array]] = {name: [] for name in beside}
    for _ in range(rounds):
        for name, one in beside.items():
            watched = live.watch_daemon(scene) if one is None else live.watch_daemon(scene, one)
            turns[name].append(latency.latencies_ms(watched, reach))
    times = {name: np.concatenate(some) for name, some in turns.items()}
    return {
        "console_drawn": {
            FIELD: Figure(LIMIT_MS, "ms", 1.0),
            **{
                name: Figure(value, "ms", LIMIT_MS / value)
                for name, value in zip(
                    ("p50", "p95", "p99", "max"), np.percentile(drawn, (50, 95, 99, 100)), strict=True
                )
            },
        },
        **{f"console_daemon_p{share}": _against(times, share) for share in (50, 95, 99)},
    }


def _against(times: dict[str, Float64Array], share: int) -> dict[str, Figure]:
    values = {name: float(np.percentile(some, share)) for name, some in times.items()}
    return {name: Figure(value, "ms", values[FIELD] / value) for name, value in values.items()}


def watch_wall(scene: Scene) -> Float64Array:
    """The scene on a wall in a browser, without a daemon: ms from socket to picture, by channel and drawing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sent = folder / "sent.npy"
        with child(load_server.__name__, json.dumps(asdict(scene)), str(sent)) as load:
            config = _settings(scene, int(load.line(live.START_SECONDS)), folder, folder / "var")
            with _console(config, folder) as address, chromium() as browser:
                browser.open(f"http://{address}/live?channels={CHANNELS}")
                scene = replace(scene, begin_ns=int(load.line(live.START_SECONDS)))
                load.line(scene.seconds + live.START_SECONDS)
                time.sleep(1.0)
                apart_ns = time.time_ns() - time.monotonic_ns()
                return latencies_ms(scene, np.load(sent) + apart_ns, browser.drawn())


def latencies_ms(scene: Scene, sent_ns: Float64Array, drawn: list[Drawn]) -> Float64Array:
    """From when the record with the newest sample was sent (wall clock, by record) until it was drawn.

    Without the first WARM_SECONDS. Raises LiveError where nothing was drawn, or not every channel.
    """
    channels = {sid: number for number, sid in enumerate(scene.sids)}
    found, seen = [], set()
    for one in drawn:
        channel = channels[from_nslc(one.channel)]
        sample = scene.sample_at(channel, round(one.newest_ms * 1e6))
        record = scene.record_with(channel, sample)
        if scene.due_ns[record] > WARM_SECONDS * 1e9:
            seen.add(channel)
            found.append(one.at_ms - float(sent_ns[record]) / 1e6)
    if len(seen) < scene.channels:
        raise LiveError(f"{len(seen)} of {scene.channels} channels were drawn")
    return np.array(found)


@contextmanager
def consoles(daemon: Path, scene: Scene, *, browser: bool) -> Iterator[None]:
    """PAGES pages open on the daemon of a configuration while the block runs, read by console_reader."""
    shown = replace(scene, channels=TRACES)
    folder = daemon.parent
    state = Path(json.loads(daemon.read_text())["state_dir"])
    _wait_for_channels(state, scene.channels)
    with child(load_server.__name__, json.dumps(asdict(shown)), str(folder / "shown.npy")) as load:
        config = _settings(shown, int(load.line(live.START_SECONDS)), folder, state)
        query = f"channels={CHANNELS}&span=60&columns=1000"
        with _console(config, folder) as address:
            arguments = address, query, str(PAGES), str(scene.seconds - scene.quiet_s)
            with child(console_reader.__name__, *arguments) as reader:
                load.line(live.START_SECONDS)
                if reader.line(live.START_SECONDS) != "ready":
                    raise LiveError("console_reader: got no samples")
                if browser:
                    with chromium() as one:
                        one.open(f"http://{address}/live?channels={CHANNELS}")
                        yield
                        _check_drawn(one.drawn())
                else:
                    yield
                _check_read(json.loads(reader.line(live.START_SECONDS)), scene.seconds - scene.quiet_s)


def _wait_for_channels(state: Path, channels: int) -> None:
    """Until the daemon has got something of all of them: a console that learns of more later connects again."""
    address = json.loads((state / ENDPOINTS_FILE).read_text())["metrics"]
    deadline = time.monotonic() + live.START_SECONDS
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:  # our own daemon
            if len(newest_samples(answer.read().decode())) >= channels:
                return
        time.sleep(0.2)
    raise LiveError(f"the daemon did not get {channels} channels")


def _check_drawn(drawn: list[Drawn]) -> None:
    if len({one.channel for one in drawn}) < TRACES:
        raise LiveError("chromium did not draw every channel")


def _check_read(read: list[tuple[int, int]], seconds: float) -> None:
    """Every page must have got samples five times a second, as one that somebody looks at does."""
    slowest = min(pushes for pushes, _ in read) / seconds
    if slowest < 5:
        raise LiveError(f"a page got samples {slowest:.1f} times a second, expected 5 or more")


def _settings(scene: Scene, port: int, folder: Path, state: Path) -> Path:
    """The console's configuration. Its streams are named one by one: the load server takes no second connection."""
    streams = [sid.removeprefix("FDSN:").replace("__G", ":_G") for sid in scene.sids]
    document = live.settings(scene, port, folder) | {
        "seedlink": [{"server": f"127.0.0.1:{port}", "streams": streams}],
        "state_dir": str(state),
        "console": {"bind": "127.0.0.1:0"},
    }
    path = folder / "console.yaml"
    path.write_text(json.dumps(document))
    return path


@contextmanager
def _console(config: Path, folder: Path) -> Iterator[str]:
    """`tscc-stream console`: its address."""
    log = folder / "console.log"
    with log.open("wb") as lines, child("tscc_stream", "console", "--config", str(config), log=lines) as process:
        yield _address(process, log)


def _address(process: Child, log: Path) -> str:
    deadline = time.monotonic() + live.START_SECONDS
    while time.monotonic() < deadline and process.process.poll() is None:
        if match := _READY.search(log.read_text()):
            return match[1]
        time.sleep(0.05)
    raise LiveError(f"the console did not start\n{log.read_text()[-2000:]}")
