"""Ways to train: two of ours, and the published one, for comparison."""

from __future__ import annotations

from typing import Literal

from tscc_stream.learn.settings import Settings

Recipe = Literal["default", "kinds", "published"]
"""default: how much a window is an event, which sensors agree on; kinds: which of several kinds of source it is."""

RECIPES: dict[str, Settings] = {
    "default": Settings(),
    "kinds": Settings(
        clusters=8,
        epochs_pretrain=7,
        contrast_share=0.1,
        strength_share=0.0,
        bounded=False,
        distance="mahalanobis",
        space="representation",
        among="triggered",
    ),
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
        strength_share=0.0,
        clustering_share=0.1,
        rate_finetune=1e-4,
        averaging=0.0,
        bounded=False,
        space="representation",
    ),
}
