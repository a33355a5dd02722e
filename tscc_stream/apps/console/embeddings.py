"""Embeddings of windows in the journal, computed once and kept in a file beside it. The file may be deleted any time.

Computed in numpy by one thread of the lowest priority, a few at a time, so that the daemon never waits for it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

import numpy as np

from tscc_stream.apps.console.journal_windows import window_at
from tscc_stream.apps.console.site import NotThereError, Site
from tscc_stream.edges.numpy_encoder import NumpyEncoder
from tscc_stream.edges.sqlite import JournalReader
from tscc_stream.messages import Float32Array
from tscc_stream.package import Package, PackageError
from tscc_stream.stages.journal import JournalError

_log = logging.getLogger(__name__)

FILE = "console.sqlite"
MOST = 100_000
"""Embeddings that are kept, some 200 bytes each; beyond, the oldest are removed."""
MOST_WANTED = 5_000
"""Windows that are waited for at a time."""
_TOGETHER = 16
_LOWEST_PRIORITY = 19
_SCHEMA = """CREATE TABLE IF NOT EXISTS embedding (
    model TEXT NOT NULL, uid TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (model, uid)) STRICT"""


class EmbeddingError(RuntimeError):
    """Embeddings cannot be computed or kept, and why."""


class _Store:
    """The file, for one short use."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _open(self) -> closing[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=5.0, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(_SCHEMA)
        return closing(database)

    def of(self, model: str, uids: Iterable[str]) -> dict[str, Float32Array]:
        with self._open() as database:
            query = "SELECT vector FROM embedding WHERE model = ? AND uid = ?"
            found = ((uid, database.execute(query, (model, uid)).fetchone()) for uid in uids)
            return {uid: np.frombuffer(row[0], "<f4").astype(np.float32) for uid, row in found if row is not None}

    def keep(self, model: str, vectors: dict[str, Float32Array]) -> None:
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(
                "INSERT OR REPLACE INTO embedding VALUES (?, ?, ?)",
                [(model, uid, vector.astype("<f4").tobytes()) for uid, vector in vectors.items()],
            )
            database.execute(
                "DELETE FROM embedding WHERE rowid IN (SELECT rowid FROM embedding ORDER BY rowid DESC LIMIT -1 OFFSET ?)",
                (MOST,),
            )
            database.execute("COMMIT")


class Embeddings:
    """`of` gives those that are there and has the others computed meanwhile; ask again. Used by many threads."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._store = _Store(site.state_dir / FILE)
        self._lock = threading.Lock()
        self._wanted: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._failed = ""

    def of(self, package: Package, wanted: dict[str, int]) -> dict[str, Float32Array]:
        """Uid -> embedding [D]. wanted: uid -> seq in the journal, newest last.

        Raises EmbeddingError where the last attempt to compute some failed.
        """
        try:
            found = self._store.of(package.sha256, wanted)
        except sqlite3.Error as error:
            raise EmbeddingError(f"{self._site.state_dir / FILE}: {error}; it may be deleted any time") from error
        missing = {uid: seq for uid, seq in wanted.items() if uid not in found}
        with self._lock:
            failed, self._failed = self._failed, ""
            if failed:
                raise EmbeddingError(failed)
            self._wanted = dict(list(missing.items())[-MOST_WANTED:])
            if self._wanted and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, args=(package,), name="embeddings", daemon=True)
                self._thread.start()
        return found

    def _run(self, package: Package) -> None:
        with suppress(OSError):  # a hardened unit may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        try:
            encoder = NumpyEncoder(package)
            with self._site.journal() as journal:
                while self._some(journal, encoder, package):
                    pass
        except (PackageError, JournalError, NotThereError, sqlite3.Error) as error:
            _log.warning("embeddings: %s", error)
            with self._lock:
                self._failed = str(error)

    def _some(self, journal: JournalReader, encoder: NumpyEncoder, package: Package) -> bool:
        """Whether there was anything to do."""
        with self._lock:
            together = [self._wanted.popitem() for _ in range(min(_TOGETHER, len(self._wanted)))]
        windows = {uid: window_at(journal, seq, package) for uid, seq in together}
        there = {uid: window for uid, window in windows.items() if window is not None}
        if there:
            encoded = encoder.encode(np.stack(list(there.values())))
            self._store.keep(package.sha256, dict(zip(there, encoded.embedding, strict=True)))
        return bool(together)

