"""What the daemon says of itself over HTTP: /healthz, and of /metrics the time of each channel's newest sample."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import ssl
from typing import Any

from tscc_stream import credentials
from tscc_stream.config_alerts import MonitorConfig
from tscc_stream.config_http import MetricsConfig
from tscc_stream.config_section import split_host_port
from tscc_stream.credentials import CredentialError
from tscc_stream.deadline import Deadline

TIMEOUT_SECONDS = 5.0
MOST_BYTES = 64 * 2**20
_NEWEST = re.compile(rb'^tscc_last_sample_timestamp_seconds\{sid="([^"\\]{1,200})"\} (\S+)$', re.MULTILINE)
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # who listens everywhere listens here, too


class ViewError(RuntimeError):
    """The daemon does not say, and why, in one sentence."""


class DaemonView:
    """config: the daemon's own section, which says how it is secured; monitor: who asks."""

    def __init__(self, config: MetricsConfig, monitor: MonitorConfig) -> None:
        self._config, self._monitor = config, monitor

    def health(self, address: str) -> dict[str, Any]:
        """The document of /healthz, healthy or not. address: HOST:PORT. Raises ViewError."""
        status, body = self._get(address, "/healthz")
        try:
            document = json.loads(body)
        except ValueError as error:
            raise ViewError(f"http://{address}/healthz: HTTP {status}, expected JSON") from error
        if not isinstance(document, dict) or "state" not in document:
            raise ViewError(f"http://{address}/healthz: HTTP {status}, not that of tscc-stream")
        return document

    def newest_samples(self, address: str) -> dict[str, float]:
        """Source id -> data time (Unix seconds) of its newest sample. Raises ViewError."""
        status, body = self._get(address, "/metrics")
        if status != http.client.OK:
            raise ViewError(f"http://{address}/metrics: HTTP {status}")
        return {sid.decode("utf-8", "replace"): float(value) for sid, value in _NEWEST.findall(body)}

    def _get(self, address: str, path: str) -> tuple[int, bytes]:
        host, port = split_host_port(address)
        host = _ANY.get(host, host)
        link = http.client.HTTPConnection(host, port)
        with Deadline(TIMEOUT_SECONDS) as deadline:
            try:
                link.sock = self._open(host, port, deadline)
                link.request("GET", path, headers=self._authorization())
                answer = link.getresponse()
                return answer.status, answer.read(MOST_BYTES)
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = "no answer" if deadline.passed else str(error) or type(error).__name__
                raise ViewError(f"http://{address}{path}: {why}") from error
            finally:
                link.close()

    def _open(self, host: str, port: int, deadline: Deadline) -> socket.socket:
        link = socket.create_connection((host, port), TIMEOUT_SECONDS)
        deadline.guard(link)
        if self._config.tls_certificate is None:
            return link
        context = ssl.create_default_context(cafile=str(credentials.path_of(self._config.tls_certificate)))
        context.check_hostname = False  # it is asked at an address of this machine, and must be this very certificate
        encrypted = context.wrap_socket(link, do_handshake_on_connect=False)
        deadline.guard(encrypted)
        encrypted.do_handshake()
        return encrypted

    def _authorization(self) -> dict[str, str]:
        if self._monitor.user is None or self._monitor.password_file is None:
            return {}
        try:
            password = credentials.read(self._monitor.password_file, "alerts.monitor.password_file")
        except CredentialError as error:
            raise ViewError(str(error)) from error
        token = base64.b64encode(f"{self._monitor.user}:{password}".encode()).decode()
        return {"Authorization": f"Basic {token}"}
