"""What shapes a training run, and the error of one that cannot start or go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from tscc_stream.learn.clusters import HeadKind
from tscc_stream.learn.network import REPRESENTATION
from tscc_stream.package import Normalisation

Distance = Literal["euclidean", "mahalanobis"]
"""Mahalanobis: with centres one metric for all clusters, from the covariance of the pre-trained representations; a
mixture always has one for each."""
Space = Literal["representation", "judged"]
"""What of a representation decides on clusters: all, or what the judge of the loss looks at (clusters.along)."""
Precision = Literal["auto", "float32", "bfloat16"]
"""auto: bfloat16 on a graphics card, float32 on a processor."""


class TrainingError(ValueError):
    """Training that cannot start or go on, and why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that shapes a run. clusters: None lets `choose` decide after pre-training. Rates of learning per step.

    mask, dropout: shares; noise: see views.with_noise. contrast_share, surrogate_share, background_share,
    coincidence_share, clustering_share: weights of the terms of the loss, see `objective`. averaging: what of the
    averaged weights stays at each step; 0: their plain mean over the phase. axes: principal axes that a mixture uses.
    bounded: see clusters.Head. precision: of the network while it trains; what is clustered and saved is float32.
    """

    clusters: int | None = 5
    epochs_pretrain: int = 6
    epochs_finetune: int = 1
    batch_size: int = 32
    representation: int = REPRESENTATION
    seed: int = 0
    device: str = "cpu"
    normalisation: Normalisation = "asinh_mad"
    hidden: int = 32
    depth: int = 7
    mask: float = 0.0
    dropout: float = 0.0
    flip: bool = True
    noise: float = 1.5
    contrast_share: float = 0.0
    surrogate_share: float = 1.0
    background_share: float = 1.0
    coincidence_share: float = 1.0
    clustering_share: float = 0.1
    rate_pretrain: float = 1e-3
    rate_finetune: float = 1e-4
    averaging: float = 0.98
    fuzzifier: float = 1.5
    centre_epochs: int = 2
    head: HeadKind = "centres"
    axes: int = 4
    bounded: bool = True
    distance: Distance = "euclidean"
    space: Space = "judged"
    precision: Precision = "auto"

    @property
    def half(self) -> bool:
        """Whether the network trains in bfloat16."""
        return self.precision == "bfloat16" or (self.precision == "auto" and self.device.startswith("cuda"))

    def check(self, windows: int) -> None:
        """Raises TrainingError where the settings cannot be used with so many windows."""
        wanted = 1 if self.clusters is None else self.clusters
        if wanted < 1:
            raise TrainingError(f"clusters {wanted}: expected 1 or more")
        for name, least in (("batch_size", 1), ("representation", 1), ("epochs_pretrain", 0)):
            if getattr(self, name) < least:
                raise TrainingError(f"{name.replace('_', ' ')} {getattr(self, name)}: expected {least} or more")
        if self.space == "judged" and self.distance == "mahalanobis":
            raise TrainingError("distance mahalanobis: expected space representation with it, as in the recipe kinds")
        if self.epochs_finetune < 0 or self.centre_epochs < 1:
            raise TrainingError("epochs finetune: expected 0 or more, centres renewed every epoch or more rarely")
        if windows < max(wanted, 2):
            raise TrainingError(f"{windows} training windows: expected at least {max(wanted, 2)}")


def settings_of(values: Mapping[str, object]) -> Settings:
    """Settings of named values. Raises TrainingError, naming each that is unknown or of the wrong kind."""
    names = [field.name for field in fields(Settings)]
    unknown = [name for name in values if name not in names]
    if unknown:
        raise TrainingError(f"settings: {', '.join(unknown)} unknown; expected some of {', '.join(names)}")
    try:
        return TypeAdapter(Settings).validate_python(values)
    except ValidationError as error:
        said = [f"{row['loc'][0]}: {row['msg']}, not {row['input']!r}" for row in error.errors()]
        raise TrainingError(f"settings: {'; '.join(said)}") from error
