"""The site's configuration: typed, frozen, every mistake reported at once with its place. The only reader of YAML."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from tscc_stream.alerts_in_vain import in_vain
from tscc_stream.channel_patterns import FORM, can_match, overlaps
from tscc_stream.config_alerts import AlertsConfig, alert_mistakes
from tscc_stream.config_bridge import BridgeConfig
from tscc_stream.config_coincide import CoincideConfig
from tscc_stream.config_http import ConsoleConfig, MetricsConfig
from tscc_stream.config_people import Shifts, Term, TimeZone, no_term_twice
from tscc_stream.config_section import (
    Endpoint,
    HostPort,
    NamedFile,
    NotNegative,
    Positive,
    SecretFile,
    Section,
    secret_keys,
)
from tscc_stream.mistakes import DEVICE, WORD, expected
from tscc_stream.seedlink.streams import parse_pattern
from tscc_stream.shard import MOST_SHARDS, Shard

_log = logging.getLogger(__name__)
_JOURNAL = "journal.sqlite"


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, one line per mistake: place, what was found, what was expected."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


_STREAM = re.compile(r"[A-Za-z0-9*?-]{1,8}_[A-Za-z0-9*?-]{1,8}(:[A-Za-z0-9*?_-]{1,20})?")
"""What may go into a SeedLink command."""


def _stream(text: str) -> str:
    if _STREAM.fullmatch(text) is None:
        raise ValueError(f"stream {text!r}: expected NET_STA:LOCCHA, * and ? allowed, for example YG_*:EHZ")
    parse_pattern(text)
    return text


def _threads(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 256):
        return value
    raise ValueError(f"{value!r}: expected auto or a whole number from 1 to 256")


def _some(streams: tuple[str, ...]) -> tuple[str, ...]:
    if not 1 <= len(streams) <= 10_000:
        raise ValueError(f"{len(streams)} streams: expected 1 to 10000")
    return streams


StreamPattern = Annotated[str, AfterValidator(_stream)]


class SeedLinkConfig(Section):
    """One SeedLink server. start: where a first start begins in the server's ring.

    fallbacks: servers with the same streams, tried in turn while this one fails; TLS and credentials are the same.
    tls_ca_file: certificates to trust beside the system's. stale_seconds: silence of a stream, or of all of them, after
    which its data count as missing.
    """

    server: HostPort
    streams: Annotated[tuple[StreamPattern, ...], Field(strict=False), AfterValidator(_some)]
    fallbacks: Annotated[tuple[HostPort, ...], Field(strict=False, max_length=16)] = ()
    start: Literal["oldest", "now"] = "oldest"
    tls: bool = False
    tls_ca_file: str | None = None
    user: str | None = None
    password_file: SecretFile | None = None
    timeout_seconds: Positive = 10.0
    keepalive_seconds: Positive = 30.0
    stale_seconds: Positive = 60.0

    @model_validator(mode="after")
    def _consistent(self) -> SeedLinkConfig:
        servers = (self.server, *self.fallbacks)
        wrong = [f"fallbacks: {name} is given twice" for name in dict.fromkeys(servers) if servers.count(name) > 1]
        if self.tls_ca_file is not None and not self.tls:
            wrong.append("tls_ca_file: expected only together with tls: true")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


class AssembleConfig(Section):
    """flat_seconds: a constant value that lasts as long is a dead sensor (never under 32 samples).

    clip_counts: at and beyond this amplitude a sample is clipped; null where the recorder's full scale is unknown.
    reorder_seconds: for as long a missing record is waited for once later ones are there; 0: not at all.
    """

    flat_seconds: Positive = 0.1
    clip_counts: Positive | None = 8_388_000.0
    reorder_seconds: Annotated[float, Field(ge=0, le=10)] = 2.0


class QuarantineConfig(Section):
    """When a channel that breaks again and again is left out, and how long it must be well to come back.

    breaks: so many within within_seconds of its data, where a change of rate or of clock counts as ten.
    release_seconds: of its data without a break.
    """

    breaks: Annotated[int, Field(ge=10)] = 60
    within_seconds: Positive = 60.0
    release_seconds: Positive = 60.0


class ConditionConfig(Section):
    """Butterworth band-pass before the trigger (Hz; corners as obspy counts them). The model's band is its own."""

    band_hz: Annotated[tuple[Positive, Positive], Field(strict=False)] = (10.0, 20.0)
    corners: Annotated[int, Field(ge=1, le=8)] = 4

    @model_validator(mode="after")
    def _ordered(self) -> ConditionConfig:
        if self.band_hz[0] >= self.band_hz[1]:
            raise ValueError(f"band_hz {list(self.band_hz)}: expected the lower corner first")
        return self


class TriggerConfig(Section):
    """STA/LTA and its trigger state machine. Times in seconds, thresholds as ratios."""

    method: Literal["recursive", "classic"] = "recursive"
    sta_seconds: Positive = 0.5
    lta_seconds: Positive = 10.0
    trigger_on: Positive = 3.5
    trigger_off: Positive = 1.0
    min_seconds: NotNegative = 0.0
    max_seconds: Positive = 30.0
    dead_seconds: NotNegative = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> TriggerConfig:
        wrong = []
        if self.sta_seconds >= self.lta_seconds:
            wrong.append(f"sta_seconds {self.sta_seconds:g}: expected less than lta_seconds {self.lta_seconds:g}")
        if self.trigger_off > self.trigger_on:
            wrong.append(f"trigger_off {self.trigger_off:g}: expected at most trigger_on {self.trigger_on:g}")
        if self.trigger_on >= self.lta_seconds / self.sta_seconds:
            highest = self.lta_seconds / self.sta_seconds
            wrong.append(f"trigger_on {self.trigger_on:g}: STA/LTA cannot exceed lta/sta = {highest:g}")
        if self.min_seconds > self.max_seconds:
            wrong.append(f"min_seconds {self.min_seconds:g}: expected at most max_seconds {self.max_seconds:g}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


class NetworkConfig(Section):
    """Coincidence: min_channels different channels; association_seconds is obspy's trigger_off_extension.

    patience_seconds: a channel that sent nothing for as long no longer holds up network events, nor one that was more
    than lag_seconds of data behind the others for as long; those that lag make events among themselves.
    """

    min_channels: Annotated[int, Field(ge=2)] = 3
    association_seconds: NotNegative = 0.0
    patience_seconds: Positive = 10.0
    lag_seconds: Positive = 60.0


class ChannelConfig(Section):
    """What differs from the site's condition, trigger and assemble sections for channels that match a pattern."""

    condition: dict[str, Any] = Field(default_factory=dict)
    trigger: dict[str, Any] = Field(default_factory=dict)
    assemble: dict[str, Any] = Field(default_factory=dict)


class InferenceConfig(Section):
    """precision: of the network on a CUDA device. timeout_seconds: longest that one batch may take. More failures than
    most_restarts within restart_window_seconds end the process.
    """

    device: Annotated[str, Field(pattern=DEVICE)] = "auto"
    max_batch: Annotated[int, Field(ge=1, le=4096)] = 32
    threads: Annotated[Literal["auto"] | int, BeforeValidator(_threads)] = "auto"
    precision: Literal["auto", "float32", "tf32", "bf16", "fp16"] = "float32"
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    most_restarts: Annotated[int, Field(ge=1, le=1000)] = 3
    restart_window_seconds: Positive = 600.0


class NoveltyConfig(Section):
    """alpha: share of ordinary windows that may be called unknown."""

    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01


class DriftConfig(Section):
    """window: recent windows, overall and per cluster, that are compared with the model's calibration windows."""

    window: Annotated[int, Field(ge=100, le=100_000)] = 500


class RetentionConfig(Section):
    """What of the journal is kept: messages and windows of the last days, at most so many GiB (2^30 bytes)."""

    days: Positive = 90.0
    max_gib: Positive = 20.0


class CurveConfig(Section):
    """Files, or credentials of the service: the daemon's secret key, and the public keys that may connect."""

    secret_key_file: SecretFile
    allowed_keys_file: NamedFile


class PublishConfig(Section):
    """curve: null leaves the bus open to everyone who reaches it."""

    bind: Endpoint = "tcp://127.0.0.1:5556"
    replay_bind: Endpoint = "tcp://127.0.0.1:5557"
    heartbeat_seconds: Positive = 1.0
    curve: CurveConfig | None = None

    @model_validator(mode="after")
    def _apart(self) -> PublishConfig:
        if self.bind == self.replay_bind and not self.bind.endswith(":0"):
            raise ValueError(f"replay_bind {self.replay_bind}: expected another address than bind")
        return self


class ShardConfig(Section):
    """Which share of the stations is served. index: from 1 to count; null: `--shard` says it."""

    index: Annotated[int, Field(ge=1)] | None = None
    count: Annotated[int, Field(ge=1, le=MOST_SHARDS)]

    @model_validator(mode="after")
    def _one_of_them(self) -> ShardConfig:
        if self.index is not None and self.index > self.count:
            raise ValueError(f"index {self.index}: expected 1 to count {self.count}")
        return self

    @property
    def one(self) -> Shard | None:
        """The shard, where it is said which."""
        return None if self.index is None else Shard(self.index, self.count)


_OVERRIDABLE: dict[str, type[Section]] = {
    "assemble": AssembleConfig,
    "condition": ConditionConfig,
    "trigger": TriggerConfig,
}


def _mapping(value: object) -> dict[str, Any]:
    """A section given as a model or as a mapping; nothing where it is neither, which is told elsewhere."""
    if isinstance(value, Section):
        return value.model_dump()
    return value if isinstance(value, dict) else {}


def _detail(error: ErrorDetails, place: tuple[str, ...] = ()) -> InitErrorDetails:
    kind = PydanticCustomError(error["type"], "{said}", {"said": expected(error)})
    return InitErrorDetails(type=kind, loc=(*place, *error["loc"]), input=error["input"])


def _told(place: tuple[str | int, ...], sentence: str) -> InitErrorDetails:
    return InitErrorDetails(
        type=PydanticCustomError("value_error", "{told}", {"told": sentence}), loc=place, input=None
    )


def _override_mistakes(data: object) -> list[InitErrorDetails]:
    """What per-channel overrides make wrong in the sections that they change, each of them and several together."""
    sections = _mapping(data)
    channels = _mapping(sections.get("channels"))
    found = [
        _told(("channels", str(pattern)), f"can match no channel; {FORM}")
        for pattern in channels
        if not can_match(str(pattern))
    ]
    for pattern, overrides in channels.items():
        for name in _OVERRIDABLE:
            changes = _mapping(_mapping(overrides).get(name))
            place = ("channels", str(pattern), name)
            errors = _errors(name, {**_mapping(sections.get(name)), **changes}) if changes else []
            found += [_detail(e, place) for e in errors if set(e["loc"][:1]) <= set(changes)]
    return found or _overlap_mistakes(sections, channels)


def _errors(name: str, values: dict[str, Any]) -> list[ErrorDetails]:
    try:
        _OVERRIDABLE[name].model_validate(values)
    except ValidationError as error:
        return error.errors()
    return []


def _overlap_mistakes(sections: dict[str, Any], channels: dict[str, Any]) -> list[InitErrorDetails]:
    """What overrides that hold for one channel together make wrong, each of them being right."""
    found = []
    for name in _OVERRIDABLE:
        base = _mapping(sections.get(name))
        changes = {str(one): given for one, over in channels.items() if (given := _mapping(_mapping(over).get(name)))}
        if len(changes) < 2 or _errors(name, base):  # the section itself is told elsewhere
            continue
        wrong: list[frozenset[int]] = []
        patterns = tuple(changes)
        for together in overlaps(patterns):
            if any(together >= fewer for fewer in wrong):
                continue
            names = [patterns[number] for number in sorted(together)]
            errors = _errors(name, dict(chain(base.items(), *(changes[one].items() for one in names))))
            if errors:
                wrong.append(together)
                others = " and ".join(repr(one) for one in names[:-1])
                said = "; ".join(expected(error) for error in errors)
                found.append(_told(("channels", names[-1], name), f"for channels of {others} as well: {said}"))
    return found


class Config(Section):
    """The whole file. A missing section or key has its default; without `network` there are no network events."""

    site: Annotated[str, Field(pattern=WORD)] = "demo"
    seedlink: Annotated[tuple[SeedLinkConfig, ...], Field(strict=False)] = ()
    shard: ShardConfig | None = None
    model: str = "models/demo"
    shadow: str | None = None
    assemble: AssembleConfig = AssembleConfig()
    quarantine: QuarantineConfig = QuarantineConfig()
    condition: ConditionConfig = ConditionConfig()
    trigger: TriggerConfig = TriggerConfig()
    network: NetworkConfig | None = None
    channels: dict[str, ChannelConfig] = Field(default_factory=dict)
    inference: InferenceConfig = InferenceConfig()
    novelty: NoveltyConfig = NoveltyConfig()
    drift: DriftConfig = DriftConfig()
    overload: Literal["wait", "spill"] = "wait"
    overload_spill_windows: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    publish: PublishConfig = PublishConfig()
    metrics: MetricsConfig = MetricsConfig()
    retention: RetentionConfig = RetentionConfig()
    time_zone: TimeZone = "UTC"
    shifts: Shifts = Field(default_factory=lambda: {"day": "06:00-18:00", "night": "18:00-06:00"})
    vocabulary: Annotated[tuple[Term, ...], Field(strict=False), AfterValidator(no_term_twice)] = ()
    stationxml: str | None = None
    console: ConsoleConfig = ConsoleConfig()
    alerts: AlertsConfig = AlertsConfig()
    bridge: BridgeConfig | None = None
    coincide: CoincideConfig = CoincideConfig()
    state_dir: Annotated[str, Field(min_length=1)] = "var"

    @model_validator(mode="wrap")
    @classmethod
    def _with_overrides(cls, data: object, handler: ModelWrapValidatorHandler[Config]) -> Config:
        """Every per-channel override must itself make a valid section; told together with all other mistakes."""
        mistakes: list[InitErrorDetails] = []
        try:
            config = handler(data)
            alerts, shifts, network = config.alerts, config.shifts, config.network is not None
            mistakes += [_told(*one) for one in alert_mistakes(alerts, shifts)]
            mistakes += [_told(*one) for one in in_vain(alerts, shifts, network=network)]
        except ValidationError as error:
            mistakes += [_detail(e) for e in error.errors()]
        mistakes += _override_mistakes(data)
        if mistakes:
            raise ValidationError.from_exception_data("Config", mistakes)
        return config

    def for_channel(self, nslc: str) -> tuple[AssembleConfig, ConditionConfig, TriggerConfig]:
        """The sections that hold for one channel (`NET.STA.LOC.CHA`): later matching patterns win."""
        sections = {name: getattr(self, name).model_dump() for name in _OVERRIDABLE}
        for pattern, override in self.channels.items():
            if fnmatchcase(nslc, pattern):
                for name, values in sections.items():
                    values.update(getattr(override, name))
        return (
            AssembleConfig.model_validate(sections["assemble"]),
            ConditionConfig.model_validate(sections["condition"]),
            TriggerConfig.model_validate(sections["trigger"]),
        )


SECRET_KEYS = secret_keys(Config)
"""Names of all keys that name a file with a secret."""
_SECRET_WORDS = re.compile("pass|secret|token|cred|key|header|users_file|argv|url", re.IGNORECASE)
_TEXT = "tag:yaml.org,2002:str"
_SILENT = {
    "tag:yaml.org,2002:bool": re.compile(r"true|false"),
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(0|[1-9][0-9]{0,17})"),
    "tag:yaml.org,2002:float": re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?"),
    "tag:yaml.org,2002:null": re.compile(r"null|~|"),
}
_LOOKS_LIKE_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class _StrictLoader(yaml.SafeLoader):
    """Refuses what YAML 1.1 would silently turn into something else: NO, on, 0012, 1e-3, 12:30, duplicate keys.

    Nor are there aliases, with which a few lines can hold more values than fit into memory.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.mistakes: list[str] = []
        self.places: dict[tuple[str | int, ...], int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]  # not in its stubs
            raise ConfigError([f"line {line}: an alias; expected the value itself"])
        return super().compose_node(parent, index)

    def check(self, node: yaml.Node, path: tuple[str | int, ...] = ()) -> None:
        line = node.start_mark.line + 1
        self.places[path] = line
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node, path, line)
        elif isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                self.check(item, (*path, i))
        else:
            self._check_mapping(node, path)

    def _check_scalar(self, node: yaml.ScalarNode, path: tuple[str | int, ...], line: int) -> None:
        plain = _SILENT.get(node.tag)
        if node.tag == _TEXT:
            silent = node.style is None and _LOOKS_LIKE_NUMBER.fullmatch(node.value) is not None
        else:
            silent = plain is None or plain.fullmatch(node.value) is None
        if silent:
            value = "the value" if _may_be_secret(path) else node.value
            self.mistakes.append(
                f"line {line}: {_dotted(path)}: {value} has more than one reading in YAML; "
                "expected a quoted text, true or false, or a plain number such as 12 or 0.001"
            )

    def _check_mapping(self, node: yaml.Node, path: tuple[str | int, ...]) -> None:
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                self.mistakes.append(f"line {line}: {_dotted(path)}: expected a plain key")
                continue
            name = key.value
            if name in seen:
                self.mistakes.append(
                    f"line {line}: {_dotted((*path, name))}: key given twice, first in line {seen[name]}"
                )
            seen.setdefault(name, line)
            if key.tag != _TEXT:
                self.mistakes.append(f"line {line}: {_dotted(path)}: key {name} must be quoted")
            self.check(value, (*path, name))
            self.places[(*path, name)] = line


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in path) or "file"


def _may_be_secret(path: tuple[str | int, ...]) -> bool:
    """Whether somebody may have written a secret here, who should have written where it lies."""
    return any(str(part) in SECRET_KEYS or _SECRET_WORDS.search(str(part)) for part in path)


def _sentence(error: ErrorDetails) -> str:
    """`key: what is wrong` of one pydantic error, in the words of the file."""
    untold = error["type"] in ("value_error", "missing", "extra_forbidden") or _may_be_secret(error["loc"])
    shown = "" if untold else f", got {error['input']!r:.80}"
    return f"{_dotted(error['loc'])}: {expected(error)}{shown}"


def _parse_yaml(text: str) -> tuple[Any, dict[tuple[str | int, ...], int]]:
    try:
        loader = _StrictLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError([f"line {line}: not YAML: character U+{error.character:04X}"]) from error
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        loader.check(node)
        if loader.mistakes:
            raise ConfigError(loader.mistakes)
        return loader.construct_document(node), loader.places
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError([f"line {line}: not YAML: {error.problem}"]) from error
    except RecursionError as error:
        raise ConfigError(["line 1: not a configuration: nested too deeply"]) from error
    finally:
        loader.dispose()


def _line_of(places: dict[tuple[str | int, ...], int], loc: tuple[str | int, ...]) -> int:
    while loc not in places:
        loc = loc[:-1]
    return places[loc]


def parse(text: str) -> Config:
    """The configuration that a YAML text says. Raises ConfigError with every mistake."""
    data, places = _parse_yaml(text)
    if not isinstance(data, dict):
        raise ConfigError(["line 1: expected sections such as `seedlink:` and `trigger:`"])
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        told = sorted((_line_of(places, e["loc"]), _sentence(e)) for e in error.errors())
        raise ConfigError(f"line {line}: {sentence}" for line, sentence in told) from error


def changed(config: Config, section: str, **values: object) -> Config:
    """The same with other values in a section, such as the command line gives. Raises ConfigError."""
    document = config.model_dump()
    document[section] |= values
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError(_sentence(e) for e in error.errors()) from error


def load(path: Path) -> Config:
    """The configuration in a file, with the absolute path of its state_dir. Raises ConfigError (also where the file
    cannot be read).
    """
    config = parse(_text_of(path))
    return config.model_copy(update={"state_dir": str(_state_folder(config.state_dir, path.resolve().parent))})


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: expected a text in UTF-8: byte {error.start} is none"]) from error
    except OSError as error:
        raise ConfigError([_unread(path, error)]) from error


def _unread(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: no such file; `tscc-stream check-config --example > {path}` makes one to start from"
    if isinstance(error, IsADirectoryError):
        return f"{path}: is a folder; expected the configuration file in it"
    return f"{path}: cannot be read: {error.strerror}"


def _state_folder(name: str, folder: Path) -> Path:
    """A relative one lies beside the configuration. Before, it lay where the program was started: a site that has its
    journal there only keeps it, and is told.
    """
    here, before = folder / name, Path(name).absolute()
    if here == before or (here / _JOURNAL).exists() or not (before / _JOURNAL).exists():
        return here
    _log.warning(
        "state_dir %s: taken as %s, where a journal lies; write that path into the configuration, since a relative one "
        "is now beside the configuration: %s",
        name, before, here,
    )  # fmt: skip
    return before


def values(path: Path) -> Any:  # noqa: ANN401  # whatever YAML holds
    """What stands in a file, unknown keys and wrong values included. Raises ConfigError where it is no YAML."""
    data, _ = _parse_yaml(_text_of(path))
    return data


def as_yaml(values: Any) -> str:  # noqa: ANN401  # whatever YAML holds
    """The text of values, without comments."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def shipped_text() -> str:
    """The configuration file that the package carries, with its comments."""
    return resources.files("tscc_stream").joinpath("config.yaml").read_text(encoding="utf-8")


def shipped() -> Config:
    """The configuration that the package carries."""
    return parse(shipped_text())
