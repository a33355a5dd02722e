"""TSCC training: pre-training by the terms of `objective`, clusters, fine-tuning towards fuzzy ones.

Sources: TSCC (Yang et al. 2023) for the two phases, weights 0.1 and 1.5, and centres renewed every second epoch;
TS2Vec (Yue et al. 2022) for crops and contrast. Different on purpose from the published program: the clustering loss
has a gradient and is a mean over the batch; the averaged network is what is clustered, calibrated and saved; no label
takes part in anything. Every random draw comes from the two generators of the state, so that a run that was cut off
and resumed gives the same weights. Where several processes train (`group`), all of them hold the same state: they make
the same draws for the whole batch, their gradients are put together, and the first finds the clusters for all.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tscc_stream.learn import choose, clusters, losses, views
from tscc_stream.learn.averaging import AveragedEncoder
from tscc_stream.learn.choose import Measured
from tscc_stream.learn.clusters import Head
from tscc_stream.learn.group import ALONE, Group
from tscc_stream.learn.held import Batch, Held, Windows
from tscc_stream.learn.network import Encoder, make_encoder, pool
from tscc_stream.learn.objective import Circumstances, Objective, Terms
from tscc_stream.learn.part import Part
from tscc_stream.learn.saving import save_tensors
from tscc_stream.learn.settings import Settings, TrainingError
from tscc_stream.messages import Float32Array

Arrange = Callable[[Head, Tensor, Tensor | None], list[int]]
"""(clusters found, representations of the windows they were found among, their numbers, None for all) -> which of them
becomes cluster 0, 1, ..."""

_LOOK_EVERY = 16
"""Steps between two looks at whether the loss is finite; a look waits for the device. Always before an epoch ends, and
so before a checkpoint is written.
"""


_Found = tuple[dict[str, Any], list[str], list[Measured]]
"""Clusters as Head.state has them, troubles and choices so far."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """Mean terms of the loss over one epoch; clustering is 0 in pre-training."""

    phase: str
    number: int
    contrast: float
    clustering: float
    surrogate: float = 0.0
    background: float = 0.0
    coincidence: float = 0.0
    strength: float = 0.0


class _Terms(nn.Module):
    """The terms of the loss as a module, whose weights are all that is trained."""

    def __init__(self, encoder: Encoder, objective: Objective) -> None:
        super().__init__()
        self.encoder, self.judge = encoder, objective.judge
        self._terms = objective.terms

    def forward(self, x_btc: Tensor, known: Circumstances, head: Head | None, part: Part) -> Terms:
        return self._terms(self.encoder, x_btc, known, head, part)


class Trainer:
    """The state of a run over normalised windows x [n, T, C]: networks, optimiser, generators, clusters, history.

    known: of the windows, beside their samples. start: an encoder to go on from, instead of weights by chance. arrange:
    says in which order clusters are numbered whenever they were found anew (default: the largest first). group: the
    processes that train together. clustered: numbers of the windows that clusters are found among (None: all), out of
    `among`. troubles: what was wrong with the clusters, and when. choices: what was measured where the number of
    clusters was left open.
    """

    def __init__(
        self,
        settings: Settings,
        x: Float32Array | Windows,
        known: Circumstances = Circumstances(),  # noqa: B008 frozen
        start: Encoder | None = None,
        arrange: Arrange | None = None,
        group: Group = ALONE,
    ) -> None:
        self.settings = settings
        among_n = known.triggered if settings.among == "triggered" else None
        self.among = len(x) if among_n is None else int(among_n.sum())
        settings.check(self.among)
        self.device = torch.device(settings.device)
        self.windows: Windows = Held(x, self.device) if isinstance(x, np.ndarray) else x
        self.known = known
        self.group = group
        self._known_there = known.to(self.device)
        self.clustered = self.windows.sample(among_n)
        self.encoder = self._first_encoder(start).to(self.device)
        self.objective = Objective(settings)
        self._terms = group.shared(_Terms(self.encoder, self.objective), self.objective.judges(known))
        self.head: Head | None = None
        self.history: list[Epoch] = []
        self.troubles: list[str] = []
        self.choices: list[Measured] = []
        self._arrange = arrange
        self._start_phase(settings.rate_pretrain)

    def _first_encoder(self, start: Encoder | None) -> Encoder:
        chosen = self.settings
        shape = (self.windows.channels, chosen.representation, chosen.hidden, chosen.depth)
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
        self.averaged = AveragedEncoder(self.encoder, self.settings.averaging)
        weights = [*self.encoder.parameters(), *self.objective.judge.parameters()]
        self.optimiser = torch.optim.AdamW(weights, lr=rate, fused=True)

    def averaged_encoder(self) -> Encoder:
        """The network of averaged weights, which is what is clustered and saved (the start where no step was made)."""
        return self.averaged.encoder

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
        sums = torch.zeros(len(Terms._fields), dtype=torch.float64, device=self.device)
        steps = self.steps
        batches = self.windows.epoch(number, self.settings.batch_size, self.objective.rng, self.group)
        for done, batch in enumerate(batches, start=1):
            sums += self.learn(batch).double() * len(batch.rows)
            if done % _LOOK_EVERY == 0 or done == steps:
                self._look_at(sums)
            on_step()
        terms = dict(zip(Terms._fields, (self.group.summed(sums) / len(self.windows)).tolist(), strict=True))
        return Epoch(phase, number, **terms)

    @property
    def steps(self) -> int:
        """How many steps an epoch has."""
        return -(-len(self.windows) // self.settings.batch_size)

    def step(self, rows: Tensor) -> Tensor:
        """One step on windows in memory, by number [B] on the device; as `learn`."""
        assert isinstance(self.windows, Held)  # noqa: S101 what the caller gave
        return self.learn(self.windows.batch(rows, self.group))

    def learn(self, batch: Batch) -> Tensor:
        """One step; returns what this process adds to the terms of the loss before it, on the device, so that nobody
        waits for that.
        """
        known = self._known_there.of(batch.rows)
        terms: Terms = self._terms(batch.x, known, self.head, batch.part)
        loss = terms.total(self.settings) * self.group.processes  # of gradients the group takes the mean
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.optimiser.step()
        self.averaged.update(self.encoder)
        return torch.stack([term.detach() for term in terms])

    def _look_at(self, sums: Tensor) -> None:
        """Raises TrainingError where a term of any step so far was not finite: it never leaves the sums again."""
        sums = self.group.summed(sums)
        if not torch.isfinite(sums).all():
            said = ", ".join(f"{name} {value:g}" for name, value in zip(Terms._fields, sums.tolist(), strict=True))
            raise TrainingError(f"the loss became {said} in epoch {len(self.history)}: lower the learning rate")

    def embed(self, rows: Tensor | None = None) -> Tensor:
        """Pooled representations [n, D] by the averaged encoder, on the host; rows: numbers, ascending."""
        count = len(self.windows) if rows is None else len(rows)
        part = self.group.part(count)
        if part.divided:
            rows = (torch.arange(count) if rows is None else rows)[part.mine]
        encoder = self.averaged_encoder()
        with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):  # float32, as what is exported
            parts = [pool(views.represent(encoder, x_btc)).cpu() for x_btc in self.windows.read(rows)]
            return part.gathered(torch.cat(parts).to(self.device)).cpu()

    def start_fine_tuning(self) -> None:
        """Clusters from nothing but the representations; training goes on from the averaged weights."""
        self._find_clusters()
        self.encoder.load_state_dict(self.averaged_encoder().state_dict())
        self._start_phase(self.settings.rate_finetune)

    def _renew_clusters(self, epoch: int) -> None:
        """Before each epoch of fine-tuning."""
        if epoch == 0:
            self.start_fine_tuning()
        elif epoch % self.settings.centre_epochs == 0:
            self._step_clusters()

    def _find_clusters(self) -> None:
        """From nothing but the representations."""
        r_nd = self.embed(self.clustered)

        def find() -> _Found:
            held = self._view_of(r_nd)
            found = self._fitted(r_nd, held, self._number(r_nd, held))
            order = self._arrange(found, r_nd, self.clustered) if self._arrange else clusters.by_size(found, r_nd)
            return self._found(found.reordered(order), r_nd)

        self._take(find)

    def _view_of(self, r_nd: Tensor) -> Head:
        """How distances shall see representations: a head without centres yet."""
        chosen = self.settings
        directions = self.objective.directions(self.known) if chosen.space == "judged" else None
        if directions is not None:
            return clusters.along(r_nd, directions)
        if chosen.space == "judged":
            self.troubles.append("the judge has learnt nothing: clusters lie in the whole representation")
        held = Head(r_nd[:0], bounds=clusters.bounds_of(r_nd) if chosen.bounded else None)
        if chosen.distance == "euclidean":
            return held
        return replace(held, metric=losses.whitening(held.seen(r_nd)))

    def _settle_clusters(self) -> None:
        """Clusters of the final averaged network: they go on from those that fine-tuning held.

        Not fuzzy steps: repeated in many dimensions they let centres run into one another (measured: 6 clusters of
        a simulated mine fell to 2).
        """
        if self.head is None:
            self._find_clusters()
            return
        r_nd, held = self.embed(self.clustered), self.head.to("cpu")
        self._take(lambda: self._found(self._fitted(r_nd, held, len(held.centres), held.centres), r_nd))

    def _step_clusters(self) -> None:
        """One fuzzy step of centres, or the mixture fitted on from where it was."""
        assert self.head is not None  # noqa: S101 made before fine-tuning
        r_nd, held = self.embed(self.clustered), self.head.to("cpu")

        def step() -> _Found:
            if self.settings.head == "mixture":
                return self._found(self._fitted(r_nd, held, len(held.centres), held.centres), r_nd)
            centres = losses.updated_centres(held.seen(r_nd), held.centres, self.settings.fuzzifier, held.metric)
            return self._found(replace(held, centres=centres), r_nd)

        self._take(step)

    def _number(self, r_nd: Tensor, held: Head) -> int:
        """How many clusters: as set, or as `choose` finds, which is kept for the report."""
        chosen = self.settings
        if chosen.clusters is not None:
            return chosen.clusters
        self.choices = choose.measure(r_nd, lambda r_nd, k: self._fitted(r_nd, held, k), chosen.fuzzifier, chosen.seed)
        return choose.best(self.choices)

    def _fitted(self, r_nd: Tensor, held: Head, number: int, start_kd: Tensor | None = None) -> Head:
        """Clusters of r_nd, seen as `held` sees it, from given centres or from nothing."""
        chosen, seen_nd = self.settings, held.seen(r_nd)
        if chosen.head == "mixture":
            found = clusters.mixture(seen_nd, number, chosen.axes, chosen.seed, start_kd)
        else:
            found = clusters.k_means(seen_nd, number, chosen.seed, held.metric, start_kd)
        return replace(found, bounds=held.bounds, axes=held.axes)

    def _found(self, found: Head, r_nd: Tensor) -> _Found:
        """Clusters, with what is wrong with them."""
        said = clusters.trouble(found, r_nd)
        self.troubles += [f"after epoch {len(self.history)}: {sentence}" for sentence in said]
        return found.state(), self.troubles, self.choices

    def _take(self, find: Callable[[], _Found]) -> None:
        """Clusters in use from now on, found by the first process for all; what is wrong with them is remembered."""
        state, self.troubles, self.choices = self.group.told(find)
        self.head = Head(**state).to(self.device)

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on; loads with weights_only=True."""
        return {
            "settings": asdict(self.settings),
            "encoder": self.encoder.state_dict(),
            "averaged": self.averaged.state(),
            "optimiser": self.optimiser.state_dict(),
            "objective": self.objective.state(),
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
        self._start_phase(self.settings.rate_finetune if fine else self.settings.rate_pretrain)
        self.averaged.restore(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.objective.restore(state["objective"])
        self.head = None if state["head"] is None else Head(**state["head"]).to(self.device)


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Write the state in one step."""
    save_tensors(trainer.state(), path)


def load_checkpoint(trainer: Trainer, path: Path) -> None:
    """Resume from a checkpoint. Raises TrainingError where it belongs to other settings or cannot be read."""
    trainer.restore(read_checkpoint(path, trainer.settings))


def read_checkpoint(path: Path, settings: Settings) -> dict[str, Any]:
    """A state to be taken up. Raises TrainingError as `load_checkpoint`."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise TrainingError(f"checkpoint {path}: cannot be read: {error}") from error
    if state["settings"] != asdict(settings):
        raise TrainingError(f"checkpoint {path}: was made with other settings")
    return state
