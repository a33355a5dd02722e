"""What the daemon says of itself on the bus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Note:
    """`status.<kind>.` with its data. about: what it tells of, once; empty: each is told."""

    kind: str
    data: dict[str, Any]
    about: str = ""
