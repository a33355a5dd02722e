"""`bench frontend`: every way is measured over the same streams, and ours is held to what the stages say."""

from __future__ import annotations

import pytest

from tscc_stream.bench import frontend
from tscc_stream.bench.measure import FIELD
from tscc_stream.pipeline import FrontHalf


@pytest.fixture(autouse=True)
def few_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The field's way takes ten seconds to warm up 200."""
    monkeypatch.setattr(frontend, "OF_THE_FIELD", 20)


def test_every_way_is_measured_in_turn() -> None:
    results = frontend.run(channels=(3, 20), rounds=1, samples=20_000)["frontend"]
    assert set(results) == {"ours, 3 channels", "ours", "stages", FIELD}
    assert results[FIELD].ratio == 1.0
    assert results["ours"].ratio == pytest.approx(results[FIELD].value / results["ours"].value)


def test_no_figure_is_given_where_windows_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    advance = FrontHalf.feed_batch
    monkeypatch.setattr(FrontHalf, "feed_batch", lambda self, batch: advance(self, batch)[:-1])
    with pytest.raises(AssertionError, match="record by record"):
        frontend.run(channels=(20,), rounds=1, samples=20_000)
