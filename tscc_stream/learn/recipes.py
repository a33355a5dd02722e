"""Two ways to train: ours, and the published one, for comparison."""

from __future__ import annotations

from typing import Literal

from tscc_stream.learn.settings import Settings

Recipe = Literal["default", "published"]

RECIPES: dict[str, Settings] = {
    "default": Settings(),
    # Yang et al. 2023, with the clustering term as it was meant: with a gradient, and as a mean over the batch.
    "published": Settings(
        clusters=2,
        epochs_pretrain=25,
        epochs_finetune=25,
        batch_size=64,
        normalisation="z",
        hidden=64,
        depth=10,
        mask=0.5,
        dropout=0.1,
        flip=False,
        noise=0.0,
        contrast_share=1.0,
        surrogate_share=0.0,
        background_share=0.0,
        coincidence_share=0.0,
        clustering_share=0.1,
        rate_finetune=1e-4,
        averaging=0.0,
        bounded=False,
        space="representation",
    ),
}
