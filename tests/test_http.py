"""/metrics and /healthz over a real socket, and what a rude peer cannot do."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tscc_stream.edges import http as edge
from tscc_stream.edges.http import HttpError, HttpServer
from tscc_stream.metrics import Metrics

PATIENCE_S = 10.0


class State:
    """What /healthz is told to say."""

    def __init__(self) -> None:
        self.answer: Callable[[], tuple[bool, Mapping[str, Any]]] = lambda: (True, {"state": "ok"})

    def health(self) -> tuple[bool, Mapping[str, Any]]:
        return self.answer()


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def registry() -> CollectorRegistry:
    return Metrics(CollectorRegistry()).registry


@pytest.fixture
def server(registry: CollectorRegistry, state: State) -> Iterator[HttpServer]:
    made = HttpServer("127.0.0.1:0", registry, state.health)
    made.start()
    yield made
    made.stop()


def ask(server: HttpServer, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type", ""), response.read()
    finally:
        connection.close()


def test_metrics(server: HttpServer) -> None:
    status, content_type, body = ask(server, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    assert b"\ntscc_journal_head_seq 0.0\n" in body
    assert b"_created" not in body
    assert ask(server, "/metrics?name[]=tscc_triggers_total")[0] == 200


def test_healthz(server: HttpServer, state: State) -> None:
    assert ask(server, "/healthz") == (200, "application/json", b'{"state": "ok"}\n')
    state.answer = lambda: (False, {"state": "stalled", "stalled": ["front"]})
    status, _, body = ask(server, "/healthz")
    assert (status, json.loads(body)) == (503, {"state": "stalled", "stalled": ["front"]})


def test_head_and_other_paths_and_methods(server: HttpServer) -> None:
    assert ask(server, "/healthz", "HEAD") == (200, "application/json", b"")
    assert ask(server, "/")[0::2] == (404, b"expected /metrics or /healthz\n")
    assert ask(server, "/metrics/../etc/passwd")[0] == 404
    assert ask(server, "/metrics", "POST")[0] == 501


def test_an_address_in_use_is_said_in_one_sentence(server: HttpServer, registry: CollectorRegistry) -> None:
    bind = f"127.0.0.1:{server.address[1]}"
    with pytest.raises(HttpError, match=f"metrics.bind {bind}: cannot bind: Address already in use"):
        HttpServer(bind, registry, lambda: (True, {}))


def test_a_name_that_is_none(registry: CollectorRegistry) -> None:
    with pytest.raises(HttpError, match=r"metrics\.bind nowhere\.invalid:9108: cannot bind: "):
        HttpServer("nowhere.invalid:9108", registry, lambda: (True, {}))


def test_ipv6(registry: CollectorRegistry) -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    made = HttpServer("[::1]:0", registry, lambda: (True, {}))
    made.start()
    assert ask(made, "/healthz")[0] == 200
    made.stop()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_stopped_before_it_started_and_port_free_afterwards(registry: CollectorRegistry) -> None:
    made = HttpServer("127.0.0.1:0", registry, lambda: (True, {}))
    port = made.address[1]
    made.stop()
    HttpServer(f"127.0.0.1:{port}", registry, lambda: (True, {})).stop()


def test_a_peer_that_says_nothing_is_dropped(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge._Handler, "timeout", 0.05)
    with socket.create_connection(server.address, PATIENCE_S) as silent:
        assert silent.recv(1) == b""


def test_garbage_is_answered_with_an_error(server: HttpServer) -> None:
    with socket.create_connection(server.address, PATIENCE_S) as rude:
        rude.sendall(b"\x16\x03\x01\x02\x00\x01\x00\n\n")
        assert b"400" in rude.recv(4096)
    assert ask(server, "/healthz")[0] == 200


def test_connections_beyond_the_limit_are_closed_and_the_others_served(
    server: HttpServer, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [socket.create_connection(server.address, PATIENCE_S) for _ in range(edge.MOST_AT_ONCE)]
    arrived = threading.Event()
    gate = threading.Event()
    waiting: list[int] = []

    def answer() -> tuple[bool, Mapping[str, Any]]:
        waiting.append(1)
        if len(waiting) == edge.MOST_AT_ONCE:
            arrived.set()
        gate.wait(PATIENCE_S)
        return True, {}

    state.answer = answer
    for one in held:
        one.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert arrived.wait(PATIENCE_S)
    with socket.create_connection(server.address, PATIENCE_S) as beyond:
        assert beyond.recv(1) == b""
    gate.set()
    for one in held:
        assert b"200 OK" in one.recv(4096)
        one.close()


def test_a_mistake_of_ours_is_logged_and_a_peer_that_left_is_not(
    server: HttpServer, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> tuple[bool, Mapping[str, Any]]:
        raise ZeroDivisionError

    def left() -> tuple[bool, Mapping[str, Any]]:
        raise ConnectionResetError

    for answer in (left, broken):
        state.answer = answer
        with pytest.raises(http.client.RemoteDisconnected):
            ask(server, "/healthz")
    server.stop()
    assert [record.levelno for record in caplog.records if record.levelno > logging.DEBUG] == [logging.ERROR]
