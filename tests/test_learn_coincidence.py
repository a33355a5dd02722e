"""What other sensors say of a window: found where sensors trigger together, and not where they do by chance alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tscc_stream.learn import coincidence
from tscc_stream.learn.dataset import DataSet

NS = 1_000_000_000
SENSORS = ("XX.A..HHZ", "XX.B..HHZ", "XX.C..HHZ", "XX.D..HHZ")


def data_of(events: list[tuple[int, str, bool]]) -> DataSet:
    """(onset in ns, channel, triggered) each; windows last 10 s."""
    onset, sid, triggered = zip(*events, strict=True)
    x = np.ones((len(events), 500, 1), np.float32)
    return DataSet(x, np.array(sid), np.array(onset, np.int64), 50.0, triggered=np.array(triggered, bool))


def by_chance(n: int, rng: np.random.Generator, seconds: float = 20_000.0) -> list[tuple[int, str, bool]]:
    times = (rng.random(n) * seconds * NS).astype(np.int64)
    return [(int(at), SENSORS[int(rng.integers(4))], True) for at in times]


def together(
    n: int, rng: np.random.Generator, spread_s: float, sensors: tuple[str, ...]
) -> list[tuple[int, str, bool]]:
    times = 100 * NS * np.arange(n) + 50 * NS
    return [(int(at + rng.random() * spread_s * NS), name, True) for at in times for name in sensors]


def test_the_lag_is_found_up_to_which_sensors_trigger_together() -> None:
    rng = np.random.default_rng(0)
    data = data_of(by_chance(4000, rng) + together(200, rng, 1.0, SENSORS))
    assert 0.75 * NS <= coincidence.reach_ns(data) <= 1.5 * NS


def test_shares_are_those_of_the_other_sensors() -> None:
    rng = np.random.default_rng(1)
    seen_by_three = together(200, rng, 0.5, SENSORS[:3])
    alone = [(100 * NS * i + 80 * NS, SENSORS[3], True) for i in range(200)]
    quiet = [(100 * NS * i + 50 * NS, SENSORS[3], False) for i in range(200)]
    found = coincidence.shares(data_of(seen_by_three + alone + quiet))
    assert found is not None
    assert np.allclose(found[:600], 2 / 3)
    assert not found[600:].any()


def test_others_count_by_how_strong_their_triggers_were() -> None:
    """A is heard with B, then with C; B's triggers are the strongest of all, C's the weakest."""
    rng = np.random.default_rng(4)
    with_b, with_c = together(200, rng, 0.5, SENSORS[:2]), together(200, rng, 0.5, (SENSORS[0], SENSORS[2]))
    later = [(at + 20_000 * NS, name, triggered) for at, name, triggered in with_c]
    data = data_of(with_b + later)
    ratio = np.select([data.sid == SENSORS[1], data.sid == SENSORS[0]], [9.0, 6.0], 3.0).astype(np.float32)
    found = coincidence.shares(replace(data, peak_ratio=ratio))
    assert found is not None
    at_a = found[data.sid == SENSORS[0]]
    assert np.allclose(at_a[:200], 0.75**2 / 2)  # three quarters of all triggers are weaker than B's
    assert np.allclose(at_a[200:], 0.0)
    assert np.allclose(found[data.sid == SENSORS[1]], 0.25**2 / 2)


def test_nothing_is_concluded_from_one_sensor_or_from_chance() -> None:
    rng = np.random.default_rng(2)
    assert coincidence.shares(data_of(by_chance(3000, rng))) is None
    one = [(int(at), SENSORS[0], True) for at in np.sort(rng.integers(0, 1000 * NS, 2000))]
    assert coincidence.shares(data_of(one)) is None
    assert coincidence.shares(data_of([(0, SENSORS[0], False), (1, SENSORS[1], False)])) is None


def test_the_components_of_one_sensor_are_no_others() -> None:
    rng = np.random.default_rng(3)
    components = ("XX.A..HHZ", "XX.A..HHN", "XX.A..HHE")
    assert coincidence.shares(data_of(together(300, rng, 0.1, components))) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60 * NS), st.integers(0, 3)), min_size=1, max_size=40))
def test_lags_are_those_of_all_pairs(events: list[tuple[int, int]]) -> None:
    onset = np.array([at for at, _ in events], np.int64)
    sensor = np.array([SENSORS[which] for _, which in events])
    span = 10 * NS
    expected = np.zeros(40, np.int64)
    for i in range(len(events)):
        for j in range(i):
            lag = abs(int(onset[i]) - int(onset[j]))
            if lag < span and sensor[i] != sensor[j]:
                expected[lag * 40 // span] += 1
    assert np.array_equal(coincidence._lags(onset, sensor, span), expected)
