"""A deep embedded clustering for comparison: an autoencoder whose bottleneck is drawn towards cluster centres.

Xie et al. 2016 (soft assignment by Student's t, target distribution by its square), kept from forgetting its input by
the reconstruction, as Guo et al. 2017. Small on purpose: a bounded number of steps on one core.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional

from tscc_stream.learn.dataset import Int64Array
from tscc_stream.messages import Float32Array, Float64Array

WIDTHS = (128, 64, 10)
EPOCHS_RECONSTRUCTION = 20
EPOCHS_CLUSTERING = 10
MOST_STEPS = 1500
"""Steps of each of the two phases, whatever the size of the data."""
BATCH = 128
RATE = 1e-3
CLUSTERING_WEIGHT = 0.1


class Autoencoder(nn.Module):
    """Features [B, F] to bottleneck [B, 10] and back."""

    def __init__(self, features: int) -> None:
        super().__init__()
        sizes = (features, *WIDTHS)
        self.encoder = _layers(sizes)
        self.decoder = _layers(sizes[::-1])

    def forward(self, x_bf: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.encoder(x_bf)
        return latent, self.decoder(latent)


def _layers(sizes: tuple[int, ...]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for before, after in pairwise(sizes):
        parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def embedded_clusters(features: Float64Array, clusters: int, seed: int) -> tuple[Float64Array, Int64Array]:
    """Bottleneck [n, 10] and cluster [n] of features [n, F]; the global random state is left as it was."""
    x_nf = torch.from_numpy(_standardised(features))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Autoencoder(x_nf.shape[1])
    generator = torch.Generator().manual_seed(seed)
    _fit_reconstruction(model, x_nf, generator)
    centres = _fit_clusters(model, x_nf, clusters, generator, seed)
    with torch.no_grad():
        latent = model.encoder(x_nf)
        group = soft_assignment(latent, centres).argmax(dim=1)
    return latent.numpy().astype(np.float64), group.numpy()


def soft_assignment(latent_bd: Tensor, centres_kd: Tensor) -> Tensor:
    """[B, K], rows sum to 1: Student's t with one degree of freedom (Xie et al. 2016, equation 1)."""
    nearness = 1.0 / (1.0 + torch.cdist(latent_bd, centres_kd).square())
    return nearness / nearness.sum(dim=1, keepdim=True)


def target_of(assignment_nk: Tensor) -> Tensor:
    """Assignments made surer, and clusters more equal (Xie et al. 2016, equation 3)."""
    surer = assignment_nk.square() / assignment_nk.sum(dim=0)
    return surer / surer.sum(dim=1, keepdim=True)


def _standardised(features: Float64Array) -> Float32Array:
    """Zero mean in each feature, unit variance over all of them."""
    centred = features - features.mean(axis=0)
    scaled: Float32Array = (centred / max(float(centred.std()), 1e-12)).astype(np.float32)
    return scaled


def _batches(n: int, epochs: int, generator: torch.Generator) -> Iterator[tuple[bool, Tensor]]:
    """(first of an epoch, rows), for at most MOST_STEPS steps."""
    steps = 0
    for _ in range(epochs):
        for number, rows in enumerate(torch.split(torch.randperm(n, generator=generator), BATCH)):
            if steps == MOST_STEPS:
                return
            steps += 1
            yield number == 0, rows


def _fit_reconstruction(model: Autoencoder, x_nf: Tensor, generator: torch.Generator) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    for _, rows in _batches(len(x_nf), EPOCHS_RECONSTRUCTION, generator):
        _, rebuilt = model(x_nf[rows])
        _step(optimiser, functional.mse_loss(rebuilt, x_nf[rows]))


def _fit_clusters(model: Autoencoder, x_nf: Tensor, clusters: int, generator: torch.Generator, seed: int) -> Tensor:
    with torch.no_grad():
        start = KMeans(clusters, n_init=10, random_state=seed).fit(model.encoder(x_nf).numpy()).cluster_centers_
    centres = nn.Parameter(torch.from_numpy(start.astype(np.float32)))
    optimiser = torch.optim.Adam([*model.parameters(), centres], lr=RATE)
    target = torch.empty(0)
    for begins, rows in _batches(len(x_nf), EPOCHS_CLUSTERING, generator):
        if begins:
            with torch.no_grad():
                target = target_of(soft_assignment(model.encoder(x_nf), centres))
        latent, rebuilt = model(x_nf[rows])
        drawn = functional.kl_div(soft_assignment(latent, centres).log(), target[rows], reduction="batchmean")
        _step(optimiser, functional.mse_loss(rebuilt, x_nf[rows]) + CLUSTERING_WEIGHT * drawn)
    return centres.detach()


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimiser.step()
