"""`bench relabel`: an archive's windows classified again, by `classify` and by `scan`, in windows a second.

A simulated mine of 500 Hz with events every few seconds, so that windows come thick. `field` is `classify` in one
process, as one does without `scan`; `scan, ...` are whole scans into a new folder, index and tables included, with one
process and with one for each core, and where torch finds a graphics card with the encoder on it as well. So few
channel-hours would all be classified without torch; `torch_from_hours` says from how many on a scan takes it.
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

import torch

from tscc_stream import classifier, config, package
from tscc_stream.bench.measure import FIELD, Results, rates, seconds_of
from tscc_stream.scan import run as scanning
from tscc_stream.serve.mine import simulate

CHANNELS, SECONDS, ROUNDS = 32, 1200.0, 1
RATE_HZ, SEED, EVENTS_PER_HOUR = 500.0, 7, 3600.0
PART_HOURS = 24.0


def run(channels: int = CHANNELS, seconds: float = SECONDS, rounds: int = ROUNDS) -> Results:
    """Windows a second of the same archive."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "mine"
        simulate(archive, channels=channels, seconds=seconds, rate_hz=RATE_HZ, seed=SEED,
                 events_per_hour=EVENTS_PER_HOUR)  # fmt: skip
        variants = _variants(archive, Path(folder))
        windows = _windows(archive)
        return {"relabel": rates(seconds_of(variants, rounds, warm_up=False), windows, "windows/s")}


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
    """The shipped ones without a network, which takes no windows."""
    shipped = config.shipped()
    inference = shipped.inference.model_copy(update={"device": device})
    return shipped.model_copy(update={"inference": inference, "network": None})


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
