"""Asks a server on a second, short connection what its ring holds: it is connected, and sends nothing.

Part of the SeedLink edge. Each question has a thread of its own, bounded by time-outs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Literal

from tscc_stream.config import SeedLinkConfig
from tscc_stream.edges.seedlink_dial import Dialer, LinkError, password_of
from tscc_stream.edges.seedlink_probe import converse
from tscc_stream.seedlink.frames import FrameError
from tscc_stream.seedlink.held_streams import held_streams
from tscc_stream.seedlink.info import Info

_log = logging.getLogger(__name__)

Held = Mapping[str, int | None]
"""By source id, data time (ns) of the newest sample; None where the server's words cannot be read."""


class _Ended(Exception):  # noqa: N818 - not an error: the reader was stopped
    """Nobody waits for the answer any more."""


class HeldQuestion:
    """`ask`, and some time later `take` the answer, from one thread. stopped: whether the reader is ending."""

    def __init__(self, config: SeedLinkConfig, stopped: Callable[[], bool], newest: Literal[3, 4] = 4) -> None:
        self._config, self._stopped, self._newest = config, stopped, newest
        self._dialer = Dialer(config, self._check)
        self._thread: threading.Thread | None = None
        self._answer: Held | None = None

    def ask(self, server: str) -> None:
        """Unless a question is on its way already."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._ask, args=(server,), name="seedlink-held", daemon=True)
            self._thread.start()

    def take(self) -> Held | None:
        """The answer, once; None where there is none (yet)."""
        answer, self._answer = self._answer, None
        return answer

    def _ask(self, server: str) -> None:
        try:
            info = Info("STREAMS", self._config.user or "", password_of(self._config), self._newest)
            answer = converse(self._dialer, server, info, self._config.timeout_seconds)
        except (LinkError, FrameError, OSError, _Ended) as error:
            _log.info("%s does not say what it holds: %s", server, error)
            return
        if answer is not None:
            self._answer = held_streams(answer)

    def _check(self) -> None:
        if self._stopped():
            raise _Ended
