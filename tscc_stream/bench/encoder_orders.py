"""Orders of work for the encoder on a CUDA device that the bench compares; the fastest is what packages should hold.

All take windows [B, T, C] float32 and give [B, D] float32. Products are taken in the type of the weights, the sum over
blocks stays in float32: rounded to bf16 it changed one cluster in fifty (rutford, demo).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tscc_stream.learn.network import Encoder, ResidualBlock, SameConv


class _Convolution:
    """weight_oi3 as torch has it, last_oi13 the same with a sample's channels side by side; wide_ko [3 inputs,
    outputs], the earliest tap first.
    """

    def __init__(self, conv: SameConv, device: torch.device | str, dtype: torch.dtype) -> None:
        self.weight_oi3, self.offset_o = conv.weight.detach().to(device, dtype), _bias(conv).to(device, dtype)
        self.reach, self.outputs = conv.reach, conv.out_channels
        self.last_oi13 = self.weight_oi3[:, :, None, :].contiguous(memory_format=torch.channels_last)
        self.wide_ko = self.weight_oi3.permute(2, 1, 0).reshape(-1, self.outputs)
        self.wide_ok = self.wide_ko.T.contiguous()


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Of one encoder, on a device; those of the convolutions in the type that products are taken in."""

    projection_ch: Tensor
    offset_h: Tensor
    blocks: list[tuple[_Convolution, _Convolution]]
    residual_hd: Tensor
    residual_offset_d: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.blocks[0][0].weight_oi3.dtype


def weights_of(encoder: Encoder, device: torch.device | str, dtype: torch.dtype) -> Weights:
    blocks = []
    for block in encoder.blocks:
        assert isinstance(block, ResidualBlock)  # noqa: S101 what Encoder is made of
        first, second = (_Convolution(conv, device, dtype) for conv in (block.conv1, block.conv2))
        blocks.append((first, second))
        residual = block.residual
    assert isinstance(residual, torch.nn.Conv1d)  # noqa: S101 the last one changes the channels
    return Weights(
        encoder.projection.weight.detach().T.contiguous().to(device),
        _bias(encoder.projection).to(device),
        blocks,
        residual.weight.detach()[:, :, 0].T.contiguous().to(device),
        _bias(residual).to(device),
    )


def _bias(layer: torch.nn.Conv1d | torch.nn.Linear) -> Tensor:
    assert layer.bias is not None  # noqa: S101 every layer of Encoder has one
    return layer.bias.detach()


def by_convolutions(w: Weights, x_btc: Tensor) -> Tensor:
    """One-dimensional convolutions, as torch has them, over [B, channels, T]."""

    def convolve(conv: _Convolution, h_bht: Tensor) -> Tensor:
        if conv.reach >= h_bht.shape[2]:
            return functional.conv1d(h_bht, conv.weight_oi3[:, :, 1:2], conv.offset_o)
        return functional.conv1d(h_bht, conv.weight_oi3, conv.offset_o, padding=conv.reach, dilation=conv.reach)

    h = (x_btc @ w.projection_ch + w.offset_h).transpose(1, 2).contiguous()
    for first, second in w.blocks:
        added = convolve(second, functional.gelu(convolve(first, functional.gelu(h).to(w.dtype))))
        h = added + _adapted(w, h.transpose(1, 2), second).transpose(1, 2)
    return h.amax(dim=2).float()


def by_channels_last(w: Weights, x_btc: Tensor) -> Tensor:
    """Convolutions over [B, channels, 1, T] with the channels of a sample side by side in memory."""

    def convolve(conv: _Convolution, h: Tensor) -> Tensor:
        if conv.reach >= h.shape[3]:
            return functional.conv2d(h, conv.last_oi13[..., 1:2], conv.offset_o)
        return functional.conv2d(h, conv.last_oi13, conv.offset_o, padding=(0, conv.reach), dilation=(1, conv.reach))

    h_bth = x_btc @ w.projection_ch + w.offset_h
    for first, second in w.blocks:
        seen = functional.gelu(h_bth).to(w.dtype).transpose(1, 2)[:, :, None, :]
        added = convolve(second, functional.gelu(convolve(first, seen)))
        h_bth = added[:, :, 0, :].transpose(1, 2) + _adapted(w, h_bth, second)
    return h_bth.amax(dim=1).float()


def by_products(w: Weights, x_btc: Tensor) -> Tensor:
    """As on a processor: time-major rows, a product a tap, over the rows where it sees data."""

    def convolve(conv: _Convolution, h: Tensor) -> Tensor:
        shift, rest = conv.reach * len(x_btc), h.shape[0] - conv.reach * len(x_btc)
        taps = conv.wide_ko.view(3, -1, conv.outputs)
        y = torch.addmm(conv.offset_o, h, taps[1])
        if rest > 0:
            y[shift:].addmm_(h[:rest], taps[0])
            y[:rest].addmm_(h[shift:], taps[2])
        return y

    batch, time, _ = x_btc.shape
    h = (x_btc.transpose(0, 1) @ w.projection_ch + w.offset_h).view(time * batch, -1)
    for first, second in w.blocks:
        added = convolve(second, functional.gelu(convolve(first, functional.gelu(h).to(w.dtype))))
        h = added + _adapted(w, h, second)
    return h.view(time, batch, -1).amax(dim=0).float()


def by_wide_products(w: Weights, x_btc: Tensor) -> Tensor:
    """Time-major rows, each beside those that its taps see; then one product for all three taps."""

    def convolve(conv: _Convolution, h_tbh: Tensor) -> Tensor:
        if conv.reach >= h_tbh.shape[0]:
            return functional.linear(h_tbh, conv.weight_oi3[:, :, 1], conv.offset_o)
        nothing = h_tbh.new_zeros(conv.reach, *h_tbh.shape[1:])
        wide = torch.cat(
            [torch.cat([nothing, h_tbh[: -conv.reach]]), h_tbh, torch.cat([h_tbh[conv.reach :], nothing])], dim=2
        )
        return functional.linear(wide, conv.wide_ok, conv.offset_o)

    h = x_btc.transpose(0, 1) @ w.projection_ch + w.offset_h
    for first, second in w.blocks:
        added = convolve(second, functional.gelu(convolve(first, functional.gelu(h).to(w.dtype))))
        h = added + _adapted(w, h, second)
    return h.amax(dim=0).float()


def _adapted(w: Weights, h: Tensor, second: _Convolution) -> Tensor:
    """What a block adds its result to: its input, or that brought to the width of the representation."""
    return h if second.outputs == h.shape[-1] else h @ w.residual_hd + w.residual_offset_d


ORDERS: dict[str, Callable[[Weights, Tensor], Tensor]] = {
    "conv": by_convolutions,
    "channels_last": by_channels_last,
    "products": by_products,
    "wide_products": by_wide_products,
}
