"""The encoder as a package runs it: `network`'s weights, and its results but for rounding, in another order of work.

On a processor arrays are time-major and flat, sample t of window b in row t * B + b, so that each tap of a convolution
is one matrix product over contiguous rows, added in place where it belongs. A tap is taken over those rows alone where
it sees data, so nothing is padded. On a CUDA device the products may be taken in a lower precision than the sum over
blocks, and all windows go together.

Written so that TorchScript takes it (see export.py), which reads `type: ignore` too and allows no reason behind it:
torch types a module as a tensor, and its stubs lack gelu_. `fast` is the form that training runs.
"""

# No `from __future__ import annotations`, as in export.py.
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from tscc_stream.learn.network import Encoder, ResidualBlock

CHUNK = 4
"""Windows at a time on a processor: what keeps one block's three arrays in the cache of its core."""


class TimeMajorEncoder(nn.Module):
    """Windows [B, T, C] float to one vector each, the maximum over time: [B, D].

    Its weights are copies, in the order that the products want; results are of their type.
    """

    chunk: Final[int]

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.chunk = CHUNK
        self.projection = _kept(encoder.projection.weight.T)
        self.offset = _kept(encoder.projection.bias)
        self.blocks = nn.ModuleList(_Block(block) for block in encoder.blocks if isinstance(block, ResidualBlock))

    def forward(self, x_btc: Tensor) -> Tensor:
        if x_btc.is_cuda:
            return self._by_mixed_products(x_btc).amax(dim=0)
        parts = [self._by_products(part_btc).amax(dim=0) for part_btc in torch.split(x_btc, self.chunk)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _by_products(self, x_btc: Tensor) -> Tensor:
        """[B, T, C] -> [T, B, D]"""
        batch, time, channels = x_btc.shape
        x = x_btc.to(self.projection.dtype).transpose(0, 1).reshape(time * batch, channels)
        h = torch.addmm(self.offset, x, self.projection)
        for block in self.blocks:
            h = block(h, batch)
        return h.view(time, batch, -1)

    def _by_mixed_products(self, x_btc: Tensor) -> Tensor:
        """[B, T, C] -> [T, B, D], the sum over blocks in float32 whatever type the weights are of."""
        batch, time, channels = x_btc.shape
        x = x_btc.transpose(0, 1).reshape(time * batch, channels)
        h = torch.addmm(self.offset.float(), x, self.projection.float())
        for block in self.blocks:
            h = block.mixed(h, batch)  # type: ignore[operator]
        return h.view(time, batch, -1)


class _Block(nn.Module):
    """network.ResidualBlock. Taps are [3, inputs, outputs]; offset2 holds the residual's offset, too."""

    reach: Final[int]
    adapts: Final[bool]

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.reach = block.conv1.reach
        self.taps1, self.offset1 = _kept(block.conv1.weight.permute(2, 1, 0)), _kept(block.conv1.bias)
        self.taps2, self.offset2 = _kept(block.conv2.weight.permute(2, 1, 0)), _kept(block.conv2.bias)
        adapting = block.residual
        self.adapts = isinstance(adapting, nn.Conv1d)
        self.residual = _kept(adapting.weight[:, :, 0].T if isinstance(adapting, nn.Conv1d) else torch.empty(0))
        if isinstance(adapting, nn.Conv1d) and adapting.bias is not None:
            self.offset2 = _kept(self.offset2 + adapting.bias)

    def forward(self, h: Tensor, batch: int) -> Tensor:
        """[T * B, I] -> [T * B, O]; what comes in is overwritten."""
        shift = self.reach * batch
        seen = functional.gelu(h)
        inner = torch.addmm(self.offset1, seen, self.taps1[1])
        _add_outer_taps(inner, seen, self.taps1, shift)
        torch._C._nn.gelu_(inner)  # type: ignore[attr-defined]
        h = torch.addmm(self.offset2, h, self.residual) if self.adapts else h.add_(self.offset2)
        h.addmm_(inner, self.taps2[1])
        _add_outer_taps(h, inner, self.taps2, shift)
        return h

    def mixed(self, h: Tensor, batch: int) -> Tensor:
        """[T * B, I] float32 -> [T * B, O] float32, the convolutions in the type of their weights."""
        shift = self.reach * batch
        seen = functional.gelu(h).to(self.taps1.dtype)
        inner = torch.addmm(self.offset1, seen, self.taps1[1])
        _add_outer_taps(inner, seen, self.taps1, shift)
        inner = functional.gelu(inner)
        added = torch.addmm(self.offset2, inner, self.taps2[1])
        _add_outer_taps(added, inner, self.taps2, shift)
        return added + (h @ self.residual.float() if self.adapts else h)


def _add_outer_taps(y: Tensor, x: Tensor, taps_3io: Tensor, shift: int) -> None:
    """y[t] += x[t - reach] W0 + x[t + reach] W2 for what lies inside; shift: rows from one sample to the other."""
    rest = x.shape[0] - shift
    if rest > 0:
        y[shift:].addmm_(x[:rest], taps_3io[0])
        y[:rest].addmm_(x[shift:], taps_3io[2])


def _kept(weight: Tensor | None) -> nn.Parameter:
    assert weight is not None  # noqa: S101 every layer of Encoder has an offset
    return nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)
