"""/metrics and /healthz over a real socket, and what a rude peer cannot do."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from in_time import PATIENCE_S
from made_certificate import Certificate, make_certificate, needs_openssl
from prometheus_client import CollectorRegistry

from tscc_stream import passwords
from tscc_stream.config import ConfigError
from tscc_stream.config_http import MetricsConfig
from tscc_stream.edges import http as edge
from tscc_stream.edges.http import HttpError, HttpServer
from tscc_stream.metrics import Metrics


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


def at(bind: str = "127.0.0.1:0", **keys: object) -> MetricsConfig:
    return MetricsConfig.model_validate({"bind": bind, **{key: str(value) for key, value in keys.items()}})


@contextmanager
def serving(config: MetricsConfig, registry: CollectorRegistry, state: State) -> Iterator[HttpServer]:
    made = HttpServer(config, registry, state.health)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def server(registry: CollectorRegistry, state: State) -> Iterator[HttpServer]:
    with serving(at(), registry, state) as made:
        yield made


def ask(
    server: HttpServer,
    path: str,
    method: str = "GET",
    *,
    tls: ssl.SSLContext | None = None,
    user: tuple[str, str] | None = None,
) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE_S)
    if tls is not None:
        connection = http.client.HTTPSConnection(*server.address, timeout=PATIENCE_S, context=tls)
    try:
        connection.request(method, path, headers={} if user is None else {"Authorization": basic(*user)})
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type", ""), response.read()
    finally:
        connection.close()


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


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
        HttpServer(at(bind), registry, lambda: (True, {}))


def test_a_name_that_is_none(registry: CollectorRegistry) -> None:
    with pytest.raises(HttpError, match=r"metrics\.bind nowhere\.invalid:9108: cannot bind: "):
        HttpServer(at("nowhere.invalid:9108"), registry, lambda: (True, {}))


def test_ipv6(registry: CollectorRegistry) -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    made = HttpServer(at("[::1]:0"), registry, lambda: (True, {}))
    made.start()
    assert ask(made, "/healthz")[0] == 200
    assert made.url == f"http://[::1]:{made.address[1]}"
    made.stop()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_stopped_before_it_started_and_port_free_afterwards(registry: CollectorRegistry) -> None:
    made = HttpServer(at(), registry, lambda: (True, {}))
    port = made.address[1]
    made.stop()
    HttpServer(at(f"127.0.0.1:{port}"), registry, lambda: (True, {})).stop()


def test_a_peer_that_says_nothing_is_dropped(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge._Handler, "timeout", 0.05)
    with socket.create_connection(server.address, PATIENCE_S) as silent:
        assert silent.recv(1) == b""


def test_a_peer_that_sends_a_byte_now_and_then_gets_no_more_time(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge._Handler, "timeout", 0.3)
    with socket.create_connection(server.address, 0.02) as dripping:
        _drip_until_closed(dripping)


def _drip_until_closed(peer: socket.socket) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            peer.sendall(b"a")
            if peer.recv(1) == b"":
                return
        except TimeoutError:
            continue
        except ConnectionError:
            return
    raise AssertionError("it may send for ever")


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


# With TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def encrypted(certificate: Certificate, **keys: object) -> MetricsConfig:
    return at(tls_certificate=certificate.certificate, tls_key=certificate.key, **keys)


@needs_openssl
def test_over_tls(certificate: Certificate, registry: CollectorRegistry, state: State) -> None:
    with serving(encrypted(certificate), registry, state) as server:
        assert server.url == f"https://127.0.0.1:{server.address[1]}"
        assert ask(server, "/healthz", tls=certificate.client()) == (200, "application/json", b'{"state": "ok"}\n')
        assert len(ask(server, "/metrics", tls=certificate.client())[2]) > 1000
        with socket.create_connection(server.address, PATIENCE_S) as plain:
            plain.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            with suppress(ConnectionResetError):
                assert b"tscc" not in plain.recv(4096)
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(server, "/healthz", tls=ssl.create_default_context())


@needs_openssl
def test_peers_that_never_shake_hands_keep_nobody_waiting_and_are_dropped(
    certificate: Certificate, registry: CollectorRegistry, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(encrypted(certificate), registry, state) as server:
        held = [socket.create_connection(server.address, PATIENCE_S) for _ in range(edge.MOST_AT_ONCE - 1)]
        assert ask(server, "/healthz", tls=certificate.client())[0] == 200
        for one in held:
            one.close()
        monkeypatch.setattr(edge, "REQUEST_SECONDS", 0.05)
        with socket.create_connection(server.address, PATIENCE_S) as silent:
            assert silent.recv(1) == b""


@needs_openssl
def test_a_hand_shake_that_fails_is_no_event(
    certificate: Certificate, registry: CollectorRegistry, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(encrypted(certificate), registry, state) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(server, "/healthz", tls=ssl.create_default_context())
        assert ask(server, "/healthz", tls=certificate.client())[0] == 200
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@needs_openssl
def test_certificates_that_cannot_be_used(
    certificate: Certificate, registry: CollectorRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, other = make_certificate(tmp_path, "locked", locked_with="open sesame"), make_certificate(tmp_path, "other")
    for cert, key, words in (
        (certificate.certificate, tmp_path / "none.key", "metrics.tls_key .*none.key: cannot be read: No such file"),
        (tmp_path / "none.pem", certificate.key, "metrics.tls_certificate .*none.pem: cannot be read: No such file"),
        (
            certificate.certificate,
            other.key,
            "metrics.tls_key .*other.key: is no key without a passphrase for .*MISMATCH",
        ),
        (locked.certificate, locked.key, "metrics.tls_key .*locked.key: is no key without a passphrase for"),
        (certificate.key, certificate.certificate, "metrics.tls_key .*server.pem: is no key without a passphrase for"),
    ):
        with pytest.raises(ConfigError, match=words):
            HttpServer(at(tls_certificate=cert, tls_key=key), registry, lambda: (True, {}))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(certificate.key.parent))
    HttpServer(at(tls_certificate="server.pem", tls_key="server.key"), registry, lambda: (True, {})).stop()


# With users

RIGHT = "correct horse battery"


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("users") / "users"
    path.write_text(f"# who may read\n{passwords.line_for('prometheus', RIGHT)}\n")
    return path


def test_only_users_may_read(users: Path, registry: CollectorRegistry, state: State) -> None:
    with serving(at(users_file=users), registry, state) as server:
        for path in ("/metrics", "/healthz"):
            assert ask(server, path, user=("prometheus", RIGHT))[0] == 200
            assert ask(server, path)[::2] == (401, b"expected a user and a password\n")
        for wrong in (("prometheus", "correct horse batter"), ("grafana", RIGHT), ("", ""), ("prometheus", "")):
            assert ask(server, "/metrics", user=wrong)[0] == 401
        assert ask(server, "/", user=("prometheus", RIGHT))[0] == 404
        assert ask(server, "/")[0] == 401


@needs_openssl
def test_users_over_tls(certificate: Certificate, users: Path, registry: CollectorRegistry, state: State) -> None:
    with serving(encrypted(certificate, users_file=users), registry, state) as server:
        assert ask(server, "/metrics", tls=certificate.client(), user=("prometheus", RIGHT))[0] == 200
        assert ask(server, "/metrics", tls=certificate.client())[0] == 401


def test_who_guesses_is_slowed_down_and_who_was_admitted_is_not(
    users: Path, registry: CollectorRegistry, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "CHECKS_PER_SECOND", 0.0)
    left = passwords.MOST_CHECKS_AT_ONCE - 1
    with serving(at(users_file=users), registry, state) as server:
        assert ask(server, "/metrics", user=("prometheus", RIGHT))[0] == 200
        answers = [ask(server, "/metrics", user=("prometheus", f"guess {number}"))[0] for number in range(left + 2)]
        assert answers == [401] * left + [429] * 2
        assert ask(server, "/metrics", user=("prometheus", RIGHT))[0] == 200


def test_users_that_cannot_be_read_are_a_wrong_configuration(registry: CollectorRegistry, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.users_file .*nobody: cannot be read: No such file"):
        HttpServer(at(users_file=tmp_path / "nobody"), registry, lambda: (True, {}))
