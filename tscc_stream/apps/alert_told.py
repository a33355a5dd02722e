"""What rules and watches give: alerts, repetitions, and what was not told and why. Pure values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tscc_stream.config_alerts import Told

Kind = Literal["event", "more", "digest", "silence", "over", "undelivered", "rehearsal"]
Why = Literal["suppressed", "late", "cooldown"]


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert, before sensor health and text are added.

    kind: event; more (what a cool-down held back); digest (events that are too old); silence and over (of a watch);
    undelivered (an action that was given up); rehearsal. at_ns: wall time. cause: what made it, as JSON may hold it.
    """

    id: str
    told: Told
    kind: Kind
    at_ns: int
    title: str
    cause: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Repetition:
    """An alert that nobody has acknowledged, once more. round: 1 for the first repetition."""

    alert: str
    told: Told
    round: int


@dataclass(frozen=True, slots=True)
class Withheld:
    """An event that a rule matched and that was not told by itself. at_ns: wall time; reason: in words."""

    rule: str
    uid: str
    onset_ns: int
    at_ns: int
    why: Why
    reason: str


def alert_id(rule: str, kind: Kind, key: str) -> str:
    """The same cause gives the same id, also after a restart."""
    return hashlib.sha256(f"{rule}\n{kind}\n{key}".encode()).hexdigest()[:12]
