"""Unknown windows grouped into families that may be kinds of source which the model does not know. Pure.

Agglomerative clustering with average linkage: two groups become one as long as the mean distance between their members
is at most a threshold. The threshold is what is usual within the model's own clusters: the distance under which half of
the pairs of ordinary windows of one and the same cluster lie. So a family is as alike as a known cluster is, whatever
the scale of the model's embedding.

Measured on four hours of the simulated mine (8 channels, seed 77, model demo, alpha 0.05; 286 unknown windows of seven
kinds): 38 families, in which 68 % of the windows are of their family's commonest kind; with the kinds shuffled, 48 %.
With three quarters of the pairs instead of half: 16 families, 59 % and 45 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import AgglomerativeClustering

from tscc_stream.messages import Float32Array, Float64Array

LEAST = 3
"""Members of a family: less is chance."""
QUANTILE = 0.5
MOST = 2_000
"""Unknown windows that are grouped, the newest: distances between all pairs are held, 32 MB."""
ORDINARY = 300
"""Ordinary windows from which the threshold is taken."""


@dataclass(frozen=True, slots=True)
class Family:
    """Places of its members, the most typical first (smallest mean distance to the others)."""

    members: tuple[int, ...]


def usual_distance(ordinary_nd: Float32Array, cluster_n: Float64Array) -> float:
    """The threshold. NaN where no cluster has two ordinary windows."""
    pairs = [_upper(distances(ordinary_nd[cluster_n == cluster])) for cluster in np.unique(cluster_n)]
    within = np.concatenate(pairs) if pairs else np.zeros(0)
    return float(np.quantile(within, QUANTILE)) if within.size else float("nan")


def grouped(embedding_nd: Float32Array, threshold: float) -> list[Family]:
    """Families of at least LEAST, the largest first; windows in none are left over."""
    if len(embedding_nd) < LEAST or not threshold > 0:
        return []
    apart = distances(embedding_nd)
    clustering = AgglomerativeClustering(None, metric="precomputed", linkage="average", distance_threshold=threshold)
    labels = clustering.fit(apart).labels_
    families = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return sorted(
        (_by_typicality(members, apart) for members in families if members.size >= LEAST),
        key=lambda family: -len(family.members),
    )


def _by_typicality(members: np.ndarray, apart: Float64Array) -> Family:
    mean = apart[np.ix_(members, members)].mean(axis=1)
    return Family(tuple(int(place) for place in members[np.argsort(mean, kind="stable")]))


def distances(x_nd: Float32Array) -> Float64Array:
    """[n, n] Euclidean."""
    x = x_nd.astype(np.float64)
    squared = (x**2).sum(axis=1)
    between: Float64Array = np.sqrt(np.maximum(squared[:, None] + squared - 2 * x @ x.T, 0.0))
    np.fill_diagonal(between, 0.0)
    return between


def _upper(apart: Float64Array) -> Float64Array:
    return apart[np.triu_indices(len(apart), 1)]
