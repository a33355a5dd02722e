"""The console as a web application, and the process that serves it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from tscc_stream import __version__
from tscc_stream.activation import ActivationError
from tscc_stream.apps.bus_keys import curve_keys
from tscc_stream.apps.console.access import Guarded, who
from tscc_stream.apps.console.feed import Feed, TooManyPagesError
from tscc_stream.apps.console.punctual import PunctualProtocol
from tscc_stream.apps.console.refusal import Refusals
from tscc_stream.apps.console.site import NotThereError, Site
from tscc_stream.config import Config
from tscc_stream.config_section import split_host_port
from tscc_stream.credentials import path_of
from tscc_stream.edges.alert_journal_file import AlertJournalError
from tscc_stream.edges.console_cache import CacheError
from tscc_stream.edges.people import PeopleError
from tscc_stream.edges.supervision import Notifier
from tscc_stream.package import PackageError
from tscc_stream.passwords import Doorkeeper, read_users
from tscc_stream.stages.journal import JournalError

_log = logging.getLogger(__name__)

_TURN_SECONDS = 1.0
PAGES = ("live", "events", "clusters", "health")
_EXPECTED = (NotThereError, JournalError, PeopleError, PackageError, ActivationError, CacheError, AlertJournalError)
"""What a page cannot do for the moment, each one sentence."""


class ConsoleError(RuntimeError):
    """The console cannot be served, and why."""


class Beside(Protocol):
    """What a page has running beside its handlers, from the server's start to its end."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Console:
    """What a page's handlers are made with: the site, the feed, and how to make a page of a template.

    ending: whether the server is being stopped; streams end by themselves then.
    """

    def __init__(self, site: Site, feed: Feed) -> None:
        self.site, self.feed = site, feed
        self.ending: Callable[[], bool] = lambda: False
        self.beside: list[Beside] = []
        self._templates = Environment(
            loader=PackageLoader("tscc_stream.apps.console"), autoescape=True, undefined=StrictUndefined
        )

    def page(self, request: Request, name: str, **values: Any) -> HTMLResponse:  # noqa: ANN401  # what its template takes
        """A page out of templates/<name>.html. values: what it takes; `page`: the one of PAGES that it belongs to."""
        config = self.site.config
        common = {
            "page": name,
            "pages": PAGES,
            "site_name": config.site,
            "zone": config.time_zone,
            "version": __version__,
            "who": who(request.scope),
            "vocabulary": [term.model_dump() for term in self.site.vocabulary],
        }
        return HTMLResponse(self._templates.get_template(f"{name}.html").render({**common, **values}))

    def refusal(self, request: Request, status: int, title: str, sentence: str) -> Response:
        """A page that says what cannot be done; it belongs to the one that its address begins with."""
        of = request.url.path.split("/")[1]
        page = self.page(
            request, "refusal", page=of if of in PAGES else "", status=status, title=title, sentence=sentence
        )
        page.status_code = status
        return page

    async def stream(self, request: Request) -> Response:
        """Server-sent events of what the daemon publishes: `message` (seq, topic, body) and `alive`."""
        try:
            page = self.feed.open()
        except TooManyPagesError as error:
            return JSONResponse({"error": str(error)}, 503)

        async def events() -> AsyncIterator[str]:
            try:
                yield "retry: 2000\n\n"
                async for received in page.messages():
                    if self.ending() or await request.is_disconnected():
                        return
                    if received is None:
                        yield "event: alive\ndata: {}\n\n"
                    else:
                        data = {"seq": received.seq, "topic": received.topic, "body": received.body}
                        yield f"event: message\ndata: {json.dumps(data)}\n\n"
                yield "event: lost\ndata: {}\n\n"
            finally:
                self.feed.close(page)

        return StreamingResponse(events(), media_type="text/event-stream")


def application(console: Console, doorkeeper: Doorkeeper | None, *, local: bool) -> ASGIApp:
    """All pages, guarded."""
    from tscc_stream.apps.console import clusters, events, health, live  # noqa: PLC0415  # they are made with a Console

    static = str(resources.files("tscc_stream.apps.console") / "static")
    routes = [
        Route("/", lambda _: RedirectResponse("/live")),
        Route("/stream", console.stream),
        *(route for page in (live, events, clusters, health) for route in page.routes(console)),
        Mount("/static", StaticFiles(directory=static)),
    ]

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        running = [console.feed, *console.beside]
        for one in running:
            one.start()
        async with _supervised():
            yield
        for one in running:
            one.stop()

    refusals = Refusals(console.refusal)
    handlers: dict[Any, Any] = dict.fromkeys(_EXPECTED, refusals.not_now)
    handlers |= {HTTPException: refusals.http, Exception: refusals.broken}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    return Guarded(app, doorkeeper, local=local)


@asynccontextmanager
async def _supervised() -> AsyncIterator[None]:
    """Tells systemd that the pages are there, and with every turn of the event loop that it turns."""
    notifier = Notifier.from_environment(os.environ)

    async def feed() -> None:
        while True:
            notifier.watchdog(time.monotonic())
            await asyncio.sleep(_TURN_SECONDS)

    feeding = asyncio.create_task(feed())
    notifier.ready("serving pages")
    try:
        yield
    finally:
        feeding.cancel()
        notifier.stopping()


def run(config: Config, folder: Path) -> int:
    """Serve until SIGTERM or SIGINT; returns 0. Raises ConsoleError, ConfigError and CredentialError."""
    settings = config.console
    doorkeeper = None
    if settings.users_file is not None:
        doorkeeper = Doorkeeper(read_users(settings.users_file, "console.users_file"))
    site = Site(config, folder)
    console = Console(site, Feed(site.endpoints, curve_keys(settings.bus_keys)))
    host, port = split_host_port(settings.bind)
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConsoleError(f"console.bind {settings.bind}: cannot bind: {error.strerror}") from error
    bound = listening.getsockname()[1]
    tls = settings.tls_key is not None
    files = {"ssl_certfile": settings.tls_certificate, "ssl_keyfile": settings.tls_key} if tls else {}
    server = uvicorn.Server(
        uvicorn.Config(
            application(console, doorkeeper, local=settings.local),
            http=PunctualProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
            limit_concurrency=200,
            **{name: str(path_of(file)) for name, file in files.items() if file},  # type: ignore[arg-type]  # of the type that is expected, by construction
        )
    )
    console.ending = lambda: server.should_exit
    _log.info("console on %s://%s:%d/", "https" if tls else "http", f"[{host}]" if ":" in host else host, bound)
    for one in (signal.SIGTERM, signal.SIGINT):  # uvicorn takes them while it serves, and raises them again at its end
        signal.signal(one, lambda *_: setattr(server, "should_exit", True))
    with listening:
        server.run(sockets=[listening])
    return 0
