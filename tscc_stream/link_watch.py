"""Looks at every server's reader from outside, in the daemon's turn: how old its data are, how long it has waited.
A server that is late is asked what it holds.

What fell silent is told; a server that is connected and sends nothing is connected to anew, or left for a fallback.
"""

from __future__ import annotations

import logging
import math
import queue
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from tscc_stream.data_age import Change
from tscc_stream.notes import Note
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.workers import Inbox, Shared

_log = logging.getLogger(__name__)

_SAID: Final = {
    "OK": "come again",
    "SILENT": "are missing for {:.0f} s",
    "OLD": "are older than what was already seen, for {:.0f} s",
}
MOST_UNTOLD: Final = 1000  # notes that wait for room in the inbox


class Reader(Protocol):
    """What is looked at of a SeedLinkReader."""

    @property
    def waiting(self) -> bool: ...
    @property
    def waited_seconds(self) -> float: ...
    @property
    def ring_left(self) -> float | None: ...
    def reconnect(self, reason: str) -> None: ...
    def ask_held(self) -> None: ...
    def held(self) -> Mapping[str, int | None] | None: ...


class LinkWatch:
    """readers: by the configured server; one server may have several. `turn` never blocks."""

    def __init__(self, shared: Shared, inbox: Inbox, readers: Sequence[tuple[str, Reader]]) -> None:
        self._shared, self._inbox, self._readers = shared, inbox, readers
        self._counted = [0.0] * len(readers)
        self._untold: deque[Note] = deque(maxlen=MOST_UNTOLD)

    def turn(self, now_ns: int) -> None:
        """To be called about twice a second. now_ns: monotonic."""
        data = self._shared.health.data
        for number, (server, reader) in enumerate(self._readers):
            self._measure(number, server, reader)
            if reader.waiting:
                data.held(server, now_ns)
            if (held := reader.held()) is not None:
                data.holds(server, held, now_ns)
        for change in data.turn(now_ns):
            self._note(change)
        self._tell()
        late = data.to_question(now_ns)
        for server, reader in self._readers:
            if server in late:
                reader.ask_held()
        for server, quiet_ns in data.to_reconnect(now_ns).items():
            self._reconnect(server, quiet_ns)

    def _measure(self, number: int, server: str, reader: Reader) -> None:
        metrics, waited = self._shared.metrics, reader.waited_seconds
        metrics.seedlink_waiting_seconds[server].inc(waited - self._counted[number])
        self._counted[number] = waited
        left = reader.ring_left
        metrics.seedlink_ring_left[server].set(math.nan if left is None else left)

    def _note(self, change: Change) -> None:
        level = logging.INFO if change.state == "OK" else logging.WARNING
        what = "data" if change.sid is None else f"data of {change.sid}"
        said = _SAID[change.state].format(change.age_s)
        _log.log(level, "%s: %s %s", change.server, what, said)
        self._untold.append(Note("data", change.as_dict()))

    def _tell(self) -> None:
        """As many notes as there is room for; the rest in the next turn."""
        try:
            while self._untold:
                self._inbox.put_nowait(self._untold[0])
                self._untold.popleft()
        except queue.Full:
            return

    def _reconnect(self, server: str, quiet_ns: int) -> None:
        for name, reader in self._readers:
            if name == server:
                reader.reconnect(f"connected, but no data on any stream for {quiet_ns / NS_PER_SECOND:.0f} s")
