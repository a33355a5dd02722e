"""Batches to assignments, through whatever encoder there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tscc_stream.messages import Assignment, Batch, Float32Array, WindowDropped, read_only


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One batch's results: embedding [B, D], membership [B, K], cluster [B] and squared_distance [B, K]."""

    embedding: Float32Array
    membership: Float32Array
    cluster: npt.NDArray[np.int64]
    squared_distance: Float32Array


class Encoder(Protocol):
    """The seam behind which TorchScript, and whatever may follow it, lives."""

    def encode(self, normalised: Float32Array) -> Encoded:
        """[B, samples, channels] float32 -> results on the host."""
        ...


class Inferring(Protocol):
    """What classifies batches."""

    def feed(self, batch: Batch) -> Sequence[Assignment | WindowDropped]:
        """A result per window, in the batch's order; WindowDropped for one that cannot be classified."""
        ...

    def keep_warm(self) -> None:
        """One call for nothing, so that the next one for something finds its weights and code in the caches."""
        ...


class Infer:
    """One encoder call per batch."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._window: tuple[int, ...] = ()

    def keep_warm(self) -> None:
        """One call for a window of zeros, as soon as it is known how large they are."""
        if self._window:
            self._encoder.encode(np.zeros((1, *self._window), np.float32))

    def feed(self, batch: Batch) -> list[Assignment]:
        """An assignment per window, in the batch's order."""
        self._window = batch.normalised.shape[1:]
        encoded = self._encoder.encode(batch.normalised)
        for array in (encoded.embedding, encoded.membership, encoded.squared_distance):
            read_only(array)
        return [
            Assignment(
                window,
                encoded.embedding[i],
                encoded.membership[i],
                int(encoded.cluster[i]),
                encoded.squared_distance[i],
            )
            for i, window in enumerate(batch.windows)
        ]
