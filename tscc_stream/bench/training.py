"""`bench training`: an epoch of 4,928 windows of 500 samples, ours beside the published loop, both phases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from tscc_stream.bench.measure import FIELD, Figure, lower_is_better, seconds_of
from tscc_stream.bench.published_training import PublishedLoop
from tscc_stream.learn.network import make_encoder
from tscc_stream.learn.recipes import RECIPES
from tscc_stream.learn.train import Trainer
from tscc_stream.messages import Float32Array

WINDOWS, SAMPLES = 4928, 500
"""Of the paper's data set."""
BATCHES, ROUNDS = 4, 3
"""Batches a round: their crops are of random lengths, which are the same in every round and for both variants."""


def run(batches: int = BATCHES, rounds: int = ROUNDS, samples: int = SAMPLES) -> dict[str, dict[str, Figure]]:
    """Seconds an epoch, extrapolated from `batches` of each round; same architecture, batch, mask and crops."""
    settings = replace(RECIPES["published"], dropout=0.2, epochs_pretrain=0)
    x = _windows(settings.batch_size * batches, samples)
    scale = WINDOWS / len(x)
    results = {}
    for phase, variants in _phases(x, settings.batch_size, Trainer(settings, x), Trainer(settings, x)).items():
        results[f"training_{phase}"] = lower_is_better(seconds_of(variants, rounds), scale, "s/epoch")
    return results


def _windows(n: int, samples: int) -> Float32Array:
    """What they hold does not matter to speed: noise, and an onset in every second one."""
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((n, samples, 1))
    x[::2, samples // 5 : samples // 4] *= 10.0
    return x.astype(np.float32)


def _phases(
    x: Float32Array, batch: int, pretrainer: Trainer, finetuner: Trainer
) -> dict[str, dict[str, Callable[[], None]]]:
    finetuner.start_fine_tuning()
    assert finetuner.head is not None  # noqa: S101 what fine-tuning starts with
    settings = finetuner.settings
    loops = [PublishedLoop(make_encoder(settings.seed, 1), settings, finetuner.head.centres) for _ in range(2)]
    parts = torch.split(torch.from_numpy(x), batch)
    rows = torch.split(torch.arange(len(x)), batch)

    def through(
        step: Callable[[torch.Tensor], object], some: tuple[torch.Tensor, ...], rng: np.random.Generator
    ) -> Callable[[], None]:
        def batches() -> None:
            for number, part in enumerate(some):
                rng.bit_generator.state = np.random.PCG64(number).state
                step(part)

        return batches

    return {
        "pretrain": {
            FIELD: through(loops[0].pretrain, parts, loops[0].rng),
            "ours": through(pretrainer.step, rows, pretrainer.objective.rng),
        },
        "finetune": {
            FIELD: through(loops[1].finetune, parts, loops[1].rng),
            "ours": through(finetuner.step, rows, finetuner.objective.rng),
        },
    }
