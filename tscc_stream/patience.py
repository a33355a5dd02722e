"""Writing to a journal that cannot be written for a while: what was received is kept and tried again, and it is said.

The disk may be full, or read-only, or somebody else has locked the file. Whoever writes waits here and takes nothing
more meanwhile; the queues before it fill, and the reader reads more slowly: the server's ring is the buffer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tscc_stream.health import Health
from tscc_stream.metrics import Metrics
from tscc_stream.stages.journal import JournalBlockedError

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

FIRST_SECONDS = 0.2
LONGEST_SECONDS = 5.0


class Patience:
    """For one thread, `name`. given_up: set once nobody waits any longer for what is not written."""

    def __init__(self, name: str, health: Health, metrics: Metrics, given_up: threading.Event) -> None:
        self._name, self._health, self._metrics, self._given_up = name, health, metrics, given_up
        self._since: float | None = None

    def until_done(self, write: Callable[[], _Result]) -> _Result:
        """What `write` returns once it works. Raises JournalBlockedError when given up, and every other error."""
        pause = FIRST_SECONDS
        while True:
            self._health.stamp(self._name, time.monotonic_ns())
            try:
                result = write()
            except JournalBlockedError as error:
                self._blocked(error)
                self._health.stamp(self._name, time.monotonic_ns())
                if self._given_up.wait(pause):
                    raise
            else:
                self._works()
                return result
            pause = min(2 * pause, LONGEST_SECONDS)

    def _blocked(self, error: JournalBlockedError) -> None:
        self._health.journal = str(error)
        if self._since is None:
            self._since = time.monotonic()
            self._metrics.journal_failing.set(1)
            _log.error("%s; what was received waits, and it is tried again", error)

    def _works(self) -> None:
        if self._since is not None:
            _log.warning("the journal can be written again, after %.1f s", time.monotonic() - self._since)
            self._since = None
            self._health.journal = ""
            self._metrics.journal_failing.set(0)
