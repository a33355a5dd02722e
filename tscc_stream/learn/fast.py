"""The encoder as training runs it on a processor: the same weights and results as `network`, in another order of work.

Arrays are time-major, [T, B, channels], so that each tap of a convolution is one matrix product over a contiguous
slice, without padding; the backward pass is written out likewise. `network.Encoder.extract` stays the reference:
results and gradients differ from it by rounding alone (tests/test_fast.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tscc_stream.learn.network import Encoder, ResidualBlock, SameConv

CHUNK = 16
"""Windows at a time: what keeps one block's arrays in the processor's cache."""


def extract(encoder: Encoder, h_bth: Tensor) -> Tensor:
    """What `encoder.extract` gives: [B, T, H] -> [B, T, D]."""
    parts = []
    for part_bth in torch.split(h_bth, CHUNK):
        h_tbh = part_bth.transpose(0, 1).contiguous()
        for block in encoder.blocks:
            assert isinstance(block, ResidualBlock)  # noqa: S101 what Encoder is made of
            h_tbh = _block(block, h_tbh)
        parts.append(h_tbh)
    return torch.cat(parts, dim=1).transpose(0, 1)


def _block(block: ResidualBlock, h_tbh: Tensor) -> Tensor:
    inner = _conv(block.conv2, functional.gelu(_conv(block.conv1, functional.gelu(h_tbh))))
    if isinstance(block.residual, torch.nn.Conv1d):
        h_tbh = functional.linear(h_tbh, block.residual.weight[:, :, 0], block.residual.bias)
    return inner + h_tbh


def _conv(conv: SameConv, h_tbi: Tensor) -> Tensor:
    taps_3io = conv.weight.permute(2, 1, 0).contiguous()
    result: Tensor = _ShiftedProducts.apply(h_tbi, taps_3io, conv.bias, conv.reach)  # type: ignore[no-untyped-call]
    return result


class _ShiftedProducts(torch.autograd.Function):
    """Convolution of kernel 3: y[t] = x[t - d] W0 + x[t] W1 + x[t + d] W2 + b, nothing beyond the ends.

    With time first, row (t, b) of the flattened array lies d * B rows before row (t + d, b).
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 torch gives it no type
        h_tbi: Tensor,
        taps_3io: Tensor,
        bias_o: Tensor,
        reach: int,
    ) -> Tensor:
        time, batch, inputs = h_tbi.shape
        x, shift, rest = h_tbi.reshape(time * batch, inputs), reach * batch, max(0, time - reach) * batch
        y = torch.addmm(bias_o, x, taps_3io[1])
        if rest:
            y[shift:].addmm_(x[:rest], taps_3io[0])
            y[:rest].addmm_(x[shift:], taps_3io[2])
        ctx.save_for_backward(x, taps_3io)
        ctx.places = (shift, rest)
        return y.view(time, batch, -1)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 torch gives it no type
        *gradients: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        x, taps_3io = ctx.saved_tensors
        shift, rest = ctx.places
        time, batch, outputs = gradients[0].shape
        dy = gradients[0].reshape(time * batch, outputs)
        dx = dy @ taps_3io[1].T
        d_taps = torch.zeros_like(taps_3io)
        d_taps[1] = x.T @ dy
        if rest:
            dx[:rest].addmm_(dy[shift:], taps_3io[0].T)
            dx[shift:].addmm_(dy[:rest], taps_3io[2].T)
            d_taps[0] = x[:rest].T @ dy[shift:]
            d_taps[2] = x[shift:].T @ dy[:rest]
        return dx.view(time, batch, -1), d_taps, dy.sum(dim=0), None
