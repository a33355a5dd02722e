"""A limit on a whole exchange over a socket, where a time-out of each read would let a slow peer go on for ever."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType


class Deadline:
    """Cuts sockets off once `seconds` have passed since the block began; `passed` says whether that happened.

    The block's end closes them.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def guard(self, link: socket.socket | None) -> None:
        """From now on it is cut off as well."""
        with self._lock:
            if link is not None:
                self._sockets.append(link)
            late = self.passed
        if late:
            self._cut()

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        for link in self._sockets:
            link.close()

    def _cut(self) -> None:
        with self._lock:
            self.passed = True
            for link in self._sockets:
                with suppress(OSError):  # closed meanwhile
                    socket.socket.shutdown(link, socket.SHUT_RDWR)
