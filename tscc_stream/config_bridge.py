"""Section `bridge`: which messages go to which NATS JetStream, so that a centre sees all sites."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tscc_stream.config_alerts import AlertSource, in_words, source_mistakes
from tscc_stream.config_http import MetricsConfig, is_loopback
from tscc_stream.config_section import (
    BusKeysConfig,
    HostPort,
    NamedFile,
    Positive,
    SecretFile,
    Section,
    split_host_port,
)


class StreamLimits(Section):
    """Of a stream that the bridge makes; one that is there is left as it is. discard: what gives way when it is full.

    duplicate_window_seconds: for so long the server knows a message again, and drops it when it comes once more.
    """

    max_age_days: Positive = 30.0
    max_gib: Positive = 4.0
    duplicate_window_seconds: Annotated[float, Field(ge=1)] = 3600.0
    discard: Literal["old", "new"] = "old"
    replicas: Annotated[int, Field(ge=1, le=5)] = 1

    @model_validator(mode="after")
    def _within_the_age(self) -> StreamLimits:
        if self.duplicate_window_seconds > self.max_age_days * 86_400:
            raise ValueError(
                f"duplicate_window_seconds {self.duplicate_window_seconds:g}: expected at most max_age_days"
            )
        return self


class BridgeConfig(Section):
    """Everything of `tscc-stream bridge`. sources: none means the daemon of this configuration, or all its shards.

    Of user with password_file, token_file, nkey_file and creds_file one at most; beside it, or alone, the certificate
    of a client. outstanding: messages of one source that may wait for their acknowledgement.
    """

    servers: Annotated[tuple[HostPort, ...], Field(strict=False, min_length=1, max_length=16)] = ("127.0.0.1:4222",)
    stream: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "TSCC"
    subject: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,3}$")] = "tscc"
    limits: StreamLimits = StreamLimits()
    waveforms: bool = False
    start: Literal["oldest", "now"] = "oldest"
    sources: Annotated[tuple[AlertSource, ...], Field(strict=False, max_length=200)] = ()
    bus_keys: BusKeysConfig | None = None
    user: Annotated[str, Field(min_length=1)] | None = None
    password_file: SecretFile | None = None
    token_file: SecretFile | None = None
    nkey_file: SecretFile | None = None
    creds_file: SecretFile | None = None
    tls: bool = False
    tls_ca_file: str | None = None
    tls_certificate: NamedFile | None = None
    tls_key: SecretFile | None = None
    outstanding: Annotated[int, Field(ge=1, le=4096)] = 256
    ack_seconds: Annotated[float, Field(ge=0.5, le=300)] = 10.0
    metrics: MetricsConfig | None = None

    @model_validator(mode="after")
    def _consistent(self) -> BridgeConfig:
        wrong = [*self._of_credentials(), *self._of_tls()]
        wrong += in_words(source_mistakes(self.sources, self.bus_keys))
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _of_credentials(self) -> list[str]:
        wrong = []
        if (self.user is None) != (self.password_file is None):
            wrong.append("expected user and password_file together, or neither")
        given = [name for name in ("password_file", "token_file", "nkey_file", "creds_file") if getattr(self, name)]
        if len(given) > 1:
            wrong.append(f"{' and '.join(given)}: expected one of them")
        in_the_clear = [name for name in ("password_file", "token_file") if getattr(self, name)]
        away = [server for server in self.servers if not is_loopback(split_host_port(server)[0])]
        if in_the_clear and away and not self.tls:
            wrong.append(
                f"{in_the_clear[0]}: the secret would cross the network to {away[0]} in the clear; expected tls: true"
            )
        return wrong

    def _of_tls(self) -> list[str]:
        wrong = []
        named = [name for name in ("tls_ca_file", "tls_certificate", "tls_key") if getattr(self, name)]
        if named and not self.tls:
            wrong.append(f"{named[0]}: expected only together with tls: true")
        if (self.tls_certificate is None) != (self.tls_key is None):
            wrong.append("expected tls_certificate and tls_key together, or neither")
        return wrong

    @property
    def subjects(self) -> str:
        """All that the bridge may publish to."""
        return f"{self.subject}.>"
