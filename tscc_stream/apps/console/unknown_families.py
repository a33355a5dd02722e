"""Families of unknown windows: found in the journal, named or dismissed by people, with a way back.

A family is known by its most typical member's uid. A name is a verdict on each member; a dismissal holds for every
family half of whose members were dismissed, so that a few more windows do not bring it back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tscc_stream import verdicts
from tscc_stream.apps.console.cluster_view import View
from tscc_stream.apps.console.detections import Rows
from tscc_stream.apps.console.embeddings import Embeddings
from tscc_stream.apps.console.families import MOST, ORDINARY, Family, grouped, usual_distance
from tscc_stream.edges.people import ChangedError, PeopleFile, Said
from tscc_stream.messages import Float32Array
from tscc_stream.verdicts import WITHDRAWN, Verdict

KIND = "dismissal"
ENOUGH = 0.95
"""Of the windows that are compared: with so many the families are shown, and the newest join at the next look."""
_STEP = 100
_TAKEN_BACK = {"name": WITHDRAWN, "agrees": False, "cluster": None, WITHDRAWN: True, "undo": True}
"""Nobody had judged the members before: unknown windows that somebody judged are in no family."""
MOST_REMEMBERED = 500
"""Families that were shown: a page may be open for a while, and a name means what it shows."""
MOST_KEPT_MEMBERS = 1_000
"""Uids that a dismissal lists."""


class FamilyGoneError(LookupError):
    """The family is not there any more as it was shown."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A family as it is shown. rows: its members, the most typical first."""

    key: str
    rows: Rows
    dismissed: bool

    @property
    def uids(self) -> list[str]:
        return uids_of(self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """ready, wanted: embeddings that are there, and all of them. left_over: unknown windows in no family."""

    families: Sequence[Candidate]
    threshold: float
    unknown: int
    judged: int
    left_over: int
    ready: int
    wanted: int


class FamilyBook:
    """Used by many threads."""

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings
        self._lock = threading.Lock()
        self._made_of: object = None
        self._shown: dict[str, Candidate] = {}
        self._found: list[tuple[Family, Rows]] = []
        self._threshold = float("nan")

    def look(self, view: View, people: PeopleFile) -> Grouping:
        """Of the newest unknown windows of the period that nobody has judged. Raises EmbeddingError, PeopleError."""
        unjudged = [uid not in view.verdicts for uid in uids_of(view.unknown)]
        unknown = view.unknown[unjudged][-MOST:]
        ordinary = _steady(view.rows[view.rows["known"]])
        wanted = np.concatenate((ordinary, unknown)) if unknown.size else unknown
        vectors = self._embeddings.of(view.package, dict(zip(uids_of(wanted), wanted["seq"].tolist(), strict=True)))
        waits = len(vectors) < ENOUGH * wanted.size
        dismissed = _dismissed(people.latest(KIND))
        with self._lock:
            if not waits:
                there = {uid: vector for uid, vector in vectors.items() if vector is not None}
                self._group(_with(unknown, there), _with(ordinary, there), there)
            else:
                self._found, self._made_of = [], None
            shown = [_candidate(rows, dismissed) for _, rows in self._found]
            for one in shown:
                self._shown.pop(one.key, None)
                self._shown[one.key] = one
            for oldest in list(self._shown)[:-MOST_REMEMBERED]:
                del self._shown[oldest]
        in_families = sum(one.rows.size for one in shown)
        return Grouping(
            sorted(shown, key=lambda one: (one.dismissed, -one.rows.size)),
            self._threshold,
            int(view.unknown.size),
            len(unjudged) - sum(unjudged),
            int(unknown.size) - in_families,
            len(vectors) if waits else int(wanted.size),
            int(wanted.size),
        )

    def _group(self, unknown: Rows, ordinary: Rows, vectors: dict[str, Float32Array]) -> None:
        made_of = (unknown["seq"].tobytes(), ordinary["seq"].tobytes())
        if made_of == self._made_of:
            return
        self._threshold = usual_distance(_stacked(ordinary, vectors), ordinary["cluster"])
        families = grouped(_stacked(unknown, vectors), self._threshold)
        self._found = [(family, unknown[list(family.members)]) for family in families]
        self._made_of = made_of

    def family(self, key: str) -> Candidate:
        """As it was shown under this key last. Raises FamilyGoneError."""
        with self._lock:
            found = self._shown.get(key)
        if found is None:
            raise FamilyGoneError("this family has changed since it was shown: look at the page again")
        return found


def name(people: PeopleFile, family: Candidate, word: str, who: str) -> None:
    """That verdict on every member, none of whom anybody had judged. Raises FamilyGoneError where somebody has by now,
    and PeopleError.
    """
    document = {"name": word, "agrees": False, "cluster": None, "family": family.key}
    _say(people, dict.fromkeys(family.uids, document), who, _nobody_judged)


def _say(
    people: PeopleFile, documents: dict[str, dict[str, Any]], who: str, unchanged: Callable[[str, Said | None], bool]
) -> None:
    """Raises FamilyGoneError and PeopleError."""
    try:
        people.say_where_unchanged(verdicts.KIND, documents, who, time.time_ns(), unchanged)
    except ChangedError as error:
        if error.said is None:
            raise FamilyGoneError("a member of this family was judged since it was shown: look again") from error
        name_now = error.said.document.get("name")
        raise FamilyGoneError(
            f"{error.said.who} said of a member of this family: {name_now!r}, since it was shown: look again"
        ) from error


def _nobody_judged(_uid: str, last: Said | None) -> bool:
    return last is None or verdicts.is_withdrawn(last)


def take_name_back(people: PeopleFile, key: str, who: str) -> int:
    """No verdict on the members any more; how many. Raises FamilyGoneError where somebody has judged one of them since,
    and PeopleError.
    """
    members = [uid for uid, one in verdicts.given(people).items() if one.family == key]

    def unchanged(_uid: str, last: Said | None) -> bool:
        return last is not None and last.document.get("family") == key

    _say(people, dict.fromkeys(members, _TAKEN_BACK), who, unchanged)
    return len(members)


def dismiss(people: PeopleFile, family: Candidate, who: str) -> None:
    """Not shown among the open ones any more. Raises PeopleError."""
    document = {"dismissed": True, "members": family.uids[:MOST_KEPT_MEMBERS]}
    people.say(KIND, family.key, document, who, time.time_ns())


def take_dismissal_back(people: PeopleFile, family: Candidate, who: str) -> None:
    """Of every dismissal that one of its members was named in. Raises PeopleError."""
    uids = set(family.uids)
    for key, said in people.latest(KIND).items():
        if said.document.get("dismissed") and (key == family.key or uids & _members(said)):
            people.say(KIND, key, {"dismissed": False, "members": []}, who, time.time_ns())


def _dismissed(said: dict[str, Said]) -> set[str]:
    """Uids of members of dismissed families."""
    return {uid for one in said.values() if one.document.get("dismissed") for uid in _members(one)}


def _members(said: Said) -> set[str]:
    """None where they cannot be read."""
    members = said.document.get("members")
    return {uid for uid in members if isinstance(uid, str)} if isinstance(members, list) else set()


def _candidate(rows: Rows, dismissed: set[str]) -> Candidate:
    uids = uids_of(rows)
    return Candidate(uids[0], rows, 2 * sum(uid in dismissed for uid in uids) >= len(uids))


def named_families(judged: dict[str, Verdict]) -> list[dict[str, Any]]:
    """Families that were named: key, name, members, who and when; the latest first."""
    found: dict[str, dict[str, Any]] = {}
    for one in reversed(judged.values()):
        if one.family:
            first = {"key": one.family, "name": one.name, "who": one.who, "at_ns": one.at_ns, "members": 0}
            found.setdefault(one.family, first)["members"] += 1
    return list(found.values())


def uids_of(rows: Rows) -> list[str]:
    return [uid.decode() for uid in rows["uid"].tolist()]


def _steady(known: Rows) -> Rows:
    """The newest ordinary windows but for the last few, so that not every new one changes the threshold."""
    whole = known[: known.size - known.size % _STEP] if known.size >= ORDINARY + _STEP else known
    newest: Rows = whole[-ORDINARY:]
    return newest


def _with(rows: Rows, vectors: dict[str, Float32Array]) -> Rows:
    kept: Rows = rows[[uid in vectors for uid in uids_of(rows)]]
    return kept


def _stacked(rows: Rows, vectors: dict[str, Float32Array]) -> Float32Array:
    stacked: Float32Array = np.array([vectors[uid] for uid in uids_of(rows)], np.float32)
    return stacked
