"""The daemon's /metrics and /healthz, read from the same machine; with TLS and a password where it asks for them."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from typing import Any

from tscc_stream import credentials
from tscc_stream.config import Config
from tscc_stream.config_section import split_host_port
from tscc_stream.credentials import CredentialError

SECONDS = 4.0
MOST_BYTES = 64 << 20
"""Of an answer: 50,000 channels take some 20 MB."""
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # who listens everywhere listens here, too


class DaemonAwayError(RuntimeError):
    """The daemon does not answer, and why, in one sentence."""


class DaemonSecretError(RuntimeError):
    """It answers, but not to the console, and what would help."""


class DaemonReader:
    """config: says how the daemon is secured, and as whom the console reads."""

    def __init__(self, config: Config) -> None:
        self._metrics, self._console = config.metrics, config.console

    def health(self, address: str) -> dict[str, Any]:
        """The document of /healthz, whatever its status. Raises DaemonAwayError and DaemonSecretError."""
        status, body = self._get(address, "/healthz")
        try:
            document = json.loads(body)
        except ValueError as error:
            raise DaemonAwayError(f"{address}/healthz: HTTP {status}, expected JSON") from error
        if not isinstance(document, dict) or "state" not in document:
            raise DaemonAwayError(f"{address}/healthz: not that of tscc-stream")
        return document

    def metrics(self, address: str) -> str:
        """Raises DaemonAwayError and DaemonSecretError."""
        status, body = self._get(address, "/metrics")
        if status != http.client.OK:
            raise DaemonAwayError(f"{address}/metrics: HTTP {status}")
        return body.decode("utf-8", "replace")

    def _get(self, address: str, path: str) -> tuple[int, bytes]:
        host, port = split_host_port(address)
        connection = self._connection(_ANY.get(host, host), port)
        try:
            connection.request("GET", path, headers=self._authorization())
            answer = connection.getresponse()
            status, body = answer.status, answer.read(MOST_BYTES)
        except ssl.SSLError as error:
            raise DaemonSecretError(f"{address}: TLS: {error.reason or error}") from error
        except (OSError, http.client.HTTPException) as error:
            raise DaemonAwayError(f"{address}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if status in (401, 429):
            raise DaemonSecretError(
                "the daemon asks for a user and a password (metrics.users_file): set console.metrics_user and "
                "console.metrics_password_file"
            )
        return status, body

    def _connection(self, host: str, port: int) -> http.client.HTTPConnection:
        if self._metrics.tls_certificate is None:
            return http.client.HTTPConnection(host, port, timeout=SECONDS)
        try:
            context = ssl.create_default_context(cafile=str(credentials.path_of(self._metrics.tls_certificate)))
        except OSError as error:
            raise DaemonSecretError(
                f"metrics.tls_certificate {self._metrics.tls_certificate}: the console cannot read it: {error}"
            ) from error
        context.check_hostname = False  # it is asked at an address of this machine, and must be this very certificate
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)

    def _authorization(self) -> dict[str, str]:
        user, file = self._console.metrics_user, self._console.metrics_password_file
        if user is None or file is None:
            return {}
        try:
            password = credentials.read(file, "console.metrics_password_file")
        except CredentialError as error:
            raise DaemonSecretError(str(error)) from error
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
