"""One word for how a channel's data are: pure. docs/console.md says the same to people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from tscc_stream.apps.console.trace import Trace

Word = Literal["OK", "LAG", "CLIPPED", "FLAT", "LEFT OUT", "OLD", "STALE", "DEAD"]
WORDS: Final[tuple[Word, ...]] = ("OK", "LAG", "CLIPPED", "FLAT", "LEFT OUT", "OLD", "STALE", "DEAD")
"""From well to worst. LEFT OUT, quarantined, is known to the page Health alone. OLD: data come that are older than what
was already seen.
"""
LAG_SECONDS: Final = 5.0
LAG_RECORDS: Final = 3
FAR_LAG_SECONDS: Final = 15.0
"""Of channels that are not shown: the daemon is asked every few seconds only, and does not say how long records are."""
OLD_SECONDS: Final = 10.0
"""As data_age.OLD_NS: what is sent again after a connection is told within it."""
DEAD_TIMES: Final = 10
"""Times `stale_seconds`."""
CLIPPED_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class DataState:
    """seconds: of OK, LAG, FLAT, CLIPPED and OLD the age of the newest sample, of STALE and DEAD how long nothing has
    come; None where nothing ever came, and negative where the recorder's clock is ahead.
    """

    word: Word
    seconds: float | None

    @property
    def waited_for(self) -> bool:
        """Nothing has come since it was asked for, which is not long ago: neither well nor ill."""
        return self.word == "LAG" and self.seconds is None


def of_trace(trace: Trace, now_ns: int, now_s: float, since_s: float, stale_seconds: float) -> DataState:
    """Of a channel that is shown. now_ns: wall clock; now_s: monotonic; since_s: since when it is waited for."""
    if trace.ahead_seconds:
        return DataState("LAG", -trace.ahead_seconds)
    if trace.newest_ns is None:
        silent = now_s - since_s
        return DataState("DEAD" if silent >= stale_seconds else "LAG", None)
    age, silent = (now_ns - trace.newest_ns) / 1e9, now_s - trace.heard_s
    stale = max(stale_seconds, 2 * trace.record_seconds)
    if silent >= stale:
        return DataState("DEAD" if silent >= DEAD_TIMES * stale else "STALE", silent)
    if trace.old_since_s is not None and now_s - trace.old_since_s >= OLD_SECONDS:
        return DataState("OLD", (now_ns - trace.heard_ns) / 1e9)
    return DataState(_of_samples(trace, age), age)


def _of_samples(trace: Trace, age: float) -> Word:
    """Where new ones come. age: of the newest, s."""
    if trace.flat:
        return "FLAT"
    if trace.clipped_within(CLIPPED_SECONDS):
        return "CLIPPED"
    return "LAG" if age > max(LAG_SECONDS, LAG_RECORDS * trace.record_seconds) else "OK"


def of_daemon(age: float, unmoved: float | None, stale_seconds: float) -> DataState:
    """Of a channel that the daemon alone reads. age: of its newest sample; unmoved: how long that has been the newest
    (None: it was looked at once only).
    """
    silent = age if unmoved is None else unmoved
    if silent >= stale_seconds and age >= stale_seconds:
        return DataState("DEAD" if silent >= DEAD_TIMES * stale_seconds else "STALE", silent)
    return DataState("LAG" if age > FAR_LAG_SECONDS else "OK", age)


def is_old(health: Mapping[str, Any] | None, sid: str) -> bool:
    """Whether the daemon says in /healthz that a channel sends only data older than what was already seen. It names
    twenty of them, and says how many there are.
    """
    said = health or {}
    return sid in said.get("old", {}) or 0 < said.get("channels", 0) <= said.get("old_channels", 0)


def moved(
    before: Mapping[str, float], moved_s: Mapping[str, float | None], now: Mapping[str, float], now_s: float
) -> dict[str, float | None]:
    """Monotonic time at which each channel's newest sample last changed; None where that has not been seen yet.

    before, now: data time of the newest sample by source id, at the look before and at this one; moved_s: what this
    gave at the look before.
    """
    return {sid: moved_s.get(sid) if before.get(sid, newest_s) == newest_s else now_s for sid, newest_s in now.items()}
