"""What a ZeroMQ socket says of its connections. Source: zmq_socket_monitor(3)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

AUTH = int(zmq.Event.HANDSHAKE_FAILED_AUTH)
PROTOCOL = int(zmq.Event.HANDSHAKE_FAILED_PROTOCOL)
NO_DETAIL = int(zmq.Event.HANDSHAKE_FAILED_NO_DETAIL)
SUCCEEDED = int(zmq.Event.HANDSHAKE_SUCCEEDED)
HANDSHAKES = AUTH | PROTOCOL | NO_DETAIL | SUCCEEDED
ACCEPTED = int(zmq.Event.ACCEPTED)
DISCONNECTED = int(zmq.Event.DISCONNECTED)
CLOSED = int(zmq.Event.CLOSED)
CRYPTOGRAPHIC = 0x11000001
"""Value of PROTOCOL: what the other end sent cannot be opened with this end's key."""
MECHANISM = 0x11000002
"""Value of PROTOCOL: one end uses CURVE, the other does not."""
_numbers = count()


class Event(NamedTuple):
    """kind: one of the above; value: its detail, or a file descriptor."""

    kind: int
    value: int


class Monitor:
    """Events of one socket; to be made before it connects or binds, and closed before it is closed.

    Events wait without limit: ZeroMQ would stop the socket's traffic until somebody reads them.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], watched: zmq.Socket[bytes], kinds: int) -> None:
        address = f"inproc://monitor-{next(_numbers)}"
        self._watched = watched
        watched.monitor(address, kinds)
        self.socket = context.socket(zmq.PAIR)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)

    def events(self, most: int = 100) -> Iterator[Event]:
        """Those that have come, at most so many."""
        for _ in range(most):
            if not self.socket.poll(0):
                return
            told = recv_monitor_message(self.socket)
            yield Event(int(told["event"]), int(told["value"]))

    def close(self) -> None:
        self._watched.monitor(None, 0)
        self.socket.close()
