"""The encoder as training runs it on a processor: the same weights and results as `network`, in another order of work.

Arrays are time-major, [T, B, channels], so that each tap of a convolution is one matrix product over a contiguous
slice, without padding. A few windows at a time go through all blocks, so that what one block works on stays in the
processor's cache. The backward pass is written out: of the forward pass it keeps what enters each GELU and nothing
else, and computes the GELU again, which costs less than to store it and fetch it back. `network.Encoder.extract` stays
the reference: results and gradients differ from it by rounding alone (tests/test_fast.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tscc_stream.learn.network import Encoder, ResidualBlock, SameConv

CHUNK_ROWS = 2048
"""Samples of all windows at a time, about: what keeps one block's arrays in the processor's cache."""
_OF_A_BLOCK = 5  # tensors of _Block


class _Block(NamedTuple):
    """The weights of a residual block as products use them. residual [I, O]: None where the input is added as it is.

    taps of kernel 3, one matrix [I, O] each; bias2 has the bias of `residual` in it.
    """

    taps1: Tensor
    bias1: Tensor
    taps2: Tensor
    bias2: Tensor
    residual: Tensor | None


def extract(encoder: Encoder, h_bth: Tensor) -> Tensor:
    """What `encoder.extract` gives: [B, T, H] -> [B, T, D]."""
    blocks = [_weights(block) for block in encoder.blocks]
    reaches = [block.conv1.reach for block in encoder.blocks]
    every = [tensor for block in blocks for tensor in block]
    result: Tensor = _Blocks.apply(h_bth, reaches, torch.is_grad_enabled(), *every)  # type: ignore[no-untyped-call]
    return result


def _weights(block: torch.nn.Module) -> _Block:
    assert isinstance(block, ResidualBlock)  # noqa: S101 what Encoder is made of
    bias2, residual = block.conv2.bias, None
    if isinstance(block.residual, torch.nn.Conv1d):
        bias2, residual = bias2 + block.residual.bias, block.residual.weight[:, :, 0].T.contiguous()
    return _Block(_taps(block.conv1), block.conv1.bias, _taps(block.conv2), bias2, residual)


def _taps(conv: SameConv) -> Tensor:
    return conv.weight.permute(2, 1, 0).contiguous()


def extract_laid(encoder: Encoder, h_bth: Tensor, there_bt1: Tensor | None) -> Tensor:
    """What `encoder.extract` gives for those samples alone that are there (1, else 0; None: all), for a device.

    Nothing beyond the ends of a part is what zeros after every convolution are, since GELU leaves them zero.
    """
    if there_bt1 is None:
        return encoder.extract(h_bth)
    there, h = there_bt1.transpose(1, 2), h_bth.transpose(1, 2)
    h = h * there
    for block in encoder.blocks:
        assert isinstance(block, ResidualBlock)  # noqa: S101 what Encoder is made of
        inner = block.conv1(functional.gelu(h)) * there
        h = (block.conv2(functional.gelu(inner)) + block.residual(h)) * there
    return h.transpose(1, 2)


class _Blocks(torch.autograd.Function):
    """All residual blocks. Rows of the two-dimensional arrays here are (t, b), with time first."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 torch gives it no type
        h_bth: Tensor,
        reaches: list[int],
        keep: bool,
        *weights: Tensor,
    ) -> Tensor:
        blocks = _blocks(weights)
        r_btd = h_bth.new_empty((*h_bth.shape[:2], blocks[-1].bias2.shape[0]))
        kept: list[Tensor] = []
        for some in _chunks(h_bth):
            h = h_bth[some].transpose(0, 1)
            shape, h = h.shape, h.reshape(-1, h.shape[2])
            for block, reach in zip(blocks, reaches, strict=True):
                shift = reach * shape[1]
                inner = _products(functional.gelu(h), block.taps1, block.bias1, shift)
                y = _products(functional.gelu(inner), block.taps2, block.bias2, shift)
                kept += [h, inner] if keep else []
                h = y.add_(h) if block.residual is None else y.addmm_(h, block.residual)
            r_btd[some] = h.view(*shape[:2], -1).transpose(0, 1)
        ctx.save_for_backward(*kept)
        ctx.reaches, ctx.weights = reaches, weights
        return r_btd

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 torch gives it no type
        *gradients: Tensor,
    ) -> tuple[Tensor | None, ...]:
        blocks, kept = _blocks(ctx.weights), ctx.saved_tensors
        dr_btd = gradients[0]
        dh_bth = dr_btd.new_empty((*dr_btd.shape[:2], blocks[0].taps1.shape[1]))
        sums = [_Block(*(None if part is None else torch.zeros_like(part) for part in block)) for block in blocks]
        for number, some in enumerate(_chunks(dh_bth)):
            at = 2 * len(blocks) * number
            dy = dr_btd[some].transpose(0, 1)
            batch, dy = dy.shape[1], dy.reshape(-1, dy.shape[2])
            for i in range(len(blocks) - 1, -1, -1):
                h, inner = kept[at + 2 * i : at + 2 * i + 2]
                dy = _back(blocks[i], sums[i], ctx.reaches[i] * batch, h, inner, dy)
            dh_bth[some] = dy.view(-1, batch, dy.shape[1]).transpose(0, 1)
        return dh_bth, None, None, *(part for block in sums for part in block)


def _blocks(weights: tuple[Tensor | None, ...]) -> list[_Block]:
    return [_Block(*weights[at : at + _OF_A_BLOCK]) for at in range(0, len(weights), _OF_A_BLOCK)]  # type: ignore[arg-type]


def _chunks(h_bth: Tensor) -> list[slice]:
    """Which windows go together."""
    batch, time = h_bth.shape[:2]
    size = max(1, CHUNK_ROWS // max(1, time))
    return [slice(at, at + size) for at in range(0, batch, size)]


def _products(x: Tensor, taps_3io: Tensor, bias_o: Tensor, shift: int) -> Tensor:
    """Convolution of kernel 3: y[t] = x[t - d] W0 + x[t] W1 + x[t + d] W2 + b, nothing beyond the ends.

    Row (t, b) lies `shift` = d * B rows before row (t + d, b).
    """
    y = torch.addmm(bias_o, x, taps_3io[1])
    if shift < len(x):
        y[shift:].addmm_(x[:-shift], taps_3io[0])
        y[:-shift].addmm_(x[shift:], taps_3io[2])
    return y


def _products_back(x: Tensor, dy: Tensor, taps_3io: Tensor, shift: int, d_taps: Tensor, d_bias: Tensor) -> Tensor:
    """dx; what the taps and the bias receive is added to d_taps and d_bias."""
    d_bias += dy.sum(dim=0)
    d_taps[1].addmm_(x.T, dy)
    dx = dy @ taps_3io[1].T
    if shift < len(x):
        d_taps[0].addmm_(x[:-shift].T, dy[shift:])
        d_taps[2].addmm_(x[shift:].T, dy[:-shift])
        dx[:-shift].addmm_(dy[shift:], taps_3io[0].T)
        dx[shift:].addmm_(dy[:-shift], taps_3io[2].T)
    return dx


def _back(block: _Block, sums: _Block, shift: int, h: Tensor, inner: Tensor, dy: Tensor) -> Tensor:
    """The gradient by a block's input h, from that by its output; `inner` lies between its convolutions."""
    d = _products_back(functional.gelu(inner), dy, block.taps2, shift, sums.taps2, sums.bias2)
    d = torch.ops.aten.gelu_backward(d, inner)
    d = _products_back(functional.gelu(h), d, block.taps1, shift, sums.taps1, sums.bias1)
    d = torch.ops.aten.gelu_backward(d, h)
    if block.residual is None:
        return d.add_(dy)
    assert sums.residual is not None  # noqa: S101 as block.residual
    sums.residual.addmm_(h.T, dy)
    return d.addmm_(dy, block.residual.T)
