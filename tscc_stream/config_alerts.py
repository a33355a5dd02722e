"""Section `alerts`: which events and which silence are told to whom, and when a planned blast keeps them quiet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from tscc_stream.channel_patterns import channel_pattern
from tscc_stream.config_http import MetricsConfig, is_loopback
from tscc_stream.config_people import Span
from tscc_stream.config_section import (
    BusKeysConfig,
    Endpoint,
    HostPort,
    NotNegative,
    Positive,
    SecretFile,
    Section,
    split_host_port,
)
from tscc_stream.mistakes import WORDS

Name = Annotated[str, Field(pattern=WORDS)]
Names = Annotated[tuple[Name, ...], Field(strict=False, max_length=50)]
Words = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=80)], ...], Field(strict=False, max_length=50)]
Pattern = Annotated[str, Field(max_length=80), AfterValidator(channel_pattern)]
Patterns = Annotated[tuple[Pattern, ...], Field(strict=False, max_length=50)]
"""Over NET.STA.LOC.CHA."""
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Days = Annotated[tuple[Day, ...], Field(strict=False, max_length=7)]
Spans = Annotated[tuple[Span, ...], Field(strict=False, max_length=24)]
Place = tuple[str | int, ...]


class When(Section):
    """Local times at which a rule holds; nothing given: always. days: on which a span begins."""

    hours: Spans = ()
    shifts: Words = ()
    days: Days = ()


class Told(When):
    """What rules and watches share. actions: none named means all."""

    name: Name
    severity: Literal["info", "warning", "critical"] = "warning"
    advice: Annotated[str, Field(max_length=500)] = ""
    actions: Names = ()
    cooldown_seconds: NotNegative = 300.0
    repeat_seconds: Positive | None = None
    escalate_to: Names = ()

    @model_validator(mode="after")
    def _escalates(self) -> Told:
        if self.escalate_to and self.repeat_seconds is None:
            raise ValueError("escalate_to: expected repeat_seconds too, since it counts from the first repetition on")
        return self


class RateConfig(Section):
    """So many events within a sliding window of their onsets."""

    count: Annotated[int, Field(ge=2, le=1000)]
    seconds: Positive


class RuleConfig(Told):
    """Which events are told. Everything that is given must hold; nothing given: every event."""

    kind: Literal["detection", "network"] = "network"
    clusters: Words = ()
    channels: Patterns = ()
    least_membership: Annotated[float, Field(ge=0, le=1)] = 0.0
    least_amplitude: NotNegative = 0.0
    least_channels: Annotated[int, Field(ge=0)] = 0
    least_votes: Annotated[int, Field(ge=0)] = 0
    rate: RateConfig | None = None
    wait_for_final: bool = False
    always: bool = False

    @model_validator(mode="after")
    def _of_its_kind(self) -> RuleConfig:
        of_others: dict[str, tuple[str, ...]] = {
            "detection": ("least_channels", "least_votes", "wait_for_final"),
            "network": ("least_membership",),
        }
        if wrong := [name for name in of_others[self.kind] if getattr(self, name)]:
            other = "detection" if self.kind == "network" else "network"
            raise ValueError(f"{' and '.join(wrong)}: expected only with kind: {other}")
        return self


WATCH_SECONDS = {"daemon": 30.0, "data": 60.0, "triggers": 3600.0, "journal": 30.0, "gaps": 60.0}


class WatchConfig(Told):
    """Which silence is told, after how long. channels: of data and gaps."""

    kind: Literal["daemon", "data", "triggers", "journal", "gaps"]
    after_seconds: Positive | None = None
    channels: Patterns = ()

    @model_validator(mode="after")
    def _of_its_kind(self) -> WatchConfig:
        if self.channels and self.kind not in {"data", "gaps", "triggers"}:
            raise ValueError(f"channels: expected only with kind: data, gaps or triggers, not with {self.kind}")
        if self.channels and self.kind == "data" and self.after_seconds is not None:
            raise ValueError(
                "after_seconds: expected not beside channels, since a stream is told after seedlink[].stale_seconds"
            )
        return self

    @property
    def seconds(self) -> float:
        """after_seconds, or what it is where it is not given."""
        return WATCH_SECONDS[self.kind] if self.after_seconds is None else self.after_seconds


class PlannedConfig(Section):
    """A window in which known events are expected. clusters: which of them; none given: every known one."""

    reason: Annotated[str, Field(min_length=1, max_length=80)]
    hours: Annotated[tuple[Span, ...], Field(strict=False, min_length=1, max_length=24)]
    days: Days = ()
    clusters: Words = ()


def _url(text: str) -> str:
    parts = urlsplit(text)
    port = parts.port  # raises ValueError where it is none
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ValueError("expected http://HOST/PATH or https://HOST/PATH")
    if parts.username is not None or parts.password is not None:
        raise ValueError("expected no user or password in it; put an Authorization line into headers_file")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("expected printable ASCII without blanks")
    return text


def _address(text: str) -> str:
    name, at, host = text.rpartition("@")
    if not (name and at and host) or not text.isascii() or not text.isprintable() or set(text) & set(' <>,;"'):
        raise ValueError(f"{text!r}: expected an address such as control.room@mine.example")
    return text


class WebhookConfig(Section):
    """POST of JSON. headers_file: lines of `Name: value`, kept secret."""

    url: Annotated[str, AfterValidator(_url)]
    headers_file: SecretFile | None = None
    ca_file: str | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=300)] = 10.0

    @model_validator(mode="after")
    def _kept_secret(self) -> WebhookConfig:
        parts = urlsplit(self.url)
        if self.headers_file is not None and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise ValueError("headers_file: secrets would cross the network in the clear; expected https")
        return self


class MailConfig(Section):
    """E-mail over SMTP."""

    server: HostPort
    sender: Annotated[str, AfterValidator(_address)]
    recipients: Annotated[
        tuple[Annotated[str, AfterValidator(_address)], ...], Field(strict=False, min_length=1, max_length=100)
    ]
    tls: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: str | None = None
    user: Annotated[str, Field(min_length=1)] | None = None
    password_file: SecretFile | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=300)] = 30.0

    @model_validator(mode="after")
    def _kept_secret(self) -> MailConfig:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("expected user and password_file together, or neither")
        if self.user is not None and self.tls == "none" and not is_loopback(split_host_port(self.server)[0]):
            raise ValueError(f"tls none: the password would cross the network to {self.server} in the clear")
        return self


class CommandConfig(Section):
    """A program that gets the alert as JSON on its standard input."""

    argv: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False, min_length=1, max_length=100)]
    timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0


class MonitorConfig(Section):
    """How the daemon's /metrics and /healthz are read where metrics.users_file guards them."""

    user: Annotated[str, Field(min_length=1)] | None = None
    password_file: SecretFile | None = None

    @model_validator(mode="after")
    def _together(self) -> MonitorConfig:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("expected user and password_file together, or neither")
        return self


class AlertSource(Section):
    """A publisher that is followed: a daemon elsewhere, or one shard of several.

    connect, replay: its publish.bind and publish.replay_bind as they are reached from here. server_key: its public key,
    instead of that of bus_keys. metrics: HOST:PORT of its /healthz and /metrics; null: only its messages are heard.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    connect: Endpoint
    replay: Endpoint
    server_key: Annotated[str, Field(min_length=1)] | None = None
    metrics: HostPort | None = None


def source_mistakes(sources: Sequence[AlertSource], keys: BusKeysConfig | None) -> Iterator[tuple[Place, str]]:
    """Of a section's `sources` and its `bus_keys`: (place within `sources`, sentence)."""
    names = [source.name for source in sources]
    for number, source in enumerate(sources):
        if source.name in names[:number]:
            yield (number, "name"), f"{source.name!r} is given twice"
        if source.server_key is not None and keys is None:
            yield (number, "server_key"), "expected bus_keys too, with the key of this process"


def in_words(mistakes: Iterable[tuple[Place, str]]) -> list[str]:
    """Mistakes of sources with their places."""
    return [f"sources[{number}].{key}: {sentence}" for (number, key), sentence in mistakes]


_WATCHES = tuple(
    WatchConfig(name=name, kind=kind, severity="critical")  # type: ignore[arg-type]  # the three are kinds
    for name, kind in (("daemon silent", "daemon"), ("data silent", "data"), ("journal failing", "journal"))
)


class AlertsConfig(Section):
    """Everything of `tscc-stream alert`. stale_after_seconds: null means that no event is ever too old."""

    rules: Annotated[tuple[RuleConfig, ...], Field(strict=False, max_length=200)] = ()
    watches: Annotated[tuple[WatchConfig, ...], Field(strict=False, max_length=50)] = _WATCHES
    suppression: Annotated[tuple[PlannedConfig, ...], Field(strict=False, max_length=100)] = ()
    suppress_below_amplitude: NotNegative = 0.0
    stale_after_seconds: Positive | None = 600.0
    webhooks: Annotated[dict[Name, WebhookConfig], Field(max_length=50)] = Field(default_factory=dict)
    mails: Annotated[dict[Name, MailConfig], Field(max_length=50)] = Field(default_factory=dict)
    commands: Annotated[dict[Name, CommandConfig], Field(max_length=50)] = Field(default_factory=dict)
    give_up_after_seconds: Positive = 3600.0
    monitor: MonitorConfig = MonitorConfig()
    bus_keys: BusKeysConfig | None = None
    sources: Annotated[tuple[AlertSource, ...], Field(strict=False, max_length=200)] = ()
    metrics: MetricsConfig | None = None

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of all actions."""
        return (*self.webhooks, *self.mails, *self.commands)


def alert_mistakes(alerts: AlertsConfig, shifts: Mapping[str, str]) -> Iterator[tuple[Place, str]]:
    """What no key shows alone: (place within the file, sentence)."""
    yield from _twice(alerts)
    yield from _of_sources(alerts)
    for section, told in (("rules", alerts.rules), ("watches", alerts.watches)):
        for number, one in enumerate(told):
            place = ("alerts", section, number)
            yield from _unknown((*place, "shifts"), one.shifts, tuple(shifts), "a name under shifts")
            for key, named in (("actions", one.actions), ("escalate_to", one.escalate_to)):
                yield from _unknown((*place, key), named, alerts.actions, "a name under webhooks, mails or commands")
    if alerts.suppression and alerts.suppress_below_amplitude == 0.0:
        yield (
            ("alerts", "suppression"),
            "without suppress_below_amplitude nothing would be suppressed; expected the amplitude (counts) from which "
            "an event is told even during a blast",
        )


def _of_sources(alerts: AlertsConfig) -> Iterator[tuple[Place, str]]:
    for place, sentence in source_mistakes(alerts.sources, alerts.bus_keys):
        yield ("alerts", "sources", *place), sentence
    for number, watch in enumerate(alerts.watches):
        if alerts.sources and watch.kind == "gaps":
            sentence = "gaps: expected no such watch beside sources, since the ledger lies in each daemon's own journal"
            yield ("alerts", "watches", number, "kind"), sentence


def _unknown(place: Place, named: tuple[str, ...], known: tuple[str, ...], what: str) -> Iterator[tuple[Place, str]]:
    for name in named:
        if name not in known:
            yield place, f"{name!r}: expected {what} ({', '.join(known) or 'there is none'})"


def _twice(alerts: AlertsConfig) -> Iterator[tuple[Place, str]]:
    seen: set[str] = set()
    for section, told in (("rules", alerts.rules), ("watches", alerts.watches)):
        for number, one in enumerate(told):
            if one.name in seen:
                yield ("alerts", section, number, "name"), f"{one.name!r} is given twice, among rules and watches"
            seen.add(one.name)
    for name in sorted({name for name in alerts.actions if alerts.actions.count(name) > 1}):
        yield ("alerts",), f"action {name!r} is given twice, among webhooks, mails and commands"
