"""`bench`: the restated baseline is the same mathematics as ours, variants take turns, figures are told as ratios."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tscc_stream import cli
from tscc_stream.bench import (
    encoder,
    encoder_fused,
    encoder_gpu,
    encoder_onnx,
    encoder_orders,
    fanout,
    measure,
    published_encoder,
    published_training,
    training,
    training_parquet,
)
from tscc_stream.bench.measure import FIELD, Figure
from tscc_stream.learn import views
from tscc_stream.learn.losses import hierarchical_contrastive_loss
from tscc_stream.learn.network import make_encoder, pool
from tscc_stream.learn.part import Part

pytestmark = pytest.mark.usefixtures("one_torch_thread")


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


def test_training_from_parquet_is_measured_beside_memory() -> None:
    results = training_parquet.run(windows=64, rounds=1, read=64)
    assert {name: set(figures) for name, figures in results.items()} == {
        "training_parquet": {"field", "ours"},
        "training_parquet_read": {"field"},
    }
    assert all(one.value > 0 and one.unit == "windows/s" for figures in results.values() for one in figures.values())


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

    def watched(x: torch.Tensor, rng: np.random.Generator, part: Part | None = None) -> views.Crops:
        crops = crop(x, rng, part)
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


def test_the_encoder_s_baseline_is_the_published_network() -> None:
    network = make_encoder(0, 1, 5, 8, 6).eval()
    x = torch.randn(3, 40, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(published_encoder.published(network, x), pool(network(x)))


def test_the_operations_of_a_window_are_counted_exactly() -> None:
    """By a convolution that counts: one product for each sample and each tap that sees data."""
    network = make_encoder(0, 2, 5, 8, 4)
    samples, count = 11, 0
    for block in network.blocks:
        for conv in (block.conv1, block.conv2):
            taps = [(t, k) for t in range(samples) for k in (-1, 0, 1) if 0 <= t + k * conv.reach < samples]
            count += len(taps) * conv.in_channels * conv.out_channels
    count += samples * (2 * 8 + 8 * 5)  # projection, and the residual of the last block
    assert published_encoder.gigaflop(network, samples, padded=False) == pytest.approx(2e-9 * count)
    published = make_encoder(0, 1)
    assert published_encoder.gigaflop(published, 500, padded=True) == pytest.approx(0.257, abs=1e-3)
    assert published_encoder.gigaflop(published, 500, padded=False) == pytest.approx(0.218, abs=1e-3)


def test_encoders_are_measured_beside_one_another_and_beside_a_product(capsys: pytest.CaptureFixture[str]) -> None:
    results = encoder.run(batches=(1, 3), threads=(1, 2), rounds=1, samples=64, depth=2)
    assert {"encoder_gflop", "encoder_b1_t1", "encoder_b3_t2", "encoder_gflops_b3_t1"} <= set(results)
    for batch, count in ((1, 1), (3, 2)):
        speed, done = results[f"encoder_b{batch}_t{count}"], results[f"encoder_gflops_b{batch}_t{count}"]
        assert {FIELD, "eager_trimmed", "ours", "ours_best"} <= set(speed)
        assert speed["ours"].ratio == pytest.approx(speed["ours"].value / speed[FIELD].value)
        assert done["ours_share"].value == pytest.approx(100 * done["ours"].value / done["gemm"].value)
    said = capsys.readouterr().out
    assert all(name in said or "onnxruntime" in speed for name in encoder_onnx.missing())


def test_a_variant_with_other_results_is_an_error() -> None:
    variants = {FIELD: lambda: np.zeros((2, 3), np.float32), "ours": lambda: np.full((2, 3), 1e-3, np.float32)}
    with pytest.raises(encoder.BenchError, match=r"ours differs from field by 0\.001"):
        encoder._check(variants)


@pytest.mark.parametrize("order", sorted(encoder_orders.ORDERS))
@pytest.mark.parametrize("time", [1, 40])
def test_every_order_of_work_on_a_gpu_gives_the_same(order: str, time: int) -> None:
    network = make_encoder(0, 2, 5, 8, 6).eval()
    x = torch.randn(3, time, 2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        got = encoder_orders.ORDERS[order](encoder_orders.weights_of(network, "cpu", torch.float32), x)
        torch.testing.assert_close(got, pool(network(x)), atol=1e-5, rtol=1e-5)


def test_the_gpu_bench_says_that_there_is_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["encoder_gpu"])
    with pytest.raises(SystemExit):
        encoder_gpu.main()
    assert "no CUDA device" in capsys.readouterr().err


def test_a_part_that_fails_is_told_and_the_others_go_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def broken() -> Iterator[measure.Results]:
        yield {"one": {FIELD: Figure(1.0, "windows/s", 1.0)}}
        raise RuntimeError("no memory left")

    results: measure.Results = {}
    assert not encoder_gpu._done("live", broken, results, tmp_path / "gpu.json")
    assert "no memory left" in capsys.readouterr().err
    assert set(json.loads((tmp_path / "gpu.json").read_text())) == set(results) == {"one"}


@pytest.mark.skipif(
    not (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET")) or not encoder_fused.available(),
    reason="needs Triton with a CUDA device, or with TRITON_INTERPRET=1",
)
@pytest.mark.parametrize(("time", "representation", "hidden"), [(70, 32, 64), (500, 32, 64), (70, 32, 32)])
def test_the_encoder_in_one_kernel_gives_the_same(time: int, representation: int, hidden: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = make_encoder(0, 1, representation, hidden, 8).eval()
    x = torch.randn(5, time, 1, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        got = encoder_fused.fused(network, torch.float16, device, programs=2, warps=4)(x.to(device)).cpu()
        torch.testing.assert_close(got, pool(network(x)), atol=1e-2, rtol=1e-2)


def test_the_gpu_bench_goes_through_all_its_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """On the processor, in small: that figures come of every part, and that nothing in it is misspelt."""
    small = {"DEVICE": "cpu", "BATCHES": (2,), "SAMPLES": 40, "PRODUCT": 16, "SECONDS": 0.0, "ROUNDS": 1}
    stand_ins = {"graphed": lambda work: work, "check_windows": lambda x: x[:2]}
    for name, value in (small | stand_ins).items():
        monkeypatch.setattr(encoder_gpu, name, value)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    network = make_encoder(0, 1, 32, 64, 2).eval()
    results = encoder_gpu.limits()
    parts = {"representations": encoder_gpu.representations, "orders": lambda: encoder_gpu.orders(network, 1.0)}
    for name, part in parts.items():
        assert encoder_gpu._done(name, part, results, tmp_path / "gpu.json"), capsys.readouterr().err
    assert {"gpu_gemm", "gpu_error_demo", "gpu_encoder_b2", "gpu_encoder_share_b2"} <= set(results)
    assert all(FIELD in variants for variants in results.values())
    speeds = results["gpu_encoder_b2"]
    assert {f"{p}_{o}_graph" for p in encoder_gpu.PRECISIONS for o in encoder_orders.ORDERS} <= set(speeds)
