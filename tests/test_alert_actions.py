"""Actions over real sockets and processes: what is delivered, what is refused, and that nothing hangs."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from in_time import PATIENCE_S
from made_alerts import Receivers
from made_certificate import make_certificate, needs_openssl

from tscc_stream.config_alerts import CommandConfig, MailConfig, WebhookConfig
from tscc_stream.edges.alert_command import CommandError, execute
from tscc_stream.edges.alert_mail import MailError, letter, send
from tscc_stream.edges.alert_webhook import WebhookError, post

AT = datetime(2026, 11, 27, 3, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def receivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receivers]:
    with Receivers(tmp_path_factory.mktemp("plain")) as both:
        yield both


def mail(receivers: Receivers, **over: Any) -> MailConfig:
    whole = {"server": receivers.smtp, "tls": "none", "sender": "tscc@mine.example", "recipients": ["a@mine.example"]}
    return MailConfig.model_validate({**whole, **over})


def test_a_webhook_gets_json_a_key_and_secret_headers(receivers: Receivers, tmp_path: Path) -> None:
    secret = tmp_path / "headers"
    secret.write_text("Authorization: Bearer sesame\nX-Site: north\n")
    said = post(WebhookConfig(url=receivers.url, headers_file=str(secret)), {"id": "a", "title": "swärm"}, "a.1")
    assert said == "HTTP 200 OK"
    got = receivers.got("webhook")[-1]
    assert (got["key"], got["document"], got["path"]) == ("a.1", {"id": "a", "title": "swärm"}, "/alerts?site=1")
    assert (got["headers"]["authorization"], got["headers"]["x-site"]) == ("Bearer sesame", "north")


def test_what_a_webhook_answers_is_told_and_no_secret(tmp_path: Path) -> None:
    secret = tmp_path / "headers"
    secret.write_text("Authorization: Bearer sesame")
    with Receivers(tmp_path) as busy:
        busy.stop()
        with pytest.raises(WebhookError, match="refused"):
            post(WebhookConfig(url=busy.url), {}, "a")
        busy.start(503)
        with pytest.raises(WebhookError, match=r"^HTTP 503 Service Unavailable: said$"):
            post(WebhookConfig(url=busy.url), {}, "a")
        with pytest.raises(WebhookError, match=r"^HTTP 503 Service Unavailable$"):
            post(WebhookConfig(url=busy.url, headers_file=str(secret)), {}, "a")
        assert busy.got("webhook") == []
    secret.write_text("Authorization: fine\nno colon")
    with pytest.raises(WebhookError, match=r"line 2: expected `Name: value`$"):
        post(WebhookConfig(url=busy.url, headers_file=str(secret)), {}, "a")
    with pytest.raises(WebhookError, match="cannot be read"):
        post(WebhookConfig(url=busy.url, headers_file=str(tmp_path / "none")), {}, "a")


@contextmanager
def dripping(byte: bytes) -> Iterator[str]:
    """A server that sends one byte after the other, without end: no single read is ever slow."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            link, _ = server.accept()
            with link:
                try:
                    while True:
                        link.sendall(byte)
                        time.sleep(0.05)  # how slowly it drips
                except OSError:
                    return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the link was cut off"


@pytest.mark.parametrize("byte", [b"H", b" "])
def test_a_server_that_drips_is_cut_off(byte: bytes, receivers: Receivers) -> None:
    with dripping(byte) as address, pytest.raises(WebhookError, match=r"^no answer within 0\.5 s$"):
        post(WebhookConfig(url=f"http://{address}/", timeout_seconds=0.5), {}, "a")
    config = mail(receivers, timeout_seconds=0.5)
    with dripping(byte) as address, pytest.raises(MailError, match=r"^no answer within 0\.5 s$"):
        send(config.model_copy(update={"server": address}), letter(config, "s", "t", "k", AT, "info"))


def test_a_mail_arrives_with_a_key_and_whom_the_server_refuses_is_told(receivers: Receivers) -> None:
    config = mail(receivers, recipients=["a@mine.example", "nobody@mine.example"])
    message = letter(config, "swarm:\n two lines, ümlaut", "What to do: clear the section\n", "abc.2", AT, "critical")
    assert send(config, message) == "taken for 1; refused: nobody@mine.example (550 no such user)"
    got = receivers.got("mail")[-1]
    assert (got["key"], got["subject"]) == ("abc.2", "swarm: two lines, ümlaut")
    assert got["text"].strip() == "What to do: clear the section"
    alone = mail(receivers, recipients=["nobody@mine.example"])
    with pytest.raises(MailError, match=r"^refused: nobody@mine.example"):
        send(alone, message)


@needs_openssl
def test_tls_user_and_password(tmp_path: Path) -> None:
    made, other = make_certificate(tmp_path / "tls"), make_certificate(tmp_path / "other")
    password = tmp_path / "password"
    password.write_text("sesame\n")
    with Receivers(tmp_path, made.certificate, made.key) as secured:
        url, trusted = secured.url, str(made.certificate)
        assert post(WebhookConfig(url=url, ca_file=trusted), {}, "a") == "HTTP 200 OK"
        for ca_file in (None, str(other.certificate)):
            with pytest.raises(WebhookError, match=r"^TLS: self"):
                post(WebhookConfig(url=url, ca_file=ca_file), {}, "a")
        config = mail(secured, tls="starttls", ca_file=trusted, user="mine", password_file=str(password))
        message = letter(config, "s", "t", "k", AT, "info")
        assert send(config, message) == "taken for 1"
        with pytest.raises(MailError, match=r"^TLS: self"):
            send(config.model_copy(update={"ca_file": str(other.certificate)}), message)
        password.write_text("wrong-password")
        with pytest.raises(MailError) as caught:
            send(config, message)
        assert str(caught.value) == "SMTP 535: the server refuses user and password", "not what it repeats"
        with pytest.raises(MailError, match="530 who are you"):
            send(mail(secured, tls="starttls", ca_file=trusted), message)
        with pytest.raises(WebhookError, match="expected certificates as PEM"):
            post(WebhookConfig(url=url, ca_file=str(password)), {}, "a")


def test_a_command_gets_json_on_its_standard_input(tmp_path: Path) -> None:
    copy = f"import pathlib, sys; pathlib.Path({str(tmp_path / 'copy')!r}).write_text(sys.stdin.read())"
    assert execute(CommandConfig(argv=(sys.executable, "-c", copy)), {"id": "a"}) == "ended with 0"
    assert (tmp_path / "copy").read_text() == '{"id": "a"}\n'
    with pytest.raises(CommandError, match=r"/bin/sh: ended with 3: no siren$"):
        execute(CommandConfig(argv=("/bin/sh", "-c", "echo no siren >&2; exit 3")), {"id": "x" * 1_000_000})
    with pytest.raises(CommandError, match="cannot be started: No such file"):
        execute(CommandConfig(argv=(str(tmp_path / "none"),)), {})


def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    hang = f"echo $$ >> {pids}; sleep 1000 & echo $! >> {pids}; wait"
    config = CommandConfig(argv=("/bin/sh", "-c", hang), timeout_seconds=1.0)
    with pytest.raises(CommandError, match=r"killed after 1 s$"):
        execute(config, {})
    first, second = map(int, pids.read_text().split())
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    deadline = time.monotonic() + PATIENCE_S
    while _lives(second) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _lives(second)


def _lives(pid: int) -> bool:
    """A process that is dead and that nobody has waited for yet counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
