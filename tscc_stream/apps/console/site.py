"""What all pages share: the configuration, the journal, what people said, the model in use, the site's clock."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from tscc_stream import activation, names, package, vocabulary
from tscc_stream.config import Config
from tscc_stream.config_people import Term
from tscc_stream.edges import people
from tscc_stream.edges.daemon_view import TIMEOUT_SECONDS, DaemonView, Login
from tscc_stream.edges.people import PeopleError, PeopleFile
from tscc_stream.edges.sqlite import JournalReader
from tscc_stream.package import Package
from tscc_stream.seldom import Seldom

_log = logging.getLogger(__name__)

JOURNAL = "journal.sqlite"
_LOOK_SECONDS = 1.0


class NotThereError(RuntimeError):
    """The daemon has not run here yet, or its files are elsewhere; a page says so."""


def is_there(path: Path) -> bool:
    """Raises NotThereError where that cannot be told."""
    try:
        return path.exists()
    except OSError as error:  # a disk that fails, or a folder that may not be looked into
        raise NotThereError(f"{path}: cannot be looked for: {error.strerror}") from error


class Site:
    """Used by many threads at once. folder: what a relative model path starts from."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.state_dir = Path(config.state_dir)
        self.zone = ZoneInfo(config.time_zone)
        self.vocabulary: tuple[Term, ...] = vocabulary.of_site(config.vocabulary)
        self._configured = package.find(config.model, folder)
        self._lock = threading.Lock()
        self._package: Package | None = None
        self._looked = -_LOOK_SECONDS
        self._said = Seldom()

    @contextmanager
    def journal(self) -> Iterator[JournalReader]:
        """A reader for one request. Raises NotThereError, and JournalError where it cannot be read."""
        path = self.state_dir / JOURNAL
        if not is_there(path):
            raise NotThereError(f"no journal in {self.state_dir}: the daemon has not run here yet")
        reader = JournalReader(path)
        try:
            yield reader
        finally:
            reader.close()

    @contextmanager
    def people(self) -> Iterator[PeopleFile]:
        """For one request. Raises NotThereError and PeopleError."""
        if not is_there(self.state_dir):
            raise NotThereError(f"no folder {self.state_dir}: the daemon has not run here yet")
        file = PeopleFile(self.state_dir / people.FILE)
        try:
            yield file
        finally:
            file.close()

    def package(self) -> Package:
        """The model that is served, with the names that hold now, looked at once a second.

        Where what people said cannot be read, it keeps the names that it had, and the log says so.
        Raises ActivationError and PackageError.
        """
        with self._lock:
            now = time.monotonic()
            if self._package is None or now - self._looked >= _LOOK_SECONDS:
                folder = activation.live_folder(self.state_dir, self._configured)
                if self._package is None or self._package.folder != folder:
                    self._package = package.load(folder)
                else:
                    self._package.labels = package.read_labels(folder, self._package.spec.clusters)
                self._take_names(self._package)
                self._looked = now
            return self._package

    def look_again(self) -> None:
        """A name was given: whoever asks for the model next gets it with that."""
        with self._lock:
            self._looked = -_LOOK_SECONDS

    def _take_names(self, loaded: Package) -> None:
        try:
            with self.people() as said:
                loaded.given = names.given(said, loaded.sha256)
        except NotThereError:
            pass  # nobody can have said anything yet
        except PeopleError as error:
            if self._said.due(str(error), time.monotonic()):
                _log.error("%s; clusters keep the names that they had", error)

    def colour_of(self, name: str) -> str:
        """The colour of a cluster's name: the label's own, else that of the site's word for it."""
        loaded = self.package()
        labels = [loaded.label_of(cluster) for cluster in range(loaded.spec.clusters)]
        mine = next((label.colour for label in labels if label is not None and label.name == name), None)
        return mine or next((term.colour for term in self.vocabulary if term.name == name), "#8d99ae")

    def endpoints(self) -> dict[str, str]:
        """Where the daemon said last that it listens; the configuration's addresses where it said nothing yet."""
        try:
            said: dict[str, Any] = json.loads((self.state_dir / activation.ENDPOINTS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            said = {}
        return activation.addresses(said, self.config.publish, self.config.metrics)

    @property
    def stale_seconds(self) -> float:
        """After how long without data a channel is STALE; /metrics does not say from which server it comes."""
        return min((one.stale_seconds for one in self.config.seedlink), default=60.0)

    def daemon(self, seconds: float = TIMEOUT_SECONDS) -> DaemonView:
        """To ask the running daemon. seconds: for one answer."""
        mine = self.config.console
        login = Login(mine.metrics_user, mine.metrics_password_file, "console.metrics_")
        return DaemonView(self.config.metrics, login, seconds)

    def local(self, time_ns: int) -> datetime:
        """Where people read it: in the site's time zone."""
        return datetime.fromtimestamp(time_ns / 1e9, UTC).astimezone(self.zone)
