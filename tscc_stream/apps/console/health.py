"""The page Health: is everything all right, and if not, what to do."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tscc_stream.activation import ActivationError
from tscc_stream.apps.console import gap_ledger, health_facts, model_card
from tscc_stream.apps.console.health_watch import HealthWatch
from tscc_stream.apps.console.judgement import QUEUES, worst
from tscc_stream.apps.console.site import NotThereError
from tscc_stream.apps.console.web import Console
from tscc_stream.drift import ALARM, LEAST
from tscc_stream.package import PackageError
from tscc_stream.sampling import NS_PER_SECOND

MOST_SENSORS = 400
MOST_ROWS = 60
"""Of gaps by channel and cause."""
PERIODS = {"24 h": 24, "7 d": 168}


def routes(console: Console) -> list[BaseRoute]:
    """Its addresses."""
    watch = HealthWatch(console.site)
    console.beside.append(watch)
    pages = HealthPages(console, watch)
    return [
        Route("/health", pages.page),
        Route("/health/state.json", pages.state),
        Route("/health/gaps.json", pages.gaps),
    ]


class HealthPages:
    """Handlers, in threads."""

    def __init__(self, console: Console, watch: HealthWatch) -> None:
        self._console, self._site, self._watch = console, console.site, watch

    def page(self, request: Request) -> Response:
        card, model = "", {"name": "", "version": "", "sha": "", "error": ""}
        try:
            package = self._site.package()
            model |= {"name": package.spec.name, "version": package.spec.version, "sha": package.sha256}
            card = model_card.html_of((package.folder / "card.md").read_text(encoding="utf-8", errors="replace"))
        except (PackageError, ActivationError, OSError) as error:
            model["error"] = str(error)
        return self._console.page(
            request,
            "health",
            card=Markup(card),  # noqa: S704  # made of escaped text by model_card
            model=model,
            alarm=ALARM,
            least=LEAST,
            window=self._site.config.drift.window,
            queues=QUEUES,
            periods=list(PERIODS),
        )

    def state(self, _request: Request) -> Response:
        """Everything that changes, but the ledger of gaps."""
        seen, site = self._watch.seen, self._site
        found = health_facts.in_journal(site, health_facts.data_now_ns(seen))
        sensors = health_facts.sensors(site, seen, found)
        parts = health_facts.parts(site, seen, found, self._console.feed.refused, sensors)
        return JSONResponse(
            {
                "at": f"{site.local(time.time_ns()):%H:%M:%S}",
                "word": worst(parts),
                "parts": [asdict(part) for part in parts],
                "fresh": seen.health is not None,
                "counters": health_facts.counters(seen),
                "stages": health_facts.stages(seen),
                "latency": health_facts.latency(seen),
                "sensors": [_finite(asdict(one)) for one in sensors[:MOST_SENSORS]],
                "all_sensors": len(sensors),
                "drift": health_facts.drift(site, seen),
                "shadow": health_facts.shadow(site, seen),
                "retention": health_facts.retention(site, found),
                "history": self._history(),
            }
        )

    def _history(self) -> dict[str, list[float | None]]:
        """Minutes ago of each point, and its values, None where unknown."""
        points, now_s = list(self._watch.history), time.time()
        names = ("triggers_per_minute", "latency_p50", "latency_p99", "front", "back", "drift")
        series = {
            name: [health_facts.number(point.values.get(name, float("nan"))) for point in points] for name in names
        }
        return {"minutes": [round((now_s - point.at_s) / 60, 2) for point in points], **series}

    def gaps(self, request: Request) -> Response:
        """The ledger over a period of data."""
        hours = PERIODS.get(request.query_params.get("period", ""), PERIODS["24 h"])
        to_ns = health_facts.data_now_ns(self._watch.seen)
        from_ns = to_ns - hours * 3600 * NS_PER_SECOND
        try:
            with self._site.journal() as journal:
                gaps = [gap for gap in journal.gaps(from_ns, health_facts.MOST_GAPS) if gap.from_ns < to_ns]
        except NotThereError:
            gaps = []
        rows = gap_ledger.summary(gaps, from_ns, to_ns)
        return JSONResponse(
            {
                "from": f"{self._site.local(from_ns):%d %b %H:%M}",
                "to": f"{self._site.local(to_ns):%d %b %H:%M}",
                "rows": [{**asdict(row), "lost": gap_ledger.is_lost(row.cause)} for row in rows[:MOST_ROWS]],
                "more": max(0, len(rows) - MOST_ROWS),
                "lines": {
                    channel: [asdict(one) for one in stretches]
                    for channel, stretches in gap_ledger.timeline(gaps, from_ns, to_ns).items()
                },
            }
        )


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {key: health_facts.number(value) if isinstance(value, float) else value for key, value in row.items()}
