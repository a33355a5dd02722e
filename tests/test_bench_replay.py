from __future__ import annotations

import pytest

from tscc_stream.bench import replay
from tscc_stream.bench.measure import FIELD


def test_both_find_nothing_and_are_told_side_by_side() -> None:
    results = replay.run({"replay": (2, 20.0)}, rounds=1)
    assert set(results) == {"replay", "replay_started"}
    assert set(results["replay_started"]) == {FIELD, "ours"}
    assert set(results["replay"]) == {FIELD, "ours", "ours, shipped trigger and demo model"}
    for variants in results.values():
        field = variants[FIELD]
        assert field.ratio == 1.0
        assert all(figure.ratio == pytest.approx(figure.value / field.value) for figure in variants.values())


def test_a_trigger_within_reach_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_HIGH", 0.05)
    with pytest.raises(replay.ReplayError, match="found something"):
        replay.run({"replay": (2, 120.0)}, rounds=1)
