"""/metrics for Prometheus and /healthz for people and load balancers, on a thread of its own; TLS and users if asked.

What a peer can make grow is bounded: MOST_AT_ONCE connections, REQUEST_SECONDS each for the TLS handshake, for the
whole request and for taking the answer, and the limits of http.server on the request line (64 KiB) and the headers
(100). There are no other paths, and nothing reads a request's body. A connection's own thread does its handshake.
"""

from __future__ import annotations

import io
import json
import logging
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from tscc_stream import credentials
from tscc_stream.config import ConfigError
from tscc_stream.config_http import MetricsConfig
from tscc_stream.config_section import split_host_port
from tscc_stream.credentials import CredentialError
from tscc_stream.passwords import Admission, Doorkeeper, read_users

_log = logging.getLogger(__name__)

MOST_AT_ONCE = 16
REQUEST_SECONDS = 5.0
HealthOf = Callable[[], tuple[bool, Mapping[str, Any]]]
_Request = socket.socket | tuple[bytes, socket.socket]
_Address = tuple[str, int] | str
_TEXT = "text/plain; charset=utf-8"


class HttpError(RuntimeError):
    """The address cannot be had, and why, in one sentence."""


class _Lean(CollectorRegistry):
    """The registry without the `_created` series, which would nearly double a scrape of thousands of channels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


class _Timely(io.RawIOBase):
    """What a peer sends, all of it by one deadline: a byte now and then does not buy it more time."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        super().__init__()
        self._connection = connection
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  # a buffer has no name before Python 3.12
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    """One request per connection (HTTP/1.0)."""

    server: _Server
    timeout = REQUEST_SECONDS
    server_version = "tscc-stream"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Timely(self.connection, self.timeout))

    def do_GET(self) -> None:
        self.connection.settimeout(self.timeout)
        if self._admitted():
            self._answer(*self._content())

    def _content(self) -> tuple[int, str, bytes]:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(self.server.registry)
        if path == "/healthz":
            healthy, summary = self.server.health()
            return 200 if healthy else 503, "application/json", json.dumps(summary, allow_nan=False).encode() + b"\n"
        return 404, _TEXT, b"expected /metrics or /healthz\n"

    def _admitted(self) -> bool:
        """Whether the request may be answered; if not, it has been told so."""
        doorkeeper = self.server.doorkeeper
        if doorkeeper is None:
            return True
        admission = doorkeeper.judge(self.headers.get("Authorization"), time.monotonic_ns())
        if admission is Admission.REFUSED:
            challenge = {"WWW-Authenticate": 'Basic realm="tscc-stream", charset="UTF-8"'}
            self._answer(401, _TEXT, b"expected a user and a password\n", challenge)
        elif admission is Admission.LATER:
            self._answer(429, _TEXT, b"too many passwords were tried of late\n", {"Retry-After": "1"})
        return admission is Admission.ADMITTED

    do_HEAD = do_GET  # noqa: N815  # the name that http.server looks for

    def _answer(self, status: int, content_type: str, body: bytes, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name that http.server gives it
        _log.debug("%s %s", self.address_string(), format % args)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 2 * MOST_AT_ONCE
    block_on_close = False

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        health: HealthOf,
        *,
        tls: ssl.SSLContext | None = None,
        doorkeeper: Doorkeeper | None = None,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.registry = _Lean(registry)
        self.health = health
        self.doorkeeper = doorkeeper
        self._tls = tls
        self._free = threading.BoundedSemaphore(MOST_AT_ONCE)
        super().__init__((host, port), _Handler)

    def process_request(self, request: _Request, client_address: _Address) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: _Request, client_address: _Address) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def finish_request(self, request: _Request, client_address: _Address) -> None:
        if self._tls is None or not isinstance(request, socket.socket):
            return super().finish_request(request, client_address)
        request.settimeout(REQUEST_SECONDS)
        with self._tls.wrap_socket(request, server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)
            encrypted.settimeout(0)
            with suppress(OSError):  # we say that this is the end, and do not wait for the peer to say so too
                encrypted.unwrap()
        return None

    def handle_error(self, request: _Request, client_address: _Address) -> None:
        """A peer that hangs up or is too slow is no event; anything else is a mistake of ours."""
        level = logging.DEBUG if isinstance(sys.exception(), OSError) else logging.ERROR
        _log.log(level, "request from %s failed", client_address, exc_info=True)

    def server_bind(self) -> None:
        """As HTTPServer does it, without asking the name service who we are: mines have none."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.socket.getsockname()[:2]


def _tls_of(config: MetricsConfig) -> ssl.SSLContext | None:
    if config.tls_certificate is None or config.tls_key is None:
        return None
    certificate, key = (credentials.path_of(name) for name in (config.tls_certificate, config.tls_key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        for path, purpose in ((certificate, "tls_certificate"), (key, "tls_key")):
            credentials.read(str(path), f"metrics.{purpose}")
        context.load_cert_chain(certificate, key, password="")  # without one, it would ask the terminal
    except CredentialError as error:
        raise ConfigError([str(error)]) from error
    except OSError as error:  # ssl.SSLError is one
        why = getattr(error, "reason", None) or error.strerror
        raise ConfigError(
            [f"metrics.tls_key {key}: is no key without a passphrase for tls_certificate {certificate} ({why})"]
        ) from error
    return context


def _doorkeeper_of(config: MetricsConfig) -> Doorkeeper | None:
    if config.users_file is None:
        return None
    try:
        return Doorkeeper(read_users(config.users_file, "metrics.users_file"))
    except CredentialError as error:
        raise ConfigError([str(error)]) from error


class HttpServer:
    """`start`, then `stop`. Port 0 for any. health: (healthy, what /healthz says), called per request.

    Raises HttpError at construction where the address cannot be had, and ConfigError where certificate, key or users
    cannot be used.
    """

    def __init__(self, config: MetricsConfig, registry: CollectorRegistry, health: HealthOf) -> None:
        host, port = split_host_port(config.bind)
        tls, doorkeeper = _tls_of(config), _doorkeeper_of(config)
        self._scheme = "http" if tls is None else "https"
        try:
            self._server = _Server(host, port, registry, health, tls=tls, doorkeeper=doorkeeper)
        except OSError as error:
            raise HttpError(f"metrics.bind {config.bind}: cannot bind: {error.strerror}") from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it is bound to."""
        return self._server.server_name, self._server.server_port

    @property
    def url(self) -> str:
        """Where it is, such as https://127.0.0.1:9108."""
        host, port = self.address
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests; those in progress end with their connections."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
