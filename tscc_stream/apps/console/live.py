"""The page Live: the waveform wall, how the data are, the shift's counts, what came of late."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from tscc_stream.activation import ActivationError
from tscc_stream.apps.console import shift
from tscc_stream.apps.console.daemon_watch import DaemonWatch
from tscc_stream.apps.console.data_state import WORDS, DataState
from tscc_stream.apps.console.feed import TooManyPagesError
from tscc_stream.apps.console.live_alerts import sentences
from tscc_stream.apps.console.recent import Recent
from tscc_stream.apps.console.shift import UNKNOWN, Cluster
from tscc_stream.apps.console.site import NotThereError, Site
from tscc_stream.apps.console.wall import Wall
from tscc_stream.apps.console.wall_page import SPANS, Choice, ChoiceError, WallPage
from tscc_stream.apps.console.web import Console
from tscc_stream.package import PackageError
from tscc_stream.seldom import Seldom
from tscc_stream.source_id import name_of
from tscc_stream.stages.journal import JournalError

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
SHOWN = 20
"""Detections, and network events, that the page lists."""
_UNKNOWN_COLOUR = "#9db0c1"


class Live:
    """What the page knows: a thread looks at the daemon and the journal while any page is open."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.daemon = DaemonWatch(site)
        self._recent = Recent(lambda now_ns: shift.current(site.config.shifts, site.zone, now_ns))
        self.wall = Wall(site.config, self._known, self._told)
        self._lock = threading.Lock()
        self._journal_reason = ""
        self._read_s = -math.inf
        self._said = Seldom()
        self._thread: threading.Thread | None = None

    def _known(self) -> Iterable[str] | None:
        said = self.daemon.said
        return None if said.metrics_reason is None else said.newest_s

    def open(self, choice: Choice) -> WallPage:
        """From the event loop. Raises TooManyPagesError."""
        page = self.wall.open(choice)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="live", daemon=True)
            self._thread.start()
        return page

    def _run(self) -> None:
        while True:
            if self.wall.watched:
                try:
                    self.look(time.time_ns(), time.monotonic())
                except Exception as error:  # noqa: BLE001  # whatever it is, pages must not show what was for ever
                    self._journal_reason = f"{type(error).__name__}: {error}"
                    if self._said.due(repr(error), time.monotonic()):
                        _log.exception("a look at the daemon and the journal failed")
            time.sleep(LOOK_SECONDS)

    def look(self, now_ns: int, now_s: float) -> None:
        """At the daemon and the journal. now_s: monotonic."""
        self.daemon.look(now_s)
        self._read_journal(now_ns, now_s)

    def _read_journal(self, now_ns: int, now_s: float) -> None:
        try:
            with self._site.journal() as journal, self._lock:
                if self._recent.read(journal, now_ns):
                    self._read_s = now_s
            self._journal_reason = ""
        except (NotThereError, JournalError, OSError) as error:
            self._journal_reason = str(error)

    # What pages are told

    def _told(self, opened_s: float | None) -> dict[str, Any]:
        """By the event's name. opened_s: of a page that knows nothing yet, which is told what the journal had after it
        was opened: from then on it hears for itself.
        """
        if opened_s is not None:
            return {"recent": self._recent_messages()} if self._read_s > opened_s else {}
        with self._lock:
            quarantined = dict(self._recent.quarantined)
        alerts = sentences(self.daemon.said, self.wall.links(), quarantined, self._journal_reason)
        counts = Counter(state.word for state in self.states().values() if not state.waited_for)
        return {
            "clusters": self._clusters(),
            "alerts": {"sentences": alerts, "daemon": bool(self.daemon.said.health)},
            "words": {word: counts[word] for word in WORDS if counts[word]},
            "shift": self._counts(),
        }

    def _recent_messages(self) -> list[dict[str, Any]]:
        with self._lock:
            return [*self._recent.events.values(), *self._recent.detections]

    def _clusters(self) -> dict[str, Any]:
        """Name and colour of each cluster of the model in use, by id; {} where that cannot be read."""
        try:
            package = self._site.package()
        except (PackageError, ActivationError):
            return {}
        named = {}
        for cluster in range(package.spec.clusters):
            label = package.label_of(cluster)
            named[str(cluster)] = {
                "name": label.name if label else f"cluster {cluster}",
                "colour": label.colour if label else _UNKNOWN_COLOUR,
            }
        return {"sha256": package.sha256, "clusters": named}

    def _counts(self) -> dict[str, Any]:
        with self._lock:
            tally, begin_ns = self._recent.tally, self._recent.begin_ns
            bins = {cluster: list(counts) for cluster, counts in tally.bins.items()}
        known = self._clusters()
        begin, end = self._site.local(tally.shift.begin_ns), self._site.local(tally.shift.end_ns)
        return {
            "name": tally.shift.name,
            "begin_ms": tally.shift.begin_ns // 10**6,
            "end_ms": tally.shift.end_ns // 10**6,
            "known_ms": max(tally.shift.begin_ns, begin_ns or 0) // 10**6,
            "span": f"{begin:%H:%M}–{end:%H:%M}",
            "rows": sorted(
                ({**_row(cluster, known), "bins": counts} for cluster, counts in bins.items()),
                key=lambda row: -sum(row["bins"]),
            ),
        }

    def states(self) -> dict[str, DataState]:
        """Of every channel that is known of, by source id; of those that are shown as the console itself sees it."""
        return {**self.daemon.states(time.time_ns(), time.monotonic()), **self.wall.states()}


def _row(cluster: Cluster, known: dict[str, Any]) -> dict[str, str]:
    """How a cluster is called and coloured now."""
    sha256, number = cluster
    if number == UNKNOWN:
        return {"name": UNKNOWN, "colour": _UNKNOWN_COLOUR, "id": UNKNOWN}
    if sha256 == known.get("sha256"):
        return {**known["clusters"][str(number)], "id": str(number)}
    return {"name": f"cluster {number} of model {sha256[:8]}", "colour": _UNKNOWN_COLOUR, "id": str(number)}


def routes(console: Console) -> list[BaseRoute]:
    """Its addresses."""
    live = Live(console.site)

    def page(request: Request) -> Response:
        return console.page(request, "live", spans=SPANS, listed=SHOWN)

    async def stream(request: Request) -> Response:
        """Server-sent events of the wall. channels, span (s) and columns: wall_page.Choice."""
        try:
            opened = live.open(Choice.of(request.query_params))
        except ChoiceError as error:
            return JSONResponse({"error": str(error)}, 400)
        except TooManyPagesError as error:
            return JSONResponse({"error": str(error)}, 503)

        async def events() -> AsyncIterator[str]:
            try:
                yield "retry: 2000\n\n"
                async for one in opened.events():
                    if console.ending():
                        return
                    yield one
            finally:
                live.wall.close(opened)

        return StreamingResponse(events(), media_type="text/event-stream")

    def channels(_: Request) -> Response:
        """All channels that are known of, with the word for their data."""
        states = {**dict.fromkeys(live.wall.heard()), **live.states()}
        return JSONResponse(
            [
                {"name": name_of(sid), **(asdict(state) if state else {"word": "", "seconds": None})}
                for sid, state in sorted(states.items())
            ]
        )

    return [Route("/live", page), Route("/live/stream", stream), Route("/live/channels", channels)]
