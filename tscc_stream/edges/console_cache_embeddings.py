"""What a model's encoder makes of stored windows: one vector a detection, of one model at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tscc_stream.edges.console_cache import CacheFile, explained, joined, transaction
from tscc_stream.messages import Float32Array, Int64Array

MODEL = "embeddings "
"""Beginning of what the progress is noted under; the model's SHA-256 follows."""


class EmbeddingStore:
    """model: its SHA-256; vectors of any other model are forgotten when the first of this one is stored."""

    def __init__(self, file: CacheFile, model: str, dimensions: int) -> None:
        self._file, self._db = file, file.db
        self._what, self._dimensions = MODEL + model, dimensions

    def done(self) -> tuple[int, int] | None:
        """The stretch of the journal whose windows are in it."""
        with explained(self._file.path):
            return self._file.progress(self._what)

    def add(self, seqs: Int64Array, vectors_nd: Float32Array, piece: tuple[int, int], oldest: int) -> None:
        """The windows of a stretch; those before `oldest` go."""
        rows = [(int(seq), vector.astype("<f4").tobytes()) for seq, vector in zip(seqs, vectors_nd, strict=True)]
        with explained(self._file.path), transaction(self._db):
            done = self._file.progress(self._what)
            if done is None:
                self._db.execute("DELETE FROM embedding")
                self._db.execute("DELETE FROM progress WHERE substr(what, 1, ?) = ?", (len(MODEL), MODEL))
            self._db.executemany("INSERT OR REPLACE INTO embedding VALUES (?, ?)", rows)
            self._db.execute("DELETE FROM embedding WHERE seq < ?", (oldest,))
            self._file.note_progress(self._what, *joined(done, piece, oldest))

    def of(self, seqs: Iterable[int]) -> dict[int, Float32Array]:
        """By seq, those that are there: a vector [dimensions] each."""
        query = "SELECT vector FROM embedding WHERE seq = ?"
        with explained(self._file.path):
            if self._file.progress(self._what) is None:
                return {}
            rows = [(seq, self._db.execute(query, (seq,)).fetchone()) for seq in seqs]
        whole = {seq: row[0] for seq, row in rows if row is not None and len(row[0]) == 4 * self._dimensions}
        return {seq: np.frombuffer(vector, "<f4").astype(np.float32) for seq, vector in whole.items()}

    def all(self) -> tuple[Int64Array, Float32Array]:
        """Ascending seqs [n] and their vectors [n, dimensions]."""
        with explained(self._file.path):
            done = self._file.progress(self._what)
            query = "SELECT seq, vector FROM embedding ORDER BY seq"
            rows = [] if done is None else self._db.execute(query).fetchall()
        whole = [(seq, vector) for seq, vector in rows if len(vector) == 4 * self._dimensions]
        vectors = np.frombuffer(b"".join(vector for _, vector in whole), "<f4").astype(np.float32)
        return np.array([seq for seq, _ in whole], np.int64), vectors.reshape(-1, self._dimensions)
