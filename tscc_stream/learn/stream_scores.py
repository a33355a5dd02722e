"""Through-the-stream scores: what a whole site (trigger, windows, clusters) finds of what is known to have happened.

A detection counts as true where its onset belongs to an arrival of the target kind. The trigger alone can rank its
detections by peak ratio; clusters are judged beside that ranking at equal recall. Which clusters hold the target is
learnt on one half of the time and applied to the other, and vice versa.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tscc_stream.learn.dataset import Int64Array
from tscc_stream.learn.scores import Score, judge_clusters, score, time_blocks
from tscc_stream.learn.stream_truth import EVENT, NOISE, Arrival, Lookup, StreamTruthError, within
from tscc_stream.messages import AnyArray, Float64Array
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.source_id import to_nslc

CLEAR_SNR = 5.0
"""Arrivals of at least this signal to noise are counted a second time, by themselves."""
TARGET_RECALL = 0.9
SECONDS_PER_DAY = 86_400.0
_DEFAULT_TARGETS = ("microseismic", EVENT)


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """n detections in order of onset. cluster: of the nearest centre, or `clusters` where unknown."""

    nslc: tuple[str, ...]
    onset_ns: Int64Array
    peak_ratio: Float64Array
    cluster: Int64Array
    clusters: int

    def within(self, span_ns: tuple[int, int]) -> Detections:
        """Those with onset from span_ns[0] up to, and without, span_ns[1]."""
        rows = np.flatnonzero((self.onset_ns >= span_ns[0]) & (self.onset_ns < span_ns[1]))
        nslc = tuple(self.nslc[row] for row in rows)
        return Detections(nslc, self.onset_ns[rows], self.peak_ratio[rows], self.cluster[rows], self.clusters)


@dataclass(frozen=True, slots=True)
class Step:
    """The best so-many clusters together, beside the trigger's own peak ratio cut so that recall is the same."""

    clusters: int
    recall: float
    precision: float
    peak_ratio_precision: float


@dataclass(frozen=True, slots=True, eq=False)
class StreamReport:
    """Shares from 0 to 1. trigger_recall: of all arrivals of the target; _clear: of those with SNR >= CLEAR_SNR;
    event_recall: of events, found at one channel or more. steps: recall is of the true detections that the trigger
    made. false_per_day: at TARGET_RECALL of these, over all channels; None where no group of clusters reaches it.
    confusion: rows kinds, columns clusters (the last: unknown, where there are any). curve: recall and precision of
    the highest peak ratios, for every number of them.
    """

    target: str
    days: float
    channels: int
    detections: int
    true_detections: int
    arrivals: int
    trigger_recall: float
    trigger_recall_clear: float | None
    event_recall: float
    steps: tuple[Step, ...]
    false_per_day_trigger: float
    false_per_day_clusters: float | None
    clustering: Score
    kinds: dict[str, int]
    clusters: int
    confusion: list[list[int]]
    curve: tuple[Float64Array, Float64Array]


def read_detections(lines: Iterable[str]) -> Detections:
    """Out of the rows that `classify` writes as jsonl; network events are passed over. Raises StreamTruthError."""
    rows: list[tuple[int, str, float, int]] = []
    clusters = 1
    for number, line in enumerate(lines, 1):
        try:
            body = json.loads(line)
            if "detection" not in body["type"]:
                continue
            data, found = body["data"], body["data"]["cluster"]
            clusters = max(clusters, len(found["membership"]))
            cluster = int(found["id"]) if found["known"] else -1
            rows.append((int(data["onset_ns"]), to_nslc(body["subject"]), float(data["peak_ratio"]), cluster))
        except (ValueError, KeyError, TypeError) as error:
            raise StreamTruthError(f"line {number} of the detections is no message of classify: {error}") from error
    rows.sort()
    cluster_n = np.array([row[3] for row in rows], np.int64)
    return Detections(
        tuple(row[1] for row in rows),
        np.array([row[0] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float64),
        np.where(cluster_n < 0, clusters, cluster_n),
        clusters,
    )


def judge_stream(
    found: Detections,
    arrivals: list[Arrival],
    nslc: Iterable[str],
    span_ns: tuple[int, int],
    *,
    recorded_ns: int | None = None,
    target: str | None = None,
    seed: int = 0,
) -> StreamReport:
    """Judge those detections of a stream of channels nslc that lie within span_ns.

    recorded_ns: for how long of the span there are data, None: all of it. target: the kind that alerts are for; None:
    microseismic, or event. Raises StreamTruthError where there is nothing to judge.
    """
    places, found = tuple(nslc), found.within(span_ns)
    known = within(arrivals, places, span_ns)
    wanted = _target(known, target)
    owners = _owners(known, found)
    names, y = _kinds(known, owners)
    true = y == names.index(wanted)
    if not true.any():
        raise StreamTruthError(f"{len(y)} detections, of which none belongs to kind {wanted}: nothing to judge")
    groups = found.clusters + int((found.cluster == found.clusters).any())
    late = found.onset_ns >= int(np.median(found.onset_ns))
    rank = _ranks(true, found.cluster, groups, late)
    days = (span_ns[1] - span_ns[0] if recorded_ns is None else recorded_ns) / NS_PER_SECOND / SECONDS_PER_DAY
    verdict = judge_clusters(y, found.cluster, groups, late)
    recall, recall_clear, event_recall = _trigger_recall(known, owners, wanted)
    fewest = _fewest_false(true, rank, groups, found.peak_ratio)
    return StreamReport(
        target=wanted,
        days=days,
        channels=len(places),
        detections=len(y),
        true_detections=int(true.sum()),
        arrivals=sum(arrival.kind == wanted for arrival in known),
        trigger_recall=recall,
        trigger_recall_clear=recall_clear,
        event_recall=event_recall,
        steps=_steps(true, rank, groups, found.peak_ratio),
        false_per_day_trigger=(false_at_recall(true, found.peak_ratio, np.ones(len(true), bool)) or 0) / days,
        false_per_day_clusters=None if fewest is None else fewest / days,
        clustering=score([verdict], time_blocks(found.onset_ns, len(y)), seed),
        kinds=dict(zip(names, np.bincount(y, minlength=len(names)).tolist(), strict=True)),
        clusters=found.clusters,
        confusion=_confusion(y, found.cluster, len(names), groups),
        curve=_curve(true, found.peak_ratio),
    )


def _target(known: list[Arrival], asked: str | None) -> str:
    kinds = {arrival.kind for arrival in known}
    for kind in _DEFAULT_TARGETS if asked is None else (asked,):
        if kind in kinds:
            return kind
    there = ", ".join(sorted(kinds)) or "nothing at these channels and times"
    raise StreamTruthError(f"no arrival of kind {asked or ' or '.join(_DEFAULT_TARGETS)}; the truth holds {there}")


def _owners(known: list[Arrival], found: Detections) -> list[list[Arrival]]:
    """For each detection the arrivals that it may belong to, the strongest first."""
    lookup = Lookup(known)
    return [lookup.at(nslc, int(at)) for nslc, at in zip(found.nslc, found.onset_ns, strict=True)]


def _kinds(known: list[Arrival], owners: list[list[Arrival]]) -> tuple[list[str], Int64Array]:
    """Kinds in alphabetical order, noise last; that of the strongest arrival for each detection."""
    names = [*sorted({arrival.kind for arrival in known}), NOISE]
    return names, np.array([names.index(some[0].kind if some else NOISE) for some in owners], np.int64)


def _trigger_recall(
    known: list[Arrival], owners: list[list[Arrival]], wanted: str
) -> tuple[float, float | None, float]:
    """Shares of arrivals, of clear arrivals (None without any) and of events that have a detection."""
    met = {arrival for some in owners for arrival in some}
    mine = [arrival for arrival in known if arrival.kind == wanted]
    clear = [arrival for arrival in mine if arrival.snr >= CLEAR_SNR]
    events = {arrival.event for arrival in mine}
    seen = {arrival.event for arrival in mine if arrival in met}
    share_clear = sum(arrival in met for arrival in clear) / len(clear) if clear else None
    return sum(arrival in met for arrival in mine) / len(mine), share_clear, len(seen) / len(events)


def _ranks(true: AnyArray, group: Int64Array, groups: int, late: AnyArray) -> Int64Array:
    """For each detection the place of its cluster by share of true ones, 0 best, as the other half knows it."""
    rank = np.zeros(len(group), np.int64)
    for half in (late, ~late):
        taught = ~half if half.any() and not half.all() else half
        counts = np.bincount(group[taught], minlength=groups)
        share = np.bincount(group[taught], true[taught], minlength=groups) / np.maximum(counts, 1)
        rank[half] = np.argsort(np.argsort(-share, kind="stable"), kind="stable")[group[half]]
    return rank


def _steps(true: AnyArray, rank: Int64Array, groups: int, peak_ratio: Float64Array) -> tuple[Step, ...]:
    steps = []
    for number in range(1, groups):
        kept = rank < number
        if true[kept].any():
            recall, precision = float(true[kept].sum() / true.sum()), float(true[kept].mean())
            steps.append(Step(number, recall, precision, precision_at_recall(true, peak_ratio, recall)))
    return tuple(steps)


def _curve(true: AnyArray, peak_ratio: Float64Array) -> tuple[Float64Array, Float64Array]:
    hits = np.cumsum(true[np.argsort(-peak_ratio, kind="stable")]).astype(np.float64)
    return hits / hits[-1], hits / np.arange(1, len(hits) + 1)


def precision_at_recall(true: AnyArray, peak_ratio: Float64Array, recall: float) -> float:
    """Precision of the highest peak ratios, as many as it takes to reach the recall."""
    hits = np.cumsum(true[np.argsort(-peak_ratio, kind="stable")])
    needed = int(np.searchsorted(hits, recall * hits[-1] - 1e-9))
    return float(hits[needed] / (needed + 1))


def false_at_recall(true: AnyArray, peak_ratio: Float64Array, kept: AnyArray) -> int | None:
    """False detections among the kept ones of highest peak ratio, as many as reach TARGET_RECALL of all true ones;
    None where they do not.
    """
    hits = np.cumsum(true[kept][np.argsort(-peak_ratio[kept], kind="stable")])
    needed = int(np.ceil(TARGET_RECALL * true.sum() - 1e-9))
    if not hits.size or hits[-1] < needed:
        return None
    return int(np.searchsorted(hits, needed)) + 1 - needed


def _fewest_false(true: AnyArray, rank: Int64Array, groups: int, peak_ratio: Float64Array) -> int | None:
    """Over all groups of best clusters short of all."""
    counts = [false_at_recall(true, peak_ratio, rank < number) for number in range(1, groups)]
    return min((count for count in counts if count is not None), default=None)


def _confusion(y: Int64Array, group: Int64Array, kinds: int, groups: int) -> list[list[int]]:
    counts = np.zeros((kinds, groups), np.int64)
    np.add.at(counts, (y, group), 1)
    rows: list[list[int]] = counts.tolist()
    return rows
