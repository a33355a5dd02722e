"""What `tscc-stream train` does, as a function with plain arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from tscc_stream import package
from tscc_stream.learn import run
from tscc_stream.learn.clusters import HeadKind
from tscc_stream.learn.group import ALONE, Group
from tscc_stream.learn.latent import encoder_of
from tscc_stream.learn.network import Encoder
from tscc_stream.learn.recipes import RECIPES, Recipe
from tscc_stream.learn.settings import Distance, Settings, TrainingError, settings_of
from tscc_stream.learn.train import Arrange
from tscc_stream.package import Normalisation, Package


def train_model(
    data: Path,
    out: Path,
    *,
    calibration: Path | None = None,
    calibrate_every: int | None = None,
    recipe: Recipe = "default",
    clusters: int | Literal["auto"] | None = None,
    epochs_pretrain: int | None = None,
    epochs_finetune: int | None = None,
    batch_size: int | None = None,
    repr_dims: int | None = None,
    seed: int = 0,
    device: str = "auto",
    normalisation: Normalisation | None = None,
    distance: Distance | None = None,
    head: HeadKind | None = None,
    init: Path | None = None,
    arrange: Arrange | None = None,
    provenance: str = "not stated",
    licence: str = "not stated",
    command: str = "",
    runs: Path = Path("training"),
    finer: Mapping[str, object] | None = None,
    group: Group = ALONE,
) -> Package:
    """Train on a data set and write a model package to `out`; a run that was cut off is taken up again.

    What is None is as the recipe has it; finer: more of Settings by name, for what has no argument of its own.
    calibration: a data set for the novelty scores; default: every calibrate_every-th minute of `data`, or its last
    fifth by time, which then does not train. init: a package whose encoder is trained on; its shape and normalisation
    are taken over. arrange: as in train.Trainer. command: how the model was made, for its card. group: the processes
    that train together, each of which makes this call. Raises DataSetError, TrainingError or PackageError.
    """
    named = {
        "epochs_pretrain": epochs_pretrain,
        "epochs_finetune": epochs_finetune,
        "batch_size": batch_size,
        "representation": repr_dims,
        "normalisation": normalisation,
        "distance": distance,
        "head": head,
        "clusters": clusters,
        "seed": seed,
        "device": _device(device),
    }
    before = None if init is None else package.load(init)
    start, fixed = (None, {}) if before is None else _encoder_in(before)
    settings = _settings(recipe, named, finer or {}, fixed)
    return run.train(
        run.Request(
            data=data,
            out=out,
            settings=settings,
            calibration=calibration,
            calibrate_every=calibrate_every,
            runs=runs,
            provenance=provenance,
            licence=licence,
            command=command,
            start=start,
            arrange=arrange,
            init=before,
        ),
        group,
    )


def _settings(
    recipe: Recipe, named: Mapping[str, object], finer: Mapping[str, object], fixed: Mapping[str, object]
) -> Settings:
    """The recipe, changed by what was named and not None, by `finer`, and by what an encoder to go on from fixes."""
    twice = sorted(name for name in finer if named.get(name) is not None)
    if twice:
        raise TrainingError(f"setting {', '.join(twice)}: given twice; expected as an option of its own")
    stated = {name: value for name, value in named.items() if value is not None} | dict(finer)
    other = sorted(name for name, value in fixed.items() if stated.get(name, value) != value)
    if other:
        raise TrainingError(f"setting {', '.join(other)}: expected what the model has that training goes on from")
    if stated.get("clusters") == "auto":
        stated["clusters"] = None
    return settings_of(asdict(RECIPES[recipe]) | stated | dict(fixed))


def _encoder_in(loaded: Package) -> tuple[Encoder, dict[str, Any]]:
    """The encoder of a package, and the settings that it fixes."""
    encoder = encoder_of(loaded)
    _, representation, hidden, depth = encoder.shape
    fixed = {"representation": representation, "hidden": hidden, "depth": depth}
    return encoder, fixed | {"normalisation": loaded.spec.normalisation}


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"device {name}: torch cannot use it here; expected auto, cpu, cuda or cuda:N") from error
    return name
