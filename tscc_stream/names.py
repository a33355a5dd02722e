"""Names that people at a site gave to clusters. They hold before those of the package's labels.json, which stays."""

from __future__ import annotations

from pydantic import ValidationError

from tscc_stream.edges.people import PeopleFile, Said, tell_unreadable
from tscc_stream.mistakes import first
from tscc_stream.package import Label, Package
from tscc_stream.stages.interpret import UNKNOWN

KIND = "name"
MOST_NOTES = 2_000
"""Letters."""


def _subject(sha256: str, cluster: int) -> str:
    return f"{sha256}/{cluster}"


class NameRefusedError(ValueError):
    """A name, or another part of a label, that no cluster may have, and what was expected."""


def label_of(document: object) -> Label:
    """A label that may be given, of its fields, its name without blanks around it. Raises NameRefusedError."""
    if not isinstance(document, dict):
        raise NameRefusedError("expected an object with name, colour, event_type and notes")
    try:
        label = Label.model_validate(document)
    except ValidationError as error:
        raise NameRefusedError(first(error, "name")) from error
    if not label.name.strip() or not label.name.isprintable():
        raise NameRefusedError("name: expected printable letters")
    _refuse_reserved(label.name)
    if len(label.notes) > MOST_NOTES:
        raise NameRefusedError(f"notes: expected at most {MOST_NOTES} letters")
    return label.model_copy(update={"name": label.name.strip()})


def _refuse_reserved(name: str) -> None:
    if name.strip().lower() == UNKNOWN:
        raise NameRefusedError(f"name: {UNKNOWN} is what belongs to no cluster; expected another name")


def same_name(loaded: Package, cluster: int, name: str) -> list[int]:
    """Other clusters of the model that people call exactly so: in a network event their votes count together."""
    others = (other for other in range(loaded.spec.clusters) if other != cluster)
    return [other for other in others if loaded.name_of(other) == name]


def told_same_name(loaded: Package, cluster: int, name: str) -> str:
    """The same as one sentence; empty where no other cluster is called so."""
    if not (others := same_name(loaded, cluster, name)):
        return ""
    many = len(others) > 1
    listed = ", ".join(map(str, others))
    return (
        f"cluster{'s' * many} {listed} {'are' if many else 'is'} called {name!r} too: "
        "in network events their votes count together"
    )


def give(
    people: PeopleFile, sha256: str, cluster: int, label: Label, who: str, at_ns: int, seen: int | None = None
) -> int:
    """Name a cluster of the model with this hash; the daemon takes it over within a second. The number of the entry.

    seen: number of the last entry that whoever names it has seen, 0 for none; None: whatever was said before. Raises
    ChangedError where there is a later one, PeopleError, and NameRefusedError for the word `unknown`.
    """
    _refuse_reserved(label.name)
    subject, document = _subject(sha256, cluster), label.model_dump()
    if seen is None:
        return people.say(KIND, subject, document, who, at_ns)

    def unchanged(_subject: str, last: Said | None) -> bool:
        return (0 if last is None else last.number) == seen

    return people.say_where_unchanged(KIND, {subject: document}, who, at_ns, unchanged)


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
