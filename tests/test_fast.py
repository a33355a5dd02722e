"""Training's order of work gives what the plain network gives, and the losses' own gradients are right."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tscc_stream.learn import fast, losses
from tscc_stream.learn.network import make_encoder, pool


def _gradients(encoder: torch.nn.Module, x: torch.Tensor, r_btd: torch.Tensor) -> list[torch.Tensor]:
    loss = r_btd.square().mean() + pool(r_btd).sum() + r_btd[:, 0].abs().sum()
    return list(torch.autograd.grad(loss, [x, *encoder.parameters()]))


@pytest.mark.parametrize("length", [1, 3, 17, 64])
@pytest.mark.parametrize("batch", [1, 5, 19])
def test_results_and_gradients_are_those_of_the_plain_network(length: int, batch: int) -> None:
    encoder = make_encoder(0, 2, 5, 8, 6)
    x = torch.randn(batch, length, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    plain, quick = encoder.extract(encoder.projection(x)), fast.extract(encoder, encoder.projection(x))
    torch.testing.assert_close(quick, plain, atol=2e-6, rtol=2e-6)
    scale = max(1.0, *(float(g.abs().max()) for g in _gradients(encoder, x, encoder(x))))
    for ours, theirs in zip(_gradients(encoder, x, quick), _gradients(encoder, x, encoder(x)), strict=True):
        assert float((ours - theirs).abs().max()) < 2e-6 * scale


def test_double_precision_agrees_to_rounding() -> None:
    encoder = make_encoder(0, 1, 4, 6, 5).double()
    x = torch.randn(4, 40, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    pairs = zip(
        _gradients(encoder, x, fast.extract(encoder, encoder.projection(x))),
        _gradients(encoder, x, encoder(x)),
        strict=True,
    )
    assert all(float((a - b).abs().max()) < 1e-11 for a, b in pairs)


def test_the_pairing_loss_has_the_gradient_of_its_definition() -> None:
    z = torch.randn(3, 8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    place = torch.arange(8)
    similarity = (z @ z.transpose(1, 2)).masked_fill(torch.eye(8, dtype=torch.bool), -torch.inf)
    plain = -functional.log_softmax(similarity, dim=2)[:, place, (place + 4) % 8].mean()
    ours = losses._pairing_loss(z)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours, z)[0], torch.autograd.grad(plain, z)[0])
