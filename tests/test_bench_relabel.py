from __future__ import annotations

from pathlib import Path

import pytest

from tscc_stream.bench import relabel
from tscc_stream.bench.measure import FIELD


def test_all_classify_the_same_windows() -> None:
    results = relabel.run(channels=2, seconds=60.0, rounds=1)["relabel"]
    assert {FIELD, "scan, 1 process"} < set(results)
    field = results[FIELD]
    assert field.unit == "windows/s"
    assert all(figure.ratio == pytest.approx(figure.value / field.value) for figure in results.values())


def test_the_bursts_are_found(tmp_path: Path) -> None:
    relabel._record(tmp_path / "mine", 2, 60.0)
    assert relabel._windows(tmp_path / "mine") >= 8
