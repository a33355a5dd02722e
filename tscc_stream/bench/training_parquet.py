"""Part of `bench training`: windows a second of the default recipe, from Parquet beside from memory.

`python -m tscc_stream.bench.training_parquet` does this alone, in less than a minute, on a graphics card where there is
one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tscc_stream.bench.measure import FIELD, Results, machine, rates, seconds_of
from tscc_stream.edges.parquet_windows import Layout, StoredWindows, WindowsWriter
from tscc_stream.learn.group import ALONE
from tscc_stream.learn.held import Held, Windows
from tscc_stream.learn.recipes import RECIPES
from tscc_stream.learn.settings import Settings
from tscc_stream.learn.streamed import Streamed
from tscc_stream.learn.train import Trainer
from tscc_stream.messages import Float32Array
from tscc_stream.windows import normalise

WINDOWS = {"cpu": 384, "cuda": 65_536}
BATCH = {"cpu": 64, "cuda": 512}
READ = 32_768
SAMPLES, ROUNDS = 500, 2


def run(device: str = "cpu", windows: int | None = None, rounds: int = ROUNDS, read: int = READ) -> Results:
    """training_parquet (on a card training_parquet_gpu): `field` has its windows in memory, `ours` in Parquet;
    training_parquet_read: what Parquet gives where nobody trains.
    """
    count = WINDOWS[device] if windows is None else windows
    settings = replace(RECIPES["default"], device=device, batch_size=BATCH[device], epochs_finetune=0)
    name = "training_parquet" if device == "cpu" else "training_parquet_gpu"
    with tempfile.TemporaryDirectory(prefix="tscc-bench-") as folder:
        x = _written(Path(folder) / "trained", count)
        held: Windows = Held(normalise(x, settings.normalisation), torch.device(device))
        variants = {FIELD: _epoch(settings, held), "ours": _epoch(settings, _streamed(folder, "trained", settings))}
        results = {name: rates(seconds_of(variants, rounds), count, "windows/s")}
        if device == "cpu":
            _written(Path(folder) / "read", read)
            there = _streamed(folder, "read", settings)
            spent = seconds_of({FIELD: lambda: _read(there, settings)}, rounds)
            results["training_parquet_read"] = rates(spent, read, "windows/s")
        return results


def _written(path: Path, count: int) -> Float32Array:
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((count, SAMPLES, 1), np.float32)
    with WindowsWriter(path, Layout(250.0, SAMPLES, 1)) as writer:
        writer.write({"x": x, "sid": np.array(["SM.S001..SHZ"] * count), "onset_ns": np.arange(count) * 10**10})
    return x


def _streamed(folder: str, name: str, settings: Settings) -> Streamed:
    stored = StoredWindows(Path(folder) / name)
    rows = np.arange(len(stored))
    return Streamed(stored, rows, settings.normalisation, torch.device(settings.device), settings.seed)


def _epoch(settings: Settings, windows: Windows) -> Callable[[], None]:
    trainer = Trainer(settings, windows)

    def learn() -> None:
        for batch in windows.epoch(0, settings.batch_size, trainer.objective.rng, ALONE):
            trainer.learn(batch)
        if settings.device != "cpu":
            torch.cuda.synchronize(settings.device)

    return learn


def _read(windows: Streamed, settings: Settings) -> None:
    for _ in windows.epoch(0, settings.batch_size, np.random.default_rng(0), ALONE):
        pass


if __name__ == "__main__":
    sys.stdout.write(f"{machine()}\n")
    for bench, figures in run("cuda" if torch.cuda.is_available() else "cpu").items():
        for variant, figure in figures.items():
            sys.stdout.write(f"{bench} {variant}: {figure.value:.0f} {figure.unit}, {figure.ratio:.2f} times field\n")
