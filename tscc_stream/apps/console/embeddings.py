"""Embeddings of windows in the journal: out of the console's cache where the page Events has computed them already,
else computed when they are asked for; kept in memory.

Computed in numpy by one thread of the lowest priority, a few at a time, so that the daemon never waits for it.
"""

from __future__ import annotations

import logging
import threading
from contextlib import closing

import numpy as np

from tscc_stream.apps.console.journal_windows import window_at
from tscc_stream.apps.console.site import NotThereError, Site
from tscc_stream.edges.console_cache import FILE, CacheError, CacheFile
from tscc_stream.edges.console_cache_embeddings import EmbeddingStore
from tscc_stream.edges.numpy_encoder import NumpyEncoder
from tscc_stream.edges.sqlite import JournalReader
from tscc_stream.messages import Float32Array
from tscc_stream.package import Package, PackageError
from tscc_stream.priority import lower_this_thread
from tscc_stream.stages.journal import JournalError

_log = logging.getLogger(__name__)

MOST = 20_000
"""Embeddings that are kept in memory, the latest that were asked for: some 200 bytes each."""
MOST_WANTED = 5_000
"""Windows that are waited for at a time."""
_TOGETHER = 16


class EmbeddingError(RuntimeError):
    """Embeddings cannot be computed, and why."""


class Embeddings:
    """`of` gives those that are there and has the others computed meanwhile; ask again. Used by many threads."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._model = ""
        self._kept: dict[str, Float32Array | None] = {}
        self._wanted: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._failed = ""

    def of(self, package: Package, wanted: dict[str, int]) -> dict[str, Float32Array | None]:
        """Uid -> embedding [D], None where the journal does not hold the window any more.

        wanted: uid -> seq in the journal, newest last. Raises EmbeddingError where the last attempt to compute failed.
        """
        with self._lock:
            failed, self._failed = self._failed, ""
            if failed:
                raise EmbeddingError(failed)
            if self._model != package.sha256:
                self._model, self._kept = package.sha256, {}
            found = {uid: self._kept[uid] for uid in wanted if uid in self._kept}
            missing = [(uid, seq) for uid, seq in wanted.items() if uid not in found]
            self._wanted = dict(missing[-MOST_WANTED:])
            if self._wanted and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, args=(package,), name="embeddings", daemon=True)
                self._thread.start()
        return found

    def _run(self, package: Package) -> None:
        lower_this_thread()
        try:
            encoder = NumpyEncoder(package)
            with (
                self._site.journal() as journal,
                closing(CacheFile(self._site.state_dir / FILE, journal.epoch)) as file,
            ):
                store = EmbeddingStore(file, package.sha256, package.spec.embedding)
                while self._some(journal, store, encoder, package):
                    pass
        except (PackageError, JournalError, NotThereError, CacheError) as error:
            _log.warning("embeddings: %s", error)
            with self._lock:
                self._failed = str(error)

    def _some(self, journal: JournalReader, store: EmbeddingStore, encoder: NumpyEncoder, package: Package) -> bool:
        """Whether there was anything to do."""
        with self._lock:
            if self._model != package.sha256:
                return False
            together = [self._wanted.popitem() for _ in range(min(_TOGETHER, len(self._wanted)))]
        stored = store.of(seq for _, seq in together)
        known = {uid: stored[seq] for uid, seq in together if seq in stored}
        windows = {uid: window_at(journal, seq, package) for uid, seq in together if seq not in stored}
        there = {uid: window for uid, window in windows.items() if window is not None}
        embedding = encoder.encode(np.stack(list(there.values()))).embedding if there else ()
        with self._lock:
            if self._model == package.sha256:
                self._kept |= known | dict.fromkeys(windows) | dict(zip(there, embedding, strict=True))
                for oldest in list(self._kept)[: max(0, len(self._kept) - MOST)]:
                    del self._kept[oldest]
        return bool(together)
