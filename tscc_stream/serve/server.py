"""The replay server's sockets: one thread, one selector, bounded buffers.

A client that reads slowly is sent no more than its socket takes; its session then stays where it is in the ring. In a
paced replay the ring moves on, as a real server's would; at speed "max" the replay waits.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from tscc_stream.edges.archive import ArchiveError, ArchiveIndex
from tscc_stream.serve.info import Connection, Identity
from tscc_stream.serve.protocol import Session
from tscc_stream.serve.replay import Replay, ReplayOptions
from tscc_stream.serve.ring import Ring

DEFAULT_RING_BYTES = 256 * 1024 * 1024
_CHUNK = 64 * 1024  # bytes handed to a socket at once: what a stalled client keeps in memory
_READ = 4096
_LINGER_SECONDS = 5.0  # for the client to read the end of its data and close
_SILENCE_SECONDS = 300.0  # for a client to say what it wants, or to take what it was sent
_CHUNKS_AT_ONCE = 8  # per client and turn, so that all of them get their share
_LONGEST_WAIT = 1.0


class ServeError(Exception):
    """The server cannot do what it was asked to, in one sentence."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the server does beside pacing.

    once: end every client that has got all of it, and then by itself. wait_for_client: the replay begins with the first
    client's data request instead of at once. ring_bytes: payload that the ring holds. max_clients: further ones are
    hung up on. organization: HELLO's second line.
    """

    replay: ReplayOptions = field(default_factory=ReplayOptions)
    once: bool = False
    wait_for_client: bool = False
    ring_bytes: int = DEFAULT_RING_BYTES
    max_clients: int = 100
    organization: str = "tscc-stream replay"

    def __post_init__(self) -> None:
        if self.once and self.replay.loop:
            raise ServeError("a replay that loops never ends: expected either loop or once")


class _Client:
    """A socket with its session and what the socket has not taken yet."""

    def __init__(self, sock: socket.socket, session: Session, now: float) -> None:
        self.sock = sock
        self.session = session
        self.unsent = memoryview(b"")
        self.alive = now
        self.closing = False

    def give_up_at(self) -> float | None:
        """Monotonic time at which this client is hung up on for its silence; None where it has nothing to say."""
        if self.closing:
            return self.alive + _LINGER_SECONDS
        if self.session.phase == "handshake" or self.unsent:
            return self.alive + _SILENCE_SECONDS
        return None


class ReplayServer:
    """Serves an archive over SeedLink versions 3 and 4 from a thread of its own.

    `address` is (host, port) as bound. `done` is set once the server has ended: by itself (option `once`), by `stop`,
    or because the archive became unreadable (`error` says why). Use start() and stop(), or a with statement.
    """

    def __init__(
        self, archive: ArchiveIndex, host: str = "127.0.0.1", port: int = 0, options: ServerOptions | None = None
    ) -> None:
        self.options = options or ServerOptions()
        self.done = threading.Event()
        self.error = ""
        self.ring = Ring(self.options.ring_bytes)
        self.replay = Replay(archive, self.ring, self.options.replay)
        self._bind = (host, port)
        self._identity = Identity(self.options.organization, time.time_ns())
        self._clients: dict[int, _Client] = {}
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._waker, self._woken = socket.socketpair()
        self._stopping = False
        self._served = False
        self._thread = threading.Thread(target=self._run, name="seedlink-server", daemon=True)

    def __enter__(self) -> ReplayServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) that the server listens on. Raises ServeError before `start`."""
        if self._listener is None:
            raise ServeError("the server has not been started")
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def start(self) -> tuple[str, int]:
        """Binds and starts serving; the address. Raises ServeError where the address cannot be had."""
        self._listen(*self._bind)
        address = self.address
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()
        return address

    def _listen(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise ServeError(f"cannot listen on {host}:{port}: {reason}") from error
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def request_stop(self) -> None:
        """Asks the server to end, from any thread or signal handler, without waiting for it."""
        self._stopping = True
        with suppress(OSError):
            self._waker.send(b"!")

    def stop(self) -> None:
        """Ends the server and hangs up on everybody. Safe to call again, and before start."""
        self.request_stop()
        if self._thread.ident is not None:
            self._thread.join()
        elif not self.done.is_set():
            self._close_all()
            self.done.set()

    # ---- the thread

    def _run(self) -> None:
        try:
            self._feed(time.monotonic())
            while not self._stopping:
                self._turn()
        except ArchiveError as error:
            self.error = str(error)
        finally:
            self._close_all()
            self.done.set()

    def _close_all(self) -> None:
        for client in list(self._clients.values()):
            self._drop(client)
        self._selector.close()
        for sock in (self._listener, self._waker, self._woken):
            if sock is not None:
                sock.close()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._wait_seconds()):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._woken:
                with suppress(BlockingIOError):
                    self._woken.recv(_READ)
            elif isinstance(key.data, _Client):
                self._read(key.data)
        now = time.monotonic()
        self._feed(now)
        for client in list(self._clients.values()):
            self._write(client)
            self._watch(client)
        self._hang_up(now)
        if self.options.once and self._all_served(now):
            self._stopping = True

    def _wait_seconds(self) -> float:
        """How long nothing can happen unless a socket stirs."""
        if any(client.session.behind and not client.unsent for client in self._clients.values()):
            return 0.0
        due = self.replay.next_due()
        if due is None or self.replay.must_wait(self._slowest()):
            return _LONGEST_WAIT
        return min(max(due - time.monotonic(), 0.0), _LONGEST_WAIT)

    def _slowest(self) -> int | None:
        """The lowest sequence number that some client is about to read; None where nobody reads."""
        cursors = (client.session.cursor for client in self._clients.values())
        return min((cursor for cursor in cursors if cursor is not None), default=None)

    def _feed(self, now: float) -> None:
        slowest = self._slowest()
        if not self.replay.begun and (slowest is not None or not self.options.wait_for_client):
            self.replay.begin(now, time.time_ns())
        self.replay.feed(now, slowest)

    def _connections(self) -> Iterable[Connection]:
        return [client.session.connection for client in self._clients.values()]

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            sock, peer = self._listener.accept()
        except OSError:  # gone again, or no more descriptors: either way there is no client
            return
        if len(self._clients) >= self.options.max_clients:
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # else a vanished client keeps its place for ever
        self._admit(sock, f"{peer[0]}:{peer[1]}")

    def _session(self, peer: str) -> Session:
        return Session(
            self.ring,
            self._identity,
            peer=peer,
            from_oldest=self.options.replay.speed == "max",
            end_when_complete=self.options.once,
            connections=self._connections,
        )

    def _admit(self, sock: socket.socket, peer: str) -> None:
        client = _Client(sock, self._session(peer), time.monotonic())
        self._clients[sock.fileno()] = client
        self._selector.register(sock, selectors.EVENT_READ, client)

    def _read(self, client: _Client) -> None:
        try:
            data = client.sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
        elif not client.closing:
            client.alive = time.monotonic()
            client.session.receive(data)

    def _write(self, client: _Client) -> None:
        for _ in range(_CHUNKS_AT_ONCE):
            if not client.unsent:
                client.unsent = memoryview(client.session.send(_CHUNK))
            if not client.unsent or not self._push(client):
                break
        if client.session.phase == "closing" and not client.unsent and not client.closing:
            client.closing = True
            client.alive = time.monotonic()
            with suppress(OSError):
                client.sock.shutdown(socket.SHUT_WR)  # closing at once could cost the client what it has not read yet

    def _push(self, client: _Client) -> bool:
        """Gives the socket what it takes; False where that was not all."""
        try:
            sent = client.sock.send(client.unsent)
        except BlockingIOError:
            return False
        except OSError:
            self._drop(client)
            return False
        client.alive = time.monotonic()
        client.unsent = client.unsent[sent:]
        return not client.unsent

    def _watch(self, client: _Client) -> None:
        """What to wake up for: bytes from a client that is listened to, room for what it has not taken."""
        if client.sock.fileno() not in self._clients:
            return
        events = selectors.EVENT_READ if client.session.wants_input or client.closing else 0
        events |= selectors.EVENT_WRITE if client.unsent else 0
        self._selector.modify(client.sock, events or selectors.EVENT_WRITE, client)

    def _hang_up(self, now: float) -> None:
        for client in list(self._clients.values()):
            limit = client.give_up_at()
            if limit is not None and now >= limit:
                self._drop(client)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.sock.fileno(), None) is None:
            return
        self._served |= client.session.has_all
        self._selector.unregister(client.sock)
        client.sock.close()

    def _all_served(self, now: float) -> bool:
        """Whether the replay is over, somebody had all of it, and nobody is still reading or about to."""
        waiting = [client for client in self._clients.values() if now < client.alive + _LINGER_SECONDS]
        reading = [client for client in self._clients.values() if client.session.phase == "data"]
        return self.ring.complete and self._served and not waiting and not reading
