"""What the encoder on a CUDA device decides, as far as that needs no device: sizes, agreement, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tscc_stream import package
from tscc_stream.edges import torchscript
from tscc_stream.edges.encoder_cuda import (
    GRAPH_SIZES,
    GraphedEncoder,
    agreement,
    check_windows,
    sizes_for,
    slices_of,
    tensor_float_32,
)
from tscc_stream.edges.torchscript import TorchScriptEncoder
from tscc_stream.stages.infer import Encoded

DEMO = Path(__file__).parents[1] / "models" / "demo"
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, (1,)), (2, (1, 8)), (8, (1, 8)), (32, (1, 8, 32)), (4096, GRAPH_SIZES)]
)
def test_graphs_are_recorded_up_to_the_largest_batch(most: int, sizes: tuple[int, ...]) -> None:
    assert sizes_for(most) == sizes


@given(batch=st.integers(1, 3000), most=st.integers(1, 4096))
def test_a_batch_goes_through_in_parts_that_fit_and_follow_one_another(batch: int, most: int) -> None:
    sizes = sizes_for(most)
    parts = slices_of(batch, sizes)
    assert [first for first, _, _ in parts] == [0, *(behind for _, behind, _ in parts[:-1])]
    assert parts[-1][1] == batch
    for first, behind, size in parts:
        assert behind - first <= size
        assert not any(behind - first <= smaller for smaller in sizes if smaller < size)
    assert all(size == sizes[-1] for *_, size in parts[:-1])


def _encoded(cluster: list[int], distance: list[float]) -> Encoded:
    n = len(cluster)
    squared = np.full((n, 3), 50.0, np.float32)
    squared[np.arange(n), cluster] = distance
    membership = np.eye(3, dtype=np.float32)[cluster]
    return Encoded(np.zeros((n, 2), np.float32), membership, np.array(cluster), squared)


def test_agreement_counts_clusters_and_how_far_p_values_move() -> None:
    scores = np.arange(100.0)
    exact = _encoded([0, 1, 2, 0], [10.0, 20.0, 30.0, 40.0])
    assert agreement(exact, exact, scores).enough
    assert agreement(exact, exact, None).shift == 0.0
    another = agreement(exact, _encoded([0, 1, 2, 1], [10.0, 20.0, 30.0, 40.0]), scores)
    assert (another.clusters, another.membership, another.enough) == (0.75, 1.0, False)
    farther = agreement(exact, _encoded([0, 1, 2, 0], [15.0, 25.0, 35.0, 45.0]), scores)
    assert (farther.clusters, farther.enough) == (1.0, False)
    assert farther.shift == pytest.approx(0.05)
    assert "75.00 % of 4 windows" in str(another)


def test_a_share_of_other_clusters_is_forgiven() -> None:
    exact = _encoded([0] * 1000, [1.0] * 1000)
    assert agreement(exact, _encoded([0] * 996 + [1] * 4, [1.0] * 1000), None).enough
    assert not agreement(exact, _encoded([0] * 994 + [1] * 6, [1.0] * 1000), None).enough


def test_windows_to_compare_on_are_many_and_the_recorded_ones_among_them() -> None:
    x = np.random.default_rng(0).standard_normal((16, 50, 2)).astype(np.float32)
    made = check_windows(x)
    assert made.shape == (192, 50, 2)
    assert made.dtype == np.float32
    assert all(any(np.array_equal(window, other) for other in made) for window in x)
    assert len(np.unique(made.reshape(192, -1), axis=0)) == 192
    assert np.array_equal(made, check_windows(x))


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_as_before_afterwards(allowed: bool) -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with tensor_float_32(allowed):
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (allowed, allowed)
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


def test_a_processor_takes_float32_and_says_so() -> None:
    loaded = package.load(DEMO)
    assert "the CPU takes float32" in TorchScriptEncoder(loaded, "cpu", 1, "bf16").told[0]
    assert TorchScriptEncoder(loaded, "cpu", 1, "auto").told == []


class _Coarse(TorchScriptEncoder):
    """Takes a lower precision on the processor, as far off float32 as `error` says."""

    error = 0.0

    def _take(self, precision: str) -> None:
        exact, error, self._loops = self._module, self.error, None  # loops are the processor's alone
        if precision == "tf32":
            raise RuntimeError("no such products\nhere")

        def coarse(x_btc: torch.Tensor) -> tuple[torch.Tensor, ...]:
            embedding, membership, cluster, squared = exact(x_btc)
            return embedding, membership, (cluster + (torch.arange(len(cluster)) < error)) % 6, squared

        self._module = coarse  # type: ignore[assignment]  # a stand-in


@pytest.mark.parametrize("other", [0, 1, 20])
def test_a_precision_that_gives_other_clusters_is_not_used(other: int) -> None:
    encoder = _Coarse(package.load(DEMO), "cpu", 1)
    x = np.random.default_rng(0).standard_normal((4, 500, 1)).astype(np.float32)
    before = encoder.encode(x)
    encoder.error = other
    exact = encoder._module
    encoder._lower_precision("bf16")
    enough = other < 1
    assert (encoder._module is exact) != enough
    assert ("not used" in encoder.told[0]) != enough
    if not enough:
        assert np.array_equal(encoder.encode(x).cluster, before.cluster)


def test_auto_takes_the_lowest_that_agrees_and_else_float32() -> None:
    encoder = _Coarse(package.load(DEMO), "cpu", 1)
    encoder.error, exact = 100.0, encoder._module
    encoder._lower_precision("auto")
    assert encoder._module is exact
    assert [line.split(":")[0] for line in encoder.told] == [
        f"inference.precision {name}" for name in ("fp16", "bf16", "tf32")
    ]
    assert encoder.told[2].endswith("this package cannot be run in it: no such products")
    encoder.error, encoder.told = 0.0, []
    encoder._lower_precision("auto")
    assert len(encoder.told) == 1
    assert encoder._module is not exact


def test_bfloat16_of_the_network_leaves_the_head_in_float32() -> None:
    module = torchscript._load(package.load(DEMO), torch.device("cpu"), torch.bfloat16)
    with np.load(DEMO / "selfcheck.npz") as recorded, torch.inference_mode():
        embedding, membership, cluster, squared = module(torch.from_numpy(recorded["x"]))
        assert {part.dtype for part in (embedding, membership, squared)} == {torch.float32}
        assert np.mean(cluster.numpy() == recorded["cluster"]) > 0.8
        error = np.abs(embedding.numpy() - recorded["embedding"]).max()
    assert 1e-4 < error < 0.5


@needs_cuda
def test_graphs_give_what_the_encoder_gives() -> None:
    loaded = package.load(DEMO)
    encoder, plain = TorchScriptEncoder(loaded, "cuda"), TorchScriptEncoder(loaded, "cuda")
    encoder.warm_up(32)
    assert isinstance(encoder._graphed, GraphedEncoder)
    for batch in (1, 5, 8, 31, 32, 33, 100):
        x = np.random.default_rng(batch).standard_normal((batch, 500, 1)).astype(np.float32)
        got, expected = encoder.encode(x), plain.encode(x)
        assert np.abs(got.embedding - expected.embedding).max() < 1e-4
        assert got.cluster.shape == (batch,)


@needs_cuda
@pytest.mark.parametrize("precision", ["auto", "tf32", "bf16", "fp16"])
def test_a_lower_precision_agrees_or_is_not_used(precision: str) -> None:
    encoder = TorchScriptEncoder(package.load(DEMO), "cuda", precision=precision)
    assert encoder.told
    assert "cannot be run" not in encoder.told[-1]


def test_graphs_that_cannot_be_recorded_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> GraphedEncoder:
        raise torch.OutOfMemoryError("no memory\nleft")

    monkeypatch.setattr(torchscript, "GraphedEncoder", none)
    encoder = TorchScriptEncoder(package.load(DEMO), "cpu", 1)
    encoder._record_graphs(32, (500, 1))
    assert encoder.told == ["no graphs could be recorded, batches run without: no memory"]
    assert encoder._graphed is None


def test_many_windows_go_through_in_parts_where_there_are_no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TorchScriptEncoder(package.load(DEMO), "cpu", 1)
    x = torch.randn(7, 500, 1, generator=torch.Generator().manual_seed(0))
    expected = encoder._on_cuda(x)  # on this device
    monkeypatch.setattr(torchscript, "MOST_AT_ONCE", 3)
    for got, part in zip(encoder._on_cuda(x), expected, strict=True):
        torch.testing.assert_close(got, part, atol=1e-4, rtol=1e-4)
