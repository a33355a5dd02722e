"""The daemon looked at every five seconds: the latest of each, and an hour of a few numbers. In memory, no database."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from tscc_stream.apps.console.data_state import moved
from tscc_stream.apps.console.readings import Readings, quantiles, rate, read
from tscc_stream.apps.console.sensors import NEWEST
from tscc_stream.apps.console.site import Site
from tscc_stream.edges.daemon_view import SecretViewError, ViewError
from tscc_stream.seldom import Seldom

_log = logging.getLogger(__name__)

EVERY_SECONDS = 5.0
SHARE = 0.02
"""Of the time that the daemon may be busy with answering: with thousands of channels it is asked less often."""
KEPT_SECONDS = 3600.0
LATELY_SECONDS = 60.0
"""Over which rates and quantiles are taken, at least, and at most twice as long."""
WATCHED = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Point:
    """One moment of the hour. at_s: wall time; values: by name, NaN where unknown."""

    at_s: float
    values: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """health: /healthz, None where it did not answer. now, earlier: two scrapes, the earlier one or two minutes older.

    away: why the daemon does not answer, empty while it does; secret: why its numbers are not for us. answered_s: wall
    time of the last answer. moved_s: source id -> monotonic time at which its newest sample last changed, None where
    that has not been seen yet.
    """

    health: dict[str, Any] | None = None
    now: Readings | None = None
    earlier: Readings | None = None
    away: str = "not asked yet"
    secret: str = ""
    answered_s: float | None = None
    moved_s: dict[str, float | None] = field(default_factory=dict)
    at_s: float = 0.0
    """Monotonic, of this look."""


class HealthWatch:
    """`start`, `stop`; seen and history may be read by any thread."""

    def __init__(self, site: Site) -> None:
        self._site, self._view = site, site.daemon()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health watch", daemon=True)
        self._base: Readings | None = None
        self._next_base: Readings | None = None
        self._said = Seldom()
        self.history: deque[Point] = deque(maxlen=round(KEPT_SECONDS / EVERY_SECONDS))
        self.seen = Seen()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        wait = 0.0
        while not self._stopping.wait(wait):
            began_s = time.monotonic()
            self.look(began_s, time.time())
            wait = max(EVERY_SECONDS, (time.monotonic() - began_s) / SHARE)
            if self.seen.away:
                wait = EVERY_SECONDS

    def look(self, now_s: float, wall_s: float) -> None:
        """Once. now_s: monotonic."""
        seen = replace(self.seen, at_s=now_s)
        try:
            address = str(self._site.endpoints()["metrics"])
            health = self._view.health(address)
            now = read(self._view.metrics(address), now_s)
        except SecretViewError as error:
            self._note(str(error))
            self._base = self._next_base = None
            self.seen = replace(seen, health=None, away="", secret=str(error), now=None, earlier=None)
        except ViewError as error:
            self._note(str(error))
            self._base = self._next_base = None  # rates since would mix in the time without it
            self.seen = replace(seen, health=None, away=str(error), secret="")
            self.history.append(Point(wall_s, {}))
        else:
            earlier = self._earlier(now)
            self.seen = Seen(health, now, earlier, "", "", wall_s, self._moved(now), now_s)
            self.history.append(Point(wall_s, self._numbers(earlier, now)))

    def _note(self, sentence: str) -> None:
        if self._said.due(sentence, time.monotonic()):
            _log.warning("%s", sentence)

    def _moved(self, now: Readings) -> dict[str, float | None]:
        before = self.seen.now.by(NEWEST, "sid") if self.seen.now is not None else {}
        return moved(before, self.seen.moved_s, now.by(NEWEST, "sid"), now.at_s)

    def _earlier(self, now: Readings) -> Readings | None:
        """A scrape of a minute or two ago, or the first there is."""
        if self._next_base is None or now.at_s - self._next_base.at_s >= LATELY_SECONDS:
            self._base, self._next_base = self._next_base or now, now
        return self._base if self._base is not now else None

    def _numbers(self, before: Readings | None, now: Readings) -> dict[str, float]:
        lately = quantiles(before, now, "tscc_sample_to_publish_seconds", WATCHED) if before is not None else {}
        return {
            "triggers_per_minute": 60 * rate(before, now, "tscc_triggers_total"),
            "latency_p50": lately.get(0.5, math.nan),
            "latency_p99": lately.get(0.99, math.nan),
            "front": now.value("tscc_queue_depth", stage="front"),
            "back": now.value("tscc_queue_depth", stage="back"),
            "drift": now.value("tscc_drift_score", cluster="all"),
        }
