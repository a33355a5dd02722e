"""Whether the daemon's threads turn and its channels send: pure, the time is passed in.

A thread stamps each turn of its loop, not the arrival of data: a daemon whose server is silent is healthy, and says how
old its data are. Times are monotonic ns.
"""

from __future__ import annotations

from typing import Any

from tscc_stream.data_age import DataAge

_SHOWN = 20


class Health:
    """Stamps may come from any thread; reading them needs no lock, since each is one assignment.

    data: how old the data are.
    """

    def __init__(self, data: DataAge | None = None) -> None:
        self.data = data or DataAge()
        self._turns: dict[str, int] = {}
        self._links: dict[str, bool] = {}
        self.ready = False
        self.stopping = False
        self.journal = ""
        """Why the journal cannot be written at present; empty while it can."""

    def stamp(self, thread: str, now_ns: int) -> None:
        """A thread has turned. From its first stamp on it is watched."""
        self._turns[thread] = now_ns

    def forget(self, thread: str) -> None:
        """A thread has ended as it should."""
        self._turns.pop(thread, None)

    def link(self, server: str, connected: bool) -> None:
        """Whether a server is connected. From its first mention on it is reported."""
        self._links[server] = connected

    def stalled(self, now_ns: int, limit_ns: int) -> list[str]:
        """Threads whose last turn is longer ago than limit_ns, by name."""
        return sorted(name for name, at_ns in self._turns.copy().items() if now_ns - at_ns > limit_ns)

    def healthy(self, now_ns: int, limit_ns: int) -> bool:
        """Started, not stopping, every thread turns, and the journal can be written."""
        return self.ready and not self.stopping and not self.journal and not self.stalled(now_ns, limit_ns)

    def _state(self, stalled: list[str]) -> str:
        if stalled:
            return "stalled"
        if self.stopping:
            return "stopping"
        if self.journal:
            return "journal"
        if self.ready and self._links and not any(self._links.values()):
            return "disconnected"
        return "ok" if self.ready else "starting"

    def summary(self, now_ns: int, limit_ns: int) -> dict[str, Any]:
        """What /healthz says. limit_ns: a thread that did not turn for as long is stalled.

        Ages are seconds. At most twenty silent channels are named, and as many that send old data only.
        """
        stalled, silent = self.stalled(now_ns, limit_ns), self.data.silent(now_ns)
        old = self.data.old(now_ns)
        newest_ns = self.data.newest_ns()
        return {
            "state": self._state(stalled),
            "reason": self.journal or None,
            "threads": {name: _seconds(now_ns - at_ns) for name, at_ns in sorted(self._turns.copy().items())},
            "stalled": stalled,
            "servers": {server: "connected" if up else "not connected" for server, up in sorted(self._links.items())},
            "data": {name: {"state": s, "age_s": age_s} for name, (s, age_s) in self.data.servers(now_ns).items()},
            "channels": self.data.streams,
            "newest_record_age_s": None if newest_ns is None else _seconds(now_ns - newest_ns),
            "late_channels": self.data.late(now_ns),
            "silent_channels": len(silent),
            "silent": {sid: _seconds(age_ns) for sid, age_ns in list(silent.items())[:_SHOWN]},
            "old_channels": len(old),
            "old": {sid: _seconds(age_ns) for sid, age_ns in list(old.items())[:_SHOWN]},
        }


def _seconds(duration_ns: int) -> float:
    return round(duration_ns / 1e9, 3)
