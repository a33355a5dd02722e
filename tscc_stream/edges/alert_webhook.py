"""An alert as a POST of JSON over HTTP or HTTPS. Redirects and proxies are not followed: it goes where it is sent.

The header Idempotency-Key is the same however often one alert is sent, so that a receiver can drop what it has.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tscc_stream import credentials
from tscc_stream.config_alerts import WebhookConfig
from tscc_stream.credentials import CredentialError
from tscc_stream.deadline import Deadline

MOST_BYTES = 2_000
"""Of an answer that are read."""
_PORTS = {"http": 80, "https": 443}
_HEADER = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}): *([\x20-\x7e]{0,4000})")


class WebhookError(RuntimeError):
    """It was not delivered, and why, in one sentence without any secret."""


def post(config: WebhookConfig, document: Mapping[str, Any], key: str) -> str:
    """Deliver it; what the receiver answered. Blocks for timeout_seconds at most. Raises WebhookError."""
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": key,
        "User-Agent": "tscc-stream",
        **_secret_headers(config),
    }
    parts = urlsplit(config.url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    link = http.client.HTTPConnection(parts.hostname or "", parts.port or _PORTS[parts.scheme])
    with Deadline(config.timeout_seconds) as deadline:
        try:
            link.sock = _open(config, deadline)
            link.request("POST", path, json.dumps(document, allow_nan=False).encode(), headers)
            answer = link.getresponse()
            text = answer.read(MOST_BYTES).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise WebhookError(_sentence(error, config, deadline)) from error
        finally:
            link.close()
    said = f"HTTP {answer.status} {_one_line(answer.reason)}"
    if not 200 <= answer.status < 300:
        shown = "" if config.headers_file else _one_line(text)  # it may repeat what it was sent
        raise WebhookError(f"{said}: {shown}".rstrip(": "))
    return said


def _sentence(error: Exception, config: WebhookConfig, deadline: Deadline) -> str:
    if deadline.passed or isinstance(error, TimeoutError):
        return f"no answer within {config.timeout_seconds:g} s"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason}"
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)[:200].strip()


def _open(config: WebhookConfig, deadline: Deadline) -> socket.socket:
    """A connection, encrypted where the address says so."""
    parts = urlsplit(config.url)
    host = parts.hostname or ""
    link = socket.create_connection((host, parts.port or _PORTS[parts.scheme]), config.timeout_seconds)
    deadline.guard(link)
    if parts.scheme == "http":
        return link
    encrypted = _context(config).wrap_socket(link, server_hostname=host, do_handshake_on_connect=False)
    deadline.guard(encrypted)
    encrypted.do_handshake()
    return encrypted


def _context(config: WebhookConfig) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if config.ca_file is not None:
        try:
            context.load_verify_locations(config.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise WebhookError(f"ca_file {config.ca_file}: expected certificates as PEM ({error.strerror})") from error
    return context


def _secret_headers(config: WebhookConfig) -> dict[str, str]:
    if config.headers_file is None:
        return {}
    try:
        lines = credentials.read(config.headers_file, "headers_file").splitlines()
    except CredentialError as error:
        raise WebhookError(str(error)) from error
    found = {}
    for number, line in enumerate(lines, 1):
        match = _HEADER.fullmatch(line.strip())
        if match is None:
            raise WebhookError(f"headers_file {config.headers_file}: line {number}: expected `Name: value`")
        found[match.group(1)] = match.group(2)
    return found
