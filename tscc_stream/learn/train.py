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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tscc_stream.learn import choose, clusters, losses, views
from tscc_stream.learn.choose import Measured
from tscc_stream.learn.clusters import Head, HeadKind
from tscc_stream.learn.network import REPRESENTATION, Encoder, make_encoder, pool
from tscc_stream.messages import Float32Array
from tscc_stream.package import Normalisation

Distance = Literal["euclidean", "mahalanobis"]
"""Mahalanobis: with centres one metric for all clusters, from the covariance of the pre-trained representations; a
mixture always has one for each."""
Arrange = Callable[[Head, Tensor], list[int]]
"""(clusters found, representations of the training windows) -> which of them becomes cluster 0, 1, ..."""

_POOL_BATCH = 64


class TrainingError(ValueError):
    """Training that cannot start or go on, and why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that shapes a run. clusters: None lets `choose` decide after pre-training. Rates of learning per step.

    mask, dropout: shares; noise: see views.with_noise. contrast_share, surrogate_share, clustering_share: weights of
    the three terms. averaging: what of the averaged weights stays at each step; 0: their plain mean over the phase.
    axes: principal axes that a mixture uses. bounded: see clusters.Head.
    """

    clusters: int | None = 3
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
    contrast_share: float = 0.1
    surrogate_share: float = 1.0
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

    def check(self, windows: int) -> None:
        """Raises TrainingError where the settings cannot be used with so many windows."""
        wanted = 1 if self.clusters is None else self.clusters
        if wanted < 1:
            raise TrainingError(f"clusters {wanted}: expected 1 or more")
        for name, least in (("batch_size", 1), ("representation", 1), ("epochs_pretrain", 0)):
            if getattr(self, name) < least:
                raise TrainingError(f"{name.replace('_', ' ')} {getattr(self, name)}: expected {least} or more")
        if self.epochs_finetune < 0 or self.centre_epochs < 1:
            raise TrainingError("epochs finetune: expected 0 or more, centres renewed every epoch or more rarely")
        if windows < max(wanted, 2):
            raise TrainingError(f"{windows} training windows: expected at least {max(wanted, 2)}")


@dataclass(frozen=True, slots=True)
class Epoch:
    """Mean terms of the loss over one epoch; clustering is 0 in pre-training."""

    phase: str
    number: int
    contrast: float
    clustering: float
    surrogate: float = 0.0


class Trainer:
    """The state of a run over normalised windows x [n, T, C]: networks, optimiser, generators, clusters, history.

    start: an encoder to go on from, instead of weights by chance. arrange: says in which order clusters are numbered
    whenever they were found anew (default: the largest first). troubles: what was wrong with the clusters, and when.
    choices: what was measured where the number of clusters was left open.
    """

    def __init__(
        self, settings: Settings, x: Float32Array, start: Encoder | None = None, arrange: Arrange | None = None
    ) -> None:
        settings.check(len(x))
        self.settings = settings
        self.x_ntc = torch.from_numpy(np.require(x, np.float32, ["C", "W"]))
        self.device = torch.device(settings.device)
        self.encoder = self._first_encoder(start).to(self.device)
        self.judge = _judge(settings.representation).to(self.device)
        self.rng = np.random.Generator(np.random.PCG64(settings.seed))
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.head: Head | None = None
        self.history: list[Epoch] = []
        self.troubles: list[str] = []
        self.choices: list[Measured] = []
        self._arrange = arrange
        self._start_phase(settings.rate_pretrain)

    def _first_encoder(self, start: Encoder | None) -> Encoder:
        chosen = self.settings
        shape = (self.x_ntc.shape[2], chosen.representation, chosen.hidden, chosen.depth)
        encoder = make_encoder(chosen.seed, *shape)
        if start is not None:
            if start.shape != shape:
                raise TrainingError(f"the encoder to start from has the shape {start.shape}, expected {shape}")
            encoder.load_state_dict(start.state_dict())
        return encoder

    @property
    def epochs(self) -> int:
        """How many epochs the whole run has."""
        return self.settings.epochs_pretrain + self.settings.epochs_finetune

    def _start_phase(self, rate: float) -> None:
        kept = self.settings.averaging
        average = get_ema_multi_avg_fn(kept) if kept else None  # type: ignore[no-untyped-call]  # torch's
        self.averaged = AveragedModel(self.encoder, multi_avg_fn=average)
        self.optimiser = torch.optim.AdamW([*self.encoder.parameters(), *self.judge.parameters()], lr=rate)

    def averaged_encoder(self) -> Encoder:
        """The network of averaged weights, which is what is clustered and saved (the start where no step was made)."""
        module = self.averaged.module
        assert isinstance(module, Encoder)  # noqa: S101 what AveragedModel copied
        return module

    def run(self, on_epoch: Callable[[Epoch], None], on_step: Callable[[], None] = lambda: None) -> None:
        """Train from wherever the state stands to the end; on_epoch after each epoch, when a checkpoint may be made."""
        while len(self.history) < self.epochs:
            number = len(self.history)
            if number >= self.settings.epochs_pretrain:
                self._renew_clusters(number - self.settings.epochs_pretrain)
            self.history.append(self._epoch(number, on_step))
            on_epoch(self.history[-1])
        self._settle_clusters()

    def _epoch(self, number: int, on_step: Callable[[], None]) -> Epoch:
        phase = "pretrain" if number < self.settings.epochs_pretrain else "finetune"
        order = self.rng.permutation(len(self.x_ntc))
        sums, size = np.zeros(3), self.settings.batch_size
        for at in range(0, len(order), size):
            rows = torch.from_numpy(order[at : at + size])
            sums += np.array(self._step(self.x_ntc[rows].to(self.device))) * len(rows)
            on_step()
        contrast, surrogate, clustering = (sums / len(order)).tolist()
        return Epoch(phase, number, contrast, clustering, surrogate)

    def _step(self, x_btc: Tensor) -> tuple[float, float, float]:
        """One step on a batch; returns the three terms of the loss before it."""
        chosen = self.settings
        nothing = torch.zeros((), device=self.device)
        contrast = self._contrast(x_btc) if chosen.contrast_share else nothing
        surrogate = self._against_surrogates(x_btc) if chosen.surrogate_share else nothing
        clustering = nothing if self.head is None else self._clustering(x_btc, self.head)
        loss = chosen.contrast_share * contrast + chosen.surrogate_share * surrogate
        loss = loss + chosen.clustering_share * clustering
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {float(loss.detach())} in epoch {len(self.history)}: lower the learning rate"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.optimiser.step()
        self.averaged.update_parameters(self.encoder)
        return float(contrast.detach()), float(surrogate.detach()), float(clustering.detach())

    def _contrast(self, x_btc: Tensor) -> Tensor:
        """Two crops of two views must be told from all else, at all time scales."""
        channels = x_btc.shape[2]
        both = torch.cat([self._view(x_btc), self._view(x_btc)], dim=2)
        crops = views.two_crops(both, self.rng)
        a_btd = self._represent(crops.a[:, :, :channels])[:, -crops.overlap :]
        b_btd = self._represent(crops.b[:, :, channels:])[:, : crops.overlap]
        return losses.hierarchical_contrastive_loss(a_btd, b_btd)

    def _against_surrogates(self, x_btc: Tensor) -> Tensor:
        """Windows with noise must be told from their phase-randomised selves by the pooled representation."""
        how = self.settings.normalisation
        seen = views.with_noise(views.standardised(x_btc, how), self.settings.noise, self.rng)
        both = torch.cat([seen, views.surrogates(seen, self.rng)])
        if self.settings.flip:
            both = views.flipped(both, self.rng)
        says_b = self.judge(pool(self._represent(views.normalised(both, how)))).squeeze(1)
        true_b = torch.zeros_like(says_b)
        true_b[: len(x_btc)] = 1.0
        return functional.binary_cross_entropy_with_logits(says_b, true_b)

    def _view(self, x_btc: Tensor) -> Tensor:
        """A window as it might have been recorded: other noise, other polarity."""
        chosen = self.settings
        if chosen.noise:
            linear = views.with_noise(views.standardised(x_btc, chosen.normalisation), chosen.noise, self.rng)
            x_btc = views.normalised(linear, chosen.normalisation)
        return views.flipped(x_btc, self.rng) if chosen.flip else x_btc

    def _represent(self, x_btc: Tensor) -> Tensor:
        chosen = self.settings
        return views.represent_noisily(self.encoder, x_btc, self.generator, chosen.mask, chosen.dropout)

    def _clustering(self, x_btc: Tensor, head: Head) -> Tensor:
        """The whole window, unmasked: what will be clustered later."""
        r_bd = pool(views.represent_noisily(self.encoder, x_btc, self.generator, 0.0, 0.0))
        squared_bk = head.squared(r_bd)
        return losses.fuzziness(
            head.memberships(squared_bk, self.settings.fuzzifier), squared_bk, self.settings.fuzzifier
        )

    def embed(self, x: Tensor | Float32Array | None = None) -> Tensor:
        """Pooled representations [n, D] by the averaged encoder, on the host; of the training windows by default."""
        x_ntc = self.x_ntc if x is None else torch.as_tensor(x)
        encoder = self.averaged_encoder()
        with torch.no_grad():
            parts = [
                pool(views.represent_noisily(encoder, part.to(self.device), self.generator, 0.0, 0.0)).cpu()
                for part in torch.split(x_ntc, _POOL_BATCH)
            ]
        return torch.cat(parts)

    def _renew_clusters(self, epoch: int) -> None:
        """Before fine-tuning: clusters, and training goes on from the averaged weights. Then: again at times."""
        if epoch == 0:
            self._find_clusters()
            self.encoder.load_state_dict(self.averaged_encoder().state_dict())
            self._start_phase(self.settings.rate_finetune)
        elif epoch % self.settings.centre_epochs == 0:
            self._step_clusters()

    def _find_clusters(self) -> None:
        """From nothing but the representations."""
        r_nd = self.embed()
        seen = Head(r_nd[:0], bounds=clusters.bounds_of(r_nd) if self.settings.bounded else None)
        metric = losses.whitening(seen.seen(r_nd)) if self.settings.distance == "mahalanobis" else None
        held = replace(seen, metric=metric)
        found = self._fitted(r_nd, held, self._number(r_nd, held))
        order = self._arrange(found, r_nd) if self._arrange else clusters.by_size(found, r_nd)
        self._take(found.reordered(order), r_nd)

    def _settle_clusters(self) -> None:
        """Clusters of the final averaged network: they go on from those that fine-tuning held.

        Not fuzzy steps: repeated in many dimensions they let centres run into one another (measured: 6 clusters of
        a simulated mine fell to 2).
        """
        if self.head is None:
            self._find_clusters()
            return
        r_nd, held = self.embed(), self.head.to("cpu")
        self._take(self._fitted(r_nd, held, len(held.centres), held.centres), r_nd)

    def _step_clusters(self) -> None:
        """One fuzzy step of centres, or the mixture fitted on from where it was."""
        assert self.head is not None  # noqa: S101 made before fine-tuning
        r_nd, held = self.embed(), self.head.to("cpu")
        if self.settings.head == "mixture":
            self._take(self._fitted(r_nd, held, len(held.centres), held.centres), r_nd)
            return
        centres = losses.updated_centres(held.seen(r_nd), held.centres, self.settings.fuzzifier, held.metric)
        self._take(replace(held, centres=centres), r_nd)

    def _number(self, r_nd: Tensor, held: Head) -> int:
        """How many clusters: as set, or as `choose` finds, which is kept for the report."""
        chosen = self.settings
        if chosen.clusters is not None:
            return chosen.clusters
        self.choices = choose.measure(
            r_nd, lambda some_nd, k: self._fitted(some_nd, held, k), chosen.fuzzifier, chosen.seed
        )
        return choose.best(self.choices)

    def _fitted(self, r_nd: Tensor, held: Head, number: int, start_kd: Tensor | None = None) -> Head:
        """Clusters of r_nd, seen as `held` sees it, from given centres or from nothing."""
        chosen, seen_nd = self.settings, held.seen(r_nd)
        if chosen.head == "mixture":
            found = clusters.mixture(seen_nd, number, chosen.axes, chosen.seed, start_kd)
        else:
            found = clusters.k_means(seen_nd, number, chosen.seed, held.metric, start_kd)
        return replace(found, bounds=held.bounds)

    def _take(self, found: Head, r_nd: Tensor) -> None:
        """Clusters in use from now on; what is wrong with them is remembered."""
        said = clusters.trouble(found, r_nd)
        self.troubles += [f"after epoch {len(self.history)}: {sentence}" for sentence in said]
        self.head = found.to(self.device)

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on; loads with weights_only=True."""
        return {
            "settings": asdict(self.settings),
            "encoder": self.encoder.state_dict(),
            "judge": self.judge.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "rng": json.dumps(self.rng.bit_generator.state),
            "head": None if self.head is None else self.head.state(),
            "history": [asdict(epoch) for epoch in self.history],
            "troubles": list(self.troubles),
            "choices": [asdict(row) for row in self.choices],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state that a run with the same settings and windows left."""
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.troubles = list(state["troubles"])
        self.choices = [Measured(**row) for row in state["choices"]]
        fine = len(self.history) > self.settings.epochs_pretrain
        self.encoder.load_state_dict(state["encoder"])
        self.judge.load_state_dict(state["judge"])
        self._start_phase(self.settings.rate_finetune if fine else self.settings.rate_pretrain)
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.head = None if state["head"] is None else Head(**state["head"]).to(self.device)


def _judge(representation: int) -> nn.Linear:
    """What tells windows from surrogates by the pooled representation; undecided at first."""
    judge = nn.utils.skip_init(nn.Linear, representation, 1)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert isinstance(judge, nn.Linear)  # noqa: S101 what skip_init was asked for
    nn.init.zeros_(judge.weight)
    nn.init.zeros_(judge.bias)
    return judge


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
