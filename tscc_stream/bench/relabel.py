"""`bench relabel`: an archive's windows classified again, by `classify` and by `scan`, in windows a second.

Noise of 250 Hz with a burst every three seconds on every channel, so that windows come thick; a little more than the
channel-hours up to which a scan does without torch. `field` is `classify` in one process, as one does without `scan`;
the others are whole scans into a new folder, index and tables included, with one process and with one for each core,
and where torch finds a graphics card, with the encoder on it as well.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch

from tscc_stream import classifier, config, miniseed, package
from tscc_stream.bench.measure import FIELD, Results, rates, seconds_of
from tscc_stream.scan import run as scanning
from tscc_stream.source_id import from_nslc

CHANNELS, SECONDS, ROUNDS = 60, 1500.0, 1
RATE_HZ, EVERY_SECONDS = 250.0, 3.0
START_NS = 1_700_000_000 * 10**9
PART_HOURS = 24.0
_TRIGGER = {"sta_seconds": 0.05, "lta_seconds": 1.0, "trigger_on": 4.0, "trigger_off": 1.5}


def run(channels: int = CHANNELS, seconds: float = SECONDS, rounds: int = ROUNDS) -> Results:
    """Windows a second of the same archive."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "mine"
        _record(archive, channels, seconds)
        variants = _variants(archive, Path(folder))
        windows = _windows(archive)
        return {"relabel": rates(seconds_of(variants, rounds, warm_up=False), windows, "windows/s")}


def _record(archive: Path, channels: int, seconds: float) -> None:
    """A file for each channel: the same noise and bursts, a little later on each."""
    archive.mkdir()
    rng, t = np.random.default_rng(7), np.arange(int(RATE_HZ)) / RATE_HZ
    data = 200.0 * rng.standard_normal(int(seconds * RATE_HZ))
    burst = 8000.0 * np.exp(-6.0 * t) * np.sin(2.0 * np.pi * 15.0 * t)
    for onset in np.arange(3.0, seconds - 2.0, EVERY_SECONDS):
        at = int(onset * RATE_HZ)
        data[at : at + t.size] += burst
    samples = np.round(data).astype(np.int32)
    for channel in range(channels):
        nslc = f"BE.R{channel:03d}..DHZ"
        records = miniseed.encode(from_nslc(nslc), START_NS, RATE_HZ, np.roll(samples, 7 * channel))
        (archive / f"{nslc}.mseed").write_bytes(b"".join(records))


def _variants(archive: Path, folder: Path) -> dict[str, Callable[[], None]]:
    cores = len(os.sched_getaffinity(0))
    scan = partial(_scan, archive, folder, count())
    found: dict[str, Callable[[], None]] = {
        FIELD: lambda: _classify(archive, _settings("cpu"), io.StringIO()),
        "scan, 1 process": partial(scan, 1, "cpu"),
        f"scan, {cores} processes": partial(scan, cores, "cpu"),
    }
    if torch.cuda.is_available():
        found["scan, 1 process, cuda"] = partial(scan, 1, "cuda")
        found[f"scan, {cores} processes, cuda"] = partial(scan, cores, "cuda")
    return found


def _settings(device: str) -> config.Config:
    """The shipped ones with a trigger that the bursts set off, without a network, which takes no windows."""
    shipped = config.shipped()
    inference = shipped.inference.model_copy(update={"device": device})
    trigger = shipped.trigger.model_copy(update=_TRIGGER)
    return shipped.model_copy(update={"inference": inference, "trigger": trigger, "network": None})


def _classify(archive: Path, settings: config.Config, out: io.StringIO) -> None:
    classifier.classify([archive], settings, package.find(settings.model), "jsonl", out)


def _windows(archive: Path) -> int:
    """How many there are."""
    out = io.StringIO()
    _classify(archive, _settings("auto"), out)
    return out.getvalue().count("\n")


def _scan(archive: Path, folder: Path, number: count[int], workers: int, device: str) -> None:
    out, settings = folder / f"scanned-{next(number)}", _settings(device)
    options = scanning.Options(workers, PART_HOURS)
    scanning.scan([archive], out, settings, package.find(settings.model), options)
    shutil.rmtree(out)
