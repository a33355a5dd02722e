"""The TSCC encoder as published (Yang et al. 2023, section III-A; the dilated network is TS2Vec's, Yue et al. 2022).

Shapes are in the names: B windows, T samples, C input channels, H hidden channels, D representation dimensions.

    x_btc  -- linear, C to H -->  h_bth  -- `depth` residual blocks, dilation 1, 2, 4, ... -->  h_bth
           -- last block, H to D -->  r_btd  -- maximum over T -->  r_bd

Dropout and the random time mask belong to training alone: here everything is deterministic, and the mask enters
between `projection` and `extract` where the training loop puts it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN = 64
DEPTH = 10
REPRESENTATION = 32
KERNEL = 3


class SameConv(nn.Conv1d):
    """Convolution over time with kernel 3 that keeps the length: [B, channels, T] -> [B, outputs, T]."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__(inputs, outputs, KERNEL, padding=dilation, dilation=dilation)
        self.reach = dilation

    def forward(self, h_bht: Tensor) -> Tensor:
        """Where the dilation reaches beyond the whole input, both outer taps see padding only and are left out."""
        if self.reach >= h_bht.shape[2]:
            return functional.conv1d(h_bht, self.weight[:, :, 1:2], self.bias)
        return functional.conv1d(h_bht, self.weight, self.bias, padding=self.reach, dilation=self.reach)


class ResidualBlock(nn.Module):
    """GELU, convolution, GELU, convolution, plus the input; `residual` adapts the input where channels change."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = SameConv(inputs, outputs, dilation)
        self.conv2 = SameConv(outputs, outputs, dilation)
        self.residual: nn.Module = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(self, h_bht: Tensor) -> Tensor:
        inner = self.conv2(functional.gelu(self.conv1(functional.gelu(h_bht))))
        added: Tensor = inner + self.residual(h_bht)
        return added


class Encoder(nn.Module):
    """Windows [B, T, C] float to one vector per sample [B, T, D]; `pool` makes one per window of it."""

    def __init__(
        self, channels: int = 1, representation: int = REPRESENTATION, hidden: int = HIDDEN, depth: int = DEPTH
    ) -> None:
        super().__init__()
        self.shape = (channels, representation, hidden, depth)
        self.projection = nn.Linear(channels, hidden)
        widths = [hidden] * depth + [representation]
        self.blocks = nn.ModuleList(ResidualBlock(hidden, width, 2**i) for i, width in enumerate(widths))

    @torch.jit.unused
    def like(self) -> Encoder:
        """Another encoder of the same shape."""
        return Encoder(*self.shape)

    def forward(self, x_btc: Tensor) -> Tensor:
        return self.extract(self.projection(x_btc))

    def extract(self, h_bth: Tensor) -> Tensor:
        """The residual blocks: [B, T, H] -> [B, T, D]."""
        h_bht = h_bth.transpose(1, 2)
        for block in self.blocks:
            h_bht = block(h_bht)
        return h_bht.transpose(1, 2)


def pool(r_btd: Tensor) -> Tensor:
    """One vector per window: the maximum over time, [B, T, D] -> [B, D]."""
    return r_btd.amax(dim=1)


def make_encoder(
    seed: int, channels: int, representation: int = REPRESENTATION, hidden: int = HIDDEN, depth: int = DEPTH
) -> Encoder:
    """An untrained encoder whose weights depend on `seed` alone; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(channels, representation, hidden, depth)


def encoder_from(state: Mapping[str, Tensor]) -> Encoder:
    """The encoder that a package's weights.pt holds; its shape is read off the weights."""
    weights = {name: value for name, value in state.items() if name.startswith(("projection.", "blocks."))}
    hidden, channels = weights["projection.weight"].shape
    last = max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    encoder = make_encoder(0, channels, weights[f"blocks.{last}.conv2.weight"].shape[0], hidden, last)
    encoder.load_state_dict(weights)
    return encoder
