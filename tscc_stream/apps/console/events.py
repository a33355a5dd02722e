"""The page Events: the list, one event, verdicts, similar ones."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tscc_stream.apps.amplitudes import responses_of
from tscc_stream.apps.console import event_verdicts
from tscc_stream.apps.console.access import who
from tscc_stream.apps.console.alert_list import AlertList, routes_of_alerts
from tscc_stream.apps.console.event_choice import Asked, ChoiceError, asked, choice_of
from tscc_stream.apps.console.event_documents import MOST_MEMBERS, Document, Documents, verdict_of
from tscc_stream.apps.console.event_index import Look, catch_up, look, share_done
from tscc_stream.apps.console.event_traces import thumbnails, traces
from tscc_stream.apps.console.event_upkeep import EventUpkeep, embedding_of, share_embedded
from tscc_stream.apps.console.event_verdicts import Judged
from tscc_stream.apps.console.site import NotThereError, Site
from tscc_stream.apps.console.web import Console
from tscc_stream.apps.response import ResponseError, Responses
from tscc_stream.edges.console_cache_events import MOST_PAGE, Choice, Place
from tscc_stream.edges.journal_events import StoredEvent
from tscc_stream.edges.people import ChangedError
from tscc_stream.mistakes import first
from tscc_stream.verdicts import KIND, is_withdrawn

_log = logging.getLogger(__name__)

ROWS = 60
SIMILAR = 24
MOST_AT_ONCE = 100
"""Events of one verdict."""
_NEIGHBOURS = 4
_MOST_CHANGES = 500


class Saying(BaseModel):
    """A verdict on one or several events, or taking it back."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uids: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=64)]], Field(min_length=1, max_length=MOST_AT_ONCE)
    ]
    action: Literal["judge", "undo"] = "judge"
    name: Annotated[str, Field(max_length=80)] = ""
    seen: Annotated[dict[str, Annotated[str, Field(max_length=20)]], Field(max_length=MOST_AT_ONCE)] | None = None
    """As event_verdicts.Seen."""


class _NoSuchEventError(LookupError):
    """Its uid is not in the journal."""


def routes(console: Console) -> list[BaseRoute]:
    """Its addresses."""
    page = Events(console)
    console.beside.append(page.upkeep)
    return [
        Route("/events", page.list_page),
        Route("/events/rows", _answered(page.rows)),
        Route("/events/since", _answered(page.since)),
        Route("/events/verdict", page.verdict, methods=["POST"]),
        *routes_of_alerts(AlertList(console.site)),
        Route("/events/{uid}", page.event_page),
        Route("/events/{uid}/all", _answered(page.event)),
        Route("/events/{uid}/similar", _answered(page.similar)),
    ]


def _answered(handler: Callable[[Request], Document]) -> Callable[[Request], Response]:
    """Its document as JSON; a filter that means nothing, or an event that is not there, in one sentence."""

    @functools.wraps(handler)
    def answer(request: Request) -> Response:
        try:
            return JSONResponse(handler(request))
        except ChoiceError as error:
            return JSONResponse({"error": str(error)}, 422)
        except NotThereError as error:  # nothing is wrong: the page says what is still to come
            return JSONResponse({"not_there": str(error)})
        except _NoSuchEventError as error:
            return JSONResponse({"error": str(error)}, 404)

    return answer


class Events:
    """The handlers. Each reads in a connection of its own."""

    def __init__(self, console: Console) -> None:
        self._console, self._site = console, console.site
        self.upkeep = EventUpkeep(console.site)

    @functools.cached_property
    def _responses(self) -> Responses | None:
        """Read with the first event that is looked at; where they cannot be, that is said once in the log."""
        try:
            return responses_of(self._site.config, self._site.folder)
        except ResponseError as error:
            _log.error("%s; amplitudes stay in counts", error)
            return None

    def _choice(self, request: Request, now: Look, documents: Documents) -> tuple[Asked, Choice]:
        ask = asked(request.query_params)
        return ask, choice_of(ask, now.index, documents.names, self._site.zone)

    def list_page(self, request: Request) -> Response:
        """The frame; its script asks for the rows."""
        return self._console.page(request, "events")

    def event_page(self, request: Request) -> Response:
        """The frame of one event that is there."""
        uid = request.path_params["uid"][:64]
        with look(self._site) as now:
            try:
                _stored(now, uid)
            except _NoSuchEventError as error:
                raise HTTPException(404, str(error)) from error
        return self._console.page(request, "event", page="events", uid=uid)

    def rows(self, request: Request) -> Document:
        """One page of the list."""
        before = _place(request.query_params.get("before"))
        with look(self._site) as now:
            catch_up(self._site, now)
            seq, people = _come_to(now)
            documents = Documents(self._site, now)
            _, choice = self._choice(request, now, documents)
            places = now.index.page(choice, before, ROWS + 1)
            return {
                "rows": documents.rows(places[:ROWS]),
                "next": _text_of(places[ROWS - 1]) if len(places) > ROWS else None,
                "seq": seq,
                "people": people,
                "names": documents.all_names(),
                "precision": documents.precision(),
                "found": share_done(now),
            }

    def since(self, request: Request) -> Document:
        """What was committed after ?seq= and is chosen, and verdicts after ?people=. more: there is more than fits."""
        seq, people = _number(request, "seq"), _number(request, "people")
        with look(self._site) as now:
            catch_up(self._site, now)
            done, mirrored = _come_to(now)
            documents = Documents(self._site, now)
            _, choice = self._choice(request, now, documents)
            places = now.index.since(choice, seq)
            full = len(places) == MOST_PAGE
            changed, renamed, through = self._said_between(people, mirrored)
            verdicts = now.verdicts.of(changed)
            return {
                "rows": documents.rows(places),
                "seq": places[-1].seq if full else done,
                "more": full,
                "people": through,
                "renamed": renamed,
                "verdicts": {uid: verdict_of(self._site, verdicts.get(uid)) for uid in changed},
                "precision": documents.precision() if changed else None,
                "found": share_done(now),
            }

    def _said_between(self, number: int, last: int) -> tuple[list[str], bool, int]:
        """Events with a new verdict after one number and up to another, whether anything was renamed, and how far that
        goes.
        """
        with self._site.people() as people:
            said = [one for one in people.after(number, _MOST_CHANGES) if one.number <= last]
        changed = list(dict.fromkeys(one.subject for one in said if one.kind == KIND))
        return changed, any(one.kind == "name" for one in said), said[-1].number if said else number

    def event(self, request: Request) -> Document:
        """Everything about one event."""
        uid = request.path_params["uid"]
        with look(self._site) as now:
            catch_up(self._site, now)
            documents = Documents(self._site, now)
            event, people = _stored(now, uid), now.verdicts.through()
            place = now.index.place_of(uid) or Place(event.onset_ns, event.seq, uid)
            _, choice = self._choice(request, now, documents)
            row = documents.row(event, now.verdicts.of([uid]).get(uid))
            members = now.journal.of_uids(row.get("detections", [uid])[:MOST_MEMBERS])
            events = sorted(members.values(), key=lambda one: one.onset_ns)
            shown, _ = traces(now.journal, events, event.onset_ns, self._responses)
            with_verdicts = now.verdicts.of(members)
            return {
                "event": row,
                "traces": shown,
                "members": [documents.row(one, with_verdicts.get(one.uid)) for one in events] if "votes" in row else [],
                "network": now.index.network_of(uid),
                "history": documents.history(event_verdicts.history(self._site, uid)),
                "people": people,
                "precision": documents.precision(),
                **_around(now, documents, choice, place),
            }

    def similar(self, request: Request) -> Document:
        """The stored detections whose embeddings are nearest to this detection's."""
        uid = request.path_params["uid"]
        with look(self._site) as now:
            event = _stored(now, uid)
            made = self.upkeep.embeddings
            vector = None if made is None else embedding_of(made, now, event)
            if made is None or vector is None:
                why = self.upkeep.reason if made is None else "its window was cut for a model of another kind"
                return {"similar": [], "searched": 0, "share": 0.0, "reason": why}
            begun = time.perf_counter()
            near = made.near.nearest(vector, SIMILAR + 1)
            seconds = time.perf_counter() - begun
            uids = now.index.uids_of(seq for seq, _ in near)
            distances = {uids[seq]: distance for seq, distance in near if seq in uids and uids[seq] != uid}
            return {
                "similar": self._tiles(now, dict(list(distances.items())[:SIMILAR])),
                "searched": len(made.near),
                "seconds": round(seconds, 4),
                "share": share_embedded(made, now),
                "reason": "",
            }

    def _tiles(self, now: Look, distances: dict[str, float]) -> list[Document]:
        event_verdicts.follow(self._site, now.verdicts)
        documents, verdicts = Documents(self._site, now), now.verdicts.of(distances)
        stored = now.journal.of_uids(distances)
        pictures = thumbnails(now.journal, list(stored.values()))
        return [
            {
                **documents.row(stored[uid], verdicts.get(uid)),
                "distance": distance,
                "thumbnail": pictures.get(uid, []),
            }
            for uid, distance in distances.items()
            if uid in stored
        ]

    async def verdict(self, request: Request) -> Response:
        """Somebody says what an event is, or takes it back."""
        try:
            saying = Saying.model_validate_json(await request.body())
        except ValidationError as error:
            return JSONResponse({"error": first(error, "verdict")}, 422)
        return await run_in_threadpool(self._say, saying, who(request.scope))

    def _say(self, saying: Saying, name: str) -> Response:
        with look(self._site) as now:
            documents = Documents(self._site, now)
            judged = documents.judged(saying.uids)
            if refused := _refused(saying, {one.uid for one in judged}, documents, {one.name for one in judged}):
                return JSONResponse({"error": refused}, 422)
            error = self._write(saying, judged, name)
            catch_up(self._site, now)
            verdicts = now.verdicts.of(saying.uids)
            answered = {uid: verdict_of(self._site, verdicts.get(uid)) for uid in saying.uids}
            answer = {"verdicts": answered, "precision": documents.precision()}
            return JSONResponse({**answer, "error": error} if error else answer, 409 if error else 200)

    def _write(self, saying: Saying, judged: list[Judged], name: str) -> str:
        """Who said something else meanwhile; empty where nobody did."""
        try:
            if saying.action == "undo":
                event_verdicts.take_back(self._site, judged, name, saying.seen)
            else:
                event_verdicts.judge(self._site, judged, saying.name, name, saying.seen)
        except ChangedError as error:
            return _told_change(self._site, error, saying)
        return ""


def _told_change(site: Site, error: ChangedError, saying: Saying) -> str:
    which = "this event" if len(saying.uids) == 1 else f"one of these events ({error.subject[:12]})"
    if error.said is None:
        return f"the verdict on {which} changed since the page showed it; look and judge again"
    when = f"{site.local(error.said.at_ns):%H:%M}"
    if is_withdrawn(error.said):
        return f"{error.said.who} took the verdict on {which} back at {when}; look and judge again"
    return f"{error.said.who} said of {which}: {error.said.document.get('name')!r} at {when}; look and judge again"


def _refused(saying: Saying, there: set[str], documents: Documents, names_now: set[str]) -> str:
    """What is wrong with it, in one sentence; empty: nothing."""
    if missing := [uid for uid in saying.uids if uid not in there]:
        return f"event {missing[0]}: not in the journal (any more)"
    if saying.action == "judge" and saying.name not in documents.names.known_to_people() | names_now:
        return f"name {saying.name!r}: expected a word of the site's vocabulary, a cluster's name or unknown"
    return ""


def _come_to(now: Look) -> tuple[int, int]:
    """The last seq and the last thing said that are in the cache. Asked before anything is read from it: other threads
    fill it meanwhile, and what they add must still come with the next question.
    """
    return (now.index.done() or (0, 0))[1], now.verdicts.through()


def _stored(now: Look, uid: str) -> StoredEvent:
    """Raises _NoSuchEventError."""
    found = now.journal.of_uids([uid]).get(uid)
    if found is None or found.kind not in ("detection", "network"):
        raise _NoSuchEventError(f"event {uid[:64]}: not in the journal; it may be older than what the site keeps")
    return found


def _around(now: Look, documents: Documents, choice: Choice, place: Place) -> Document:
    """The next ones in the list as it is filtered, and what happened at the time whatever the filter."""
    at = (place.onset_ns, place.seq)
    newer, older = now.index.newer_than(choice, at, 1), now.index.page(choice, at, 1)
    before, after = now.index.page(Choice(), at, _NEIGHBOURS), now.index.newer_than(Choice(), at, _NEIGHBOURS)
    return {
        "newer": newer[0].uid if newer else None,
        "older": older[0].uid if older else None,
        "neighbours": documents.rows([*reversed(after), *before]),
    }


def _text_of(place: Place) -> str:
    return f"{place.onset_ns},{place.seq}"


def _place(text: str | None) -> tuple[int, int] | None:
    """Raises ChoiceError."""
    if not text:
        return None
    onset, _, seq = text.partition(",")
    return _integer(onset, "before"), _integer(seq, "before")


def _number(request: Request, key: str) -> int:
    return _integer(request.query_params.get(key, "0"), key)


def _integer(text: str, key: str) -> int:
    """Of 64 bits. Raises ChoiceError."""
    try:
        number = int(text[:20])
    except ValueError as error:
        raise ChoiceError(f"{key}={text:.40}: expected a number") from error
    if not -(2**63) <= number < 2**63:
        raise ChoiceError(f"{key}={text:.40}: expected a number of 64 bits")
    return number
