"""What cannot be done, in one sentence: a page with the way to the others where a person asked for one, else JSON."""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

_log = logging.getLogger(__name__)

PageOf = Callable[[Request, int, str, str], Response]
"""Request, status, title and sentence -> the page."""

_SENTENCES = {
    404: "There is no page at this address. It may have been typed wrong, or belong to another version.",
    405: "This address takes no such request: it is not for opening in a browser.",
}
_BROKEN = (
    "Something in the console itself went wrong; the log of tscc-console says what. The daemon is not touched by it."
)


def wants_page(request: Request) -> bool:
    """Whether a browser's window asks, and not one of our scripts or another program."""
    return request.method in ("GET", "HEAD") and "text/html" in request.headers.get("Accept", "")


class Refusals:
    """Handlers of exceptions for the application."""

    def __init__(self, page_of: PageOf) -> None:
        self._page_of = page_of

    def _answer(self, request: Request, status: int, sentence: str) -> Response:
        if wants_page(request):
            return self._page_of(request, status, HTTPStatus(status).phrase, sentence)
        return JSONResponse({"error": sentence}, status)

    async def http(self, request: Request, error: Exception) -> Response:
        """A page that is not there, or takes no such request."""
        if not isinstance(error, HTTPException):
            return await self.broken(request, error)
        said = error.detail if error.detail != HTTPStatus(error.status_code).phrase else ""
        answer = self._answer(request, error.status_code, said or _SENTENCES.get(error.status_code, error.detail))
        answer.headers.update(error.headers or {})
        return answer

    async def not_now(self, request: Request, error: Exception) -> Response:
        """What a page cannot do for the moment."""
        return self._answer(request, 503, str(error))

    async def broken(self, request: Request, error: Exception) -> Response:
        """A mistake of ours."""
        _log.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
        return self._answer(request, 500, _BROKEN)
