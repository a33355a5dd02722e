"""Vectors of many windows in memory, and the nearest to one of them."""

from __future__ import annotations

import threading

import numpy as np

from tscc_stream.messages import Float32Array, Int64Array

_FIRST_ROOM = 1024


class Neighbourhood:
    """Used by many threads. A vector has `dimensions` numbers; seqs name them."""

    def __init__(self, dimensions: int) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._seqs: Int64Array = np.empty(_FIRST_ROOM, np.int64)
        self._vectors: Float32Array = np.empty((_FIRST_ROOM, dimensions), np.float32)

    def __len__(self) -> int:
        return self._count

    def add(self, seqs: Int64Array, vectors_nd: Float32Array) -> None:
        """More of them, none of which is there."""
        with self._lock:
            end = self._count + len(seqs)
            if end > len(self._seqs):
                room = max(end, 2 * len(self._seqs))
                self._seqs = np.concatenate((self._seqs, np.empty(room - len(self._seqs), np.int64)))
                more = np.empty((room - len(self._vectors), self._vectors.shape[1]), np.float32)
                self._vectors = np.concatenate((self._vectors, more))
            self._seqs[self._count : end] = seqs
            self._vectors[self._count : end] = vectors_nd
            self._count = end

    def keep_from(self, oldest: int) -> None:
        """Forget those of lower seqs."""
        with self._lock:
            keep = self._seqs[: self._count] >= oldest
            count = int(keep.sum())
            if count < self._count:
                self._seqs[:count] = self._seqs[: self._count][keep]
                self._vectors[:count] = self._vectors[: self._count][keep]
                self._count = count

    def lowest_of_newest(self, count: int) -> int:
        """The lowest seq among the `count` highest; 0 where there are fewer."""
        with self._lock:
            if self._count <= count:
                return 0
            return int(np.partition(self._seqs[: self._count], self._count - count)[self._count - count])

    def vector_of(self, seq: int) -> Float32Array | None:
        """None: it is not there."""
        with self._lock:
            at = np.flatnonzero(self._seqs[: self._count] == seq)
            return self._vectors[at[0]].copy() if at.size else None

    def nearest(self, vector: Float32Array, most: int) -> list[tuple[int, float]]:
        """(seq, Euclidean distance), nearest first."""
        with self._lock:
            difference = self._vectors[: self._count] - vector
            squared = np.einsum("nd,nd->n", difference, difference)
            most = min(most, self._count)
            if not most:
                return []
            few = np.argpartition(squared, most - 1)[:most]
            few = few[np.argsort(squared[few], kind="stable")]
            return [(int(self._seqs[i]), float(np.sqrt(squared[i]))) for i in few]
