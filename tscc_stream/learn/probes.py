"""Probes: what simple classifiers, taught with labels, can read out of raw windows or of representations.

Every probe standardises its features first. Splits are by time wherever times are known: the same event shows on many
sensors, so windows drawn at random would stand on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tscc_stream.learn.dataset import Int64Array
from tscc_stream.learn.scores import Verdict
from tscc_stream.messages import AnyArray, Float64Array

RANDOM_SPLITS = 10
NEIGHBOURS = 5
MOST_ITERATIONS = 5000

Split = tuple[Int64Array, Int64Array]
"""Rows to learn from and rows to be judged on."""


class ProbeError(ValueError):
    """Labels from which no probe can learn, and why, in one sentence."""


_Maker = Callable[[], Any]
PROBES: dict[str, _Maker] = {
    "linear": lambda: LogisticRegression(max_iter=MOST_ITERATIONS),
    "knn": lambda: KNeighborsClassifier(NEIGHBOURS),
    "svm": SVC,  # radial kernel, gamma by the variance of the features
}


def splits_by_time(onset_ns: Int64Array, span_ns: int) -> list[Split]:
    """Both halves by time, each judged by what the other teaches; no window within span_ns of the cut teaches."""
    cut = int(np.median(onset_ns))
    late = onset_ns >= cut
    apart = np.abs(onset_ns - cut) >= span_ns
    return [(np.flatnonzero(apart & ~half), np.flatnonzero(half)) for half in (late, ~late)]


def splits_at_random(y: Int64Array, seed: int) -> list[Split]:
    """Ten stratified halvings, for windows whose times are not known."""
    drawn = StratifiedShuffleSplit(RANDOM_SPLITS, test_size=0.5, random_state=seed)
    return [(train, test) for train, test in drawn.split(y[:, None], y)]


def probe(name: str, features: AnyArray, y: Int64Array, splits: list[Split]) -> list[Verdict]:
    """One probe on features [n, F], a verdict for each split. Raises ProbeError."""
    return list(_verdicts(PROBES[name], features.astype(np.float64), y, splits))


def _verdicts(make: _Maker, features: Float64Array, y: Int64Array, splits: list[Split]) -> Iterator[Verdict]:
    for train, test in splits:
        if len(np.unique(y[train])) < 2 or len(train) < NEIGHBOURS:
            raise ProbeError(
                f"one half of the windows holds {len(train)} of class {np.unique(y[train]).tolist()} alone; "
                f"expected {NEIGHBOURS} or more of two classes in each half"
            )
        model = make_pipeline(StandardScaler(), make()).fit(features[train], y[train])
        predicted = model.predict(features[test]).astype(np.int64)
        yield Verdict(y[test], predicted, predicted, _scores(model, features[test], int(y.max()) + 1), test)


def _scores(model: Pipeline, features: Float64Array, classes: int) -> Float64Array:
    """[n, classes]: signed distance to the boundary, or share of neighbours; lowest for a class never met."""
    if hasattr(model, "decision_function"):
        values = np.asarray(model.decision_function(features), np.float64)
        values = np.stack([-values, values], axis=1) if values.ndim == 1 else values
    else:
        values = np.asarray(model.predict_proba(features), np.float64)
    scores = np.full((len(features), classes), values.min() - 1.0)
    scores[:, model.classes_.astype(np.int64)] = values
    return scores
