"""How good a clustering or a classifier is against known classes: ACC, NMI, AUPRC, and how sure of that one can be.

Shapes: n windows, K clusters, C classes. Classes and clusters are whole numbers from 0. All scores are shares from 0 to
1; reports show percent. Weights are how often each window counts (the bootstrap draws them); default: once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from tscc_stream.learn.dataset import Int64Array
from tscc_stream.messages import Float64Array

NAMES = ("acc", "nmi", "auprc")
BLOCK_SECONDS = 10.0
"""Windows within one such block are drawn together: one event shows on many sensors within seconds."""
RESAMPLES = 200
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What some method said of n windows. y, predicted: class; group: cluster (or again the predicted class);
    score [n, C]: higher means more likely that class; row: which window of the data set.
    """

    y: Int64Array
    predicted: Int64Array
    group: Int64Array
    score: Float64Array
    row: Int64Array


@dataclass(frozen=True, slots=True)
class Score:
    """One line of the table, with intervals (low, high) at CONFIDENCE; all shares from 0 to 1."""

    acc: float
    nmi: float
    auprc: float
    acc_interval: tuple[float, float]
    nmi_interval: tuple[float, float]
    auprc_interval: tuple[float, float]


def contingency(y: Int64Array, group: Int64Array, weight: Float64Array | None = None) -> Float64Array:
    """[C, K]: (weighted) number of windows of each class in each cluster."""
    columns = int(group.max()) + 1
    flat = np.bincount(y * columns + group, weight, minlength=(int(y.max()) + 1) * columns)
    return flat.reshape(-1, columns).astype(np.float64)


def matching(y: Int64Array, group: Int64Array) -> Int64Array:
    """Class of each cluster [K] by the one-to-one matching with most windows right (Kuhn 1955); -1 without partner."""
    classes, clusters = linear_sum_assignment(contingency(y, group), maximize=True)
    found = np.full(int(group.max()) + 1, -1, np.int64)
    found[clusters] = classes
    return found


def partners(y: Int64Array, group: Int64Array, clusters: int) -> list[int]:
    """A number for each cluster [clusters]: its class by the best matching, beyond the classes where it has none."""
    found = matching(y, group)
    free = iter(range(int(y.max()) + 1, int(y.max()) + 1 + clusters))
    return [int(found[k]) if k < len(found) and found[k] >= 0 else next(free) for k in range(clusters)]


def majorities(y: Int64Array, group: Int64Array, clusters: int) -> Int64Array:
    """Commonest class of each cluster [clusters]; that of all windows where a cluster is empty."""
    counts = np.zeros((int(y.max()) + 1, clusters))
    np.add.at(counts, (y, group), 1.0)
    found: Int64Array = np.where(counts.sum(axis=0) > 0, counts.argmax(axis=0), np.bincount(y).argmax())
    return found


def classes_of_clusters(y: Int64Array, group: Int64Array, clusters: int, late: np.ndarray) -> Int64Array:
    """Class that each window's cluster stands for [n].

    As many clusters as classes: the best matching. Else the majority learnt on the other half of the windows:
    late [n] bool says which half a window belongs to.
    """
    if clusters == len(np.unique(y)):
        return matching(y, group)[group]
    predicted = np.empty_like(group)
    for half in (late, ~late):
        learnt_on = ~half if half.any() and not half.all() else half
        predicted[half] = majorities(y[learnt_on], group[learnt_on], clusters)[group[half]]
    return predicted


def accuracy(y: Int64Array, predicted: Int64Array, weight: Float64Array | None = None) -> float:
    """Share of windows whose class is right."""
    return float(np.average(y == predicted, weights=weight))


def normalised_mutual_information(y: Int64Array, group: Int64Array, weight: Float64Array | None = None) -> float:
    """Mutual information over the arithmetic mean of both entropies; 1 where both are constant."""
    joint = contingency(y, group, weight)
    joint /= joint.sum()
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    mean_entropy = 0.5 * (_entropy(rows) + _entropy(columns))
    information = _entropy(rows) + _entropy(columns) - _entropy(joint.ravel())
    return 1.0 if mean_entropy == 0.0 else max(0.0, information / mean_entropy)


def _entropy(share: Float64Array) -> float:
    some = share[share > 0.0]
    return float(-(some * np.log(some)).sum())


def average_precision(positive: np.ndarray, score: Float64Array, weight: Float64Array | None = None) -> float:
    """Sum over thresholds of precision x gain in recall, equal scores taken together; nan without a positive."""
    order = np.argsort(-score, kind="stable")
    weights = np.ones(len(score)) if weight is None else weight[order]
    right = np.cumsum(weights * positive[order])
    taken = np.cumsum(weights)
    steps = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    right, taken = right[steps], taken[steps]
    if right[-1] == 0.0:
        return float("nan")
    precision = np.divide(right, taken, out=np.zeros_like(right), where=taken > 0)
    return float((np.diff(right, prepend=0.0) * precision).sum() / right[-1])


def macro_average_precision(y: Int64Array, score: Float64Array, weight: Float64Array | None = None) -> float:
    """Mean over the classes that occur of the average precision of each against the rest."""
    present = np.unique(y)
    return float(np.mean([average_precision(y == c, score[:, c], weight) for c in present]))


def one_hot(predicted: Int64Array, classes: int) -> Float64Array:
    """Scores [n, C] of a hard assignment; a prediction of -1 is no class."""
    scores: Float64Array = (predicted[:, None] == np.arange(classes)).astype(np.float64)
    return scores


def judge_clusters(y: Int64Array, group: Int64Array, clusters: int, late: np.ndarray) -> Verdict:
    """A clustering, with each cluster standing for a class as in `classes_of_clusters`."""
    predicted = classes_of_clusters(y, group, clusters, late)
    return Verdict(y, predicted, group, one_hot(predicted, int(y.max()) + 1), np.arange(len(y)))


def time_blocks(onset_ns: Int64Array | None, n: int, seconds: float = BLOCK_SECONDS) -> Int64Array:
    """Number of the block of each window [n]: by time, or each window a block of its own where times are unknown."""
    if onset_ns is None:
        return np.arange(n)
    numbers: Int64Array = np.unique((onset_ns - onset_ns.min()) // round(seconds * 1e9), return_inverse=True)[1]
    return numbers


def score(verdicts: Sequence[Verdict], blocks: Int64Array, seed: int, resamples: int = RESAMPLES) -> Score:
    """Mean over splits of the three scores, with percentile intervals of a bootstrap over time blocks.

    verdicts: one for each split; blocks [all windows of the data set]: as time_blocks numbers them. What a cluster
    stands for, and what a probe has learnt, is not drawn anew.
    """
    whole = [float(np.mean([of(v, None) for v in verdicts])) for of in _SCORES]
    rng = np.random.default_rng(seed)
    number = int(blocks.max()) + 1
    drawn = np.full((resamples, len(_SCORES)), np.nan)
    for replicate in drawn:
        times = np.bincount(rng.integers(number, size=number), minlength=number)[blocks].astype(np.float64)
        weighted = [(v, times[v.row]) for v in verdicts if times[v.row].any()]
        if weighted:
            replicate[:] = [np.mean([of(v, weight) for v, weight in weighted]) for of in _SCORES]
    tail = 50.0 * (1.0 - CONFIDENCE)
    intervals = [_interval(column, tail, value) for column, value in zip(drawn.T, whole, strict=True)]
    return Score(whole[0], whole[1], whole[2], intervals[0], intervals[1], intervals[2])


def _interval(drawn: Float64Array, tail: float, value: float) -> tuple[float, float]:
    finite = drawn[np.isfinite(drawn)]
    low, high = np.percentile(finite, (tail, 100.0 - tail)) if finite.size else (value, value)
    return float(low), float(high)


_Statistic = Callable[[Verdict, Float64Array | None], float]
_SCORES: tuple[_Statistic, ...] = (
    lambda v, weight: accuracy(v.y, v.predicted, weight),
    lambda v, weight: normalised_mutual_information(v.y, v.group, weight),
    lambda v, weight: macro_average_precision(v.y, v.score, weight),
)
