"""The encoder as training runs it on a processor: the same weights and results as `network`, in another order of work.

Arrays are time-major, [T, B, channels], so that each tap of a convolution is one matrix product over a contiguous
slice, without padding. A few windows at a time go through all blocks, so that what one block works on stays in the
processor's cache. The backward pass is written out: of the forward pass it keeps what enters each GELU and nothing
else, and computes the GELU again together with its slope, which costs less than to store it and fetch it back.
`network.Encoder.extract` stays the reference: results and gradients differ from it by rounding alone
(tests/test_fast.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional

from tscc_stream.kernels.gelu import gelu_and_slope
from tscc_stream.learn.network import Encoder, ResidualBlock, SameConv
from tscc_stream.learn.side_by_side import side_by_side

CHUNK_ROWS = 2048
"""Samples of all windows at a time, about: what keeps one block's arrays in the processor's cache."""


class _Block(NamedTuple):
    """The weights of a residual block as products use them, or what they receive. residual [I, O]: None where the input
    is added as it is.

    taps of kernel 3, [3, I, O]; bias2 has the bias of `residual` in it.
    """

    taps1: Tensor
    bias1: Tensor
    taps2: Tensor
    bias2: Tensor
    residual: Tensor | None


def extract(encoder: Encoder, h_bth: Tensor) -> Tensor:
    """What `encoder.extract` gives: [B, T, H] -> [B, T, D]."""
    found = cast("list[ResidualBlock]", list(encoder.blocks))
    reaches = [block.conv1.reach for block in found]
    weights = [tensor for block in found for tensor in _weights(block)]
    result: Tensor = _Blocks.apply(h_bth, reaches, torch.is_grad_enabled(), *weights)  # type: ignore[no-untyped-call]  # the library gives it no type
    return result


def extract_laid(encoder: Encoder, h_bth: Tensor, there_bt1: Tensor | None) -> Tensor:
    """What `encoder.extract` gives for those samples alone that are there (1, else 0; None: all), for a device.

    Nothing beyond the ends of a part is what zeros after every convolution are, since GELU leaves them zero.
    """
    if there_bt1 is None:
        return encoder.extract(h_bth)
    there, h = there_bt1.transpose(1, 2), h_bth.transpose(1, 2)
    h = h * there
    for block in cast("list[ResidualBlock]", list(encoder.blocks)):
        inner = block.conv1(functional.gelu(h)) * there
        h = (block.conv2(functional.gelu(inner)) + block.residual(h)) * there
    return h.transpose(1, 2)


def _weights(block: ResidualBlock) -> _Block:
    bias1, bias2, residual = cast("Tensor", block.conv1.bias), cast("Tensor", block.conv2.bias), None
    if isinstance(block.residual, torch.nn.Conv1d):
        bias2 = bias2 + cast("Tensor", block.residual.bias)
        residual = block.residual.weight[:, :, 0].T.contiguous()
    return _Block(_taps(block.conv1), bias1, _taps(block.conv2), bias2, residual)


def _taps(conv: SameConv) -> Tensor:
    return conv.weight.permute(2, 1, 0).contiguous()


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
        r_btd = h_bth.new_empty((*h_bth.shape[:2], len(blocks[-1].bias2)))
        chunks = _chunks(h_bth)

        def through(share: slice) -> list[Tensor]:
            kept: list[Tensor] = []
            for some in chunks[share]:
                h, batch = _rows(h_bth[some])
                for block, reach in zip(blocks, reaches, strict=True):
                    inner = _products(functional.gelu(h), block.taps1, block.bias1, reach * batch)
                    y = _products(functional.gelu(inner), block.taps2, block.bias2, reach * batch)
                    kept += [h, inner] if keep else []
                    h = y.add_(h) if block.residual is None else y.addmm_(h, block.residual)
                r_btd[some] = _windows(h, batch)
            return kept

        shares = side_by_side(through, len(chunks))
        ctx.save_for_backward(*(tensor for kept in shares for tensor in kept))
        ctx.reaches, ctx.weights, ctx.chunks = reaches, weights, chunks
        return r_btd

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 torch gives it no type
        *gradients: Tensor,
    ) -> tuple[Tensor | None, ...]:
        blocks, kept, (dr_btd,) = _blocks(ctx.weights), ctx.saved_tensors, gradients
        dh_bth = dr_btd.new_empty((*dr_btd.shape[:2], blocks[0].taps1.shape[1]))
        entered = [kept[at : at + 2] for at in range(0, len(kept), 2)]  # of each block, chunk by chunk

        def back(share: slice) -> list[Tensor | None]:
            sums = [None if weight is None else torch.zeros_like(weight) for weight in ctx.weights]
            received = _blocks(sums)
            for number in range(len(ctx.chunks))[share]:
                some, at = ctx.chunks[number], number * len(blocks)
                dy, batch = _rows(dr_btd[some])
                for i in range(len(blocks) - 1, -1, -1):
                    dy = _back(blocks[i], received[i], ctx.reaches[i] * batch, entered[at + i], dy)
                dh_bth[some] = _windows(dy, batch)
            return sums

        first, *others = side_by_side(back, len(ctx.chunks))
        for sums in others:
            for total, part in zip(first, sums, strict=True):
                if total is not None and part is not None:
                    total.add_(part)
        return dh_bth, None, None, *first


def _blocks(weights: Sequence[Tensor | None]) -> list[_Block]:
    size = len(_Block._fields)
    return [_Block(*cast("list[Tensor]", weights[at : at + size])) for at in range(0, len(weights), size)]


def _chunks(h_bth: Tensor) -> list[slice]:
    """Which windows go together: about CHUNK_ROWS samples, as many for each thread."""
    batch, time = h_bth.shape[:2]
    threads = torch.get_num_threads()
    number = min(batch, -(-batch * time // (CHUNK_ROWS * threads)) * threads)
    return [slice(batch * i // number, batch * (i + 1) // number) for i in range(number)]


def _rows(h_bth: Tensor) -> tuple[Tensor, int]:
    """[T * B, H] and B."""
    return h_bth.transpose(0, 1).reshape(-1, h_bth.shape[2]), len(h_bth)


def _windows(h: Tensor, batch: int) -> Tensor:
    """[B, T, H]"""
    return h.view(-1, batch, h.shape[1]).transpose(0, 1)


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


def _back(block: _Block, sums: _Block, shift: int, entered: tuple[Tensor, Tensor], dy: Tensor) -> Tensor:
    """The gradient by a block's input, from that by its output; `entered` its two GELUs: the input, and what lies
    between the convolutions.
    """
    h, inner = entered
    x, slope = _gelu_and_slope(inner)
    d = _products_back(x, dy, block.taps2, shift, sums.taps2, sums.bias2).mul_(slope)
    x, slope = _gelu_and_slope(h)
    d = _products_back(x, d, block.taps1, shift, sums.taps1, sums.bias1).mul_(slope)
    if block.residual is None or sums.residual is None:
        return d.add_(dy)
    sums.residual.addmm_(h.T, dy)
    return d.addmm_(dy, block.residual.T)


def _gelu_and_slope(h: Tensor) -> tuple[Tensor, Tensor]:
    if h.dtype != torch.float32:  # which the compiled loop knows
        return functional.gelu(h), torch.ops.aten.gelu_backward(torch.ones_like(h), h)
    x, slope = torch.empty_like(h), torch.empty_like(h)
    gelu_and_slope(h.view(-1).numpy(), x.view(-1).numpy(), slope.view(-1).numpy())
    return x, slope
