"""What every section of a configuration is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):(\d{1,5})")


def split_host_port(text: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` -> (host, port). Raises ValueError saying what was expected."""
    match = _HOST_PORT.fullmatch(text)
    if match is None or not 0 <= int(match.group(2)) <= 65535:
        raise ValueError(f"{text!r}: expected HOST:PORT with a port from 0 to 65535")
    return match.group(1).strip("[]"), int(match.group(2))


def _host_port(text: str) -> str:
    split_host_port(text)
    return text


def _endpoint(text: str) -> str:
    scheme, _, rest = text.partition("://")
    if scheme == "ipc" and rest:
        return text
    if scheme != "tcp":
        raise ValueError(f"{text!r}: expected tcp://HOST:PORT or ipc://PATH")
    split_host_port(rest)
    return text


HostPort = Annotated[str, AfterValidator(_host_port)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
"""A socket of the bus."""


class Secret:
    """Marks the type of a key that names a file with a secret."""


NamedFile = Annotated[str, Field(min_length=1)]
"""A credential's name or a path, of something that everybody may read."""
SecretFile = Annotated[str, Field(min_length=1), Secret()]
"""A credential's name or a path, never the secret itself."""
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """Frozen; unknown keys and silent conversions are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def secret_keys(section: type[Section]) -> frozenset[str]:
    """Names of the keys, in a section and those below it, whose type is SecretFile."""
    found: set[str] = set()
    for name, field in section.model_fields.items():
        for part in (*field.metadata, *_parts(field.annotation)):
            if isinstance(part, Secret):
                found.add(name)
            elif isinstance(part, type) and issubclass(part, Section):
                found |= secret_keys(part)
    return frozenset(found)


def _parts(annotation: object) -> Iterator[object]:
    """What a type is made of: `tuple[X | None, ...]` of X and None."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


class BusKeysConfig(Section):
    """Where publish.curve secures the bus. server_key: the daemon's public key, or a file that holds it."""

    server_key: Annotated[str, Field(min_length=1)]
    secret_key_file: SecretFile
