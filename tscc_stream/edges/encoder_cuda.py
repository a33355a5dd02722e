"""The encoder on a CUDA device: precisions, recorded graphs for a few batch sizes, copies that overlap with the work.

What can be decided without a device is in plain functions, so that it is tested without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tscc_stream.messages import Float32Array, Float64Array
from tscc_stream.stages.infer import Encoded

GRAPH_SIZES = (1, 8, 32, 128, 512)
"""Batches that graphs are recorded for; a batch is padded up to the next."""
LEAST_AGREEMENT = 0.995
"""Share of the windows whose cluster a lower precision must give as float32 does."""
MOST_SHIFT = 0.02
"""How far the p-values of those windows may move, at their 95th percentile."""
Run = Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]


def sizes_for(most: int) -> tuple[int, ...]:
    """Sizes to record graphs for where batches have at most so many windows."""
    enough = [size for size in GRAPH_SIZES if size >= most]
    largest = enough[0] if enough else GRAPH_SIZES[-1]
    return tuple(size for size in GRAPH_SIZES if size <= largest)


def slices_of(batch: int, sizes: Sequence[int]) -> list[tuple[int, int, int]]:
    """(first, behind the last, size of the graph) of the parts that a batch goes through in."""
    parts = []
    for first in range(0, batch, sizes[-1]):
        behind = min(batch, first + sizes[-1])
        parts.append((first, behind, next(size for size in sizes if size >= behind - first)))
    return parts


def check_windows(x: Float32Array) -> Float32Array:
    """Windows to compare precisions on: the self-check's [n, samples, channels], and what they become moved, turned
    over and mixed with one another; [12 n, samples, channels].
    """
    moved = [np.roll(x, by * x.shape[1] // 10, axis=1) for by in range(-1, 3)]
    mixed = [0.8 * x + 0.6 * np.roll(x, by, axis=0) for by in (1, 2, 3, 5)]
    turned = [-some for some in (*moved[1:3], *mixed[:2])]
    return np.concatenate([*moved, *mixed, *turned]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of a precision with float32, over some windows. clusters: share of equal ones; shift: of p-values, at its 95th
    percentile (0 for an uncalibrated package); membership: largest error.
    """

    windows: int
    clusters: float
    shift: float
    membership: float

    @property
    def enough(self) -> bool:
        return self.clusters >= LEAST_AGREEMENT and self.shift <= MOST_SHIFT

    def __str__(self) -> str:
        return (
            f"{100 * self.clusters:.2f} % of {self.windows} windows have the cluster of float32, "
            f"p-values move by {self.shift:.2g}, memberships by at most {self.membership:.2g}"
        )


def agreement(exact: Encoded, other: Encoded, scores: Float64Array | None) -> Agreement:
    """scores: ascending calibration distances, by which p-values are told; None: uncalibrated."""
    shift = 0.0
    if scores is not None and scores.size:
        ranks = [np.searchsorted(scores, e.squared_distance.min(axis=1)) / scores.size for e in (exact, other)]
        shift = float(np.quantile(np.abs(ranks[0] - ranks[1]), 0.95))
    return Agreement(
        len(exact.cluster),
        float(np.mean(exact.cluster == other.cluster)),
        shift,
        float(np.abs(exact.membership - other.membership).max()),
    )


@contextmanager
def tensor_float_32(allowed: bool) -> Iterator[None]:
    """Whether products and convolutions of float32 may be taken in TF32 within this block."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    try:
        products.allow_tf32 = convolutions.allow_tf32 = allowed
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


class _Slot:
    """One recorded graph with its tensors on device and host."""

    def __init__(self, run: Run, example: Tensor, stream: torch.cuda.Stream) -> None:
        self._stream, self._done = stream, torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.into = torch.zeros(example.shape, pin_memory=True)
        self._on_device = torch.zeros_like(example)
        with torch.cuda.stream(stream):
            for _ in range(3):
                run(self._on_device)
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self._results = run(self._on_device)
        self._out = [torch.empty(part.shape, dtype=part.dtype, pin_memory=True) for part in self._results]

    def begin(self) -> None:
        """Copy in, work, copy out; returns at once."""
        with torch.cuda.stream(self._stream):
            self._on_device.copy_(self.into, non_blocking=True)
            self._graph.replay()
            for host, device in zip(self._out, self._results, strict=True):
                host.copy_(device, non_blocking=True)
            self._done.record(self._stream)

    def results(self, count: int) -> list[Tensor]:
        """Of the first `count` windows; copies."""
        self._done.synchronize()
        return [part[:count].clone() for part in self._out]


class GraphedEncoder:
    """Recorded graphs of an encoder for some batch sizes, twice each, so that one copies while the other works.

    Used by one thread at a time. run: [B, samples, channels] on the device to its four results.
    """

    def __init__(self, run: Run, window: tuple[int, int], sizes: Sequence[int], device: torch.device) -> None:
        self._sizes = tuple(sizes)
        streams = [torch.cuda.Stream(device) for _ in range(2)]  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._slots = {
            size: [_Slot(run, torch.empty(size, *window, device=device), stream) for stream in streams]
            for size in self._sizes
        }

    def __call__(self, x_btc: Tensor) -> list[Tensor]:
        """[B, samples, channels] on the host to the four results on the host."""
        waiting: list[tuple[_Slot, int]] = []
        parts: list[list[Tensor]] = []
        for number, (first, behind, size) in enumerate(slices_of(len(x_btc), self._sizes)):
            if len(waiting) == 2:
                parts.append(_next(waiting))
            slot = self._slots[size][number % 2]
            slot.into[: behind - first].copy_(x_btc[first:behind])
            slot.begin()
            waiting.append((slot, behind - first))
        while waiting:
            parts.append(_next(waiting))
        return [torch.cat(some) if len(parts) > 1 else some[0] for some in zip(*parts, strict=True)]


def _next(waiting: list[tuple[_Slot, int]]) -> list[Tensor]:
    slot, count = waiting.pop(0)
    return slot.results(count)
