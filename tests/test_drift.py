"""Drift: quiet on windows like those of calibration, loud on others, silent where it cannot know."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tscc_stream.drift import ALARM, ALL, LEAST, Drift, Reference, statistic

IN_DISTRIBUTION = 0.12
"""What the module states for 500 recent and 1,000 calibration windows."""
MOST = 500


def _windows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clusters, squared distances of 32 dimensions, memberships."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, 2, count)
    return cluster, rng.chisquare(32, count) * (1.0 + cluster), rng.beta(8, 2, count)


def _reference(count: int = 1000) -> Reference:
    cluster, nearest, membership = _windows(count, seed=0)
    order = np.argsort(nearest)
    return Reference(nearest[order], cluster[order].astype(np.int64), membership[order])


def _fed(drift: Drift, count: int, seed: int, factor: float = 1.0, power: float = 1.0) -> dict[str, float]:
    for cluster, nearest, membership in zip(*_windows(count, seed), strict=True):
        drift.feed(int(cluster), factor * nearest, membership**power)
    return drift.scores()


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.lists(st.floats(0, 10), min_size=1, max_size=30))
def test_the_statistic_is_the_largest_distance_of_the_distributions(
    reference: list[float], recent: list[float]
) -> None:
    a, b = np.array(reference), np.array(recent)
    expected = max(abs((a <= value).mean() - (b <= value).mean()) for value in (*a, *b))
    assert statistic(np.sort(a), b) == pytest.approx(expected, abs=1e-12)


def test_windows_like_those_of_calibration_stay_below_what_is_stated() -> None:
    highest = [_fed(Drift(_reference(), 2, MOST), MOST, seed)[ALL] for seed in range(1, 101)]
    assert max(highest) < IN_DISTRIBUTION < ALARM


@pytest.mark.parametrize(("factor", "power"), [(1.5, 1.0), (0.6, 1.0), (1.0, 3.0)])
def test_other_distances_or_memberships_go_above(factor: float, power: float) -> None:
    scores = _fed(Drift(_reference(), 2, MOST), MOST, 1, factor, power)
    assert set(scores) == {ALL, "0", "1"}
    assert min(scores.values()) > ALARM


def test_one_cluster_that_moves_is_told_apart() -> None:
    drift = Drift(_reference(), 2, MOST)
    for cluster, nearest, membership in zip(*_windows(2 * MOST, 3), strict=True):
        drift.feed(int(cluster), nearest * (2.0 if cluster else 1.0), membership)
    scores = drift.scores()
    assert scores["0"] < ALARM < scores["1"]


def test_only_the_last_windows_count() -> None:
    drift = Drift(_reference(), 2, 200)
    assert _fed(drift, 400, 1, factor=3.0)[ALL] > 0.5
    assert _fed(drift, 200, 2)[ALL] < ALARM


def test_too_few_windows_say_nothing() -> None:
    drift = Drift(_reference(), 3, MOST)
    assert all(math.isnan(score) for score in drift.scores().values())
    assert math.isnan(_fed(drift, LEAST - 1, 1)[ALL])
    scores = _fed(drift, 1, 2)
    assert scores[ALL] < 0.3
    assert math.isnan(scores["0"])
    assert math.isnan(scores["2"])


def test_packages_that_state_less_or_nothing() -> None:
    bare = Drift(Reference(_reference().scores), 2, MOST)
    scores = _fed(bare, MOST, 1, factor=1.5)
    assert scores[ALL] > ALARM
    assert math.isnan(scores["0"])
    assert all(math.isnan(score) for score in _fed(Drift(None, 2, MOST), MOST, 1).values())
    assert all(math.isnan(score) for score in _fed(Drift(_reference(LEAST - 1), 2, MOST), MOST, 1).values())
