"""Alerts on the page Events: the latest, and answering them. The one place that knows the alert process's file.

Without that file there are none, and the page says why.
"""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tscc_stream.apps.alert_people import ACKNOWLEDGEMENT, acknowledge
from tscc_stream.apps.console.access import who
from tscc_stream.apps.console.event_documents import Document, time_of
from tscc_stream.apps.console.site import Site
from tscc_stream.edges.alert_journal import FILE, AlertJournal, StoredAlert
from tscc_stream.edges.people import Said
from tscc_stream.mistakes import first

MOST = 100
_OF_EVENTS = ("event", "more", "digest")
"""Kinds of alert whose cause names events; others name channels and rules."""
_MOST_SENTENCES = 12


class Answer(BaseModel):
    """Somebody has seen an alert. note: what they did about it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alert: Annotated[str, Field(min_length=1, max_length=100)]
    note: Annotated[str, Field(max_length=500)] = ""


class AlertList:
    """Reads <state_dir>/alerts.sqlite; answers go to people.sqlite, where the alert process takes them from."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def _journal(self) -> AlertJournal | None:
        path = self._site.state_dir / FILE
        return AlertJournal(path, read_only=True) if path.exists() else None

    def page(self, _request: Request) -> Response:
        """The latest alerts, newest first, with their deliveries and answers."""
        journal = self._journal()
        if journal is None:
            reason = "no alert has ever been made here: `alerts:` in the configuration, then `tscc-stream alert run`"
            return JSONResponse({"alerts": [], "reason": reason})
        with journal, self._site.people() as people:
            answers = people.latest(ACKNOWLEDGEMENT)
            alerts = [self._document(alert, answers.get(alert.id)) for alert in journal.recent(MOST)]
        return JSONResponse({"alerts": alerts, "reason": "" if alerts else "no alert so far"})

    def _document(self, alert: StoredAlert, answer: Said | None) -> Document:
        document, cause = alert.document, alert.document.get("cause", {})
        uids = cause.get("uids") if alert.kind in _OF_EVENTS else None
        return {
            "id": alert.id,
            "time": time_of(self._site, alert.at_ns),
            "rule": alert.rule,
            "severity": alert.severity,
            "title": alert.title,
            "advice": document.get("advice") or "",
            "sentences": [*cause.get("sentences", ()), _sensors(document)][:_MOST_SENTENCES],
            "event": uids[0] if uids else None,
            "deliveries": [
                {"action": one.action, "state": one.state, "attempts": one.attempts, "outcome": one.outcome}
                for one in alert.deliveries
            ],
            "answer": None
            if answer is None
            else {
                "who": answer.who,
                "note": str(answer.document.get("note") or ""),
                "time": time_of(self._site, answer.at_ns),
            },
        }

    async def answer(self, request: Request) -> Response:
        """Acknowledge one."""
        try:
            said = Answer.model_validate_json(await request.body())
        except ValidationError as error:
            return JSONResponse({"error": first(error, "alert")}, 422)
        return await run_in_threadpool(self._acknowledge, said, who(request.scope))

    def _acknowledge(self, said: Answer, name: str) -> Response:
        journal = self._journal()
        if journal is None:
            return JSONResponse({"error": "there are no alerts here"}, 404)
        with journal:
            if journal.get(said.alert) is None:
                return JSONResponse({"error": f"alert {said.alert}: there is none with this id"}, 404)
        with self._site.people() as people:
            acknowledge(people, said.alert, said.note, name, time.time_ns())
        return JSONResponse({"acknowledged": said.alert})


def _sensors(document: Document) -> str:
    return f"Sensors: {document.get('sensor_health', {}).get('text', 'not known')}"


def routes_of_alerts(alerts: AlertList) -> list[BaseRoute]:
    """Their addresses."""
    return [
        Route("/events/alerts", alerts.page),
        Route("/events/alerts/answer", alerts.answer, methods=["POST"]),
    ]
