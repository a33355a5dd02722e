"""Sections of what listens for HTTP: which address, TLS, and who may read."""

from __future__ import annotations

from ipaddress import ip_address

from pydantic import model_validator

from tscc_stream.config_section import BusKeysConfig, HostPort, NamedFile, SecretFile, Section, split_host_port


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address. Of names, localhost alone: others may mean anything tomorrow."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class HttpConfig(Section):
    """Where to listen. The three files: a credential of the service, or a path."""

    bind: HostPort
    tls_certificate: NamedFile | None = None
    tls_key: SecretFile | None = None
    users_file: SecretFile | None = None

    @model_validator(mode="after")
    def _kept_secret(self) -> HttpConfig:
        wrong: list[str] = []
        if (self.tls_certificate is None) != (self.tls_key is None):
            wrong.append("expected tls_certificate and tls_key together, or neither")
        elif self.users_file is not None and self.tls_key is None and not self.local:
            wrong.append(
                f"users_file: passwords would cross the network to {self.bind} in the clear; expected tls_certificate "
                "and tls_key, or an address of this machine such as 127.0.0.1:9108"
            )
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(split_host_port(self.bind)[0])


class MetricsConfig(HttpConfig):
    """HTTP for /metrics and /healthz."""

    bind: HostPort = "127.0.0.1:9108"

    def warnings(self) -> tuple[str, ...]:
        """What is allowed and hardly meant, one sentence each."""
        missing = [
            text
            for text, value in (
                ("TLS (tls_certificate, tls_key)", self.tls_key),
                ("users (users_file)", self.users_file),
            )
            if value is None
        ]
        if self.local or not missing:
            return ()
        return (
            f"metrics.bind {self.bind}: other machines can read the metrics, without {' and without '.join(missing)}",
        )


class ConsoleConfig(HttpConfig):
    """The web console. metrics_user, metrics_password_file: as whom it reads the daemon's /metrics, where these have
    users. bus_keys: where the bus is secured.
    """

    bind: HostPort = "127.0.0.1:8108"
    metrics_user: str | None = None
    metrics_password_file: SecretFile | None = None
    bus_keys: BusKeysConfig | None = None

    @model_validator(mode="after")
    def _guarded(self) -> ConsoleConfig:
        if not self.local and self.users_file is None:
            raise ValueError(
                f"bind {self.bind}: other machines could name clusters and answer alerts; expected users_file "
                "(`tscc-stream http-user`), tls_certificate and tls_key, or an address of this machine"
            )
        if (self.metrics_user is None) != (self.metrics_password_file is None):
            raise ValueError("expected metrics_user and metrics_password_file together, or neither")
        return self
