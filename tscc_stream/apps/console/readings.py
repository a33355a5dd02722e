"""What the daemon measures, as numbers: the text of /metrics read, and two of them compared. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from tscc_stream.histogram import quantiles_of

_SERIES = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
_Labels = tuple[tuple[str, str], ...]
_NAN = float("nan")


class Readings:
    """One scrape. at_s: monotonic."""

    def __init__(self, at_s: float, values: Mapping[str, Mapping[_Labels, float]]) -> None:
        self.at_s = at_s
        self._values = values

    def value(self, name: str, **labels: str) -> float:
        """One series; NaN where it is not there."""
        return self._values.get(name, {}).get(tuple(sorted(labels.items())), _NAN)

    def by(self, name: str, label: str) -> dict[str, float]:
        """A family with one label: its value -> number."""
        return {dict(labels).get(label, ""): value for labels, value in self._values.get(name, {}).items()}

    def series(self, name: str) -> list[tuple[dict[str, str], float]]:
        return [(dict(labels), value) for labels, value in self._values.get(name, {}).items()]

    def buckets(self, name: str, **labels: str) -> list[tuple[float, float]]:
        """A histogram's (upper bound, how many up to it), ascending."""
        found = []
        for stated, value in self._values.get(f"{name}_bucket", {}).items():
            mine = dict(stated)
            bound = float(mine.pop("le", "inf"))
            if mine == labels:
                found.append((bound, value))
        return sorted(found)


def read(text: str, at_s: float) -> Readings:
    """Prometheus' text format; lines that are none are passed over.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4.
    """
    values: dict[str, dict[_Labels, float]] = {}
    for line in text.split("\n"):  # other line ends may stand in a label
        match = _SERIES.fullmatch(line)
        if match is not None and not line.startswith("#"):
            name, stated, number = match.groups()
            labels = tuple(sorted((key, _plain(value)) for key, value in _LABEL.findall(stated or "")))
            try:
                values.setdefault(name, {})[labels] = float(number)
            except ValueError:
                continue
    return Readings(at_s, values)


def _plain(value: str) -> str:
    return _ESCAPED.sub(lambda found: "\n" if found[1] == "n" else found[1], value) if "\\" in value else value


def rate(before: Readings | None, now: Readings, name: str, **labels: str) -> float:
    """A counter's growth per second; NaN where it cannot be told. After a restart it counts from zero."""
    if before is None or now.at_s <= before.at_s:
        return _NAN
    return _grown(before.value(name, **labels), now.value(name, **labels)) / (now.at_s - before.at_s)


def rates(before: Readings | None, now: Readings, name: str, label: str) -> dict[str, float]:
    """The same of each series of a family."""
    if before is None or now.at_s <= before.at_s:
        return {}
    first, last = before.by(name, label), now.by(name, label)
    return {key: _grown(first.get(key, 0.0), value) / (now.at_s - before.at_s) for key, value in last.items()}


def _grown(first: float, last: float) -> float:
    return last if last < first else last - (0.0 if math.isnan(first) else first)


def quantiles(
    before: Readings | None, now: Readings, name: str, wanted: tuple[float, ...], **labels: str
) -> dict[float, float]:
    """Of what a histogram took in between; since the daemon's start where before is None. Empty where nothing."""
    last = now.buckets(name, **labels)
    first = dict(before.buckets(name, **labels)) if before is not None else {}
    if first and last and last[-1][1] < first.get(last[-1][0], 0.0):
        first = {}  # it was restarted
    return quantiles_of([(bound, count - first.get(bound, 0.0)) for bound, count in last], wanted)
