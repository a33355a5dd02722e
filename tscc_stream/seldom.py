"""The same thing is said once a minute, however often it happens."""

from __future__ import annotations

import math
from collections.abc import Hashable

SECONDS = 60.0
MOST = 100


class Seldom:
    """Remembers what was said within the last `seconds`: at most `most` things, and beyond them nothing is said."""

    def __init__(self, seconds: float = SECONDS, most: int = MOST) -> None:
        self._seconds = seconds
        self._most = most
        self._said: dict[Hashable, float] = {}  # in the order in which it was said

    def due(self, what: Hashable, now_s: float) -> bool:
        """Whether to say it now; then it counts as said. now_s: monotonic, seconds."""
        while self._said and now_s - next(iter(self._said.values())) >= self._seconds:
            del self._said[next(iter(self._said))]
        if what in self._said or len(self._said) >= self._most:
            return False
        self._said[what] = now_s
        return True


class Repeats:
    """What keeps happening, told once every `seconds` with how often it went untold. For few things, named by us."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._told: dict[Hashable, tuple[float, int]] = {}  # when, and how often it went untold since

    def due(self, what: Hashable, now_s: float) -> int | None:
        """It happened: None where it is not to be told now, else how often it went untold. now_s: monotonic."""
        told_s, untold = self._told.get(what, (-math.inf, 0))
        if now_s - told_s < self._seconds:
            self._told[what] = told_s, untold + 1
            return None
        self._told[what] = now_s, 0
        return untold
