"""When to connect again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol


class Uniform(Protocol):
    """Where jitter comes from: `random.Random`, for one."""

    def uniform(self, a: float, b: float, /) -> float: ...


class Backoff:
    """At once, then after 0.2 s doubling to 30 s, each cut to a random share of 50 to 100 %.

    Jitter keeps a hundred readers from coming back at the same instant. `reset` after data came. A connection that
    broke within a second of the attempt is not retried at once all the same: a server that sends one packet and
    closes must not be hammered.
    """

    FIRST_NS: Final = 200_000_000
    MOST_NS: Final = 30_000_000_000
    SHORT_NS: Final = 1_000_000_000

    def __init__(self, random: Uniform) -> None:
        self._uniform: Callable[[float, float], float] = random.uniform
        self._failures = 0
        self._attempt_ns: int | None = None

    def attempt(self, now_ns: int) -> None:
        """A connection is being tried."""
        self._attempt_ns = now_ns

    def reset(self) -> None:
        """Data came."""
        self._failures = 0

    def delay_ns(self, now_ns: int) -> int:
        """How long to wait before the next attempt, in ns; counts the failure."""
        self._failures += 1
        short = self._attempt_ns is not None and now_ns - self._attempt_ns < self.SHORT_NS
        if self._failures == 1 and not short:
            return 0
        doubled = self.FIRST_NS << min(max(self._failures - 2, 0), 20)
        return round(min(doubled, self.MOST_NS) * self._uniform(0.5, 1.0))
