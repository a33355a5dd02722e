"""What one check of `doctor` found, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. check: what was looked at; found: in one sentence; todo: what a person should do, empty for ok."""

    check: str
    state: State
    found: str
    todo: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Check:
    """A look at one thing. work: what it found, as many lines as it needs; it may raise, and may never end."""

    name: str
    work: Callable[[], list[Finding]]
    patience: float = 1.0
    """Times the seconds that any check may take."""


def ok(check: str, found: str) -> Finding:
    return Finding(check, "ok", found)


def warn(check: str, found: str, todo: str) -> Finding:
    return Finding(check, "warn", found, todo)


def fail(check: str, found: str, todo: str) -> Finding:
    return Finding(check, "fail", found, todo)


def some(names: list[str], most: int = 3) -> str:
    """`A, B, C and 7 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
