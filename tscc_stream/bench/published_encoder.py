"""The encoder as the authors' code has it, restated: what the bench measures against, and what a window costs."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from tscc_stream.learn.network import Encoder, ResidualBlock, SameConv


def published(encoder: Encoder, x_btc: Tensor) -> Tensor:
    """Padded convolutions throughout, then the maximum over time; [B, T, C] -> [B, D]."""
    h_bht = encoder.projection(x_btc).transpose(1, 2)
    for block in encoder.blocks:
        assert isinstance(block, ResidualBlock)  # noqa: S101 what Encoder is made of
        inner = _padded(block.conv1, functional.gelu(h_bht))
        h_bht = _padded(block.conv2, functional.gelu(inner)) + block.residual(h_bht)
    return functional.max_pool1d(h_bht, h_bht.shape[2]).squeeze(2)


def _padded(conv: SameConv, h_bht: Tensor) -> Tensor:
    return nn.Conv1d.forward(conv, h_bht)


def gigaflop(encoder: Encoder, samples: int, padded: bool) -> float:
    """Of one window, a multiplication and an addition counted as two; products with padding count where asked for."""
    channels, representation, hidden, depth = encoder.shape
    count = channels * hidden * samples
    for power, outputs in enumerate([hidden] * depth + [representation]):
        rows = 3 * samples if padded else samples + 2 * max(0, samples - 2**power)
        count += rows * outputs * (hidden + outputs) + (samples * hidden * outputs if outputs != hidden else 0)
    return 2e-9 * count
