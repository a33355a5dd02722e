"""HTTP of the console's server, for which a request has to come within a time: silent peers would take every place."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 10.0
"""For a whole request, its body included, from the connection or from the end of the answer before on."""


class PunctualProtocol(H11Protocol):
    """Hangs up where a request is not whole in time. An answer may last as long as it wants."""

    def __init__(self, *args: Any, **keys: Any) -> None:  # noqa: ANN401  # uvicorn's own
        super().__init__(*args, **keys)
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """After whatever came, and after every answer."""
        super().handle_events()
        self._expect()

    def _expect(self) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._forget()
        elif self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(REQUEST_SECONDS, self.transport.close)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
