"""What people say to alerts, in people.sqlite: answers, and announced blasts.

kind "acknowledgement": subject is an alert's id, document {"note"}. kind "suppression": subject is of our making,
document {"from_ns", "until_ns", "reason"}; the last word on a subject counts, so that another ends
a window early.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tscc_stream.apps.alert_times import Announced
from tscc_stream.edges.people import FILE, PeopleFile, PeopleThere, Said, tell_unreadable

ACKNOWLEDGEMENT = "acknowledgement"
SUPPRESSION = "suppression"
LONGEST_NS = 24 * 3600 * 10**9
"""Of an announced window."""


def acknowledge(people: PeopleFile, alert: str, note: str, who: str, at_ns: int) -> None:
    """Answer an alert: it is not repeated any more. Raises PeopleError."""
    people.say(ACKNOWLEDGEMENT, alert, {"note": note}, who, at_ns)


def answers_in(state_dir: Path) -> dict[str, Said]:
    """The last answer to each alert, by its id; none where nobody has said anything yet. Raises PeopleError."""
    path = state_dir / FILE
    if not path.is_file():
        return {}
    with closing(PeopleFile(path, read_only=True)) as people:
        return people.latest(ACKNOWLEDGEMENT)


def announce(people: PeopleFile, window: Announced, who: str, at_ns: int) -> str:
    """Announce a blast; the window's subject. Raises PeopleError."""
    document = {"from_ns": window.from_ns, "until_ns": window.until_ns, "reason": window.reason}
    subject = f"announced-{at_ns}"
    people.say(SUPPRESSION, subject, document, who, at_ns)
    return subject


def announced(people: PeopleFile) -> dict[str, Announced]:
    """Every announced window, by subject; one that cannot be read hides nothing. Raises PeopleError."""
    windows = {}
    for subject, said in people.latest(SUPPRESSION).items():
        try:
            windows[subject] = _window(said.document)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            tell_unreadable(f"the announced blast {subject}", error)
    return windows


def _window(document: Mapping[str, Any]) -> Announced:
    return Announced(int(document["from_ns"]), int(document["until_ns"]), str(document["reason"]))


def end_announced(people: PeopleFile, who: str, at_ns: int) -> int:
    """End every announced window that has not ended; how many."""
    running = {subject: one for subject, one in announced(people).items() if one.until_ns > at_ns}
    for subject, one in running.items():
        document = {"from_ns": min(one.from_ns, at_ns), "until_ns": at_ns, "reason": one.reason}
        people.say(SUPPRESSION, subject, document, who, at_ns)
    return len(running)


class PeopleNews:
    """What is new in the file since the last look; opened anew where another one lies there."""

    def __init__(self, state_dir: Path) -> None:
        self._there = PeopleThere(state_dir / FILE)
        self._seen: tuple[PeopleFile, int] | None = None

    def look(self) -> tuple[list[str], list[Announced] | None]:
        """Alerts that were acknowledged, and all announced windows; None: no change. Raises PeopleError."""
        file = self._there.file()
        head = file.head()
        if self._seen is not None and self._seen[0] is file and self._seen[1] == head:
            return [], None
        answered = list(file.latest(ACKNOWLEDGEMENT))
        windows = list(announced(file).values())
        self._seen = file, head
        return answered, windows

    def close(self) -> None:
        self._there.close()
