"""Clusters of representations, and how many there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import multivariate_normal

from tscc_stream.learn import choose, clusters
from tscc_stream.learn.export import Inference
from tscc_stream.learn.network import make_encoder, pool


def _blobs(kinds: int = 3, each: int = 60, dims: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    places = 8.0 * torch.eye(dims)[:kinds]
    spread = torch.linspace(0.3, 1.2, dims)
    parts = [place + spread * torch.randn(each, dims, generator=generator) for place in places]
    return torch.cat(parts)


def test_a_mixture_gives_the_posterior_of_its_gaussians() -> None:
    r_nd = _blobs(2)
    head = clusters.mixture(r_nd, 2, 5, 0)
    assert head.metric is not None
    assert head.log_weight is not None
    squared = head.squared(r_nd)
    got = head.memberships(squared, 1.5)
    logs = []
    for k in range(2):
        covariance = torch.linalg.inv((head.metric[k] @ head.metric[k].T).double())
        logs.append(multivariate_normal(head.centres[k].double(), covariance).logpdf(r_nd.double()))
    ratio = torch.from_numpy(logs[0] - logs[1])
    spread = torch.logit(got[:, 0].double().clamp(1e-12, 1 - 1e-12))
    inside = spread.abs() < 20
    offset = (spread - ratio)[inside]
    assert offset.numel() == 0 or float(offset.std()) < 1e-2  # they differ by the constant ratio of the weights
    assert sorted(torch.bincount(head.assign(r_nd)).tolist()) == [60, 60]


@pytest.mark.parametrize("head", ["bounded", "turned", "mixture"])
def test_the_exported_module_says_what_the_head_says(head: str) -> None:
    encoder = make_encoder(0, 1, 5, 8, 4).eval()
    x = torch.randn(30, 64, 1, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        r_nd = pool(encoder(x))
    made = clusters.mixture(r_nd, 2, 3, 0)
    if head != "mixture":
        axes = torch.randn(5, 2, generator=torch.Generator().manual_seed(2)) if head == "turned" else None
        seen = clusters.Head(r_nd[:0], axes=axes)
        seen = replace(seen, bounds=clusters.bounds_of(seen.seen(r_nd)))
        made = replace(seen, centres=clusters.k_means(seen.seen(r_nd), 3, 0).centres)
    module = Inference(encoder, made, 1.5).eval()
    with torch.no_grad():
        _, membership, cluster, squared = torch.jit.script(module)(x)
    torch.testing.assert_close(squared, made.squared(r_nd), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(membership, made.memberships(made.squared(r_nd), 1.5), atol=1e-3, rtol=1e-3)
    assert torch.equal(cluster, made.assign(r_nd))


def test_clusters_can_be_numbered_anew() -> None:
    r_nd = torch.cat([_blobs(2, 20), _blobs(3, 30)])
    head = clusters.k_means(r_nd, 3, 0)
    ordered = head.reordered(clusters.by_size(head, r_nd))
    counts = torch.bincount(ordered.assign(r_nd), minlength=3).tolist()
    assert counts == sorted(counts, reverse=True)
    assert clusters.trouble(ordered, r_nd) == []


def test_the_number_of_clusters_is_found_and_explained(tmp_path: Path) -> None:
    r_nd = _blobs(4, dims=6)
    rows = choose.measure(r_nd, lambda some, k: clusters.k_means(some, k, 0), 1.5, 0, (2, 4, 5))
    assert choose.best(rows) == 4
    said = choose.explain(rows, 4)
    assert "| **4** |" in said
    assert "4 chosen" in said
    choose.plot(rows, 4, tmp_path / "clusters.png")
    assert (tmp_path / "clusters.png").stat().st_size > 1000


def test_clusters_are_told_apart_along_directions_and_the_rest_shows_only_what_lies_far_out() -> None:
    """Two blobs along the first axis; along the third, spread that has nothing to do with them."""
    draw = torch.Generator().manual_seed(3)
    r_nd = torch.randn(400, 3, generator=draw) * torch.tensor([0.1, 1.0, 5.0])
    r_nd[200:, 0] += 1.0
    seen = clusters.along(r_nd, torch.tensor([[1.0], [0.0], [0.0]]))
    head = replace(seen, centres=clusters.k_means(seen.seen(r_nd), 2, 0).centres)
    cluster_n = head.assign(r_nd)
    assert len(set(cluster_n[:200].tolist())) == len(set(cluster_n[200:].tolist())) == 1
    assert cluster_n[0] != cluster_n[-1]
    ordinary = head.squared(r_nd).min(dim=1).values
    odd = r_nd[:1] + torch.tensor([[0.0, 60.0, 0.0]])
    assert float(head.squared(odd).min()) > 2 * float(ordinary.max())
    assert head.assign(odd) == cluster_n[0]
