"""`bench`: the restated baseline is the same mathematics as ours, variants take turns, figures are told as ratios."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tscc_stream import cli
from tscc_stream.bench import fanout, measure, published_training, training
from tscc_stream.bench.measure import FIELD, Figure
from tscc_stream.learn import views
from tscc_stream.learn.losses import hierarchical_contrastive_loss


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(3, 1, 4), (2, 7, 3), (5, 16, 2)])
def test_the_baseline_s_contrast_is_the_value_that_ours_is(shape: tuple[int, int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=draw) for _ in range(2))
    torch.testing.assert_close(published_training.contrastive_loss(a, b), hierarchical_contrastive_loss(a, b))


def test_both_phases_are_measured_beside_the_published_loop() -> None:
    results = training.on_processor(batches=1, rounds=1, samples=24)
    assert set(results) == {"training_pretrain", "training_finetune"}
    for variants in results.values():
        assert set(variants) == {FIELD, "ours"}
        assert variants[FIELD].ratio == 1.0
        assert variants["ours"].ratio == pytest.approx(variants[FIELD].value / variants["ours"].value)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_is_measured_in_both_precisions_and_beside_the_processor(device: str) -> None:
    results = training.on_device(device, batches=1, rounds=1, samples=24, there=2)
    assert set(results) == {"training_pretrain_gpu", "training_finetune_gpu"}
    for variants in results.values():
        assert set(variants) == {FIELD, "ours_float32", "ours_bfloat16", "ours_cpu"}
        assert all(figure.value > 0.0 for figure in variants.values())


def test_crops_of_the_bench_cost_what_those_of_an_epoch_do() -> None:
    x = torch.zeros(1, training.SAMPLES, 1)

    def cost(seeds: Iterable[int]) -> tuple[float, float]:
        cut = [views.two_crops(x, np.random.Generator(np.random.PCG64(seed))) for seed in seeds]
        lengths = [crops.a.shape[1] + crops.b.shape[1] for crops in cut]
        return float(np.mean(lengths)), float(np.mean([crops.overlap**2 for crops in cut]))

    assert cost(training.CROPS) == pytest.approx(cost(range(2000)), rel=0.04)


def test_both_see_crops_of_the_same_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """On which the cost depends; in fine-tuning the published loop crops once for each of its two clusters."""
    seen: list[tuple[int, int, int]] = []
    crop = views.two_crops

    def watched(x: torch.Tensor, rng: np.random.Generator) -> views.Crops:
        crops = crop(x, rng)
        seen.append((crops.a.shape[1], crops.b.shape[1], crops.overlap))
        return crops

    monkeypatch.setattr(views, "two_crops", watched)
    monkeypatch.setattr(
        measure, "seconds_of", lambda variants, rounds: {n: [(one(), 1.0)[1]] for n, one in variants.items()}
    )
    monkeypatch.setattr(training, "seconds_of", measure.seconds_of)
    training.on_processor(batches=3, rounds=1, samples=24)
    field, ours, field_twice, ours_again = seen[:3], seen[3:6], seen[6:12], seen[12:]
    assert field == ours == ours_again == field_twice[::2] == field_twice[1::2]
    assert len(set(field)) > 1


def test_variants_take_turns_and_begin_in_turning_order() -> None:
    order: list[str] = []
    spent = measure.seconds_of({name: lambda name=name: order.append(name) for name in "abc"}, rounds=2)
    assert order == [*"abc", *"abc", *"bca"]  # first to warm up
    assert all(len(some) == 2 for some in spent.values())


def test_the_command_prints_a_table_and_writes_what_programs_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stated = {"training_pretrain": {FIELD: Figure(200.0, "s/epoch", 1.0), "ours": Figure(100.0, "s/epoch", 2.0)}}
    monkeypatch.setattr(training, "run", lambda: stated)
    assert cli.main(["bench", "training", "--json", str(tmp_path / "b.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "cores" in lines[0]
    assert lines[-1].split() == ["training_pretrain", "ours", "100", "s/epoch", "2.00"]
    assert json.loads((tmp_path / "b.json").read_text()) == {
        "training_pretrain": {
            "field": {"value": 200.0, "unit": "s/epoch", "ratio": 1.0},
            "ours": {"value": 100.0, "unit": "s/epoch", "ratio": 2.0},
        }
    }


def test_nobody_misses_a_message_beside_a_stalled_subscriber() -> None:
    results = fanout.run(messages=300, rounds=1, subscribers=3)
    assert set(results["fanout_p99"]) == set(fanout.VARIANTS)
    assert results["fanout_stalled_one"][FIELD].value == results["fanout_stalled_one"]["received"].value == 300


def test_a_message_that_a_subscriber_of_the_bench_misses_is_an_error() -> None:
    assert fanout._latencies({1: 100, 2: 200}, [(1, 150), (2, 260)]) == [50, 60]
    with pytest.raises(fanout.FanoutError, match="missed 1 of 2 messages"):
        fanout._latencies({1: 100, 2: 200}, [(1, 150)])
    with pytest.raises(fanout.FanoutError, match="out of order"):
        fanout._latencies({1: 100, 2: 200}, [(2, 150), (1, 150)])
