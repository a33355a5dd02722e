"""Detections counted out of a scan's tables: by time and cluster, and by channel and cluster."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tscc_stream.sampling import NS_PER_SECOND

BINS = {
    60 * NS_PER_SECOND: "minute",
    600 * NS_PER_SECOND: "10 minutes",
    3600 * NS_PER_SECOND: "hour",
    86_400 * NS_PER_SECOND: "day",
}
"""By how long they are."""
MOST_BINS = 120
"""Beyond, longer ones are taken, as far as there are any."""


@dataclass(slots=True)
class Counts:
    """bin_ns: how long a bin is, one of BINS. by_time: cluster -> number of the bin since 1970 -> detections.

    by_channel: channel -> cluster -> detections.
    """

    bin_ns: int
    by_time: dict[str, Counter[int]] = field(default_factory=dict)
    by_channel: dict[str, Counter[str]] = field(default_factory=dict)
    network_events: int = 0

    @property
    def by_cluster(self) -> dict[str, int]:
        """The largest first."""
        totals = {name: counts.total() for name, counts in self.by_time.items()}
        return dict(sorted(totals.items(), key=lambda item: (-item[1], item[0])))

    @property
    def detections(self) -> int:
        return sum(self.by_cluster.values())


def count(detections: Path, network_events: Path, span_ns: int) -> Counts:
    """Day after day."""
    counts = Counts(next((bin_ns for bin_ns in BINS if span_ns <= MOST_BINS * bin_ns), max(BINS)))
    for path in sorted(detections.rglob("*.parquet")):
        table = pq.read_table(path, columns=["sid", "onset_ns", "cluster_name"], partitioning=None)
        bins = (table.column("onset_ns").to_numpy() // counts.bin_ns).astype(np.int64).tolist()
        sids, names = table.column("sid").to_pylist(), table.column("cluster_name").to_pylist()
        for (name, place), many in Counter(zip(names, bins, strict=True)).items():
            counts.by_time.setdefault(name, Counter())[place] += many
        for (sid, name), many in Counter(zip(sids, names, strict=True)).items():
            counts.by_channel.setdefault(sid, Counter())[name] += many
    counts.network_events = sum(pq.read_metadata(path).num_rows for path in network_events.rglob("*.parquet"))
    return counts
