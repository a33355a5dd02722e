"""The losses of the papers: hierarchical contrast between two views, and fuzzy compactness of the clusters.

Shapes: B windows, T samples of the overlap of two crops, D representation dimensions, K clusters. Sources: TS2Vec
(Yue et al. 2022, equations 1 to 3 and algorithm 1); TSCC (Yang et al. 2023, clustering loss of fuzzy c-means form).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tscc_stream.learn.part import Part

SMALLEST_SQUARED_DISTANCE = 1e-12
_BLOCK = 1 << 18
"""Similarities at a time, about: what the processor's cache holds."""
_LEAST_EXPONENT = -80.0
"""exp(-80) is nothing beside 1 in either precision, and a normal number: below those, exp is 40 times slower."""
_BLOCK_DEVICE = 1 << 28  # a gibibyte, so that memory bounds no batch


def hierarchical_contrastive_loss(
    a_btd: Tensor, b_btd: Tensor, instance_share: float = 0.5, part: Part | None = None
) -> Tensor:
    """Mean over all time scales (maximum over pairs of samples until one is left) of instance and temporal contrast.

    a, b: representations of the same samples in two views. instance_share: weight of the contrast between windows;
    the rest goes to the contrast between times, which the last scale does not have. Returns a scalar.
    part: of a batch that processes share, the windows that a and b are; the scalar then is what they add to the loss.
    Windows are contrasted with those of all processes.
    """
    part = part or Part(len(a_btd))
    every = _of_all(a_btd, b_btd, part) if part.divided else None
    total = a_btd.new_zeros(())
    scales = 0
    while True:
        scales += 1
        every_a, every_b = every or (a_btd, b_btd)
        total = total + instance_share * instance_loss(every_a, every_b, part)
        if a_btd.shape[1] == 1:
            return total / scales
        total = total + (1.0 - instance_share) * temporal_loss(a_btd, b_btd, part)
        a_btd, b_btd = _halved(a_btd), _halved(b_btd)
        every = (_halved(every_a), _halved(every_b)) if every else None


def _of_all(a_btd: Tensor, b_btd: Tensor, part: Part) -> tuple[Tensor, Tensor]:
    """Both views of the windows of all processes, in one exchange."""
    size = a_btd.shape[2]
    both = part.gathered(torch.cat([a_btd, b_btd], dim=2))
    return both[:, :, :size], both[:, :, size:]


def instance_loss(a_btd: Tensor, b_btd: Tensor, part: Part | None = None) -> Tensor:
    """At each time, a window must know its other view among all windows' views; 0 for a single window.

    part: of all windows' process; each does some of the times.
    """
    if a_btd.shape[0] == 1:
        return a_btd.new_zeros(())
    part = part or Part(len(a_btd))
    z_tmd = torch.cat([a_btd, b_btd], dim=0).transpose(0, 1)
    mine = z_tmd[part.within(len(z_tmd))]
    return part.weight(len(z_tmd)) * _pairing_loss(mine) if len(mine) else 0.0 * mine.sum()


def temporal_loss(a_btd: Tensor, b_btd: Tensor, part: Part | None = None) -> Tensor:
    """In each window, a time must know itself in the other view among all times; 0 for a single sample."""
    if a_btd.shape[1] == 1:
        return a_btd.new_zeros(())
    part = part or Part(len(a_btd))
    return part.weight() * _pairing_loss(torch.cat([a_btd, b_btd], dim=1))


def _pairing_loss(z_nmd: Tensor) -> Tensor:
    """Cross-entropy of finding one's partner, M/2 places on, by dot product among the M - 1 others."""
    loss: Tensor = _Pairing.apply(z_nmd)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return loss


class _Pairing(torch.autograd.Function):
    """The loss, and with it at once its gradient, so that similarities [N, M, M] never exist but for a block at a time.

    d loss / d similarity = (P - 1 at the partner) / (N M), where P are each row's shares; similarity is symmetric in z,
    so both sides receive it.
    """

    @staticmethod
    def forward(ctx: Any, z_nmd: Tensor) -> Tensor:  # noqa: ANN401 torch gives it no type
        z_nmd = z_nmd.contiguous()
        number, times = z_nmd.shape[:2]
        d_z = z_nmd.roll(times // 2, dims=1)  # partners, which are mutual
        likeness = (z_nmd * d_z).sum()
        d_z *= -2.0
        logs = torch.empty_like(z_nmd[:, :, :1])
        together, rows = _blocks(times, z_nmd.device)
        for at in range(0, number, together):
            for row in range(0, times, rows):
                some = slice(at, at + together), slice(row, row + rows)
                logs[some] = _shares(z_nmd[some[0]], row, rows, d_z[some[0]])
        ctx.save_for_backward(d_z)
        return (logs.sum() - likeness) / (number * times)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401 torch gives it no type
        (d_z,) = ctx.saved_tensors
        scaled: Tensor = d_z * (gradients[0] / (d_z.shape[0] * d_z.shape[1]))
        return scaled


def _blocks(times: int, device: torch.device) -> tuple[int, int]:
    """How many of N, and how many rows of M, are worked on at a time."""
    if device.type != "cpu":
        return _BLOCK_DEVICE // times**2 + 1, times
    return max(1, _BLOCK // times**2), max(1, _BLOCK // times)


def _shares(z_nmd: Tensor, row: int, rows: int, d_z: Tensor) -> Tensor:
    """Adds to d_z what P of so many rows gives; returns the logarithms of the rows' sums, [N, rows, 1]."""
    z_nrd = z_nmd[:, row : row + rows]
    share = torch.bmm(z_nrd, z_nmd.transpose(1, 2))
    share.diagonal(offset=row, dim1=1, dim2=2).fill_(-torch.inf)
    largest = share.amax(dim=2, keepdim=True)
    total = share.sub_(largest).clamp_(min=_LEAST_EXPONENT).exp_().sum(dim=2, keepdim=True)
    d_z[:, row : row + rows].addcdiv_(torch.bmm(share, z_nmd), total)
    d_z.baddbmm_(share.transpose(1, 2), z_nrd / total)
    return total.log_().add_(largest)


def _halved(z_btd: Tensor) -> Tensor:
    return functional.max_pool1d(z_btd.transpose(1, 2), kernel_size=2).transpose(1, 2)


def squared_distances(r_bd: Tensor, centres_kd: Tensor, metric: Tensor | None = None) -> Tensor:
    """[B, K]: Euclidean, or Mahalanobis with one metric [D, D] as `whitening` makes it, or one each [K, D, D]."""
    difference_bkd = r_bd[:, None, :] - centres_kd[None, :, :]
    if metric is not None:
        difference_bkd = (difference_bkd[:, :, None, :] @ metric)[:, :, 0, :]
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


def fuzziness(membership_bk: Tensor, squared_bk: Tensor, fuzzifier: float, counted_b: Tensor | None = None) -> Tensor:
    """Mean over the batch of the sum over clusters of membership^m x squared distance: a scalar.

    counted_b: bool, which windows have part in it; 0 where none has.

    A mean, not the published sum over the batch: the sum swamps the contrast and collapses the representation.
    """
    each_b = (membership_bk.pow(fuzzifier) * squared_bk).sum(dim=1)
    if counted_b is None:
        return each_b.mean()
    return each_b.where(counted_b, 0.0).sum() / counted_b.sum().clamp_min(1)


def updated_centres(r_bd: Tensor, centres_kd: Tensor, fuzzifier: float, metric: Tensor | None = None) -> Tensor:
    """One fuzzy c-means step: each centre becomes the mean of all r_bd weighted by membership^m. [K, D]."""
    weight_bk = memberships(squared_distances(r_bd, centres_kd, metric), fuzzifier).pow(fuzzifier)
    share_bk: Tensor = weight_bk / weight_bk.sum(dim=0, keepdim=True).clamp_min(SMALLEST_SQUARED_DISTANCE)
    return share_bk.T @ r_bd
