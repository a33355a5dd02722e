"""The encoder in one kernel, for bulk work on a CUDA device; needs Triton, which torch's CUDA builds bring along."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from tscc_stream.learn.network import Encoder, ResidualBlock

ROWS = 128
"""Samples that a program multiplies at a time."""


def available() -> bool:
    return importlib.util.find_spec("triton") is not None


def fused(
    encoder: Encoder, dtype: torch.dtype, device: torch.device | str, programs: int, warps: int
) -> Callable[[Tensor], Tensor]:
    """Windows [B, T, 1] float32 to [B, D] float32; weights and what lies between blocks in dtype. programs: how many
    windows are at work at once. For encoders of one channel.
    """
    from tscc_stream.bench.encoder_fused_kernel import encode  # noqa: PLC0415  # needs Triton

    _, representation, hidden, _ = encoder.shape
    host = encoder.like()
    host.load_state_dict({name: value.cpu() for name, value in encoder.state_dict().items()})
    weights, offsets, projection, residual = (part.to(device) for part in _packed(host))
    weights, residual = weights.to(dtype), residual.to(dtype)

    def run(x_btc: Tensor) -> Tensor:
        batch, time, _ = x_btc.shape
        out = torch.empty(batch, hidden, device=device)
        grid = min(batch, programs)
        scratch = torch.empty(grid, 3, time, hidden, dtype=dtype, device=device)
        encode[(grid,)](
            x_btc.contiguous(), out, scratch, weights, offsets, projection, residual, batch, time,
            LAYERS=len(weights), H=hidden, ROWS=ROWS, num_warps=warps,
        )  # fmt: skip
        return out[:, :representation]

    return run


def _packed(encoder: Encoder) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights [layers, 2, 3, H, H], offsets [layers, 2, H], projection [2, H], residual [H, H]: what is narrower than H
    is filled up with noughts, which GELU leaves as they are.
    """
    hidden = encoder.shape[2]
    weights = torch.zeros(len(encoder.blocks), 2, 3, hidden, hidden)
    offsets = torch.zeros(len(encoder.blocks), 2, hidden)
    residual = torch.eye(hidden)
    with torch.no_grad():
        for layer, block in enumerate(encoder.blocks):
            assert isinstance(block, ResidualBlock)  # noqa: S101 what Encoder is made of
            for number, conv in enumerate((block.conv1, block.conv2)):
                weights[layer, number, :, : conv.in_channels, : conv.out_channels] = conv.weight.permute(2, 1, 0)
                assert conv.bias is not None  # noqa: S101 every layer of Encoder has one
                offsets[layer, number, : conv.out_channels] = conv.bias
            if isinstance(block.residual, torch.nn.Conv1d) and block.residual.bias is not None:
                residual = torch.zeros(hidden, hidden)
                residual[:, : block.residual.out_channels] = block.residual.weight[:, :, 0].T
                offsets[layer, 1, : block.residual.out_channels] += block.residual.bias
        projection = torch.stack([encoder.projection.weight[:, 0], encoder.projection.bias])
    return weights, offsets, projection, residual
