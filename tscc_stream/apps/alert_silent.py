"""Servers and streams that a daemon said are silent. Pure.

A daemon that starts says anew, within seconds, which streams were silent before it and are so still. Until it has had
the time for that, its restart ends the silence of no stream: a dead sensor is not well again because of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

MOST_SUBJECTS: Final = 10_000
RESTATED_SECONDS: Final = 120.0
"""After so long of a daemon's life, a stream that it has not named again is silent no longer, or forgotten."""
_STREAM: Final = "FDSN:"


class Silent:
    """said: subject (server, or source id) -> sentence. unconfirmed: of those, what the daemon has not said again since
    its start. most: beyond so many, further ones are left out.
    """

    def __init__(
        self, said: Mapping[str, str] | None = None, unconfirmed: Collection[str] = (), most: int = MOST_SUBJECTS
    ) -> None:
        self.said, self._most = dict(said or {}), most
        self.unconfirmed = set(unconfirmed)
        self._since_s: float | None = None

    def started(self) -> None:
        """The daemon was started again."""
        self.said = {subject: text for subject, text in self.said.items() if subject.startswith(_STREAM)}
        self.unconfirmed, self._since_s = set(self.said), None

    def begin(self, subject: str, sentence: str) -> None:
        """The daemon says that it is silent."""
        self.unconfirmed.discard(subject)
        if subject in self.said or len(self.said) < self._most:
            self.said[subject] = sentence

    def end(self, subject: str) -> None:
        """The daemon says that it is not, or no longer."""
        self.unconfirmed.discard(subject)
        self.said.pop(subject, None)

    def turn(self, heard_s: float) -> bool:
        """Whether something was dropped. heard_s: when the daemon last said anything (monotonic)."""
        if not self.unconfirmed:
            return False
        self._since_s = heard_s if self._since_s is None else self._since_s
        if heard_s - self._since_s < RESTATED_SECONDS:
            return False
        for subject in self.unconfirmed:
            self.said.pop(subject, None)
        self.unconfirmed.clear()
        return True
