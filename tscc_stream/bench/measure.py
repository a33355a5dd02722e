"""How variants are timed, and how the result is told."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

FIELD = "field"
"""The variant that all ratios are taken against: the field's documented way of doing the same."""

Results = dict[str, dict[str, "Figure"]]
"""Bench -> variant -> figure."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One variant's result. ratio: how many times better than the variant `field` of the same run."""

    value: float
    unit: str
    ratio: float

    def document(self) -> dict[str, float | str]:
        return {"value": round(self.value, 6), "unit": self.unit, "ratio": round(self.ratio, 3)}


def seconds_of(
    variants: Mapping[str, Callable[[], None]], rounds: int, warm_up: bool = True, rest: float = 0.0
) -> dict[str, list[float]]:
    """Wall-clock seconds of each variant in each round. All of them take their turn in every round, in turning order,
    so that what else the machine does falls on all alike. rest: seconds before each turn, which count for none.
    """
    names = list(variants)
    if warm_up:
        for name in names:
            variants[name]()
    spent: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            time.sleep(rest)
            begin = time.perf_counter()
            variants[name]()
            spent[name].append(time.perf_counter() - begin)
    return spent


def lower_is_better(spent: Mapping[str, list[float]], scale: float, unit: str) -> dict[str, Figure]:
    """Figures of times: the median round times `scale`; ratios are taken of medians."""
    field = median(spent[FIELD])
    return {name: Figure(scale * median(some), unit, field / median(some)) for name, some in spent.items()}


def rates(spent: Mapping[str, list[float]], count: float, unit: str) -> dict[str, Figure]:
    """Figures of so many things in some time: `count` over the median round; ratios are taken of medians."""
    field = median(spent[FIELD])
    return {name: Figure(count / median(some), unit, field / median(some)) for name, some in spent.items()}


def machine() -> str:
    """What the figures were taken on, in one line."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    return f"{_processor()}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads; {versions}"


def _processor() -> str:
    """The model as the kernel names it, with what matters to matrix products; else what Python says."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in info.read_text(encoding="utf-8").splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    flags = named.get("flags", "").split()
    widest = next((name for name in ("amx_bf16", "avx512f", "avx2") if name in flags), "")
    return " ".join(part for part in (named.get("model name", platform.machine()), widest) if part)


def table(results: Results) -> str:
    """For people: one line a variant."""
    rows = [("bench", "variant", "value", "unit", "times the field")]
    for bench, variants in results.items():
        rows += [(bench, name, _short(f.value), f.unit, f"{f.ratio:.2f}") for name, f in variants.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _short(value: float) -> str:
    """Four digits, or all of a large number."""
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"
