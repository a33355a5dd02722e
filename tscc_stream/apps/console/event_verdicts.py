"""What people say of detections and network events: said once, mirrored beside the events, its history kept.

What a verdict is, and what one is that was taken back: tscc_stream/verdicts.py.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tscc_stream.apps.console.site import Site
from tscc_stream.edges.console_cache_events import Verdict, VerdictMirror
from tscc_stream.edges.people import PeopleFile, Said
from tscc_stream.verdicts import KIND, WITHDRAWN, is_withdrawn

_PAGE = 1000
_MOST_HISTORY = 50


@dataclass(frozen=True, slots=True)
class Judged:
    """An event as it stood when it was judged: the name that it had, its cluster (None: a network event's unknown)."""

    uid: str
    name: str
    cluster: int | None


def follow(site: Site, mirror: VerdictMirror) -> int:
    """Take over what was said since; the number that the mirror has come to."""
    with site.people() as people:
        head, through = people.head(), mirror.through()
        if head < through:
            mirror.begin_anew()
            through = 0
        while through < head and (page := people.after(through, _PAGE)):
            through = page[-1].number
            _take(mirror, page, through)
    return through


def _take(mirror: VerdictMirror, page: list[Said], through: int) -> None:
    last = {said.subject: said for said in page if said.kind == KIND}
    holding = [_verdict(said) for said in last.values() if not is_withdrawn(said)]
    mirror.take(holding, [uid for uid, said in last.items() if is_withdrawn(said)], through)


def _verdict(said: Said) -> Verdict:
    document = said.document
    return Verdict(said.subject, str(document.get("name")), document.get("agrees") is True, said.who, said.at_ns)


Seen = Mapping[str, str]
"""By uid, when the verdict that a page shows was given, ns since 1970; empty where it shows none."""


def judge(site: Site, judged: list[Judged], name: str, who: str, seen: Seen | None = None) -> None:
    """Each of them is what `name` says.

    seen: what whoever says it has seen; None: whatever was said before. Raises ChangedError where another verdict
    holds, and then nothing is said; and PeopleError.
    """
    documents = {one.uid: {"name": name, "agrees": name == one.name, "cluster": one.cluster} for one in judged}
    with site.people() as people:
        _say(people, documents, who, seen)


def take_back(site: Site, judged: list[Judged], who: str, seen: Seen | None = None) -> None:
    """The verdict before the last holds again; who has given none is left alone. seen, raises: as `judge`."""
    with site.people() as people:
        said = {one.uid: _history(people, one.uid) for one in judged}
        documents = {
            one.uid: _before(said[one.uid], one)
            for one in judged
            if said[one.uid] and not is_withdrawn(said[one.uid][-1])
        }
        _say(people, documents, who, seen)


def _say(people: PeopleFile, documents: Mapping[str, dict[str, Any]], who: str, seen: Seen | None) -> None:
    def unchanged(uid: str, last: Said | None) -> bool:
        holds = "" if last is None or is_withdrawn(last) else str(last.at_ns)
        return seen is None or seen.get(uid, "") == holds

    people.say_where_unchanged(KIND, documents, who, time.time_ns(), unchanged)


def _before(said: list[Said], one: Judged) -> dict[str, Any]:
    """What held before the last verdict; what was said by an undo leads back to what that one undid."""
    standing: list[Mapping[str, Any]] = []
    for entry in said:
        undone = entry.document.get("undo")
        if undone:
            del standing[-1:]
        else:
            standing.append(entry.document)
    if len(standing) < 2:
        return {"name": WITHDRAWN, "agrees": False, "cluster": one.cluster, WITHDRAWN: True, "undo": True}
    return {**standing[-2], "undo": True}


def _history(people: PeopleFile, uid: str) -> list[Said]:
    return people.all_on(KIND, uid, _MOST_HISTORY)


def history(site: Site, uid: str) -> list[Said]:
    """Everything that was said of it, in order, the last of it at most."""
    with site.people() as people:
        return _history(people, uid)
