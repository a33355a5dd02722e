"""One socket of the daemon that others connect to: watched, and locked where the bus is secured."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

import zmq

from tscc_stream.bus import monitor
from tscc_stream.bus.access import Access
from tscc_stream.bus.keys import KeyPair
from tscc_stream.bus.monitor import Event, Monitor

_EVENTS = monitor.HANDSHAKES | monitor.ACCEPTED | monitor.DISCONNECTED | monitor.CLOSED
_MOST_ADDRESSES = 1_000
_CLOSING_SECONDS = 5.0
_DOMAIN = b"tscc-stream"


class Door:
    """prepare: sets the options of a new socket. pair: the daemon's keys, None where everyone may connect.

    access: is told of those who could not. Used by one thread.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        prepare: Callable[[zmq.Context[zmq.Socket[bytes]]], zmq.Socket[bytes]],
        pair: KeyPair | None,
        access: Access,
    ) -> None:
        self._context, self._prepare, self._pair, self._access = context, prepare, pair, access
        self._open()

    def _open(self) -> None:
        self.socket = self._prepare(self._context)
        self.monitor = Monitor(self._context, self.socket, _EVENTS)
        self._addresses: dict[int, str] = {}  # by file descriptor
        self._failure: Event | None = None
        self._port = 0
        if self._pair is not None:
            self.socket.setsockopt(zmq.CURVE_SERVER, 1)
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, self._pair.secret.encode())
            self.socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
            self.socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # nobody connects while there is nobody to ask

    def bind(self, address: str) -> str:
        """Bind and say where: port 0 becomes the port that the system chose. Raises zmq.ZMQError."""
        self.socket.setsockopt(zmq.IPV6, int("[" in address))
        self.socket.bind(address)
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        port = self.endpoint.rpartition(":")[2]
        self._port = int(port) if port.isdecimal() else 0
        return self.endpoint

    def change_lock(self) -> None:
        """Close every connection and bind anew, so that whoever connects again is looked at again.

        With a new socket, since the old one would go on sending what waits for a connection. Raises zmq.ZMQError where
        the address was taken meanwhile.
        """
        self.socket.unbind(self.endpoint)
        until = time.monotonic() + _CLOSING_SECONDS
        while time.monotonic() < until and self.monitor.socket.poll(100):
            if any(event.kind == monitor.CLOSED for event in self.monitor.events()):
                break
        self.close(0)
        self._open()
        self.bind(self.endpoint)

    def look(self, now_s: float) -> None:
        """Take what the socket says of its connections."""
        for event in self.monitor.events():
            if event.kind == monitor.ACCEPTED:
                self._remember(event.value)
            elif event.kind == monitor.DISCONNECTED:
                self._gone(self._addresses.pop(event.value, ""), now_s)
            elif event.kind in (monitor.PROTOCOL, monitor.NO_DETAIL):
                self._failure = event  # ZeroMQ says next which connection it was

    def _gone(self, address: str, now_s: float) -> None:
        if self._failure is not None:
            self._access.failed(self._failure, address, now_s)
            self._failure = None

    def _remember(self, descriptor: int) -> None:
        if len(self._addresses) >= _MOST_ADDRESSES:
            self._addresses.clear()
        self._addresses[descriptor] = _peer_of(descriptor, self._port)

    def close(self, linger_ms: int) -> None:
        self.monitor.close()
        self.socket.close(linger_ms)


def _peer_of(descriptor: int, port: int) -> str:
    """Address of the other end of a connection of ours; empty where it has ended, or is no such connection."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.family == socket.AF_UNIX or connection.getsockname()[1] != port:
                return ""
            return str(connection.getpeername()[0])
    except OSError:
        return ""
