"""An alert as a POST of JSON over HTTP or HTTPS. Redirects and proxies are not followed: it goes where it is sent.

The header Idempotency-Key is the same however often one alert is sent, so that a receiver can drop what it has.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tscc_stream import credentials
from tscc_stream.config_alerts import WebhookConfig
from tscc_stream.credentials import CredentialError
from tscc_stream.deadline import Deadline
from tscc_stream.edges.alert_exchange import one_line, trusting, why

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
            raise WebhookError(why(error, deadline, config.timeout_seconds)) from error
        finally:
            link.close()
    said = f"HTTP {answer.status} {one_line(answer.reason)}"
    if not 200 <= answer.status < 300:
        shown = "" if config.headers_file else one_line(text)  # it may repeat what it was sent
        raise WebhookError(f"{said}: {shown}".rstrip(": "))
    return said


def _open(config: WebhookConfig, deadline: Deadline) -> socket.socket:
    """A connection, encrypted where the address says so."""
    parts = urlsplit(config.url)
    host = parts.hostname or ""
    tls = trusting(config.ca_file) if parts.scheme == "https" else None
    return deadline.connected((host, parts.port or _PORTS[parts.scheme]), config.timeout_seconds, tls)


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
