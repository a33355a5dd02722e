"""The network of an encoder.ts by compiled loops, out of the weights that it holds: see kernels.residual_network."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from tscc_stream.kernels import avx512
from tscc_stream.kernels.residual_network import ARRAYS, HALO, encode
from tscc_stream.messages import Float32Array

_REGISTER = 64
_TAPS = 3


class EncoderLoops:
    """Windows [B, T, C] float32 to embeddings [B, D], from any number of threads at a time; ValueError for others.

    state: weights by name, as learn.time_major has them. Raises KeyError or ValueError where they are of another form.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        weights = {name: value.detach().cpu().float().numpy() for name, value in state.items()}
        self._depth = max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        self._representation = weights[f"blocks.{self._depth}.offset1"].size
        self._channels = len(weights["projection"])
        self._hidden, self._outputs = _padded(weights["offset"].size), _padded(self._representation)
        self._adapts = weights[f"blocks.{self._depth}.residual"].size > 0
        self._width = max(self._hidden, self._outputs)
        self._weights = _aligned(np.concatenate(list(self._in_order(weights))))
        self._table = _aligned(avx512.gelu_table())
        self._own = threading.local()

    def __call__(self, x_btc: Tensor) -> Tensor:
        x = x_btc.contiguous().numpy()
        if x.shape[1] < avx512.ROWS or x.shape[2] != self._channels:
            expected = f"{avx512.ROWS} samples or more of {self._channels} channels"
            raise ValueError(f"windows of {x.shape[1]} samples of {x.shape[2]} channels, expected {expected}")
        out = np.empty((len(x), self._outputs), np.float32)
        arrays = self._arrays(x.shape[1])
        encode(x, self._weights, self._hidden, self._outputs, self._depth, self._adapts, self._table, arrays, out)
        return torch.from_numpy(out[:, : self._representation])

    def _arrays(self, time: int) -> Float32Array:
        """Those of this thread."""
        shape = (ARRAYS, HALO + time + HALO, self._width)
        arrays: Float32Array | None = getattr(self._own, "arrays", None)
        if arrays is None or arrays.shape != shape:
            self._own.arrays = arrays = _aligned(np.zeros(shape, np.float32))
        return arrays

    def _in_order(self, weights: Mapping[str, Float32Array]) -> Iterator[Float32Array]:
        yield np.zeros(self._width, np.float32)
        yield _widened(weights["projection"], self._channels, self._hidden)
        yield _widened(weights["offset"], self._hidden)
        for number in range(self._depth + 1):
            block = f"blocks.{number}"
            inputs, outputs = self._hidden, self._hidden if number < self._depth else self._outputs
            yield _in_panels(weights[f"{block}.taps1"], _TAPS, inputs, outputs)
            yield _widened(weights[f"{block}.offset1"], outputs)
            yield _in_panels(weights[f"{block}.taps2"], _TAPS, outputs, outputs)
            yield _widened(weights[f"{block}.offset2"], outputs)
        if self._adapts:
            yield _in_panels(weights[f"{block}.residual"][np.newaxis], 1, inputs, outputs)


def fits(samples: int) -> bool:
    """Whether this processor can run it for windows of so many samples."""
    return avx512.available() and samples >= avx512.ROWS


def _aligned(values: Float32Array) -> Float32Array:
    """A copy that begins where a register's worth of memory does, else each load takes two (measured: a tenth)."""
    room = np.empty(values.nbytes + _REGISTER, np.uint8)
    begin = -room.ctypes.data % _REGISTER
    copy = room[begin : begin + values.nbytes].view(np.float32).reshape(values.shape)
    copy[...] = values
    return copy


def _padded(channels: int) -> int:
    """Channels that are added are always 0."""
    return -(-channels // avx512.COLUMNS) * avx512.COLUMNS


def _widened(weight: Float32Array, *shape: int) -> Float32Array:
    """In one row, filled with zeros up to this shape. Raises ValueError where it has more."""
    return np.pad(weight, [(0, wide - narrow) for wide, narrow in zip(shape, weight.shape, strict=True)]).ravel()


def _in_panels(taps_kio: Float32Array, taps: int, inputs: int, outputs: int) -> Float32Array:
    """[taps, inputs, outputs] to [outputs / COLUMNS, taps, inputs, COLUMNS], in one row. Raises ValueError where there
    are others than `taps`: the loops read as many, whatever is there.
    """
    if len(taps_kio) != taps:
        raise ValueError(f"convolutions with {len(taps_kio)} taps, expected {taps}")
    whole = _widened(taps_kio, taps, inputs, outputs).reshape(taps, inputs, -1, avx512.COLUMNS)
    return whole.transpose(2, 0, 1, 3).ravel()
