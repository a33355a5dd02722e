"""Names that people at a site gave to clusters. They hold before those of the package's labels.json, which stays."""

from __future__ import annotations

from tscc_stream.edges.people import PeopleFile, Said, tell_unreadable
from tscc_stream.package import Label

KIND = "name"


def _subject(sha256: str, cluster: int) -> str:
    return f"{sha256}/{cluster}"


def give(people: PeopleFile, sha256: str, cluster: int, label: Label, who: str, at_ns: int) -> None:
    """Name a cluster of the model with this hash; the daemon takes it over within a second. Raises PeopleError."""
    people.say(KIND, _subject(sha256, cluster), label.model_dump(), who, at_ns)


def given(people: PeopleFile, sha256: str) -> dict[int, Label]:
    """Cluster -> name of the model with this hash, for those that were named here; one that cannot be read is left
    out. Raises PeopleError.
    """
    beginning = _subject(sha256, 0)[:-1]
    labels: dict[int, Label] = {}
    for subject, said in people.latest(KIND, beginning).items():
        try:
            labels[int(subject.removeprefix(beginning))] = Label.model_validate(said.document)
        except ValueError as error:  # a ValidationError is one
            tell_unreadable(f"the name of a cluster ({subject:.80})", error)
    return labels


def history(people: PeopleFile, sha256: str, cluster: int) -> list[Said]:
    """Names that this cluster was given, the latest first; at most fifty. Raises PeopleError."""
    return people.all_on(KIND, _subject(sha256, cluster), 50)[::-1]
