"""A limit on a whole exchange over a socket, where a time-out of each read would let a slow peer go on for ever."""

from __future__ import annotations

import socket
import ssl
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

    def connected(self, address: tuple[str, int], seconds: float, tls: ssl.SSLContext | None = None) -> socket.socket:
        """A connection that it guards from the first moment, encrypted where `tls` is given. Raises OSError."""
        link = socket.create_connection(address, seconds)
        self.guard(link)
        return link if tls is None else self.encrypted(link, tls, address[0])

    def encrypted(self, link: socket.socket, tls: ssl.SSLContext, name: str) -> socket.socket:
        """The same connection after a handshake. name: whom the certificate must be of. Raises OSError."""
        wrapped = tls.wrap_socket(link, server_hostname=name, do_handshake_on_connect=False)
        self.guard(wrapped)
        wrapped.do_handshake()
        return wrapped

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
