"""What training minimises: hierarchical contrast between two views, and fuzzy compactness of the clusters.

Shapes: B windows, T samples of the overlap of two crops, D representation dimensions, K clusters. Sources: TS2Vec
(Yue et al. 2022, equations 1 to 3 and algorithm 1); TSCC (Yang et al. 2023, clustering loss of fuzzy c-means form).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SMALLEST_SQUARED_DISTANCE = 1e-12


def hierarchical_contrastive_loss(a_btd: Tensor, b_btd: Tensor, instance_share: float = 0.5) -> Tensor:
    """Mean over all time scales (maximum over pairs of samples until one is left) of instance and temporal contrast.

    a, b: representations of the same samples in two views. instance_share: weight of the contrast between windows;
    the rest goes to the contrast between times, which the last scale does not have. Returns a scalar.
    """
    total = a_btd.new_zeros(())
    scales = 0
    while True:
        scales += 1
        total = total + instance_share * instance_loss(a_btd, b_btd)
        if a_btd.shape[1] == 1:
            return total / scales
        total = total + (1.0 - instance_share) * temporal_loss(a_btd, b_btd)
        a_btd, b_btd = _halved(a_btd), _halved(b_btd)


def instance_loss(a_btd: Tensor, b_btd: Tensor) -> Tensor:
    """At each time, a window must know its other view among all windows' views; 0 for a single window."""
    if a_btd.shape[0] == 1:
        return a_btd.new_zeros(())
    return _pairing_loss(torch.cat([a_btd, b_btd], dim=0).transpose(0, 1))


def temporal_loss(a_btd: Tensor, b_btd: Tensor) -> Tensor:
    """In each window, a time must know itself in the other view among all times; 0 for a single sample."""
    if a_btd.shape[1] == 1:
        return a_btd.new_zeros(())
    return _pairing_loss(torch.cat([a_btd, b_btd], dim=1))


def _pairing_loss(z_nmd: Tensor) -> Tensor:
    """Cross-entropy of finding one's partner, M/2 places on, by dot product among the M - 1 others."""
    similarity_nmm = z_nmd @ z_nmd.transpose(1, 2)
    m = z_nmd.shape[1]
    itself = torch.eye(m, dtype=torch.bool, device=z_nmd.device)
    log_share_nmm = functional.log_softmax(similarity_nmm.masked_fill(itself, -torch.inf), dim=2)
    place = torch.arange(m, device=z_nmd.device)
    return -log_share_nmm[:, place, (place + m // 2) % m].mean()


def _halved(z_btd: Tensor) -> Tensor:
    return functional.max_pool1d(z_btd.transpose(1, 2), kernel_size=2).transpose(1, 2)


def squared_distances(r_bd: Tensor, centres_kd: Tensor, metric_dd: Tensor | None = None) -> Tensor:
    """[B, K]: Euclidean, or Mahalanobis with metric_dd as `whitening` makes it."""
    difference_bkd = r_bd[:, None, :] - centres_kd[None, :, :]
    if metric_dd is not None:
        difference_bkd = difference_bkd @ metric_dd
    return difference_bkd.square().sum(dim=2)


def whitening(r_nd: Tensor, shrinkage: float = 0.01) -> Tensor:
    """W [D, D] such that (r - mean) W has unit covariance: the inverse square root of the covariance of r_nd.

    shrinkage: share of the mean variance that is mixed in, so that directions with next to no variance stay quiet.
    """
    centred = (r_nd - r_nd.mean(dim=0)).double()
    covariance = centred.T @ centred / len(r_nd)
    level = covariance.diagonal().mean().clamp_min(SMALLEST_SQUARED_DISTANCE)
    mixed = (1.0 - shrinkage) * covariance + shrinkage * level * torch.eye(len(covariance), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(mixed)
    root: Tensor = (vectors * values.rsqrt()) @ vectors.T
    return root.to(r_nd.dtype)


def memberships(squared_bk: Tensor, fuzzifier: float) -> Tensor:
    """Fuzzy c-means memberships [B, K], rows sum to 1: proportional to d^(-2/(m-1)); finite on a centre."""
    return torch.softmax(-squared_bk.clamp_min(SMALLEST_SQUARED_DISTANCE).log() / (fuzzifier - 1.0), dim=1)


def fuzzy_clustering_loss(
    r_bd: Tensor, centres_kd: Tensor, fuzzifier: float, metric_dd: Tensor | None = None
) -> Tensor:
    """Mean over the batch of the sum over clusters of membership^m x squared distance: a scalar.

    The gradient runs through distances and memberships into r. A mean, not the published sum over the batch: the sum
    swamps the contrast and collapses the representation.
    """
    squared_bk = squared_distances(r_bd, centres_kd, metric_dd)
    return (memberships(squared_bk, fuzzifier).pow(fuzzifier) * squared_bk).sum(dim=1).mean()


def updated_centres(r_bd: Tensor, centres_kd: Tensor, fuzzifier: float, metric_dd: Tensor | None = None) -> Tensor:
    """One fuzzy c-means step: each centre becomes the mean of all r_bd weighted by membership^m. [K, D]."""
    weight_bk = memberships(squared_distances(r_bd, centres_kd, metric_dd), fuzzifier).pow(fuzzifier)
    share_bk: Tensor = weight_bk / weight_bk.sum(dim=0, keepdim=True).clamp_min(SMALLEST_SQUARED_DISTANCE)
    return share_bk.T @ r_bd
