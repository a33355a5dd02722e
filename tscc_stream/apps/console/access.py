"""Who may use the console, and what a browser may do with it.

Users as for /metrics (HTTP's Basic authentication, `http-user`). A request that changes something must come from a page
of ours; a name that is not ours (DNS rebinding) is refused; pages may load nothing from elsewhere.
"""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tscc_stream.passwords import Admission, Doorkeeper, user_of

MOST_BODY_BYTES = 65_536
NOBODY = "console"
"""Who says something where nobody has to give a name."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guarded:
    """Around the whole application. local: bound to this machine alone, so that only its own names are answered to."""

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper | None, *, local: bool) -> None:
        self._app, self._doorkeeper, self._local = app, doorkeeper, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._stranger(scope, headers) or await self._unknown(headers)
        if refused is not None:
            await refused(scope, receive, send)
            return
        scope["user_name"] = user_of(headers.get("Authorization")) or NOBODY
        await self._app(scope, receive, _with_headers(send))

    def _stranger(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        """A page of somebody else's that uses the browser of one who may."""
        host = headers.get("Host", "")
        if self._local and not _is_this_machine(host):
            return PlainTextResponse("expected this machine's own name\n", 421)
        if scope["method"] in ("GET", "HEAD"):
            return None
        if headers.get("Origin", "").partition("://")[2] != host:
            return PlainTextResponse("expected a request from the console's own page\n", 403)
        length = headers.get("Content-Length", "")
        if "Transfer-Encoding" in headers or not length.isdecimal() or int(length[:20]) > MOST_BODY_BYTES:
            return PlainTextResponse(f"expected at most {MOST_BODY_BYTES} bytes\n", 413)
        return None

    async def _unknown(self, headers: Headers) -> PlainTextResponse | None:
        if self._doorkeeper is None:
            return None
        said = headers.get("Authorization")
        admission = await run_in_threadpool(self._doorkeeper.judge, said, time.monotonic_ns())
        if admission is Admission.REFUSED:
            challenge = {"WWW-Authenticate": 'Basic realm="tscc-stream console", charset="UTF-8"'}
            return PlainTextResponse("expected a user and a password\n", 401, challenge)
        if admission is Admission.LATER:
            return PlainTextResponse("too many passwords were tried of late\n", 429, {"Retry-After": "1"})
        return None


def _is_this_machine(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending


def who(scope: Any) -> str:  # noqa: ANN401  # a request's scope
    """The user's name."""
    return str(scope.get("user_name", NOBODY))
