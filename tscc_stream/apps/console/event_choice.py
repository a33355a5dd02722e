"""Which events a page shows: the filter in its address, with times as people at the site read them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tscc_stream.apps.console.event_names import Names
from tscc_stream.edges.console_cache_events import Choice, EventIndex
from tscc_stream.mistakes import LOCAL_TIME, expected

KEYS = (
    "span", "begin", "end", "name", "channel", "kind", "votes", "membership", "unknown", "unjudged", "quality",
)  # fmt: skip
"""Of a filter in an address; the page's own keys are others."""
SPANS = {"1h": 3600, "8h": 8 * 3600, "24h": 24 * 3600, "7d": 7 * 24 * 3600, "30d": 30 * 24 * 3600}
_NS = 1_000_000_000


class ChoiceError(ValueError):
    """A filter that means nothing, in one sentence."""


class Asked(BaseModel):
    """A filter as the address has it. span: back from now; begin, end: local time; channel: pattern with * and ?."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    span: Literal["", "1h", "8h", "24h", "7d", "30d"] = ""
    begin: Annotated[str, Field(pattern=LOCAL_TIME)] | None = None
    end: Annotated[str, Field(pattern=LOCAL_TIME)] | None = None
    name: Annotated[str, Field(max_length=80)] = ""
    channel: Annotated[str, Field(max_length=100)] = ""
    kind: Literal["", "network", "detection"] = ""
    votes: Annotated[int, Field(ge=0, le=100_000)] = 0
    membership: Annotated[float, Field(ge=0, le=1)] = 0.0
    unknown: bool = False
    unjudged: bool = False
    quality: Literal["", "clean", "clipped", "flat", "timing"] = ""


def asked(query: Mapping[str, str]) -> Asked:
    """Out of an address's query; what is not of a filter is left alone. Raises ChoiceError."""
    given = {key: query[key] for key in KEYS if query.get(key)}
    try:
        return Asked.model_validate(given)
    except ValidationError as error:
        found = error.errors()[0]
        raise ChoiceError(f"filter {found['loc'][0]}={found['input']!s:.60}: {expected(found)}") from error


def choice_of(ask: Asked, index: EventIndex, names: Names, zone: ZoneInfo) -> Choice:
    """What the cache is asked. Raises ChoiceError."""
    labels = [label for label in index.labels() if names.of_label(label) == ask.name] if ask.name else None
    return Choice(
        from_ns=_from_ns(ask, zone),
        to_ns=None if ask.end is None else _ns_of(ask.end, zone, fold=1),
        labels=None if labels is None else frozenset(label.number for label in labels),
        channels=_channels(ask.channel, index) if ask.channel else None,
        network={"": None, "network": True, "detection": False}[ask.kind],
        least_votes=ask.votes,
        least_membership=ask.membership,
        unknown=ask.unknown,
        unjudged=ask.unjudged,
        quality=ask.quality,
    )


def _from_ns(ask: Asked, zone: ZoneInfo) -> int | None:
    if ask.begin is not None:
        return _ns_of(ask.begin, zone, fold=0)
    return time.time_ns() - SPANS[ask.span] * _NS if ask.span else None


def _ns_of(local: str, zone: ZoneInfo, fold: int) -> int:
    """fold: which of two equal local times, when clocks were set back."""
    try:
        return int(datetime.fromisoformat(local).replace(tzinfo=zone, fold=fold).timestamp()) * _NS
    except (ValueError, OverflowError) as error:
        raise ChoiceError(f"filter time {local}: {error}") from error


def _channels(pattern: str, index: EventIndex) -> frozenset[str]:
    """A pattern without * or ? matches wherever it stands in a channel's code."""
    whole = pattern.upper() if set(pattern) & set("*?[") else f"*{pattern.upper()}*"
    return frozenset(number for nslc, number in index.channels().items() if fnmatchcase(nslc.upper(), whole))
