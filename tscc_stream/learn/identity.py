"""The identity of clusters across trainings: names that people gave survive where the clusters do.

Old and new model sort the same windows. Clusters are matched one to one so that as many windows as possible stay
together (Hungarian method; Kuhn 1955). A pair is the same cluster where the larger part of either lies in the other:
`overlap`, the smaller of both shares, is at least OVERLAP. Its label is carried over; whatever else the new model found
is for people to name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tscc_stream.edges.torchscript import TorchScriptEncoder
from tscc_stream.learn import stored
from tscc_stream.learn.dataset import DataSet, DataSetError, Int64Array
from tscc_stream.messages import Float32Array
from tscc_stream.package import Label, Package, write_labels
from tscc_stream.windows import normalise

OVERLAP = 0.5
"""Below it, more of one cluster lies outside the other than within: another cluster, which needs a name of its own."""
MOST_COMPARED = 50_000
"""Windows out of Parquet on which models are compared."""
_TOGETHER = 64


@dataclass(frozen=True, slots=True)
class Pair:
    """An old and a new cluster that are one. windows: how many they share; overlap: as in the module."""

    old: int
    new: int
    windows: int
    overlap: float


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """counts [old clusters, new clusters]: windows of each pair. pairs: those that are the same cluster, by old id."""

    counts: Int64Array
    pairs: tuple[Pair, ...]

    @property
    def moved(self) -> int:
        """Windows that are not in the cluster where their old cluster is now."""
        return int(self.counts.sum()) - sum(pair.windows for pair in self.pairs)

    def permutation(self) -> Int64Array:
        """[new clusters] new ids in the order that gives old ids back: centres[permutation] has cluster k of the old
        model in row k wherever it was found again; the rest fill what is free, in their order.
        """
        count = self.counts.shape[1]
        order = np.full(count, -1, np.int64)
        for pair in self.pairs:
            if pair.old < count:
                order[pair.old] = pair.new
        left = (new for new in range(count) if new not in order)
        for place in np.flatnonzero(order < 0):
            order[place] = next(left)
        return order

    def labels(self, old: Mapping[int, Label]) -> dict[int, Label]:
        """The old labels under their new ids."""
        return {pair.new: old[pair.old] for pair in self.pairs if pair.old in old}


def match(old: Int64Array, new: Int64Array, clusters: tuple[int, int], overlap: float = OVERLAP) -> Carried:
    """Two assignments [n] of the same windows. clusters: how many there are of old ones, and of new ones."""
    if old.shape != new.shape or not old.size:
        raise DataSetError(f"{old.size} old and {new.size} new assignments; expected as many, and at least one")
    counts = np.zeros(clusters, np.int64)
    np.add.at(counts, (old, new), 1)
    pairs = []
    for i, j in zip(*linear_sum_assignment(counts, maximize=True), strict=True):
        shared = int(counts[i, j])
        share = shared / max(int(counts[i].sum()), int(counts[:, j].sum()), 1)
        if shared and share >= overlap:
            pairs.append(Pair(int(i), int(j), shared, share))
    return Carried(counts, tuple(pairs))


def assignments(package: Package, data: DataSet) -> Int64Array:
    """A package's cluster of each window. Raises DataSetError where the windows are not what it was made for."""
    spec = package.spec
    expected = (spec.sample_rate_hz, spec.samples, spec.channels)
    found = (data.sample_rate_hz, *data.x.shape[1:])
    if found != expected:
        raise DataSetError(
            f"windows are {found[1]} samples x {found[2]} channels at {found[0]:g} Hz; model {package.folder} "
            f"expects {expected[1]} x {expected[2]} at {expected[0]:g} Hz"
        )
    return _sorted(package, normalise(data.x, spec.normalisation))


def _sorted(package: Package, normalised: Float32Array) -> Int64Array:
    """The package's cluster of each window [n, samples, channels]."""
    encoder = TorchScriptEncoder(package)
    firsts = range(0, len(normalised), _TOGETHER)
    return np.concatenate([encoder.encode(normalised[first : first + _TOGETHER]).cluster for first in firsts])


class Clustering(Protocol):
    """What training calls its clusters: centres [K, A], and the cluster of each representation [n, D]."""

    @property
    def centres(self) -> Tensor: ...

    def assign(self, r_nd: Tensor, /) -> Tensor: ...


def keeping(
    old: Package, normalised: Callable[[Tensor | None], Float32Array]
) -> Callable[[Clustering, Tensor, Tensor | None], list[int]]:
    """For training that goes on from `old` (`arrange` of the trainer): clusters found again keep their ids.

    normalised: gives training windows, by number (None: all), as `old` sees them; what is returned is given clusters,
    representations, and of which windows they are (None: all), and says which of the clusters becomes 0, 1, ...
    """
    before: list[Int64Array] = []  # sorted when first needed: by then training has refused what does not fit

    def arrange(found: Clustering, r_nd: Tensor, which_n: Tensor | None) -> list[int]:
        if not before:
            before.append(_sorted(old, normalised(which_n)))
        now = found.assign(r_nd).cpu().numpy().astype(np.int64)
        order: list[int] = match(before[0], now, (old.spec.clusters, len(found.centres))).permutation().tolist()
        return order

    return arrange


def compare(old: Package, new: Package, data: Path) -> Carried:
    """Which clusters of `new` are which of `old`, on the windows of a data set."""
    windows = stored.load(data, MOST_COMPARED)
    counts = old.spec.clusters, new.spec.clusters
    return match(assignments(old, windows), assignments(new, windows), counts)


def carry_labels(old: Package, new: Package, data: Path) -> str:
    """Name the clusters of `new` after those of `old` that they are, and tell what moved.

    A label that `new` has already stands: people gave it later.
    """
    carried = compare(old, new, data)
    labels = {**carried.labels(old.labels), **new.labels}
    write_labels(new.folder, labels)
    named = ", ".join(f"{k} {labels[k].name}" for k in sorted(labels)) or "none"
    return f"{report(carried, old, new)}\n\n{new.folder}: named clusters: {named}"


def report(carried: Carried, old: Package, new: Package) -> str:
    """What became of every cluster, as a table in Markdown."""
    found = {pair.old: pair for pair in carried.pairs}
    lines = ["| old cluster | windows | new cluster | shared | overlap |", "| --- | --: | --- | --: | --: |"]
    for cluster, row in enumerate(carried.counts):
        pair = found.get(cluster)
        goes = f"{pair.new} | {pair.windows} | {100 * pair.overlap:.1f} %" if pair else f"{_spread(row)} | |"
        lines.append(f"| {cluster} {old.name_of(cluster)} | {row.sum()} | {goes} |")
    fresh = set(range(new.spec.clusters)) - {pair.new for pair in carried.pairs}
    lines += [f"| (none) | | {k} | {carried.counts[:, k].sum()} | |" for k in sorted(fresh)]
    total = int(carried.counts.sum())
    lines += ["", f"{carried.moved} of {total} windows ({100 * carried.moved / total:.1f} %) changed their cluster."]
    return "\n".join(lines)


def _spread(row: Int64Array) -> str:
    """Where the windows of a cluster went that was not found again."""
    where = [f"{k}: {row[k]}" for k in np.argsort(-row, kind="stable") if row[k]]
    return f"not found again ({', '.join(where)})" if where else "had no window"
