"""What the daemon says of itself over HTTP, /healthz and /metrics, to programs on the same machine."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tscc_stream import credentials
from tscc_stream.config_http import MetricsConfig
from tscc_stream.config_section import split_host_port
from tscc_stream.credentials import CredentialError
from tscc_stream.deadline import Deadline

TIMEOUT_SECONDS = 5.0
MOST_BYTES = 64 * 2**20
"""Of an answer: 50,000 channels take some 20 MB."""
_NEWEST = 'tscc_last_sample_timestamp_seconds{sid="'
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # who listens everywhere listens here, too
_NOT_FOR_US = (http.client.UNAUTHORIZED, http.client.TOO_MANY_REQUESTS)


class ViewError(RuntimeError):
    """The daemon does not say, and why, in one sentence."""


class SecretViewError(ViewError):
    """It answers, but not to this program, and what would help."""


@dataclass(frozen=True, slots=True)
class Login:
    """Who asks, where metrics.users_file guards the daemon. section: what the keys in the configuration begin with."""

    user: str | None
    password_file: str | None
    section: str

    def headers(self) -> dict[str, str]:
        """Of a request. Raises SecretViewError."""
        if self.user is None or self.password_file is None:
            return {}
        try:
            password = credentials.read(self.password_file, f"{self.section}password_file")
        except CredentialError as error:
            raise SecretViewError(str(error)) from error
        return {"Authorization": f"Basic {base64.b64encode(f'{self.user}:{password}'.encode()).decode()}"}


class DaemonView:
    """config: the daemon's own section, which says how it is secured; seconds: for one answer, all of it."""

    def __init__(self, config: MetricsConfig, login: Login, seconds: float = TIMEOUT_SECONDS) -> None:
        self._config, self._login, self._seconds = config, login, seconds

    def health(self, address: str) -> dict[str, Any]:
        """The document of /healthz, healthy or not. address: HOST:PORT. Raises ViewError."""
        return self.judged(address)[1]

    def judged(self, address: str) -> tuple[bool, dict[str, Any]]:
        """Whether the daemon calls itself healthy, and the document. Raises ViewError."""
        status, body = self._get(address, "/healthz")
        try:
            document = json.loads(body)
        except ValueError as error:
            raise ViewError(f"{address}/healthz: HTTP {status}, expected JSON") from error
        if not isinstance(document, dict) or "state" not in document:
            raise ViewError(f"{address}/healthz: HTTP {status}, not that of tscc-stream")
        return status == http.client.OK, document

    def metrics(self, address: str) -> str:
        """The text of /metrics. Raises ViewError."""
        status, body = self._get(address, "/metrics")
        if status != http.client.OK:
            raise ViewError(f"{address}/metrics: HTTP {status}")
        return body.decode("utf-8", "replace")

    def _get(self, address: str, path: str) -> tuple[int, bytes]:
        try:
            host, port = split_host_port(address)
        except ValueError as error:
            raise ViewError(f"metrics: {error}") from error
        host = _ANY.get(host, host)
        link = http.client.HTTPConnection(host, port)
        with Deadline(self._seconds) as deadline:
            try:
                link.sock = deadline.connected((host, port), self._seconds, self._trusting())
                link.request("GET", path, headers=self._login.headers())
                answer = link.getresponse()
                status, body = answer.status, answer.read(MOST_BYTES)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise _explained(f"{address}{path}", error, deadline) from error
            finally:
                link.close()
        if status in _NOT_FOR_US:
            section = self._login.section
            raise SecretViewError(
                f"{address}: it asks for a user and a password (metrics.users_file): set {section}user and "
                f"{section}password_file"
            )
        return status, body

    def _trusting(self) -> ssl.SSLContext | None:
        """Exactly the certificate that the daemon is configured with; None: it does not encrypt."""
        if self._config.tls_certificate is None:
            return None
        try:
            context = ssl.create_default_context(cafile=str(credentials.path_of(self._config.tls_certificate)))
        except (OSError, CredentialError) as error:
            why = getattr(error, "strerror", None) or error
            raise SecretViewError(f"metrics.tls_certificate {self._config.tls_certificate}: {why}") from error
        context.check_hostname = False  # it is asked at an address of this machine
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # its authority need not be in the file
        return context


def _explained(what: str, error: Exception, deadline: Deadline) -> ViewError:
    if deadline.passed:
        return ViewError(f"{what}: no answer")
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return SecretViewError(f"{what}: TLS: {why}") if isinstance(error, ssl.SSLError) else ViewError(f"{what}: {why}")


def newest_samples(metrics: str) -> dict[str, float]:
    """Out of /metrics: source id -> data time (Unix seconds) of its newest sample."""
    found: dict[str, float] = {}
    for line in metrics.split("\n"):
        if line.startswith(_NEWEST):
            sid, _, value = line.removeprefix(_NEWEST).partition('"} ')
            with suppress(ValueError):  # the last line of an answer that was too long
                found[sid] = float(value)
    return found
