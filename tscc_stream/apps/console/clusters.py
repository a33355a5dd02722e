"""The page Clusters."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tscc_stream.apps.console.web import Console


def routes(console: Console) -> list[BaseRoute]:
    """Its addresses."""

    def page(request: Request) -> Response:
        return console.page(request, "clusters")

    return [Route("/clusters", page)]
