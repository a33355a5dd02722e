"""When to connect again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol


class Uniform(Protocol):
    """Where jitter comes from: `random.Random`, for one."""

    def uniform(self, a: float, b: float, /) -> float: ...


class Backoff:
    """At once, then after 0.2 s doubling to 30 s, each cut to a random share of 50 to 100 %.

    During the first 5 s no wait is longer than 1.5 s, so that a server that was away for less is read again within 2 s.
    Jitter keeps a hundred readers from coming back at the same instant. `reset` after data came. A connection that
    broke within a second of the attempt is not retried at once all the same: a server that sends one packet and
    closes must not be hammered.
    """

    FIRST_NS: Final = 200_000_000
    MOST_NS: Final = 30_000_000_000
    SHORT_NS: Final = 1_000_000_000
    SOON_NS: Final = 5_000_000_000
    SOON_MOST_NS: Final = 1_500_000_000

    def __init__(self, random: Uniform) -> None:
        self._uniform: Callable[[float, float], float] = random.uniform
        self._attempt_ns: int | None = None
        self.reset()

    def attempt(self, now_ns: int) -> None:
        """A connection is being tried."""
        self._attempt_ns = now_ns

    def reset(self) -> None:
        """Data came."""
        self._failed_ns: int | None = None
        self._next_ns = self.FIRST_NS

    def delay_ns(self, now_ns: int) -> int:
        """How long to wait before the next attempt, in ns; counts the failure."""
        first = self._failed_ns is None
        since_ns = now_ns if self._failed_ns is None else self._failed_ns
        self._failed_ns = since_ns
        short = self._attempt_ns is not None and now_ns - self._attempt_ns < self.SHORT_NS
        if first and not short:
            return 0
        most_ns = self.SOON_MOST_NS if now_ns - since_ns < self.SOON_NS else self.MOST_NS
        delay_ns = min(self._next_ns, most_ns)
        self._next_ns = 2 * delay_ns
        return round(delay_ns * self._uniform(0.5, 1.0))
