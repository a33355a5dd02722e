"""Training's order of work gives what the plain network gives, and the losses' own gradients are right."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tscc_stream.learn import fast, losses, views
from tscc_stream.learn.network import make_encoder, pool
from tscc_stream.learn.side_by_side import side_by_side


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


@pytest.mark.parametrize("scale", [1.0, 15.0], ids=["near", "far apart, where shares vanish"])
def test_the_pairing_loss_has_the_gradient_of_its_definition(scale: float) -> None:
    draw = torch.Generator().manual_seed(3)
    z = (scale * torch.randn(3, 8, 5, dtype=torch.float64, generator=draw)).requires_grad_()
    place = torch.arange(8)
    similarity = (z @ z.transpose(1, 2)).masked_fill(torch.eye(8, dtype=torch.bool), -torch.inf)
    plain = -functional.log_softmax(similarity, dim=2)[:, place, (place + 4) % 8].mean()
    ours = losses._pairing_loss(z)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours, z)[0], torch.autograd.grad(plain, z)[0])


@pytest.mark.parametrize("shape", [(3, 2, 40), (1, 1, 1), (2, 30, 3), (5, 12, 4)])
def test_the_pairing_loss_is_the_same_by_whatever_blocks(shape: tuple[int, int, int]) -> None:
    number, half, width = shape
    draw = torch.Generator().manual_seed(4)
    z = torch.randn(number, 2 * half, width, dtype=torch.float64, generator=draw).requires_grad_()
    found = []
    for block in (1, 50, 1 << 18):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(losses, "_BLOCK", block)
            loss = losses._pairing_loss(z)
            found.append((loss.detach(), torch.autograd.grad(loss, z)[0]))
    for loss, slope in found[1:]:
        torch.testing.assert_close(loss, found[0][0])
        torch.testing.assert_close(slope, found[0][1])


def test_gelu_and_its_slope_are_those_of_torch() -> None:
    x = torch.cat([torch.linspace(-20, 20, 100_001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e4, -1e4])])
    found, slope = fast._gelu_and_slope(x)
    wide = x.double().requires_grad_()
    expected = functional.gelu(wide)
    (expected_slope,) = torch.autograd.grad(expected.sum(), wide)
    torch.testing.assert_close(found.double(), expected.detach(), atol=3e-7, rtol=3e-7)
    torch.testing.assert_close(slope.double(), expected_slope, atol=3e-7, rtol=3e-7)
    assert fast._gelu_and_slope(torch.tensor([torch.nan]))[0].isnan().all()


@pytest.mark.parametrize("rows", [1, 40, 100, 10_000])
def test_windows_may_go_through_in_any_parts(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make_encoder(0, 1, 4, 6, 5).double()
    x = torch.randn(7, 20, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    expected = _gradients(encoder, x, encoder(x))
    monkeypatch.setattr(fast, "CHUNK_ROWS", rows)
    got = _gradients(encoder, x, fast.extract(encoder, encoder.projection(x)))
    assert all(float((a - b).abs().max()) < 1e-11 for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_the_windows_and_change_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make_encoder(0, 1, 4, 6, 5).double()
    x = torch.randn(7, 20, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    expected = _gradients(encoder, x, encoder(x))
    monkeypatch.setattr(fast, "CHUNK_ROWS", 40)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runs = [_gradients(encoder, x, fast.extract(encoder, encoder.projection(x))) for _ in range(3)]
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for got in runs:
        assert all(float((a - b).abs().max()) < 1e-11 for a, b in zip(got, expected, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(got, runs[0], strict=True))


def test_what_one_thread_meets_is_what_the_caller_sees() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda share: 1 // share.start, 4)
        assert side_by_side(lambda share: (share.start, share.stop), 5) == [(0, 2), (2, 5)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]


@pytest.mark.parametrize("device", DEVICES)
def test_parts_laid_in_whole_windows_give_what_each_gives_alone(device: str) -> None:
    """As a device takes crops and whole windows through the network at once."""
    encoder = make_encoder(0, 2, 4, 8, 5).double().to(device)
    draw = torch.Generator().manual_seed(5)
    begins = [0, 6, 11, 0]
    parts = [
        torch.randn(3, length, 2, dtype=torch.float64, generator=draw).to(device).requires_grad_()
        for length in (17, 14, 9, 20)
    ]
    together = views._at_once(encoder, [encoder.projection(part) for part in parts], begins, 20, half=False)
    for part, begin, found in zip(parts, begins, together, strict=True):
        alone = encoder(part)
        assert found.shape == alone.shape, begin
        torch.testing.assert_close(found, alone.float(), atol=1e-6, rtol=1e-6)
    slopes = torch.autograd.grad(sum(found.square().sum() for found in together), parts)
    for part, slope in zip(parts, slopes, strict=True):
        (alone,) = torch.autograd.grad(encoder(part).square().sum(), part)
        torch.testing.assert_close(slope, alone, atol=1e-4, rtol=1e-4)
