"""TSCC training: contrastive pre-training, centres by k-means, fine-tuning towards fuzzy clusters.

Sources: TSCC (Yang et al. 2023) for the two phases, weights 0.1 and 1.5, and centres renewed every second epoch;
TS2Vec (Yue et al. 2022) for crops and contrast. Different on purpose from the published program: the clustering loss
has a gradient and is a mean over the batch; the averaged network is what is clustered, calibrated and saved; no label
takes part in anything. Every random draw comes from the two generators of the state, so that a run that was cut off
and resumed gives the same weights.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from tscc_stream.learn import losses, views
from tscc_stream.learn.network import DEPTH, HIDDEN, REPRESENTATION, Encoder, make_encoder, pool
from tscc_stream.messages import Float32Array
from tscc_stream.package import Normalisation

Distance = Literal["euclidean", "mahalanobis"]
"""Mahalanobis: one metric for all clusters, from the covariance of the pre-trained representations."""

_POOL_BATCH = 64


class TrainingError(ValueError):
    """Training that cannot start or go on, and why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that shapes a run. Rates of learning per step; mask, dropout: shares; noise: see views.with_noise."""

    clusters: int = 2
    epochs_pretrain: int = 25
    epochs_finetune: int = 25
    batch_size: int = 64
    representation: int = REPRESENTATION
    seed: int = 0
    device: str = "cpu"
    normalisation: Normalisation = "asinh_mad"
    hidden: int = HIDDEN
    depth: int = DEPTH
    mask: float = 0.5
    dropout: float = 0.1
    flip: bool = True
    noise: float = 0.5
    rate_pretrain: float = 1e-3
    rate_finetune: float = 1e-4
    fuzzifier: float = 1.5
    clustering_share: float = 0.1
    centre_epochs: int = 2
    distance: Distance = "euclidean"

    def check(self, windows: int) -> None:
        """Raises TrainingError where the settings cannot be used with so many windows."""
        for name, least in (("clusters", 1), ("batch_size", 1), ("representation", 1), ("epochs_pretrain", 0)):
            if getattr(self, name) < least:
                raise TrainingError(f"{name.replace('_', ' ')} {getattr(self, name)}: expected {least} or more")
        if self.epochs_finetune < 0 or self.centre_epochs < 1:
            raise TrainingError("epochs finetune: expected 0 or more, centres renewed every epoch or more rarely")
        if windows < max(self.clusters, 2):
            raise TrainingError(f"{windows} training windows: expected at least {max(self.clusters, 2)}")


@dataclass(frozen=True, slots=True)
class Epoch:
    """Mean losses of one epoch; clustering is 0 in pre-training."""

    phase: str
    number: int
    contrast: float
    clustering: float


class Trainer:
    """The state of a run over normalised windows x [n, T, C]: networks, optimiser, generators, centres, history."""

    def __init__(self, settings: Settings, x: Float32Array) -> None:
        settings.check(len(x))
        self.settings = settings
        self.x_ntc = torch.from_numpy(np.require(x, np.float32, ["C", "W"]))
        self.device = torch.device(settings.device)
        encoder = make_encoder(settings.seed, x.shape[2], settings.representation, settings.hidden, settings.depth)
        self.encoder = encoder.to(self.device)
        self.rng = np.random.Generator(np.random.PCG64(settings.seed))
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.centres_kd: Tensor | None = None
        self.metric_dd: Tensor | None = None
        self.history: list[Epoch] = []
        self._start_phase(settings.rate_pretrain)

    @property
    def epochs(self) -> int:
        """How many epochs the whole run has."""
        return self.settings.epochs_pretrain + self.settings.epochs_finetune

    def _start_phase(self, rate: float) -> None:
        self.averaged = AveragedModel(self.encoder)
        self.optimiser = torch.optim.AdamW(self.encoder.parameters(), lr=rate)

    def averaged_encoder(self) -> Encoder:
        """The network whose weights are the mean over the phase's steps (the start where no step was made)."""
        module = self.averaged.module
        assert isinstance(module, Encoder)  # noqa: S101 what AveragedModel copied
        return module

    def run(self, on_epoch: Callable[[Epoch], None], on_step: Callable[[], None] = lambda: None) -> None:
        """Train from wherever the state stands to the end; on_epoch after each epoch, when a checkpoint may be made."""
        while len(self.history) < self.epochs:
            number = len(self.history)
            if number >= self.settings.epochs_pretrain:
                self._renew_centres(number - self.settings.epochs_pretrain)
            self.history.append(self._epoch(number, on_step))
            on_epoch(self.history[-1])
        self._settle_centres()

    def _epoch(self, number: int, on_step: Callable[[], None]) -> Epoch:
        phase = "pretrain" if number < self.settings.epochs_pretrain else "finetune"
        order = self.rng.permutation(len(self.x_ntc))
        sums, size = np.zeros(2), self.settings.batch_size
        for at in range(0, len(order), size):
            rows = torch.from_numpy(order[at : at + size])
            sums += np.array(self._step(self.x_ntc[rows].to(self.device))) * len(rows)
            on_step()
        contrast, clustering = (sums / len(order)).tolist()
        return Epoch(phase, number, contrast, clustering)

    def _step(self, x_btc: Tensor) -> tuple[float, float]:
        contrast = self._contrast(x_btc)
        clustering = torch.zeros((), device=self.device)
        if self.centres_kd is not None:
            clustering = self._clustering(x_btc, self.centres_kd)
        loss = contrast + self.settings.clustering_share * clustering
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {float(loss.detach())} in epoch {len(self.history)}: lower the learning rate"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.optimiser.step()
        self.averaged.update_parameters(self.encoder)
        return float(contrast.detach()), float(clustering.detach())

    def _contrast(self, x_btc: Tensor) -> Tensor:
        crops = views.two_crops(x_btc, self.rng)
        a_btd = self._represent(self._augmented(crops.a))[:, -crops.overlap :]
        b_btd = self._represent(self._augmented(crops.b))[:, : crops.overlap]
        return losses.hierarchical_contrastive_loss(a_btd, b_btd)

    def _augmented(self, x_btc: Tensor) -> Tensor:
        x_btc = views.with_noise(x_btc, self.settings.noise, self.rng)
        return views.flipped(x_btc, self.rng) if self.settings.flip else x_btc

    def _represent(self, x_btc: Tensor) -> Tensor:
        chosen = self.settings
        return views.represent_noisily(self.encoder, x_btc, self.generator, chosen.mask, chosen.dropout)

    def _clustering(self, x_btc: Tensor, centres_kd: Tensor) -> Tensor:
        """The whole window, unmasked: what will be clustered later."""
        r_bd = pool(self.encoder(x_btc))
        return losses.fuzzy_clustering_loss(r_bd, centres_kd, self.settings.fuzzifier, self.metric_dd)

    def embed(self, x: Tensor | Float32Array | None = None) -> Tensor:
        """Pooled representations [n, D] by the averaged encoder, on the host; of the training windows by default."""
        x_ntc = self.x_ntc if x is None else torch.as_tensor(x)
        encoder = self.averaged_encoder()
        with torch.no_grad():
            parts = [pool(encoder(part.to(self.device))).cpu() for part in torch.split(x_ntc, _POOL_BATCH)]
        return torch.cat(parts)

    def _renew_centres(self, epoch: int) -> None:
        """Before fine-tuning: k-means, and training goes on from the averaged weights. Then: a fuzzy step at times."""
        if epoch == 0:
            self._first_centres()
            self.encoder.load_state_dict(self.averaged_encoder().state_dict())
            self._start_phase(self.settings.rate_finetune)
        elif epoch % self.settings.centre_epochs == 0:
            self._step_centres()

    def _first_centres(self) -> None:
        """K-means from ten starts, after the metric is made."""
        r_nd = self.embed()
        if self.settings.distance == "mahalanobis":
            self.metric_dd = losses.whitening(r_nd).to(self.device)
        self._k_means(r_nd, "k-means++", 10)

    def _settle_centres(self) -> None:
        """Centres of the final averaged network: k-means goes on from those that fine-tuning held, in its metric.

        Not fuzzy steps: repeated in many dimensions they let centres run into one another (measured: 6 clusters of
        a simulated mine fell to 2).
        """
        if self.centres_kd is None:
            self._first_centres()
        else:
            self._k_means(self.embed(), self._whitened(self.centres_kd.cpu()).numpy(), 1)

    def _whitened(self, r_nd: Tensor) -> Tensor:
        return r_nd if self.metric_dd is None else r_nd @ self.metric_dd.cpu()

    def _k_means(self, r_nd: Tensor, start: str | Float32Array, starts: int) -> None:
        seen_nd = self._whitened(r_nd).numpy()
        means = KMeans(self.settings.clusters, init=start, n_init=starts, random_state=self.settings.seed)
        cluster_n = torch.from_numpy(means.fit(seen_nd).labels_)
        centres = [r_nd[cluster_n == k].mean(dim=0) for k in range(self.settings.clusters)]
        self.centres_kd = torch.stack(centres).to(self.device)

    def _step_centres(self) -> None:
        assert self.centres_kd is not None  # noqa: S101 made before fine-tuning
        r_nd = self.embed().to(self.device)
        self.centres_kd = losses.updated_centres(r_nd, self.centres_kd, self.settings.fuzzifier, self.metric_dd)

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on; loads with weights_only=True."""
        return {
            "settings": asdict(self.settings),
            "encoder": self.encoder.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "rng": json.dumps(self.rng.bit_generator.state),
            "centres": self.centres_kd,
            "metric": self.metric_dd,
            "history": [asdict(epoch) for epoch in self.history],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state that a run with the same settings and windows left."""
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        fine = len(self.history) > self.settings.epochs_pretrain
        self.encoder.load_state_dict(state["encoder"])
        self._start_phase(self.settings.rate_finetune if fine else self.settings.rate_pretrain)
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.centres_kd = None if state["centres"] is None else state["centres"].to(self.device)
        self.metric_dd = None if state["metric"] is None else state["metric"].to(self.device)


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Write the state in one step."""
    fresh = path.with_suffix(".new")
    torch.save(trainer.state(), fresh)
    fresh.replace(path)


def load_checkpoint(trainer: Trainer, path: Path) -> None:
    """Resume from a checkpoint. Raises TrainingError where it belongs to other settings or cannot be read."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise TrainingError(f"checkpoint {path}: cannot be read: {error}") from error
    if state["settings"] != asdict(trainer.settings):
        raise TrainingError(f"checkpoint {path}: was made with other settings")
    trainer.restore(state)
