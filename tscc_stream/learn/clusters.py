"""Clusters of pooled representations: centres by k-means, or a mixture of Gaussians with full covariances.

Shapes: N windows, D representation dimensions, A of them (or axes through them) that are looked at, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from torch import Tensor

from tscc_stream.learn import losses
from tscc_stream.messages import Float32Array, Float64Array

HeadKind = Literal["centres", "mixture"]
SMALLEST_SHARE, LARGEST_SHARE = 0.005, 0.98
"""A cluster with fewer of the windows counts as empty, one with more as having swallowed the others."""
FAR = 40.0
"""Standard deviations of the rest that count as much as one along the directions of `along`."""
_STARTS = 10
_RIDGE = 1e-4  # share of the mean variance that is added to a mixture's covariances


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Centres [K, A] and how distances to them are taken; every step but the last may be left out (None).

    axes [D, A]: what of a representation r is looked at, r axes; bounds [2, A], location and scale: then
    tanh((z - location) / scale), where centres lie too; metric [A, A] or [K, A, A]: difference x metric has the
    distances. log_weight [K]: membership is the posterior of a mixture, of exp(log_weight - d^2 / 2); None: that of
    fuzzy c-means.
    """

    centres: Tensor
    metric: Tensor | None = None
    log_weight: Tensor | None = None
    bounds: Tensor | None = None
    axes: Tensor | None = None

    def seen(self, r_bd: Tensor) -> Tensor:
        """Representations as distances see them, [B, A]."""
        z_ba = r_bd if self.axes is None else r_bd @ self.axes
        return z_ba if self.bounds is None else torch.tanh((z_ba - self.bounds[0]) / self.bounds[1])

    def squared(self, r_bd: Tensor) -> Tensor:
        """[B, K]"""
        return losses.squared_distances(self.seen(r_bd), self.centres, self.metric)

    def memberships(self, squared_bk: Tensor, fuzzifier: float) -> Tensor:
        """[B, K], rows sum to 1."""
        if self.log_weight is None:
            return losses.memberships(squared_bk, fuzzifier)
        return torch.softmax(self.log_weight - 0.5 * squared_bk, dim=1)

    def fuzziness(self, r_bd: Tensor, fuzzifier: float, counted_b: Tensor | None = None) -> Tensor:
        """The clustering loss of representations, a scalar; its gradient runs through distances and memberships.

        counted_b: as losses.fuzziness.
        """
        squared_bk = self.squared(r_bd)
        return losses.fuzziness(self.memberships(squared_bk, fuzzifier), squared_bk, fuzzifier, counted_b)

    def assign(self, r_nd: Tensor) -> Tensor:
        """The cluster of each window, [N]."""
        return self.memberships(self.squared(r_nd), 1.5).argmax(dim=1)

    def to(self, device: torch.device | str) -> Head:
        """The same on a device."""
        return replace(self, **{name: part.to(device) for name, part in self.state().items() if part is not None})

    def reordered(self, order: list[int]) -> Head:
        """Cluster k of the result is cluster order[k] of this."""
        per_cluster = self.metric is not None and self.metric.dim() == 3
        metric = self.metric[order] if self.metric is not None and per_cluster else self.metric
        weight = None if self.log_weight is None else self.log_weight[order]
        return replace(self, centres=self.centres[order], metric=metric, log_weight=weight)

    def state(self) -> dict[str, Tensor | None]:
        """For a checkpoint: Head(**state) is the same."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def bounds_of(r_nd: Tensor) -> Tensor:
    """[2, A]: mean and standard deviation. The loudest windows lie tens of deviations out and would be clusters of
    their own; bounded, they are one with the weaker ones of their kind.
    """
    return torch.stack([r_nd.mean(dim=0), r_nd.std(dim=0).clamp_min(losses.SMALLEST_SQUARED_DISTANCE)])


def along(r_nd: Tensor, directions_dj: Tensor) -> Head:
    """A head, still without centres, that looks along the given directions, and from FAR away at all of r_nd besides.

    What clusters are is thus decided along the directions. The rest is whitened and hardly moves a distance, until a
    window lies many standard deviations out: that is how a window can be novel in ways the directions do not show.
    """
    axes = torch.cat([directions_dj, losses.whitening(r_nd)], dim=1)
    bounds = bounds_of(r_nd @ axes)
    bounds[1, directions_dj.shape[1] :] *= FAR
    return Head(r_nd[:0] @ axes, bounds=bounds, axes=axes)


def k_means(
    r_nd: Tensor, clusters: int, seed: int, metric_dd: Tensor | None = None, start_kd: Tensor | None = None
) -> Head:
    """K-means from ten starts, or from given centres, in the metric."""

    def seen(z_nd: Tensor) -> Float32Array:
        return (z_nd if metric_dd is None else z_nd @ metric_dd).numpy()

    start: str | Float32Array = "k-means++" if start_kd is None else seen(start_kd)
    means = KMeans(clusters, init=start, n_init=_STARTS if start_kd is None else 1, random_state=seed)
    cluster_n = torch.from_numpy(means.fit(seen(r_nd)).labels_)
    return Head(torch.stack([r_nd[cluster_n == k].mean(dim=0) for k in range(clusters)]), metric_dd)


def mixture(r_nd: Tensor, clusters: int, axes: int, seed: int, start_kd: Tensor | None = None) -> Head:
    """Gaussians with full covariances on the first principal axes of r_nd, as distances of its own to each centre.

    start_kd: means that the mixture goes on from.
    """
    values = r_nd.double().numpy()
    mean = values.mean(axis=0)
    axes_da = _principal_axes(values - mean, min(axes, values.shape[1]))
    z_na = (values - mean) @ axes_da
    means = None if start_kd is None else (start_kd.double().numpy() - mean) @ axes_da
    found = GaussianMixture(
        clusters,
        n_init=_STARTS if means is None else 1,
        means_init=means,
        reg_covar=_RIDGE * float(z_na.var(axis=0).mean()),
        max_iter=500,
        random_state=seed,
    ).fit(z_na)
    roots_kaa: Float64Array = found.precisions_cholesky_
    metric = np.zeros((clusters, values.shape[1], values.shape[1]))
    metric[:, :, : axes_da.shape[1]] = axes_da @ roots_kaa
    log_weight = np.log(found.weights_) + np.log(roots_kaa.diagonal(axis1=1, axis2=2)).sum(axis=1)
    centres = mean + found.means_ @ axes_da.T
    return Head(*(torch.from_numpy(part.astype(np.float32)) for part in (centres, metric, log_weight)))


def _principal_axes(centred_nd: Float64Array, axes: int) -> Float64Array:
    """[D, A], largest variance first; signs are fixed, so that equal data give equal axes."""
    _, vectors = np.linalg.eigh(centred_nd.T @ centred_nd / len(centred_nd))
    chosen = vectors[:, ::-1][:, :axes]
    largest = np.abs(chosen).argmax(axis=0)
    turned: Float64Array = chosen * np.sign(chosen[largest, np.arange(chosen.shape[1])])
    return turned


def by_size(head: Head, r_nd: Tensor) -> list[int]:
    """The clusters, the largest first: an order that does not depend on how they were found."""
    counts = torch.bincount(head.assign(r_nd), minlength=len(head.centres))
    order: list[int] = counts.argsort(descending=True, stable=True).tolist()
    return order


def trouble(head: Head, r_nd: Tensor) -> list[str]:
    """What is wrong with the sizes of the clusters over all windows, in sentences; empty where nothing is."""
    counts = torch.bincount(head.assign(r_nd), minlength=len(head.centres)).tolist()
    said = []
    for cluster, count in enumerate(counts):
        share = count / len(r_nd)
        if share < SMALLEST_SHARE:
            said.append(f"cluster {cluster} is empty: {count} of {len(r_nd)} windows")
        if share > LARGEST_SHARE and len(counts) > 1:
            said.append(f"cluster {cluster} has swallowed the others: {count} of {len(r_nd)} windows")
    return said
