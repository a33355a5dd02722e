"""What an event's cluster is called now: names that people gave since hold for what came before as well."""

from __future__ import annotations

from collections.abc import Iterable

from tscc_stream import names
from tscc_stream.apps.console.site import Site
from tscc_stream.edges.console_cache_events import NO_CLUSTER, Label
from tscc_stream.package import Package
from tscc_stream.stages.interpret import UNKNOWN


class Names:
    """For one request. Raises what Site.package does, and PeopleError."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._package: Package = site.package()
        with site.people() as people:
            said = people.latest(names.KIND).items()
        self._given = {subject: name for subject, one in said if isinstance(name := one.document.get("name"), str)}
        self._colours: dict[str, str] = {}

    def now(self, model: str, cluster: int | None, then: str) -> str:
        """then: what it was called when it was found."""
        if then == UNKNOWN or cluster in (None, NO_CLUSTER):
            return then
        given = self._given.get(f"{model}/{cluster}")
        if given is not None:
            return given
        return self._package.name_of(cluster) if model == self._package.sha256 and cluster is not None else then

    def of_label(self, label: Label) -> str:
        """What the events of a label are called now."""
        return self.now(label.model, label.cluster, label.name)

    def translated(self, labels: Iterable[Label], model: str) -> dict[str, str]:
        """Name then -> name now, for what a model called its clusters."""
        return {label.name: self.of_label(label) for label in labels if label.model == model}

    def of_clusters(self, count: int, model: str) -> list[str]:
        """Names now of a model's clusters."""
        return [self.now(model, cluster, f"cluster {cluster}") for cluster in range(count)]

    def colour(self, name: str) -> str:
        """As everywhere in the console."""
        if name not in self._colours:
            self._colours[name] = self._site.colour_of(name)
        return self._colours[name]

    def known_to_people(self) -> set[str]:
        """What a verdict may say: the site's vocabulary, names of clusters, and unknown."""
        words = {term.name for term in self._site.vocabulary} | set(self._given.values()) | {UNKNOWN}
        return words | {self._package.name_of(cluster) for cluster in range(self._package.spec.clusters)}
