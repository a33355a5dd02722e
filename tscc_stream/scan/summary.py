"""What a scan came to, for programs, and for people."""

from __future__ import annotations

from collections import Counter

from tscc_stream.package import Package
from tscc_stream.scan.index import Contents
from tscc_stream.scan.job import Job
from tscc_stream.scan.layout import Layout, write_json
from tscc_stream.scan.part_file import Marker
from tscc_stream.scan.plan import Chain


def write(
    layout: Layout,
    job: Job,
    loaded: Package,
    chains: list[Chain],
    finished: list[tuple[str, int, Marker]],
    contents: dict[str, Contents],
    stopped: dict[str, str],
) -> None:
    """summary.json."""
    counts: Counter[str] = Counter()
    for *_, marker in finished:
        counts["detections"] += marker.detections[0]
    write_json(layout.root / "summary.json", {"detections": counts["detections"], "stopped": stopped})
