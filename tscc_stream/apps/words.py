"""What things are called at a site: names that its people gave, then those of the package, then its vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from tscc_stream import activation, names, package, verdicts
from tscc_stream.config import Config
from tscc_stream.edges.people import FILE, PeopleError, PeopleFile
from tscc_stream.package import Label, PackageError, sha256_of
from tscc_stream.verdicts import Verdict
from tscc_stream.vocabulary import of_site

_Found = TypeVar("_Found")
UNKNOWN = Label(name="unknown", colour="#7f7f7f", event_type="not reported")


class Words:
    """Labels of clusters and of names, and the verdicts of people, as of now."""

    def __init__(self, config: Config, base: Path, *, without_people: bool = False) -> None:
        """base: the folder that the configuration's paths are relative to.

        Raises PeopleError where what people said cannot be read; without_people: goes on without it, and `unreadable`
        says why (empty: nothing is missing).
        """
        self._state_dir, self._model, self._base = Path(config.state_dir), config.model, base
        self._terms = {term.name: term for term in of_site(config.vocabulary)}
        self._labels: dict[str, dict[int, Label]] = {}
        self.unreadable, self._without_people = "", without_people
        self.verdicts: dict[str, Verdict] = self._of_people(lambda: verdicts.read(self._state_dir), {})

    def of_cluster(self, sha256: str, cluster: int | None, said: str) -> Label:
        """Of a model's cluster. None: unknown. said: what a message called it at the time."""
        if cluster is None:
            return UNKNOWN
        return self._of_model(sha256).get(cluster) or self.of_name(said)

    def of_name(self, name: str) -> Label:
        """Of a word: the vocabulary's, else a label of a cluster with that name, else grey and without a type."""
        term = self._terms.get(name)
        if term is not None:
            return Label(name=term.name, colour=term.colour, event_type=term.event_type)
        named = (label for labels in self._labels.values() for label in labels.values() if label.name == name)
        return next(named, None) or Label(name=name[:80] or UNKNOWN.name)

    def of_body(self, body: Mapping[str, Any], sha256: str) -> Label:
        """What a detection or network event is: a person's word, else its cluster's name. sha256: of its model."""
        if (verdict := self.verdicts.get(body["id"])) is not None:
            self._of_model(sha256)  # the word may be a name of its clusters
            return self.of_name(verdict.name)
        return self.of_cluster(sha256, cluster_of(body), body["data"]["cluster"]["name"])

    def _of_model(self, sha256: str) -> dict[int, Label]:
        if sha256 not in self._labels:
            self._labels[sha256] = self._labels_of(sha256)
        return self._labels[sha256]

    def _labels_of(self, sha256: str) -> dict[int, Label]:
        found: dict[int, Label] = {}
        for folder in self._packages(sha256):
            with suppress(PackageError, OSError):  # a package that is broken or gone names nothing
                if sha256_of(folder / "model.json") == sha256:
                    found = package.load(folder).labels
                    break
        return found | self._given(sha256)

    def _packages(self, sha256: str) -> Iterator[Path]:
        yield activation.folder_of(self._state_dir, sha256[:12])
        with suppress(PackageError):
            yield package.find(self._model, self._base)

    def _given(self, sha256: str) -> dict[int, Label]:
        path = self._state_dir / FILE
        if not path.is_file():
            return {}

        def read() -> dict[int, Label]:
            with closing(PeopleFile(path, read_only=True)) as people:
                return names.given(people, sha256)

        return self._of_people(read, {})

    def _of_people(self, read: Callable[[], _Found], otherwise: _Found) -> _Found:
        try:
            return read()
        except PeopleError as error:
            if not self._without_people:
                raise
            self.unreadable = str(error)
            return otherwise


def cluster_of(body: Mapping[str, Any]) -> int | None:
    """The cluster of a detection or network event; None where it is unknown."""
    cluster = body["data"]["cluster"]
    number: int | None = cluster["id"] if cluster.get("known", True) else None
    return number
