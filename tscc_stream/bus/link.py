"""A subscriber's connection to one socket of the daemon: with or without CURVE, and never refused in silence.

ZeroMQ gives a connection up for good when the other end refuses its key or speaks otherwise: hence `try_again`. A
handshake that breaks off without a reason it tries again by itself: the daemon was killed at that moment, or it has
another key than the one expected, which only shows by happening again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import zmq

from tscc_stream.bus import monitor
from tscc_stream.bus.keys import CurveKeys, KeyPair, abbreviated, public_key, read_pair
from tscc_stream.bus.monitor import Event, Monitor

LARGEST_FRAME = 16_000_000
_MANY = 3
"""Handshakes in a row that broke off before it is said."""


class Identity:
    """The keys that a subscriber connects with, read out of their files. Raises CredentialError."""

    def __init__(self, keys: CurveKeys) -> None:
        self.own: KeyPair = read_pair(str(keys.secret_file), "key")
        self._server = public_key(keys.server, "server key")

    def put_on(self, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, self._server.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.own.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.own.secret.encode())


class Link:
    """prepare: sets a new socket's options; refused: is told in a sentence, each time that it happens."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        kind: int,
        address: str,
        identity: Identity | None,
        *,
        prepare: Callable[[zmq.Socket[bytes]], None],
        refused: Callable[[str], None],
    ) -> None:
        self._context, self._kind, self._address = context, kind, address
        self._identity = identity
        self._prepare, self._refused = prepare, refused
        self.is_refused = False
        self._open()

    def _open(self) -> None:
        self.socket = socket = self._context.socket(self._kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_FRAME)
        socket.setsockopt(zmq.IPV6, int("[" in self._address))
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2_000)
        if self._identity is not None:
            self._identity.put_on(socket)
        self._prepare(socket)
        self._monitor = Monitor(self._context, socket, monitor.HANDSHAKES)
        self._given_up = False
        self._broken_off = 0
        socket.connect(self._address)

    def renew(self) -> None:
        """A new socket instead; what waited in the old one is gone."""
        self._monitor.close()
        self.socket.close()
        self._open()

    def try_again(self) -> None:
        """Connect anew where ZeroMQ has given up."""
        self._look()
        if self._given_up:
            self.renew()

    def readable(self, until_s: float) -> bool:
        """Wait for a message until a monotonic time."""
        if self.socket.poll(0):
            return True
        self._look()
        poller = zmq.Poller()
        poller.register(self.socket, zmq.POLLIN)
        poller.register(self._monitor.socket, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(_milliseconds(until_s)))
            if self._monitor.socket in ready:
                self._look()
            if self.socket in ready:
                return True
            if time.monotonic() >= until_s:
                return False

    def _look(self) -> None:
        for event in self._monitor.events():
            self._take(event)

    def _take(self, event: Event) -> None:
        if event.kind == monitor.SUCCEEDED:
            self.is_refused, self._broken_off = False, 0
            return
        self._given_up = event.kind in (monitor.AUTH, monitor.PROTOCOL)
        self._broken_off += 1
        if self._given_up or self._broken_off >= _MANY:
            self.is_refused = True
            self._refused(f"{self._address} {self._why(event)}")

    def _why(self, event: Event) -> str:
        if event.kind == monitor.AUTH and self._identity is not None:
            return f"refuses the key {abbreviated(self._identity.own.public)}: it must be in the daemon's list of keys"
        if event == (monitor.PROTOCOL, monitor.MECHANISM):
            if self._identity is None:
                return "is secured: it takes subscribers with a key only"
            return "is not secured: it takes subscribers without a key only"
        if self._identity is not None:
            return "breaks the handshake off: the server key may be another daemon's"
        return "breaks the handshake off: it may be secured, or no ZeroMQ at all"


def _milliseconds(until_s: float) -> int | None:
    if until_s == float("inf"):
        return None
    return max(0, int(1000 * (until_s - time.monotonic()) + 0.999))
