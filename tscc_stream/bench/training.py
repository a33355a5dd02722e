"""`bench training`: an epoch of 4,928 windows of 500 samples, ours beside the published loop, both phases; and windows
a second out of Parquet (`training_parquet`).

On the processor, and where torch finds a graphics card also there: `field` is then the published loop on the card, and
`ours_cpu` what the processor beside it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import numpy as np
import torch

from tscc_stream.bench import training_parquet
from tscc_stream.bench.measure import FIELD, Figure, Results, lower_is_better, seconds_of
from tscc_stream.bench.published_training import PublishedLoop
from tscc_stream.learn.network import make_encoder
from tscc_stream.learn.recipes import RECIPES
from tscc_stream.learn.settings import Precision, Settings
from tscc_stream.learn.train import Trainer
from tscc_stream.messages import Float32Array

WINDOWS, SAMPLES = 4928, 500
"""Of the paper's data set."""
BATCHES, ROUNDS, ON_DEVICE = 3, 2, 24
"""Batches a round, and on a graphics card, where they are short: their crops are of random lengths, the same in every
round and for all variants.
"""
CROPS = (16, 22, 24)
"""Seeds of crops of 500 samples that are long, middling and short: their mean length and mean squared overlap, on which
the cost depends, are within 1 % of those of an epoch.
"""
PHASES = ("pretrain", "finetune")


@dataclass(frozen=True, slots=True)
class _Variant:
    """A way to do a phase. step: one batch, number by number of `Loops.batches`."""

    step: Callable[[int], object]
    rng: np.random.Generator
    batches: int
    device: str

    def run(self) -> None:
        """All batches, to where the device has done them."""
        for number, seed in enumerate(islice(cycle(CROPS), self.batches)):
            self.rng.bit_generator.state = np.random.PCG64(seed).state
            self.step(number)
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)


def run(batches: int = BATCHES, rounds: int = ROUNDS, samples: int = SAMPLES) -> Results:
    """Seconds an epoch, extrapolated from `batches` of each round; same architecture, batch, mask and crops."""
    results = on_processor(batches, rounds, samples) | training_parquet.run("cpu")
    if not torch.cuda.is_available():
        return results
    return results | on_device("cuda", batches, rounds, samples) | training_parquet.run("cuda")


def on_processor(batches: int = BATCHES, rounds: int = ROUNDS, samples: int = SAMPLES) -> Results:
    """training_pretrain and training_finetune: `field` and `ours`."""
    settings = _settings("cpu")
    x = _windows(settings.batch_size * batches, samples)
    return {
        f"training_{phase}": _seconds_an_epoch(
            {FIELD: _published(settings, x, phase, batches), "ours": _ours(settings, x, phase, batches)}, rounds
        )
        for phase in PHASES
    }


def on_device(
    device: str, batches: int = BATCHES, rounds: int = ROUNDS, samples: int = SAMPLES, there: int = ON_DEVICE
) -> Results:
    """training_pretrain_gpu and training_finetune_gpu; `batches` on the processor, `there` on the device."""
    single, half, host = _settings(device, "float32"), _settings(device, "bfloat16"), _settings("cpu")
    x = _windows(single.batch_size * max(batches, there), samples)
    return {
        f"training_{phase}_gpu": _seconds_an_epoch(
            {
                FIELD: _published(single, x, phase, there),
                "ours_float32": _ours(single, x, phase, there),
                "ours_bfloat16": _ours(half, x, phase, there),
                "ours_cpu": _ours(host, x, phase, batches),
            },
            rounds,
        )
        for phase in PHASES
    }


def _settings(device: str, precision: Precision = "auto") -> Settings:
    return replace(RECIPES["published"], dropout=0.2, epochs_pretrain=0, device=device, precision=precision)


def _windows(n: int, samples: int) -> Float32Array:
    """What they hold does not matter to speed: noise, and an onset in every second one."""
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((n, samples, 1))
    x[::2, samples // 5 : samples // 4] *= 10.0
    return x.astype(np.float32)


def _seconds_an_epoch(variants: Mapping[str, _Variant], rounds: int) -> dict[str, Figure]:
    spent = seconds_of({name: variant.run for name, variant in variants.items()}, rounds)
    a_batch = {name: [seconds / variants[name].batches for seconds in some] for name, some in spent.items()}
    return lower_is_better(a_batch, WINDOWS / RECIPES["published"].batch_size, "s/epoch")


def _published(settings: Settings, x: Float32Array, phase: str, batches: int) -> _Variant:
    """Windows wait on the host and are moved batch by batch, as the authors' loader does."""
    centres = torch.randn(2, settings.representation, generator=torch.Generator().manual_seed(0))
    loop = PublishedLoop(make_encoder(settings.seed, 1).to(settings.device), settings, centres.to(settings.device))
    step = loop.pretrain if phase == "pretrain" else loop.finetune
    parts = _split(torch.from_numpy(x), settings.batch_size)
    return _Variant(lambda number: step(parts[number].to(settings.device)), loop.rng, batches, settings.device)


def _ours(settings: Settings, x: Float32Array, phase: str, batches: int) -> _Variant:
    trainer = Trainer(settings, x)
    if phase == "finetune":
        trainer.start_fine_tuning()
    rows = _split(torch.arange(len(x), device=settings.device), settings.batch_size)
    return _Variant(lambda number: trainer.step(rows[number]), trainer.objective.rng, batches, settings.device)


def _split(tensor: torch.Tensor, size: int) -> Sequence[torch.Tensor]:
    return torch.split(tensor, size)
