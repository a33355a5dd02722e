"""/metrics for Prometheus and /healthz for people and load balancers, on a thread of its own.

What a peer can make grow is bounded: MOST_AT_ONCE connections, REQUEST_SECONDS for each, and the limits of http.server
on the request line (64 KiB) and the headers (100). There are no other paths, and nothing reads a request's body.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from tscc_stream.config import split_host_port

_log = logging.getLogger(__name__)

MOST_AT_ONCE = 16
REQUEST_SECONDS = 5.0
HealthOf = Callable[[], tuple[bool, Mapping[str, Any]]]
_Request = socket.socket | tuple[bytes, socket.socket]
_Address = tuple[str, int] | str


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


class _Handler(BaseHTTPRequestHandler):
    """One request per connection (HTTP/1.0)."""

    server: _Server
    timeout = REQUEST_SECONDS
    server_version = "tscc-stream"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, CONTENT_TYPE_LATEST, generate_latest(self.server.registry))
        elif path == "/healthz":
            healthy, summary = self.server.health()
            body = json.dumps(summary, allow_nan=False).encode() + b"\n"
            self._answer(200 if healthy else 503, "application/json", body)
        else:
            self._answer(404, "text/plain; charset=utf-8", b"expected /metrics or /healthz\n")

    do_HEAD = do_GET  # noqa: N815  # the name that http.server looks for

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
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

    def __init__(self, host: str, port: int, registry: CollectorRegistry, health: HealthOf) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.registry = _Lean(registry)
        self.health = health
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


class HttpServer:
    """`start`, then `stop`. bind: HOST:PORT, port 0 for any. health: (healthy, what /healthz says), called per request.

    Raises HttpError at construction where the address cannot be had.
    """

    def __init__(self, bind: str, registry: CollectorRegistry, health: HealthOf) -> None:
        host, port = split_host_port(bind)
        try:
            self._server = _Server(host, port, registry, health)
        except OSError as error:
            raise HttpError(f"metrics.bind {bind}: cannot bind: {error.strerror}") from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it is bound to."""
        return self._server.server_name, self._server.server_port

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests; those in progress end with their connections."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
