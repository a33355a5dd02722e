"""The thread that keeps the console's cache: events of the journal first, then embeddings of their windows.

At the lowest priority and in small pieces, so that the daemon beside it never waits for the processor.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from pydantic import ValidationError

from tscc_stream.activation import ActivationError
from tscc_stream.apps.console.event_index import Look, add_stretch, look
from tscc_stream.apps.console.neighbourhood import Neighbourhood
from tscc_stream.apps.console.site import NotThereError, Site
from tscc_stream.edges.console_cache import CacheError, next_stretch
from tscc_stream.edges.console_cache_embeddings import EmbeddingStore
from tscc_stream.edges.journal_events import StoredEvent
from tscc_stream.edges.numpy_encoder import NumpyEncoder
from tscc_stream.edges.people import PeopleError
from tscc_stream.messages import Float32Array
from tscc_stream.package import Package, PackageError, PackageSpec, other_windows
from tscc_stream.priority import lower_this_thread
from tscc_stream.seldom import Seldom
from tscc_stream.stages.journal import JournalError

_log = logging.getLogger(__name__)

MOST_BYTES = 64_000_000
"""Of embeddings in memory, and about as many in the file; the oldest windows are left out."""
MOST_EMBEDDINGS = 200_000
_PIECE = 64
"""Messages whose windows are embedded in one go: some 50 ms."""
_WAIT_SECONDS = 0.5
_LATER_SECONDS = 2.0
_FOR_THE_MOMENT = (NotThereError, JournalError, PeopleError, CacheError, PackageError, ActivationError, OSError)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What windows look like to the live model. `near` may be used by any thread, the rest by the upkeep alone."""

    package: Package
    epoch: str
    encoder: NumpyEncoder
    near: Neighbourhood
    alike: Mapping[str, bool]
    """By SHA-256 of a model: whether its windows are cut as those of this one."""

    @property
    def most(self) -> int:
        return min(MOST_EMBEDDINGS, MOST_BYTES // (4 * self.package.spec.embedding))


class EventUpkeep:
    """`start`, `stop`. `embeddings`: None until there are any; `reason`: why not, in one sentence."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="event upkeep", daemon=True)
        self._said = Seldom()
        self.embeddings: Embeddings | None = None
        self.reason = "the windows are about to be read"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        lower_this_thread()
        while not self._stopping.is_set():
            try:
                with look(self._site) as now:
                    self._keep_up(now)
            except _FOR_THE_MOMENT as error:
                self.reason = str(error)
                if self._said.due(str(error), time.monotonic()):
                    _log.warning("%s", error)
                self._stopping.wait(_LATER_SECONDS)

    def _keep_up(self, now: Look) -> None:
        """Until the journal is another one, or the model."""
        while not self._stopping.is_set() and self._is_same(now):
            while not self._stopping.is_set() and add_stretch(now):
                pass
            if not self._embed_piece(now):
                self._stopping.wait(_WAIT_SECONDS)

    def _is_same(self, now: Look) -> bool:
        with self._site.journal() as again:
            return again.epoch == now.journal.epoch

    def _embed_piece(self, now: Look) -> bool:
        """False: nothing is left to do."""
        made = self._made(now)
        store = EmbeddingStore(now.file, made.package.sha256, made.package.spec.embedding)
        oldest = max(now.journal.oldest(), made.near.lowest_of_newest(made.most))
        done = store.done()
        if len(made.near) >= made.most and done is not None:
            oldest = max(oldest, done[0])
        piece = next_stretch(done, oldest, now.journal.head(), _PIECE)
        if piece is None:
            return False
        seqs, windows = _windows(now, piece, made)
        vectors = made.encoder.encode(windows).embedding if len(windows) else np.empty((0, made.package.spec.embedding))
        numbers = np.array(seqs, np.int64)
        store.add(numbers, vectors.astype(np.float32), piece, oldest)
        made.near.keep_from(oldest)
        made.near.add(numbers, vectors.astype(np.float32))
        return True

    def _made(self, now: Look) -> Embeddings:
        package = self._site.package()
        made = self.embeddings
        if made is not None and (made.package.sha256, made.epoch) == (package.sha256, now.journal.epoch):
            return made
        near = Neighbourhood(package.spec.embedding)
        near.add(*EmbeddingStore(now.file, package.sha256, package.spec.embedding).all())
        made = Embeddings(package, now.journal.epoch, NumpyEncoder(package), near, _alike(now, package))
        self.embeddings = made
        return made


def _alike(now: Look, package: Package) -> dict[str, bool]:
    documents = {**now.journal.models(), package.sha256: package.document}
    return {sha256: _is_alike(document, package.spec) for sha256, document in documents.items()}


def _is_alike(document: bytes, spec: PackageSpec) -> bool:
    try:
        return not other_windows(spec, PackageSpec.model_validate_json(document))
    except ValidationError:
        return False


def _windows(now: Look, piece: tuple[int, int], made: Embeddings) -> tuple[list[int], Float32Array]:
    """Seqs of a stretch's detections whose windows this model's encoder takes, and the windows."""
    detections = [event for event in now.journal.between(*piece) if event.kind == "detection"]
    fitting = [event.seq for event in detections if made.alike.get(_model_of(event), False)]
    stored = now.journal.samples_of(fitting)
    spec = made.package.spec
    whole = {
        seq: window.normalised
        for seq, window in stored.items()
        if len(window.normalised) == 4 * spec.samples * spec.channels
    }
    windows = np.frombuffer(b"".join(whole.values()), "<f4").astype(np.float32)
    return list(whole), windows.reshape(-1, spec.samples, spec.channels)


def _model_of(event: StoredEvent) -> str:
    """Empty where its body is not as this version writes it."""
    try:
        return str(msgspec.json.decode(event.body)["data"]["model"]["sha256"])
    except (KeyError, TypeError, ValueError):
        return ""


def embedding_of(made: Embeddings, now: Look, event: StoredEvent) -> Float32Array | None:
    """Of one detection, computed where it is not there yet; None: its window is not one of this model's."""
    kept = made.near.vector_of(event.seq)
    if kept is not None:
        return kept
    _, windows = _windows(now, (event.seq, event.seq), made)
    return made.encoder.encode(windows).embedding[0] if len(windows) else None


def share_embedded(made: Embeddings, now: Look) -> float:
    """0 to 1: of the stretch that is or can be kept, what is done."""
    done = EmbeddingStore(now.file, made.package.sha256, made.package.spec.embedding).done()
    oldest, head = now.journal.oldest(), now.journal.head()
    if done is None:
        return 0.0 if head >= oldest else 1.0
    low = done[0] if len(made.near) >= made.most else oldest
    return min(1.0, (done[1] - max(done[0], low) + 1) / max(1, head - low + 1))
