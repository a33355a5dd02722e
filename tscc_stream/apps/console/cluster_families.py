"""The lower part of the page Clusters: families of unknown windows, to be named or dismissed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tscc_stream.apps.console import unknown_families
from tscc_stream.apps.console.access import who
from tscc_stream.apps.console.cluster_view import View, look, period_of
from tscc_stream.apps.console.detections import Detections
from tscc_stream.apps.console.embeddings import EmbeddingError, Embeddings
from tscc_stream.apps.console.unknown_families import Candidate, FamilyBook, FamilyGoneError, named_families
from tscc_stream.apps.console.web import Console
from tscc_stream.edges.people import PeopleFile

SHOWN_MEMBERS = 15
MOST_SHOWN = 40
"""Families on the page."""
MOST_LETTERS = 80


class _Word(msgspec.Struct, forbid_unknown_fields=True):
    name: str


_decode = msgspec.json.Decoder(_Word).decode
Doing = Callable[[PeopleFile, str, str], dict[str, Any]]


class FamilyPages:
    """Handlers of /clusters/families."""

    def __init__(self, console: Console, detections: Detections) -> None:
        self._site, self._detections = console.site, detections
        self._book = FamilyBook(Embeddings(console.site))

    def routes(self) -> list[BaseRoute]:
        """Its addresses. A family's key is a uid."""
        return [
            Route("/clusters/families.json", self.families),
            Route("/clusters/families/{key}/name", self.name, methods=["POST"]),
            Route("/clusters/families/{key}/dismiss", self._posted(self._dismiss), methods=["POST"]),
            Route("/clusters/families/{key}/bring-back", self._posted(self._bring_back), methods=["POST"]),
            Route("/clusters/families/{key}/forget-name", self._posted(self._forget), methods=["POST"]),
        ]

    def families(self, request: Request) -> Response:
        """What there is, or how far the embeddings are."""
        view = look(self._site, self._detections, period_of(request.query_params))
        with self._site.people() as people:
            try:
                found = self._book.look(view, people)
            except EmbeddingError as error:
                return JSONResponse({"error": str(error)}, 503)
        return JSONResponse(
            {
                "ready": found.ready,
                "wanted": found.wanted,
                "unknown": found.unknown,
                "judged": found.judged,
                "left_over": found.left_over,
                "threshold": None if found.threshold != found.threshold else round(found.threshold, 2),  # NaN
                "families": [_told(view, one) for one in found.families[:MOST_SHOWN]],
                "named": [
                    {**one, "at": view.when(one.pop("at_ns"))} for one in named_families(view.verdicts)[:MOST_SHOWN]
                ],
            }
        )

    async def name(self, request: Request) -> Response:
        """That word as a verdict on every member."""
        try:
            word = _decode(await request.body()).name.strip()
        except msgspec.DecodeError as error:
            return JSONResponse({"error": str(error)}, 400)
        if not 1 <= len(word) <= MOST_LETTERS or not word.isprintable():
            return JSONResponse({"error": f"name: expected 1 to {MOST_LETTERS} printable letters"}, 400)

        def doing(people: PeopleFile, key: str, user: str) -> dict[str, Any]:
            family = self._book.family(key)
            unknown_families.name(people, family, word, user)
            return {"named": len(family.uids), "name": word}

        return await run_in_threadpool(self._do, request, doing)

    def _dismiss(self, people: PeopleFile, key: str, user: str) -> dict[str, Any]:
        family = self._book.family(key)
        unknown_families.dismiss(people, family, user)
        return {"dismissed": len(family.uids)}

    def _bring_back(self, people: PeopleFile, key: str, user: str) -> dict[str, Any]:
        unknown_families.take_dismissal_back(people, self._book.family(key), user)
        return {}

    def _forget(self, people: PeopleFile, key: str, user: str) -> dict[str, Any]:
        return {"forgotten": unknown_families.take_name_back(people, key, user)}

    def _posted(self, doing: Doing) -> Callable[[Request], Response]:
        return lambda request: self._do(request, doing)

    def _do(self, request: Request, doing: Doing) -> Response:
        with self._site.people() as people:
            try:
                return JSONResponse(doing(people, str(request.path_params["key"]), who(request.scope)))
            except FamilyGoneError as error:
                return JSONResponse({"error": str(error)}, 409)


def _told(view: View, family: Candidate) -> dict[str, Any]:
    """A family for the page: when and where it was, and its most typical members."""
    rows, onsets = family.rows, family.rows["onset_ns"]
    channels = view.channels(rows)
    return {
        "key": family.key,
        "members": int(rows.size),
        "dismissed": family.dismissed,
        "first": view.when(int(onsets.min())),
        "last": view.when(int(onsets.max())),
        "channels": [{"name": name, "count": count} for name, count in channels[:4]],
        "more_channels": max(0, len(channels) - 4),
        "nearest": _nearest(view, family),
        "shown": [
            {
                "uid": row["uid"].decode(),
                "seq": int(row["seq"]),
                "channel": view.channel(int(row["sid"])),
                "when": view.when(int(row["onset_ns"])),
            }
            for row in rows[:SHOWN_MEMBERS]
        ],
    }


def _nearest(view: View, family: Candidate) -> dict[str, Any]:
    """The cluster that most members are nearest to, though too far from."""
    clusters = family.rows["cluster"].tolist()
    commonest = max(set(clusters), key=clusters.count)
    return {"name": view.names[commonest], "share": clusters.count(commonest) / len(clusters)}
