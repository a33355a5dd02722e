"""What the daemon says of itself and of all channels: /healthz and /metrics, asked while a page is open."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from tscc_stream.apps.console import data_state
from tscc_stream.apps.console.data_state import DataState
from tscc_stream.apps.console.site import Site
from tscc_stream.edges.daemon_view import ViewError, newest_samples

HEALTH_SECONDS, METRICS_SECONDS = 2.0, 5.0
PATIENCE_SECONDS = 3.0
_QUARANTINED = re.compile(r"^tscc_channels_quarantined (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Said:
    """health: what /healthz says, empty where it was not reached; reason: why. newest_s: time of the newest sample by
    source id, s since 1970; moved_s: when that last changed (monotonic; None: it has been the same since the first
    look). metrics_reason: why they are not known (None: not asked yet). quarantined: how many channels are.
    """

    health: dict[str, Any] = field(default_factory=dict)
    reason: str = "not asked yet"
    newest_s: dict[str, float] = field(default_factory=dict)
    moved_s: dict[str, float | None] = field(default_factory=dict)
    metrics_reason: str | None = None
    quarantined: int = 0


class DaemonWatch:
    """`look` asks where it is time to; by one thread. said: the latest, for any thread."""

    def __init__(self, site: Site) -> None:
        self._where, self._view = site.endpoints, site.daemon(PATIENCE_SECONDS)
        self._asked_health_s = self._asked_metrics_s = -1e9
        self.said = Said()
        self._stale_seconds = site.stale_seconds

    def look(self, now_s: float) -> None:
        """Takes up to twice PATIENCE_SECONDS where the daemon hangs."""
        if now_s - self._asked_health_s >= HEALTH_SECONDS:
            self._asked_health_s = now_s
            self._look_at_health()
        if now_s - self._asked_metrics_s >= METRICS_SECONDS:
            self._asked_metrics_s = now_s
            self._look_at_metrics(now_s)

    def states(self, now_ns: int, now_s: float) -> dict[str, DataState]:
        """Of every channel that the daemon reads, by source id, as far as it says."""
        said = self.said
        found = {}
        for sid, newest_s in said.newest_s.items():
            age_s, moved_s = now_ns / 1e9 - newest_s, said.moved_s[sid]
            unmoved_s = None if moved_s is None else now_s - moved_s
            found[sid] = data_state.of_daemon(age_s, unmoved_s, self._stale_seconds)
            if data_state.is_old(said.health, sid):
                found[sid] = DataState("OLD", age_s)
        return found

    def _look_at_health(self) -> None:
        said = self.said
        try:
            health, reason = self._view.health(self._where()["metrics"]), ""
        except ViewError as error:
            health, reason = {}, str(error)
        self.said = replace(said, health=health, reason=reason)

    def _look_at_metrics(self, now_s: float) -> None:
        said = self.said
        try:
            text = self._view.metrics(self._where()["metrics"])
        except ViewError as error:
            self.said = replace(said, metrics_reason=str(error))
            return
        newest_s = newest_samples(text)
        moved_s = data_state.moved(said.newest_s, said.moved_s, newest_s, now_s)
        self.said = replace(said, newest_s=newest_s, moved_s=moved_s, metrics_reason="", quarantined=quarantined(text))


def quarantined(metrics: str) -> int:
    """Out of /metrics: how many channels are left out."""
    found = _QUARANTINED.search(metrics)
    return int(found[1]) if found is not None else 0
