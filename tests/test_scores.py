"""ACC, NMI and AUPRC: against literal restatements, scikit-learn, and the published figures where they are at hand."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, normalized_mutual_info_score

from tscc_stream.learn import probes, scores
from tscc_stream.learn.evaluate import evaluate_arrays
from tscc_stream.learn.report import document

REFERENCE = Path(os.environ.get("TSCC_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "tscc_reference"

LABELLED = st.integers(2, 4).flatmap(
    lambda k: st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), min_size=4, max_size=40)
)


def _arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    y, group = np.array(pairs).T
    return np.unique(y, return_inverse=True)[1], np.unique(group, return_inverse=True)[1]


@given(LABELLED)
def test_the_best_matching_is_the_best_of_all_matchings(pairs: list[tuple[int, int]]) -> None:
    y, group = _arrays(pairs)
    found = scores.accuracy(y, scores.matching(y, group)[group])
    size = max(y.max(), group.max()) + 1
    best = max(np.mean(np.array(order)[group] == y) for order in itertools.permutations(range(size)))
    assert found == pytest.approx(best)


@given(LABELLED)
def test_normalised_mutual_information_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    y, group = _arrays(pairs)
    expected = normalized_mutual_info_score(y, group, average_method="arithmetic")
    assert scores.normalised_mutual_information(y, group) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3), st.integers(1, 4)), min_size=2, max_size=30))
def test_average_precision_is_that_of_scikit_learn_with_ties_and_weights(rows: list[tuple[bool, int, int]]) -> None:
    positive, score, weight = (np.array(column, float) for column in zip(*rows, strict=True))
    found = scores.average_precision(positive, score, weight)
    if positive.any():
        assert found == pytest.approx(average_precision_score(positive, score, sample_weight=weight))
        repeated = np.repeat(np.arange(len(rows)), weight.astype(int))
        assert found == pytest.approx(scores.average_precision(positive[repeated], score[repeated]))
    else:
        assert np.isnan(found)


def test_average_precision_by_hand() -> None:
    # thresholds 3, 2, 1: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1
    assert scores.average_precision(np.array([1, 0, 1]), np.array([3.0, 2.0, 1.0])) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_weights_count_windows_several_times() -> None:
    rng = np.random.default_rng(0)
    y, group = rng.integers(3, size=50), rng.integers(3, size=50)
    weight = rng.integers(0, 4, size=50).astype(float)
    rows = np.repeat(np.arange(50), weight.astype(int))
    for of in (scores.accuracy, scores.normalised_mutual_information):
        assert of(y, group, weight) == pytest.approx(of(y[rows], group[rows]))


def test_other_numbers_of_clusters_than_classes_take_the_majority_of_the_other_half() -> None:
    y = np.array([0, 0, 1, 0, 1, 1])
    group = np.array([0, 1, 2, 0, 1, 2])
    late = np.array([False, False, False, True, True, True])
    # early half learns from the late one: 0 -> 0, 1 -> 1, 2 -> 1; the late half from the early one: 0 -> 0, 1 -> 0
    assert scores.classes_of_clusters(y, group, 3, late).tolist() == [0, 1, 1, 0, 0, 1]


def test_a_cluster_that_the_other_half_never_met_takes_the_commonest_class() -> None:
    assert scores.majorities(np.array([1, 1, 0]), np.array([0, 0, 1]), 4).tolist() == [1, 0, 1, 1]


def test_clusters_without_a_class_get_colours_of_their_own() -> None:
    assert scores.partners(np.array([0, 0, 1, 1]), np.array([2, 2, 0, 1]), 4)[2] == 0
    assert sorted(scores.partners(np.array([0, 0, 1, 1]), np.array([2, 2, 0, 1]), 4)) == [0, 1, 2, 3]


def test_intervals_hold_the_value_and_widen_where_windows_come_in_blocks() -> None:
    rng = np.random.default_rng(1)
    blocks = np.repeat(np.arange(20), 20)
    y = rng.integers(2, size=400)
    right = np.repeat(rng.random(20) < 0.7, 20)  # a whole block is right, or wrong
    group = np.where(right, y, 1 - y)
    verdict = scores.judge_clusters(y, group, 2, np.zeros(400, bool))
    together = scores.score([verdict], blocks, seed=0)
    alone = scores.score([verdict], scores.time_blocks(None, 400), seed=0)
    assert together == scores.score([verdict], blocks, seed=0)
    for found in (together, alone):
        assert found.acc_interval[0] <= found.acc <= found.acc_interval[1]
    assert np.ptp(together.acc_interval) > 2 * np.ptp(alone.acc_interval)


def test_time_blocks_hold_what_is_near_in_time() -> None:
    onset_ns = np.array([0, 5, 9, 10, 11, 45]) * 10**9
    assert scores.time_blocks(onset_ns, 6).tolist() == [0, 0, 0, 1, 1, 2]


def test_splits_by_time_keep_apart_what_shares_samples() -> None:
    onset_ns = np.arange(20) * 10**9
    splits = probes.splits_by_time(onset_ns, span_ns=2 * 10**9)
    for train, test in splits:
        assert np.abs(onset_ns[train][:, None] - onset_ns[test]).min() >= 2 * 10**9
    assert sorted(np.concatenate([test for _, test in splits])) == list(range(20))


@pytest.mark.parametrize("name", probes.PROBES)
def test_probes_learn_what_is_there_and_nothing_where_nothing_is(name: str) -> None:
    rng = np.random.default_rng(2)
    y = np.arange(300) % 3
    splits = probes.splits_at_random(y, seed=0)
    noise = rng.standard_normal((300, 4))
    blocks = scores.time_blocks(None, 300)
    signal = scores.score(probes.probe(name, noise + 5 * np.eye(3, 4)[y], y, splits), blocks, 0, resamples=5)
    nothing = scores.score(probes.probe(name, noise, y, splits), blocks, 0, resamples=5)
    assert signal.acc > 0.95
    assert signal.auprc > 0.95
    assert abs(nothing.acc - 1 / 3) < 0.1


def test_a_half_with_one_class_is_refused() -> None:
    y = np.array([0] * 10 + [1] * 10)
    splits = probes.splits_by_time(np.arange(20) * 10**9, 0)
    with pytest.raises(probes.ProbeError, match="expected 5 or more of two classes in each half"):
        probes.probe("linear", np.ones((20, 2)), y, splits)


@pytest.mark.data
def test_the_published_arrays_give_the_published_figures() -> None:
    if not REFERENCE.is_dir():
        pytest.skip("the published arrays lie outside the repository")
    at = {part: REFERENCE / f"End_Finetuning_{part}.npy" for part in ("R", "y_true", "y_pred")}
    report = document(evaluate_arrays(at["R"], at["y_true"], at["y_pred"]).report)
    assert report["clustering"] == {"acc": 98.07, "nmi": 86.26, "auprc": 97.15}
    expected = {"linear": 98.8, "knn": 98.2, "svm": 99.1}
    for name, acc in expected.items():
        assert report["representation"][name]["acc"] == pytest.approx(acc, abs=0.4)
