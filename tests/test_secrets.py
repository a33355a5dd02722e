"""Secrets appear nowhere but where they belong: a real daemon with every one it can have, and all that it says."""

from __future__ import annotations

import base64
import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from in_time import PATIENCE_S
from made_certificate import Certificate, make_certificate, needs_openssl
from made_site import Running, finished, write_settings
from seedlink_fakes import FakeServer, Packet, record

from tscc_stream import config, passwords

SEEDLINK_WORD = "rock-burst-47151"
HTTP_WORD = "correct horse battery"

pytestmark = needs_openssl


class SaysItBack(FakeServer):
    """Refuses every password, and says in full which."""

    def on_auth(self, *words: str) -> bytes:
        return f"ERROR UNAUTHORIZED no such user or password: {' '.join(words)}\r\n".encode()


@dataclass
class AuthServer:
    """A server on a real socket. told: the commands of every connection."""

    script: FakeServer
    listener: socket.socket

    @property
    def address(self) -> str:
        host, port = self.listener.getsockname()
        return f"{host}:{port}"

    def serve(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with peer:
                script = self.script.__class__(self.script.packets, commands=self.script.commands)
                while data := _received(peer):
                    peer.sendall(script.feed(data))


def _received(peer: socket.socket) -> bytes:
    try:
        return peer.recv(4096)
    except ConnectionError:
        return b""


@dataclass
class Site:
    """A daemon that ran with every secret it can have, and what came of it. secrets: by what they are."""

    secrets: dict[str, bytes]
    said: dict[str, bytes]
    commands: list[str]


def _serving(stack: ExitStack, script: FakeServer) -> AuthServer:
    server = AuthServer(script, socket.create_server(("127.0.0.1", 0)))
    threading.Thread(target=server.serve, daemon=True).start()
    stack.callback(server.listener.close)
    stack.callback(server.listener.shutdown, socket.SHUT_RDWR)
    return server


def _secrets(certificate: Certificate, line: str) -> dict[str, bytes]:
    key = [row for row in certificate.key.read_bytes().splitlines() if row and not row.startswith(b"-")]
    return {
        "SeedLink password": SEEDLINK_WORD.encode(),
        "HTTP password": HTTP_WORD.encode(),
        "HTTP header": _basic().encode(),
        "salt": line.split("$")[4].encode(),
        "hash": line.split("$")[5].encode(),
        **{f"line {number} of the key": row for number, row in enumerate(key)},
    }


def _basic() -> str:
    return base64.b64encode(f"prometheus:{HTTP_WORD}".encode()).decode()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    certificate = make_certificate(folder)
    (folder / "word").write_text(SEEDLINK_WORD + "\n")
    line = passwords.line_for("prometheus", HTTP_WORD)
    (folder / "users").write_text(line + "\n")
    metrics = {"tls_certificate": certificate.certificate, "tls_key": certificate.key, "users_file": folder / "users"}
    with ExitStack() as stack:
        servers = [_serving(stack, script) for script in (SaysItBack(), FakeServer([Packet(1, record())]))]
        user = {"user": "miner", "password_file": str(folder / "word"), "streams": ["BW_*:?HZ"]}
        path = write_settings(
            folder,
            seedlink=[{"server": server.address, **user} for server in servers],
            metrics={"bind": "127.0.0.1:0", **{key: str(value) for key, value in metrics.items()}},
        )
        said = _run(path, folder / "state", certificate)
        commands = [command for server in servers for command in server.script.commands]
        yield Site(_secrets(certificate, line), said, commands)


def _run(path: Path, state: Path, certificate: Certificate) -> dict[str, bytes]:
    """Everything that a daemon says while it runs and leaves when it has ended."""
    said = {}
    with Running("run", "--config", path) as running:
        running.wait_for(r"does not let user 'miner' in")
        running.wait_for(r"connected to SeedLink")
        where = json.loads((state / "endpoints.json").read_text())
        for name in ("metrics", "healthz", "nothing"):
            said[name] = _ask(f"https://{where['metrics']}/{name}", certificate)
        tail = finished("tail", "--connect", where["publish"], "--replay", where["replay"], *_UNTIL_REFUSED, "--jsonl")
        said["bus"] = tail.stdout.encode()
        for name in ("cmdline", "environ"):
            said[name] = Path(f"/proc/{where['pid']}/{name}").read_bytes()
        assert running.stop() == 0
    said["stderr"] = running.text.encode()
    for file in state.rglob("*"):
        if file.is_file():
            said[f"state/{file.name}"] = file.read_bytes()
    checked = finished("check-config", path)
    said["check-config"] = (checked.stdout + checked.stderr).encode()
    known = config.load(path)
    said["configuration"] = f"{known!r} {known} {known.model_dump_json()}".encode()
    return said


_UNTIL_REFUSED = ("--since", 0, "--topic", "status.seedlink.", "--count", 2)


def _ask(url: str, certificate: Certificate) -> bytes:
    """The answer with its head; whatever it is."""
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {_basic()}"})  # noqa: S310  # https
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=certificate.client()))
    try:
        answer = opener.open(request, timeout=PATIENCE_S)
    except urllib.error.HTTPError as refused:
        answer = refused
    with closing(answer):
        return str(answer.headers).encode() + bytes(answer.read())


def test_the_secrets_were_really_used(site: Site) -> None:
    """Else the next test could not fail."""
    assert f"AUTH USERPASS miner {SEEDLINK_WORD}" in site.commands
    assert b"tscc_journal_head_seq" in site.said["metrics"]
    assert b'"state"' in site.said["healthz"]
    assert b"does not let user 'miner' in" in site.said["stderr"]
    assert b"no such user or password" in site.said["bus"]
    assert b"good" in site.said["check-config"]
    assert {"state/journal.sqlite", "state/endpoints.json"} <= site.said.keys()
    assert len(site.secrets) > 7


def test_no_secret_is_said_anywhere(site: Site) -> None:
    found = [
        (where, what) for where, text in site.said.items() for what, secret in site.secrets.items() if secret in text
    ]
    assert found == []
