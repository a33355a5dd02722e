"""Makes the SeedLink edge's connections: address, socket, TLS, password; and waits for a socket with a deadline.

Part of the SeedLink edge: its reader and its probe connect alike. Nothing here blocks for longer than a second without
a call of `turn`, and nothing at all for longer than the configuration's timeout_seconds.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Final

from tscc_stream import credentials
from tscc_stream.config import SeedLinkConfig
from tscc_stream.config_section import split_host_port
from tscc_stream.sampling import seconds_to_ns

KERNEL_BUFFER_BYTES: Final = (
    4 << 20
)  # as far as the system lets us: a server's ring is read at twice the speed of 1 MiB
TURN_NS: Final = 1_000_000_000  # the longest wait in one turn of the loop, so that the heartbeat never looks stopped

_Address = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


class LinkError(Exception):
    """The connection could not be made or is lost; LinkState carries the same words."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def password_of(config: SeedLinkConfig) -> str:
    """Out of password_file, each time anew; empty without one. Raises LinkError."""
    if config.password_file is None:
        return ""
    try:
        return credentials.read(config.password_file, "password_file")
    except credentials.CredentialError as error:
        raise LinkError("auth", str(error)) from error


def why(error: OSError) -> str:
    """The system's words for an error, as the end of a sentence."""
    words = error.strerror or str(error)
    return words[:1].lower() + words[1:]


class Dialer:
    """Connects to a server as a configuration says.

    turn: called in every wait, once a second at least; what it raises ends the wait. wake: a socket that becomes
    readable where `turn` is to be called at once.
    """

    def __init__(self, config: SeedLinkConfig, turn: Callable[[], None], wake: socket.socket | None = None) -> None:
        self._config, self._turn, self._wake = config, turn, wake
        self._timeout_ns = seconds_to_ns(config.timeout_seconds)

    @contextmanager
    def connect(self, server: str) -> Iterator[socket.socket]:
        """A connected socket that does not block, encrypted where the site says so.

        From the first address that answers. Raises LinkError.
        """
        host, port = split_host_port(server)
        problem = LinkError("dns", f"{host} has no address")
        for address in self._addresses(host, port):
            link = socket.socket(*address[:3])
            try:
                self._open(link, address, server)
                if self._config.tls:
                    link = self._encrypt(link, host, server)
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

    def wait(self, link: socket.socket | None, mask: int, deadline_ns: int) -> bool:
        """Whether `link` got ready before the deadline (monotonic ns)."""
        with selectors.DefaultSelector() as selector:
            if self._wake is not None:
                selector.register(self._wake, selectors.EVENT_READ)
            if link is not None:
                selector.register(link, mask)
            while True:
                self._turn()
                left_ns = deadline_ns - time.monotonic_ns()
                if left_ns <= 0:
                    return False
                ready = [key.fileobj for key, _ in selector.select(min(left_ns, TURN_NS) / 1e9)]
                if self._wake is not None and self._wake in ready:
                    _drain(self._wake)
                elif ready:
                    return True

    def _open(self, link: socket.socket, address: _Address, server: str) -> None:
        link.setblocking(False)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER_BYTES)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = link.connect_ex(address[4])
        if code == errno.EINPROGRESS:
            if not self.wait(link, selectors.EVENT_WRITE, time.monotonic_ns() + self._timeout_ns):
                raise LinkError("timeout", f"no connection to {server} {self._within()}")
            code = link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            reason = "refused" if code == errno.ECONNREFUSED else "network"
            raise LinkError(reason, f"cannot connect to {server}: {why(OSError(code, os.strerror(code)))}")

    def _encrypt(self, link: socket.socket, host: str, server: str) -> ssl.SSLSocket:
        try:
            wrapped = self._context().wrap_socket(link, server_hostname=host, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            raise LinkError("tls", f"no TLS with {server}: {error}") from error
        try:
            self._shake_hands(wrapped, server)
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    def _context(self) -> ssl.SSLContext:
        """The system's certificates (SSL_CERT_FILE and SSL_CERT_DIR are honoured), and the site's own beside them."""
        context = ssl.create_default_context()
        if self._config.tls_ca_file is not None:
            path = credentials.path_of(self._config.tls_ca_file)
            try:
                context.load_verify_locations(path)
            except ssl.SSLError as error:
                raise LinkError("tls", f"tls_ca_file {path}: expected certificates in PEM") from error
            except OSError as error:
                raise LinkError("tls", f"tls_ca_file {path}: cannot be read: {why(error)}") from error
        return context

    def _shake_hands(self, link: ssl.SSLSocket, server: str) -> None:
        deadline_ns = time.monotonic_ns() + self._timeout_ns
        while True:
            try:
                return link.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as want:
                if not self.wait(link, _mask(want), deadline_ns):
                    raise LinkError("timeout", f"no TLS with {server} {self._within()}") from None
            except OSError as error:
                raise LinkError("tls", f"no TLS with {server}: {error}") from error

    def _within(self) -> str:
        return f"within {self._config.timeout_seconds:g} s"

    def _addresses(self, host: str, port: int) -> Sequence[_Address]:
        """Addresses of the server. Names are looked up beside the loop, which must go on turning meanwhile."""
        with suppress(ValueError):
            ip_address(host)
            return _look_up(host, port)
        answer: list[Sequence[_Address] | LinkError] = []
        done, teller = socket.socketpair()
        done.setblocking(False)

        def look_up() -> None:
            try:
                answer.append(_look_up(host, port))
            except LinkError as error:
                answer.append(error)
            finally:
                teller.close()  # readable at the other end

        with done:
            threading.Thread(target=look_up, name="seedlink-dns", daemon=True).start()
            self.wait(done, selectors.EVENT_READ, time.monotonic_ns() + self._timeout_ns)
        found = answer[0] if answer else LinkError("dns", f"no answer on the address of {host} {self._within()}")
        if isinstance(found, LinkError):
            raise found
        return found


def _look_up(host: str, port: int) -> Sequence[_Address]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise LinkError("dns", f"cannot find the address of {host}: {error}") from error


def _mask(want: ssl.SSLError) -> int:
    return selectors.EVENT_WRITE if isinstance(want, ssl.SSLWantWriteError) else selectors.EVENT_READ


def _drain(wake: socket.socket) -> None:
    with suppress(BlockingIOError):
        wake.recv(64)
