"""What shapes a training run, and the error of one that cannot start or go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from tscc_stream.learn.clusters import HeadKind
from tscc_stream.learn.network import REPRESENTATION
from tscc_stream.mistakes import expected
from tscc_stream.package import Normalisation

Distance = Literal["euclidean", "mahalanobis"]
"""Mahalanobis: with centres one metric for all clusters, from the covariance of the pre-trained representations; a
mixture always has one for each."""
Space = Literal["representation", "judged"]
"""What of a representation decides on clusters: all, or what the judge of the loss looks at (clusters.along)."""
Among = Literal["all", "triggered"]
"""Which windows clusters are found among: all, or those that come live."""
Precision = Literal["auto", "float32", "bfloat16"]
"""auto: bfloat16 on a graphics card, float32 on a processor."""


class TrainingError(ValueError):
    """Training that cannot start or go on, and why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that shapes a run. clusters: None lets `choose` decide after pre-training. Rates of learning per step.

    mask, dropout: shares; noise: see views.with_noise. contrast_share, surrogate_share, background_share,
    coincidence_share, strength_share, clustering_share: weights of the terms of the loss, see `objective`. averaging:
    what of the averaged weights stays at each step; 0: their plain mean over the phase. axes: principal axes that a
    mixture uses. bounded: as clusters.Head, for space representation. precision: of the network while it trains; what
    is clustered and saved is float32.
    """

    clusters: int | None = 12
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
    strength_share: float = 1.0
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
    among: Among = "all"
    precision: Precision = "auto"

    @property
    def half(self) -> bool:
        """Whether the network trains in bfloat16."""
        return self.precision == "bfloat16" or (self.precision == "auto" and self.device.startswith("cuda"))

    def check(self, windows: int) -> None:
        """Raises TrainingError where the settings cannot be used with so many windows to cluster."""
        wanted = 1 if self.clusters is None else self.clusters
        if wanted < 1:
            raise TrainingError(f"clusters {wanted}: expected 1 or more")
        for names, low, high in _RANGES:
            for name in names:
                value = getattr(self, name)
                if not low <= value < high:
                    raise TrainingError(f"{name.replace('_', ' ')} {value}: expected {low:g} or more{_below(high)}")
        if self.fuzzifier <= 1.0:
            raise TrainingError(f"fuzzifier {self.fuzzifier:g}: expected more than 1")
        for name, needed in (("distance", "euclidean"), ("head", "centres"), ("bounded", True)):
            if self.space == "judged" and getattr(self, name) != needed:
                raise TrainingError(
                    f"{name} {getattr(self, name)}: expected space representation with it, as in the recipe kinds"
                )
        if windows < max(wanted, 2):
            raise TrainingError(f"{windows} training windows to cluster: expected at least {max(wanted, 2)}")


_RANGES: tuple[tuple[tuple[str, ...], float, float], ...] = (
    (("batch_size", "representation", "hidden", "centre_epochs", "axes"), 1, inf),
    (("epochs_pretrain", "epochs_finetune", "seed"), 0, inf),
    (("depth",), 0, 20),
    (("mask", "dropout", "averaging"), 0, 1),
    (
        (
            "noise",
            "contrast_share",
            "surrogate_share",
            "background_share",
            "coincidence_share",
            "strength_share",
            "clustering_share",
        ),
        0,
        inf,
    ),
    (("rate_pretrain", "rate_finetune"), 0, 1),
    (("fuzzifier",), 1, inf),
)
"""Names of settings, the smallest value they may have, and what they must stay below."""


def _below(high: float) -> str:
    return "" if high == inf else f", below {high:g}"


def settings_of(values: Mapping[str, object]) -> Settings:
    """Settings of named values. Raises TrainingError, naming each that is unknown or of the wrong kind."""
    names = [field.name for field in fields(Settings)]
    unknown = [name for name in values if name not in names]
    if unknown:
        raise TrainingError(f"settings: {', '.join(unknown)} unknown; expected some of {', '.join(names)}")
    try:
        return TypeAdapter(Settings).validate_python(values)
    except ValidationError as error:
        said = [f"{row['loc'][0]}: {expected(row)}, not {row['input']!r:.80}" for row in error.errors()]
        raise TrainingError(f"settings: {'; '.join(said)}") from error
