"""What the daemon says of itself and of all channels: /healthz and /metrics, asked while a page is open."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tscc_stream.apps.console import data_state
from tscc_stream.apps.console.data_state import DataState
from tscc_stream.config import Config

HEALTH_SECONDS, METRICS_SECONDS = 2.0, 5.0
PATIENCE_SECONDS = 3.0
MOST_BYTES = 64 << 20
"""Of one answer; 50,000 channels take about 20 MB."""
_LAST = 'tscc_last_sample_timestamp_seconds{sid="'


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

    def __init__(self, config: Config, where: Callable[[], dict[str, Any]]) -> None:
        self._where, self._tls = where, config.metrics.tls_key is not None
        self._asked_health_s = self._asked_metrics_s = -1e9
        self.said = Said()
        self._stale_seconds = min((one.stale_seconds for one in config.seedlink), default=60.0)

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
        return {
            sid: data_state.of_daemon(
                now_ns / 1e9 - newest_s, None if (moved := said.moved_s[sid]) is None else now_s - moved,
                self._stale_seconds,
            )
            for sid, newest_s in said.newest_s.items()
        }  # fmt: skip

    def _look_at_health(self) -> None:
        said = self.said
        try:
            health, reason = json.loads(self._get("healthz")), ""
        except (OSError, ValueError) as error:
            health, reason = {}, _why(error)
        self.said = replace(said, health=health, reason=reason)

    def _look_at_metrics(self, now_s: float) -> None:
        said = self.said
        try:
            text = self._get("metrics")
        except (OSError, ValueError) as error:
            self.said = replace(said, metrics_reason=_why(error))
            return
        newest_s, quarantined = newest_and_quarantined(text)
        moved_s = {
            sid: said.moved_s.get(sid) if said.newest_s.get(sid, at_s) == at_s else now_s
            for sid, at_s in newest_s.items()
        }
        self.said = replace(said, newest_s=newest_s, moved_s=moved_s, metrics_reason="", quarantined=quarantined)

    def _get(self, page: str) -> str:
        """Raises OSError and ValueError. /healthz says what is wrong with status 503."""
        scheme, context = "http", None
        if self._tls:  # it says how old data are, and no secret: whose certificate it shows does not matter
            scheme, context = "https", ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        address = f"{scheme}://{self._where()['metrics']}/{page}"
        try:
            with urllib.request.urlopen(address, timeout=PATIENCE_SECONDS, context=context) as answer:  # noqa: S310  # http or https
                return str(answer.read(MOST_BYTES).decode())
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return error.read(MOST_BYTES).decode()
            raise


def newest_and_quarantined(metrics: str) -> tuple[dict[str, float], int]:
    """Out of /metrics: time of the newest sample by source id, and how many channels are quarantined."""
    newest_s: dict[str, float] = {}
    quarantined = 0
    for line in metrics.splitlines():
        if line.startswith(_LAST):
            sid, _, value = line.removeprefix(_LAST).partition('"} ')
            newest_s[sid] = float(value)
        elif line.startswith("tscc_channels_quarantined "):
            quarantined = round(float(line.rpartition(" ")[2]))
    return newest_s, quarantined


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        asks = error.code in (401, 429)
        return "it asks for a password, which the console does not have" if asks else f"it answers {error.code}"
    reason = getattr(error, "reason", error)
    return f"{getattr(reason, 'strerror', None) or reason}".lower()
