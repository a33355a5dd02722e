"""The one socket that reads SeedLink: connects, feeds a session, hands on what came, connects again. No decisions.

The daemon owns the thread:

    reader = SeedLinkReader(config, emit, position=position, heartbeat=stamp)
    thread = Thread(target=reader.run); thread.start(); ...; reader.stop(); thread.join()

`emit` may block: then nothing is read, and the server's ring is the buffer. While it blocks, stamping the heartbeat is
its own affair. Whatever can happen to a connection becomes a LinkState and another attempt; anything else that goes
wrong (in `emit` too) leaves `run` as an exception, so that the daemon stops instead of running on deaf.
"""

from __future__ import annotations

import errno
import os
import random
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal, NoReturn

from tscc_stream.config import SeedLinkConfig, split_host_port
from tscc_stream.messages import Record
from tscc_stream.sampling import seconds_to_ns
from tscc_stream.seedlink.backoff import Backoff
from tscc_stream.seedlink.position import Position
from tscc_stream.seedlink.streams import parse_pattern
from tscc_stream.stages.acquire import Connected, Event, Notice, Received, Rejected, SeedLinkSession, SessionError

READ_BYTES: Final = 256 << 10
KERNEL_BUFFER_BYTES: Final = 1 << 20  # holds a second of 500 channels at 1 kHz while the pipeline is busy
TURN_NS: Final = 1_000_000_000  # the longest wait in one turn of the loop, so that the heartbeat never looks stopped

_Address = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """What one read brought, in its order. position: where to go on after all of it. unwanted: records that no
    pattern asks for.
    """

    server: str
    items: tuple[Received | Rejected, ...]
    unwanted: int
    position: Position

    @property
    def received(self) -> tuple[Received, ...]:
        return tuple(item for item in self.items if isinstance(item, Received))

    @property
    def records(self) -> tuple[Record, ...]:
        return tuple(received.record for received in self.received)

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        return tuple(item for item in self.items if isinstance(item, Rejected))


@dataclass(frozen=True, slots=True)
class LinkState:
    """A link came up or went down. text: one sentence for people.

    reason: connected, or dns, refused, network, timeout, tls, or SessionError's. retry_seconds: until the next attempt.
    """

    server: str
    connected: bool
    reason: str
    text: str
    retry_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class LinkNotice:
    """Something people should read that does not end the link; reason as in Notice."""

    server: str
    reason: str
    text: str


Emitted = Arrival | LinkState | LinkNotice


class LinkError(Exception):
    """The connection could not be made or is lost; LinkState carries the same words."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class _Stopped(Exception):  # noqa: N818 - not an error: the way out of any wait
    """`stop` was called."""


class SeedLinkReader:
    """Reads one server until stopped. Raises ValueError for a stream pattern that can match nothing."""

    def __init__(
        self,
        config: SeedLinkConfig,
        emit: Callable[[Emitted], None],
        *,
        position: Position | None = None,
        heartbeat: Callable[[], None] = lambda: None,
        backoff: Backoff | None = None,
        agent: str = "tscc-stream",
        newest: Literal[3, 4] = 4,
    ) -> None:
        for pattern in config.streams:
            parse_pattern(pattern)
        self._config, self._emit, self._heartbeat, self._agent = config, emit, heartbeat, agent
        self._newest: Literal[3, 4] = newest
        self._host, self._port = split_host_port(config.server)
        self._position = position or Position()
        self._backoff = backoff or Backoff(random.Random())  # noqa: S311 - jitter, no secret
        self._timeout_ns = seconds_to_ns(config.timeout_seconds)
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._unsent = bytearray()
        self._stop = threading.Event()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)

    @property
    def position(self) -> Position:
        """Where to go on after the last Arrival; may be asked from any thread."""
        return self._position

    def stop(self) -> None:
        """End `run` soon, from any thread; a call of `emit` under way is not interrupted."""
        self._stop.set()
        with suppress(OSError):  # `run` may have ended and closed it
            self._waker.send(b"\0")

    def run(self) -> None:
        """Read until stopped. To be called once."""
        try:
            while True:
                error = self._connection()
                now_ns = time.monotonic_ns()
                delay_ns = self._backoff.delay_ns(now_ns)
                self._emit(LinkState(self._config.server, False, error.reason, str(error), delay_ns / 1e9))
                self._wait(None, 0, now_ns + delay_ns)
        except _Stopped:
            return
        finally:
            self._wake.close()
            self._waker.close()

    def _connection(self) -> LinkError:
        """One connection from its making to its end, and why it ended."""
        self._backoff.attempt(time.monotonic_ns())
        try:
            with self._connect() as link:
                self._converse(link, self._session())
        except LinkError as error:
            return error

    # Making a connection

    def _session(self) -> SeedLinkSession:
        try:
            path = self._config.password_file
            password = Path(path).read_text(encoding="utf-8").strip() if path else ""
            return SeedLinkSession(
                self._config,
                self._position,
                time.monotonic_ns(),
                password=password,
                agent=self._agent,
                newest=self._newest,
            )
        except (OSError, UnicodeDecodeError) as error:
            raise LinkError("auth", f"cannot read password_file {path}: {error}") from error
        except ValueError as error:
            raise LinkError("auth", str(error)) from error

    @contextmanager
    def _connect(self) -> Iterator[socket.socket]:
        """A connected socket, encrypted where the site says so, from the first address that answers."""
        problem = LinkError("dns", f"{self._host} has no address")
        for address in self._addresses():
            link = socket.socket(*address[:3])
            try:
                self._open(link, address)
                if self._config.tls:
                    link = self._encrypt(link)
            except LinkError as error:
                link.close()
                problem = error
                continue
            except BaseException:
                link.close()
                raise
            with link:
                yield link
            return
        raise problem

    def _open(self, link: socket.socket, address: _Address) -> None:
        link.setblocking(False)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER_BYTES)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = link.connect_ex(address[4])
        if code == errno.EINPROGRESS:
            if not self._wait(link, selectors.EVENT_WRITE, time.monotonic_ns() + self._timeout_ns):
                raise LinkError("timeout", f"no connection to {self._config.server} {self._within()}")
            code = link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            reason = "refused" if code == errno.ECONNREFUSED else "network"
            raise LinkError(
                reason, f"cannot connect to {self._config.server}: {_why(OSError(code, os.strerror(code)))}"
            )

    def _encrypt(self, link: socket.socket) -> ssl.SSLSocket:
        """TLS with the system's certificates (SSL_CERT_FILE and SSL_CERT_DIR are honoured)."""
        context = ssl.create_default_context()
        try:
            wrapped = context.wrap_socket(link, server_hostname=self._host, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            raise LinkError("tls", f"no TLS with {self._config.server}: {error}") from error
        try:
            self._shake_hands(wrapped)
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    def _shake_hands(self, link: ssl.SSLSocket) -> None:
        deadline_ns = time.monotonic_ns() + self._timeout_ns
        while True:
            try:
                return link.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as want:
                if not self._wait(link, _mask(want), deadline_ns):
                    raise LinkError("timeout", f"no TLS with {self._config.server} {self._within()}") from None
            except OSError as error:
                raise LinkError("tls", f"no TLS with {self._config.server}: {error}") from error

    def _within(self) -> str:
        return f"within {self._config.timeout_seconds:g} s"

    def _addresses(self) -> Sequence[_Address]:
        """Addresses of the server. Names are looked up beside the loop, which must go on turning meanwhile."""
        with suppress(ValueError):
            ip_address(self._host)
            return _look_up(self._host, self._port)
        answer: list[Sequence[_Address] | LinkError] = []
        done, teller = socket.socketpair()
        done.setblocking(False)

        def look_up() -> None:
            try:
                answer.append(_look_up(self._host, self._port))
            except LinkError as error:
                answer.append(error)
            finally:
                teller.close()  # readable at the other end

        with done:
            threading.Thread(target=look_up, name="seedlink-dns", daemon=True).start()
            self._wait(done, selectors.EVENT_READ, time.monotonic_ns() + self._timeout_ns)
        found = answer[0] if answer else LinkError("dns", f"no answer on the address of {self._host} {self._within()}")
        if isinstance(found, LinkError):
            raise found
        return found

    # Turning

    def _wait(self, link: socket.socket | None, mask: int, deadline_ns: int) -> bool:
        """Whether `link` got ready before the deadline. Stamps the heartbeat; raises _Stopped."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            if link is not None:
                selector.register(link, mask)
            while True:
                self._turn()
                left_ns = deadline_ns - time.monotonic_ns()
                if left_ns <= 0:
                    return False
                ready = selector.select(min(left_ns, TURN_NS) / 1e9)
                if any(key.fileobj is link for key, _ in ready):
                    return True

    def _turn(self) -> None:
        self._heartbeat()
        if self._stop.is_set():
            raise _Stopped

    def _converse(self, link: socket.socket, session: SeedLinkSession) -> NoReturn:
        """Bytes both ways until the session ends, which raises LinkError."""
        self._unsent.clear()
        while True:
            self._turn()
            count, read_mask = self._read(link)
            now_ns = time.monotonic_ns()
            if count is not None:
                self._hand_on(session.receive(self._buffer[:count], now_ns), session)
                continue
            self._hand_on(session.poll(now_ns), session)
            self._unsent += session.to_send()
            mask = read_mask | self._write(link)
            self._wait(link, mask, session.next_deadline() or now_ns)

    def _write(self, link: socket.socket) -> int:
        """Send what waits; what to wait for to send the rest."""
        while self._unsent:
            try:
                del self._unsent[: link.send(self._unsent)]
            except (BlockingIOError, ssl.SSLWantWriteError):
                return selectors.EVENT_WRITE
            except ssl.SSLWantReadError:
                return selectors.EVENT_READ
            except OSError as error:
                raise LinkError("network", f"lost {self._config.server}: {_why(error)}") from error
        return 0

    def _read(self, link: socket.socket) -> tuple[int | None, int]:
        """Bytes read (0 at the end of the connection, None where there is nothing yet), and what to wait for."""
        try:
            return link.recv_into(self._buffer), 0
        except (BlockingIOError, ssl.SSLWantReadError):
            return None, selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            return None, selectors.EVENT_WRITE
        except OSError as error:
            raise LinkError("network", f"lost {self._config.server}: {_why(error)}") from error

    def _hand_on(self, events: list[Event], session: SeedLinkSession) -> None:
        items = tuple(event for event in events if isinstance(event, Received | Rejected))
        unwanted, session.unwanted = session.unwanted, 0
        for event in events:
            self._tell(event)
        self._position = session.position
        if items or unwanted:
            self._backoff.reset()
            self._emit(Arrival(self._config.server, items, unwanted, self._position))
        for event in events:
            if isinstance(event, SessionError):
                raise LinkError(event.reason, event.text)

    def _tell(self, event: Event) -> None:
        server = self._config.server
        if isinstance(event, Connected):
            text = f"connected to {event.software} ({event.organisation}) in version {event.protocol}"
            self._emit(LinkState(server, True, "connected", text))
        elif isinstance(event, Notice):
            self._emit(LinkNotice(server, event.reason, event.text))


def _look_up(host: str, port: int) -> Sequence[_Address]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise LinkError("dns", f"cannot find the address of {host}: {error}") from error


def _mask(want: ssl.SSLError) -> int:
    return selectors.EVENT_WRITE if isinstance(want, ssl.SSLWantWriteError) else selectors.EVENT_READ


def _why(error: OSError) -> str:
    """The system's words for an error, as the end of a sentence."""
    words = error.strerror or str(error)
    return words[:1].lower() + words[1:]
