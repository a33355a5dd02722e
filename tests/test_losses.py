"""Losses against slow, literal restatements of their formulas, and against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tscc_stream.learn import losses
from tscc_stream.learn.clusters import Head

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _literal_instance(a: Tensor, b: Tensor) -> float:
    """TS2Vec equation 2, term by term: -log of the partner's share among all others at the same time."""
    views = torch.cat([a, b])
    n, times = len(views), a.shape[1]
    total = 0.0
    for t in range(times):
        for i in range(n):
            partner = (i + len(a)) % n
            others = sum(math.exp(float(views[i, t] @ views[j, t])) for j in range(n) if j != i)
            total -= math.log(math.exp(float(views[i, t] @ views[partner, t])) / others)
    return total / (times * n)


def _literal_temporal(a: Tensor, b: Tensor) -> float:
    """TS2Vec equation 1: the same time in the other view among all times of both views."""
    times = a.shape[1]
    total = 0.0
    for i in range(len(a)):
        series = torch.cat([a[i], b[i]])
        for t in range(2 * times):
            others = sum(math.exp(float(series[t] @ series[s])) for s in range(2 * times) if s != t)
            total -= math.log(math.exp(float(series[t] @ series[(t + times) % (2 * times)])) / others)
    return total / (2 * times * len(a))


def _literal_hierarchical(a: Tensor, b: Tensor, share: float) -> float:
    total, scales = 0.0, 0
    while a.shape[1] > 1:
        total += share * (_literal_instance(a, b) if len(a) > 1 else 0.0) + (1 - share) * _literal_temporal(a, b)
        scales += 1
        pairs = a.shape[1] // 2
        a = torch.stack([a[:, 2 * k : 2 * k + 2].amax(dim=1) for k in range(pairs)], dim=1)
        b = torch.stack([b[:, 2 * k : 2 * k + 2].amax(dim=1) for k in range(pairs)], dim=1)
    total += share * (_literal_instance(a, b) if len(a) > 1 else 0.0)
    return total / (scales + 1)


@pytest.mark.parametrize("shape", [(3, 7, 4), (1, 6, 3), (4, 1, 2), (2, 8, 5)])
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_hierarchical_contrast_is_what_the_paper_writes(shape: tuple[int, int, int], share: float) -> None:
    a, b = _random(*shape), _random(*shape, seed=1)
    assert float(losses.hierarchical_contrastive_loss(a, b, share)) == pytest.approx(_literal_hierarchical(a, b, share))


def test_its_gradient_is_right() -> None:
    a, b = _random(2, 5, 3).requires_grad_(), _random(2, 5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(losses.hierarchical_contrastive_loss, (a, b))


def test_equal_views_contrast_better_than_strangers() -> None:
    a = 3 * _random(4, 8, 6)
    assert losses.hierarchical_contrastive_loss(a, a) < losses.hierarchical_contrastive_loss(
        a, 3 * _random(4, 8, 6, seed=2)
    )


def _literal_memberships(r: Tensor, centres: Tensor, m: float) -> list[list[float]]:
    """Fuzzy c-means: u_ik = 1 / sum_j (d_ik / d_ij)^(2/(m-1))."""
    distance = [[float((one - centre).norm()) for centre in centres] for one in r]
    return [
        [1.0 / sum((row[k] / other) ** (2.0 / (m - 1.0)) for other in row) for k in range(len(row))] for row in distance
    ]


def test_memberships_are_those_of_fuzzy_c_means() -> None:
    r, centres = _random(6, 3), _random(4, 3, seed=1)
    got = losses.memberships(losses.squared_distances(r, centres), 1.5)
    torch.testing.assert_close(got, torch.tensor(_literal_memberships(r, centres, 1.5), dtype=torch.float64))


def test_a_window_on_a_centre_belongs_to_it_and_stays_finite() -> None:
    centres = _random(3, 4).float()
    got = losses.memberships(losses.squared_distances(centres[1:2], centres), 1.5)
    assert torch.isfinite(got).all()
    assert float(got[0, 1]) == pytest.approx(1.0)


def test_clustering_loss_is_the_batch_mean_and_its_gradient_is_real() -> None:
    r, centres = _random(5, 3).requires_grad_(), _random(2, 3, seed=1)
    literal = sum(
        u**1.5 * float((one - centre).square().sum())
        for one, row in zip(r.detach(), _literal_memberships(r.detach(), centres, 1.5), strict=True)
        for centre, u in zip(centres, row, strict=True)
    )
    loss = Head(centres).fuzziness(r, 1.5)
    assert float(loss.detach()) == pytest.approx(literal / 5)
    assert torch.autograd.gradcheck(lambda x: Head(centres).fuzziness(x, 1.5), (r,))
    loss.backward()
    assert r.grad is not None
    assert float(r.grad.norm()) > 1e-3


def test_a_centre_update_lowers_the_clustering_loss() -> None:
    r, centres = _random(200, 3), _random(3, 3, seed=1)
    renewed = losses.updated_centres(r, centres, 1.5)
    assert Head(renewed).fuzziness(r, 1.5) < Head(centres).fuzziness(r, 1.5)
