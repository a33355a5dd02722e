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
from starlette.responses import HTMLResponse, PlainTextResponse, Response
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

_REFUSAL = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
    'initial-scale=1"><title>{status} · tscc-stream</title><body style="background:#12181f;color:#e8edf2;'
    'font:15px/1.45 system-ui,sans-serif;margin:2rem"><h1 style="font-size:1.25rem">tscc-stream console</h1>'
    '<p>{said}</p><p><a style="color:#5fd0c5;padding:.6rem 0;display:inline-block" href="/">Try again</a></p>'
    "</body></html>"
)


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

    def _stranger(self, scope: Scope, headers: Headers) -> Response | None:
        """A page of somebody else's that uses the browser of one who may."""
        host = headers.get("Host", "")
        if self._local and not _is_this_machine(host):
            return _refusal(headers, 421, "expected this machine's own name")
        if scope["method"] in ("GET", "HEAD"):
            return None
        if headers.get("Origin", "").partition("://")[2] != host:
            return _refusal(headers, 403, "expected a request from the console's own page")
        length = headers.get("Content-Length", "")
        if "Transfer-Encoding" in headers or not length.isdecimal() or int(length[:20]) > MOST_BODY_BYTES:
            return _refusal(headers, 413, f"expected at most {MOST_BODY_BYTES} bytes")
        return None

    async def _unknown(self, headers: Headers) -> Response | None:
        if self._doorkeeper is None:
            return None
        said = headers.get("Authorization")
        admission = await run_in_threadpool(self._doorkeeper.judge, said, time.monotonic_ns())
        if admission is Admission.REFUSED:
            challenge = {"WWW-Authenticate": 'Basic realm="tscc-stream console", charset="UTF-8"'}
            return _refusal(headers, 401, "expected a user and a password", challenge)
        if admission is Admission.LATER:
            return _refusal(headers, 429, "too many passwords were tried of late; wait a moment", {"Retry-After": "1"})
        return None


def _refusal(headers: Headers, status: int, sentence: str, more: dict[str, str] | None = None) -> Response:
    """For a browser's window a page that needs no other file: nobody is let in yet."""
    if "text/html" not in headers.get("Accept", ""):
        return PlainTextResponse(f"{sentence}\n", status, more)
    said = f"{sentence[:1].upper()}{sentence[1:]}."
    return HTMLResponse(_REFUSAL.format(status=status, said=said), status, {**_HEADERS, **(more or {})})


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
