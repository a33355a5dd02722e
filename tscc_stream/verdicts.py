"""Verdicts of people on detections and network events, and what they say of a model: precision per cluster.

A verdict is kept in people.sqlite as kind "verdict": its subject is the uid, its document says what it is (`name`),
whether the model had it right (`agrees`), and which cluster it had been given (`cluster`, null where none). The last
word on a uid holds. Taking one back says the one before it again, marked `undo`; where there was none, it says one that
is marked `withdrawn`, and none holds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tscc_stream.edges.people import FILE, PeopleFile, Said, tell_unreadable

KIND = "verdict"
WITHDRAWN = "withdrawn"
_Z = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Verdict:
    """name: what it is in a person's word. agrees: the model had it right. at_ns: wall time.

    family: that of unknown windows with which it was named, empty where it was judged by itself.
    """

    name: str
    agrees: bool
    who: str
    at_ns: int
    family: str = ""


@dataclass(frozen=True, slots=True)
class Precision:
    """How often people agreed, with Wilson's interval of 95 % for the share."""

    agreed: int
    judged: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Of those judged, 0 to 1."""
        return self.agreed / self.judged


def read(state_dir: Path) -> dict[str, Verdict]:
    """The verdict that holds on each uid; none where nobody has said anything yet. Raises PeopleError."""
    path = state_dir / FILE
    if not path.is_file():
        return {}
    people = PeopleFile(path, read_only=True)
    try:
        return given(people)
    finally:
        people.close()


def given(people: PeopleFile) -> dict[str, Verdict]:
    """The verdict that holds on each uid, in the order in which they were given; one that cannot be read is left out.

    Raises PeopleError.
    """
    held: dict[str, Verdict] = {}
    for uid, said in people.latest(KIND).items():
        try:
            if not is_withdrawn(said):
                held[uid] = _verdict(said)
        except ValueError as error:
            tell_unreadable(f"the verdict on {uid:.40}", error)
    return held


def is_withdrawn(said: Said) -> bool:
    """Whether it is no verdict, but takes the only one back."""
    return bool(said.document.get(WITHDRAWN))


def _verdict(said: Said) -> Verdict:
    name, agrees = said.document.get("name"), said.document.get("agrees")
    if not isinstance(name, str) or not name or not isinstance(agrees, bool):
        raise ValueError("expected a name, and agrees true or false")  # what a person wrote
    return Verdict(name, agrees, said.who, said.at_ns, str(said.document.get("family") or ""))


def over_members(verdicts: Mapping[str, Verdict], events: Iterable[tuple[str, Sequence[str]]]) -> dict[str, Verdict]:
    """Verdicts by uid, where one on a network event holds for those of its detections that have none of their own.

    events: uid of each network event, with those of its detections.
    """
    spread: dict[str, Verdict] = {}
    for uid, members in events:
        if uid in verdicts:
            spread |= dict.fromkeys(members, verdicts[uid])
    return spread | dict(verdicts)


def precision(judged: Iterable[tuple[_Key, bool]]) -> dict[_Key, Precision]:
    """Precision of each cluster out of (cluster, whether a person agreed), in order of first mention."""
    total: Counter[_Key] = Counter()
    agreed: Counter[_Key] = Counter()
    for cluster, agrees in judged:
        total[cluster] += 1
        agreed[cluster] += agrees
    return {cluster: _precision(agreed[cluster], count) for cluster, count in total.items()}


def _precision(agreed: int, judged: int) -> Precision:
    """Wilson (1927), Journal of the American Statistical Association 22, 209-212."""
    share, weight = agreed / judged, _Z**2 / judged
    centre = (share + weight / 2) / (1 + weight)
    half = _Z / (1 + weight) * math.sqrt(share * (1 - share) / judged + weight / (4 * judged))
    return Precision(agreed, judged, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def members_of(body: Mapping[str, Any]) -> tuple[str, Sequence[str]]:
    """A network event's uid and those of its detections, out of its message's body."""
    return body["id"], body["data"]["detections"]
