"""How many clusters, without labels: stability under resampling first, then how well apart the clusters lie.

For each number of clusters, on representations as distances see them:

- stability: two random halves of the windows are clustered apart, and both clusterings are applied to all windows;
  adjusted Rand index between the two, mean of several draws. 1: it does not matter which windows one happened to have.
- silhouette: distance to the next cluster against that within the own one, -1 to 1.
- partition coefficient: mean sum of squared memberships (Bezdek), scaled to 0 (undecided) to 1 (crisp).

Chosen is, among the numbers whose stability comes within `STABLE_WITHIN` of the best, the one with the largest
silhouette; equal ones are settled by the partition coefficient, then by the smaller number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score, silhouette_score
from torch import Tensor

from tscc_stream.learn.clusters import Head

Fit = Callable[[Tensor, int], Head]
"""(representations [n, D], number of clusters) -> clusters"""

RANGE = (2, 3, 4, 5, 6)
STABLE_WITHIN = 0.05
_DRAWS = 4
_SILHOUETTE_WINDOWS = 1000


@dataclass(frozen=True, slots=True)
class Measured:
    """What one number of clusters gives."""

    clusters: int
    stability: float
    silhouette: float
    partition: float


def measure(r_nd: Tensor, fit: Fit, fuzzifier: float, seed: int, numbers: Sequence[int] = RANGE) -> list[Measured]:
    """One row for each number of clusters that so many windows allow."""
    rng = np.random.Generator(np.random.PCG64(seed))
    possible = [k for k in numbers if 4 * k <= len(r_nd)] or [1]
    return [_measured(r_nd, fit, fuzzifier, k, rng) for k in possible]


def best(rows: Sequence[Measured]) -> int:
    """The number of clusters that the rule above chooses."""
    bar = max(row.stability for row in rows) - STABLE_WITHIN
    stable = [row for row in rows if row.stability >= bar]
    return max(stable, key=lambda row: (row.silhouette, row.partition, -row.clusters)).clusters


def _measured(r_nd: Tensor, fit: Fit, fuzzifier: float, clusters: int, rng: np.random.Generator) -> Measured:
    head = fit(r_nd, clusters)
    cluster_n = head.assign(r_nd).numpy()
    share_nk = head.memberships(head.squared(r_nd), fuzzifier)
    crisp = float(share_nk.square().sum(dim=1).mean())
    partition = 1.0 if clusters == 1 else (crisp - 1.0 / clusters) / (1.0 - 1.0 / clusters)
    some = rng.permutation(len(r_nd))[:_SILHOUETTE_WINDOWS]
    apart = len(np.unique(cluster_n[some])) > 1
    silhouette = float(silhouette_score(head.seen(r_nd)[some].numpy(), cluster_n[some])) if apart else -1.0
    return Measured(clusters, _stability(r_nd, fit, clusters, rng), silhouette, partition)


def _stability(r_nd: Tensor, fit: Fit, clusters: int, rng: np.random.Generator) -> float:
    agreements = []
    for _ in range(_DRAWS):
        halves = torch.from_numpy(rng.permutation(len(r_nd))).tensor_split(2)
        first, second = (fit(r_nd[half], clusters).assign(r_nd).numpy() for half in halves)
        agreements.append(adjusted_rand_score(first, second))
    return float(np.mean(agreements))


def explain(rows: Sequence[Measured], chosen: int) -> str:
    """A Markdown table with the reason."""
    lines = ["| clusters | stability | silhouette | partition coefficient |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {'**' if row.clusters == chosen else ''}{row.clusters}{'**' if row.clusters == chosen else ''} "
        f"| {row.stability:.3f} | {row.silhouette:.3f} | {row.partition:.3f} |"
        for row in rows
    ]
    reason = f"{chosen} chosen: the largest silhouette among those within {STABLE_WITHIN:g} of the best stability."
    return "\n".join([*lines, "", reason, ""])


def plot(rows: Sequence[Measured], chosen: int, path: Path) -> None:
    """The three measures over the number of clusters."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 slow to import, wanted once
    from matplotlib.figure import Figure  # noqa: PLC0415  # loaded where it is needed

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    numbers = [row.clusters for row in rows]
    for name in ("stability", "silhouette", "partition"):
        axes.plot(numbers, [getattr(row, name) for row in rows], "o-", label=name)
    axes.axvline(chosen, color="0.6", linestyle="--", label="chosen")
    axes.set(xlabel="clusters", xticks=numbers, ylim=(min(0.0, *(row.silhouette for row in rows)), 1.02))
    axes.legend()
    figure.savefig(path, dpi=100)
