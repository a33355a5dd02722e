"""What a scan came to: summary.json for programs, summary.md with pictures for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from tscc_stream.learn.dataset import NO_SIGNAL
from tscc_stream.messages import Float64Array
from tscc_stream.package import Package
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.scan import counts, figures
from tscc_stream.scan.counts import Counts
from tscc_stream.scan.index import Contents
from tscc_stream.scan.job import Job
from tscc_stream.scan.layout import Layout, write, write_json
from tscc_stream.scan.part_file import Marker
from tscc_stream.scan.plan import Chain
from tscc_stream.source_id import name_of

MOST_COLUMNS = 2000
"""Of the picture of times with data: one wrong clock makes an archive of centuries."""
MOST_SAID = 100
"""Of files that were skipped, how many are named."""
_HOUR_NS = 3600 * NS_PER_SECOND


@dataclass(slots=True)
class _Channel:
    recorded_ns: int = 0
    gaps: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    refused: str = ""
    quarantined: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """What a scan has done. parts: chain, number of the part, and what it came to. stopped: chain -> why no further."""

    chains: Sequence[Chain]
    parts: Sequence[tuple[str, int, Marker]]
    contents: Sequence[Contents]
    stopped: dict[str, str]

    @property
    def span_ns(self) -> tuple[int, int]:
        """From the first to the last sample."""
        return min(chain.start_ns for chain in self.chains), max(chain.end_ns for chain in self.chains)

    @property
    def skipped(self) -> tuple[int, list[str]]:
        """Files and records that could not be read: how many, and the first in words."""
        markers = [marker for *_, marker in self.parts]
        texts = [text for one in self.contents for text in one.told]
        texts += [text for marker in markers for text in marker.skipped]
        count = sum(one.skipped for one in self.contents) + sum(marker.undecoded for marker in markers)
        return count, texts[:MOST_SAID]

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """Channels that were refused, or quarantined for a while: which, and why."""
        said = [
            (name_of(sid), f"left out{which}: {why}")
            for *_, marker in self.parts
            for which, reasons in (("", marker.refused), (" for a while", marker.quarantined))
            for sid, why in reasons.items()
        ]
        return sorted(set(said))


def write_summary(layout: Layout, job: Job, loaded: Package, finished: Finished) -> None:
    """All of its files."""
    first_ns, last_ns = finished.span_ns
    found = counts.count(layout.detections, layout.network_events, last_ns - first_ns)
    channels = _channels(finished.parts)
    document = _document(job, loaded, finished, found, channels)
    write(layout.root / "detections.png", figures.over_time(found))
    write(layout.root / "channels.png", figures.by_channel(found))
    names, span_ns, shares = _coverage(finished.parts, job.part_ns)
    if names:
        write(layout.root / "coverage.png", figures.coverage(names, span_ns, shares))
    write(layout.root / "summary.md", "\n".join(_page(document)).encode())
    write_json(layout.root / "summary.json", document)


def _channels(parts: Iterable[tuple[str, int, Marker]]) -> dict[str, _Channel]:
    channels: dict[str, _Channel] = {}

    def of(sid: str) -> _Channel:
        return channels.setdefault(name_of(sid), _Channel())

    for *_, marker in parts:
        for sid, lasting in marker.recorded_ns.items():
            of(sid).recorded_ns += lasting
        for sid, causes in marker.gaps.items():
            of(sid).gaps.update(causes)
        for sid, reasons in marker.dropped.items():
            of(sid).dropped.update(reasons)
        for sid, why in marker.refused.items():
            of(sid).refused = why
        for sid, why in marker.quarantined.items():
            of(sid).quarantined = why
    return dict(sorted(channels.items()))


def _coverage(
    parts: Sequence[tuple[str, int, Marker]], part_ns: int
) -> tuple[list[str], tuple[int, int], Float64Array]:
    """Channels, from when to when, and shares of time with data [channels, columns], each column of some parts."""
    numbers = [number for _, number, _ in parts]
    names = sorted({name_of(sid) for *_, marker in parts for sid in marker.recorded_ns})
    if not names:
        return [], (0, 0), np.zeros((0, 0))
    first, last = min(numbers), max(numbers)
    together = -(-(last - first + 1) // MOST_COLUMNS)
    columns = (last - first) // together + 1
    shares = np.zeros((len(names), columns), np.float64)
    place = {name: row for row, name in enumerate(names)}
    for _, number, marker in parts:
        for sid, lasting in marker.recorded_ns.items():
            shares[place[name_of(sid)], (number - first) // together] += min(1.0, lasting / part_ns) / together
    return names, (first * part_ns, (first + columns * together) * part_ns), shares


def _document(
    job: Job, loaded: Package, finished: Finished, found: Counts, channels: dict[str, _Channel]
) -> dict[str, Any]:
    skipped, texts = finished.skipped
    first_ns, last_ns = finished.span_ns
    return {
        "archive": job.paths,
        "from": _iso(first_ns),
        "to": _iso(last_ns),
        "model": {"name": loaded.spec.name, "version": loaded.spec.version, "sha256": loaded.sha256},
        "channel_hours": round(sum(one.recorded_ns for one in channels.values()) / _HOUR_NS, 3),
        "records": sum(marker.records for *_, marker in finished.parts),
        "samples": sum(marker.samples for *_, marker in finished.parts),
        "detections": found.detections,
        "network_events": found.network_events,
        "clusters": found.by_cluster,
        "detections_per": counts.BINS[found.bin_ns],
        "detections_over_time": {
            name: {_iso(place * found.bin_ns): many for place, many in sorted(found.by_time[name].items())}
            for name in found.by_cluster
        },
        "channels": {
            name: {
                "hours": round(one.recorded_ns / _HOUR_NS, 3),
                "detections": dict(found.by_channel.get(name, {})),
                "gaps": dict(one.gaps),
                "windows_dropped": dict(one.dropped),
                "refused": one.refused,
                "quarantined": one.quarantined,
            }
            for name, one in channels.items()
        },
        "windows_without_signal": sum(marker.without_signal for *_, marker in finished.parts),
        "skipped": {"count": skipped, "first": texts},
        "not_to_the_end": {name_of(name): why for name, why in sorted(finished.stopped.items())},
    }


def _iso(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(time_ns // NS_PER_SECOND, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _page(document: dict[str, Any]) -> Iterable[str]:
    model = document["model"]
    yield f"# Scan of {', '.join(document['archive'])}"
    yield ""
    yield f"From {document['from']} to {document['to']}, {document['channel_hours']:,.1f} channel-hours of data."
    yield f"Model {model['name']} {model['version']} (`{model['sha256'][:16]}`)."
    yield f"{document['detections']:,} detections, {document['network_events']:,} network events."
    for name, why in document["not_to_the_end"].items():
        yield f"\n**{name} was not scanned to its end**: {why}. Its detections, and network events, are not complete."
    yield "\n![detections over time](detections.png)\n"
    yield "| cluster | detections |\n| --- | ---: |"
    for name, many in document["clusters"].items():
        yield f"| {_cell(name)} | {many:,} |"
    yield "\n![detections by channel](channels.png)\n\n![times with data](coverage.png)\n"
    yield "| channel | hours of data | detections | gaps | windows dropped | |\n| --- | ---: | ---: | --- | --- | --- |"
    for name, one in document["channels"].items():
        said = one["refused"] or (f"for a while: {one['quarantined']}" if one["quarantined"] else "")
        cells = (f"{one['hours']:,.2f}", f"{sum(one['detections'].values()):,}", _listed(one["gaps"]),
                 _listed(one["windows_dropped"]), _cell(said))  # fmt: skip
        yield f"| {_cell(name)} | {' | '.join(cells)} |"
    if document["windows_without_signal"]:
        yield f"\nWindows not stored, since {NO_SIGNAL}: {document['windows_without_signal']:,}"
    skipped = document["skipped"]
    if skipped["count"]:
        yield f"\nSkipped, since they are no recordings or damaged: {skipped['count']:,}\n"
        yield from (f"- {_cell(text)}" for text in skipped["first"])
    yield ""


def _listed(counted: dict[str, int]) -> str:
    return ", ".join(f"{many:,} {name}" for name, many in sorted(counted.items()))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
