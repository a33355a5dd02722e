"""`bench ingest`: SeedLink clients from socket to samples, each in a process of its own, beside obspy's.

`ingest`: records per CPU-second of the client, all of them reading the same archive from one `serve` process. Each
client does what its documentation says, decodes every record, and is measured from just before it connects.

`ingest_many`: what share of a core our client takes of a stream in real time; for the field, what its figure from
`ingest` comes to at so many records per second.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np

from tscc_stream import miniseed
from tscc_stream.bench import ingest_client, ingest_load
from tscc_stream.bench.measure import FIELD, Figure, Results, rates

RECORDS, CHANNELS, ROUNDS = 16_000, 40, 3
RATE_HZ = 100.0
MANY_CHANNELS, MANY_RATE_HZ, SECONDS = 5_000, 500.0, 8.0
PATIENCE_S = 120.0
_START_NS = 1_700_000_000_000_000_000
_NOISE_COUNTS = 40.0
_KEPT_UP = 0.95


class IngestError(RuntimeError):
    """A client ended before its time, or did not get what it should."""


def run(
    records: int = RECORDS,
    rounds: int = ROUNDS,
    many_channels: int = MANY_CHANNELS,
    seconds: float = SECONDS,
) -> Results:
    """Records per CPU-second of each client, and the share of a core that a stream of many channels takes.

    Raises IngestError where a client does not get every record, or does not keep up.
    """
    names = [FIELD, "ours", *(["seedlink_client"] if find_spec("seedlink_client") else [])]
    spent: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        archive = _write(Path(folder), records)
        with _serving(Path(folder)) as server:
            for number in range(rounds):
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    spent[name].append(_cpu_s(name, server, archive))
    one = rates(spent, archive.records, "records/CPU-s")
    return {"ingest": one, "ingest_many": _many(many_channels, seconds, one[FIELD].value)}


@dataclass(frozen=True, slots=True)
class _Archive:
    records: int
    samples: int
    stations: list[str]


def _write(folder: Path, records: int) -> _Archive:
    """About so many records of 512 bytes, the same number of each channel."""
    each = -(-records // CHANNELS)
    rng = np.random.default_rng(0)
    stations, total = [f"XX_S{channel:03}" for channel in range(CHANNELS)], 0
    for station in stations:
        samples = np.round(rng.normal(0.0, _NOISE_COUNTS, each * 450)).astype(np.int32)
        made = miniseed.encode(f"FDSN:{station}__H_H_Z", _START_NS, RATE_HZ, samples)
        (folder / f"{station}.mseed").write_bytes(b"".join(made[:each]))
        total += sum(int(miniseed.header(one).samplecnt) for one in made[:each])
    return _Archive(each * CHANNELS, total, stations)


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    """The replay server of this package, as fast as it can; its address."""
    command = [sys.executable, "-m", "tscc_stream", "serve", str(folder), "--bind", "127.0.0.1:0", "--speed", "max"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline() if process.stderr else ""
            found = re.match(r"listening on (127\.0\.0\.1:\d+) ", line)
            if found is None:
                raise IngestError(f"no server: {line}")
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)


class _Spent(msgspec.Struct):
    records: int
    samples: int
    cpu_s: float


class _Share(msgspec.Struct):
    share: float
    records_per_second: float


def _client(*arguments: str) -> bytes:
    command = [sys.executable, "-m", ingest_client.__name__, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise IngestError(f"the client {arguments[0]} ended with status {done.returncode}")
    return done.stdout


def _cpu_s(name: str, server: str, archive: _Archive) -> float:
    spent = msgspec.json.decode(_client(name, server, str(archive.records), *archive.stations), type=_Spent)
    if (spent.records, spent.samples) != (archive.records, archive.samples):
        raise IngestError(f"{name} got {spent.records} records of {archive.records}, {spent.samples} samples of them")
    return spent.cpu_s


def _many(channels: int, seconds: float, field_per_cpu_s: float) -> dict[str, Figure]:
    """Shares of a core that a stream of many channels takes."""
    expected = channels * MANY_RATE_HZ / ingest_load.SAMPLES
    with _loading(channels) as server:
        found = msgspec.json.decode(_client("pace", server, str(seconds)), type=_Share)
    if found.records_per_second < _KEPT_UP * expected:
        raise IngestError(f"{found.records_per_second:.0f} records/s came of {expected:.0f}: the client is too slow")
    field = expected / field_per_cpu_s
    return {
        FIELD: Figure(field, "cores, computed", 1.0),
        "ours": Figure(found.share, "cores", field / found.share),
        "records": Figure(found.records_per_second, "records/s", 1.0),
    }


@contextmanager
def _loading(channels: int) -> Iterator[str]:
    command = [sys.executable, "-m", ingest_load.__name__, str(channels), str(MANY_RATE_HZ)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = process.stdout.readline().strip() if process.stdout else ""
            if not port:
                raise IngestError("no load server")
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
