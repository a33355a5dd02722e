"""The encoder in numpy says what the compiled one says, of every kind of head, and of the shipped packages."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_export import SAMPLES, trained

from tscc_stream import package
from tscc_stream.edges.numpy_encoder import NumpyEncoder, UntilMany
from tscc_stream.edges.torchscript import TorchScriptEncoder
from tscc_stream.learn.clusters import Head
from tscc_stream.learn.export import export
from tscc_stream.learn.network import make_encoder
from tscc_stream.messages import Float32Array
from tscc_stream.package import PackageError
from tscc_stream.stages.infer import Encoded


def assert_same(got: Encoded, expected: Encoded) -> None:
    np.testing.assert_allclose(got.embedding, expected.embedding, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.squared_distance, expected.squared_distance, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got.membership, expected.membership, rtol=0.0, atol=1e-4)
    certain = np.diff(np.sort(expected.membership, axis=1)[:, -2:], axis=1)[:, 0] > 1e-3
    np.testing.assert_array_equal(got.cluster[certain], expected.cluster[certain])
    assert [array.dtype for array in (got.cluster, got.membership)] == [np.int64, np.float32]


@st.composite
def heads(draw: st.DrawFn) -> Head:
    """Of representations of five dimensions: three clusters, Euclidean or not, bounded or not, turned or not."""
    number = torch.Generator().manual_seed(draw(st.integers(0, 1 << 16)))
    looked_at = draw(st.sampled_from([5, 3]))
    metrics = {"none": None, "one": torch.randn(looked_at, looked_at, generator=number)}
    metrics["each"] = torch.randn(3, looked_at, looked_at, generator=number)
    return Head(
        torch.randn(3, looked_at, generator=number),
        metric=metrics[draw(st.sampled_from(sorted(metrics)))],
        log_weight=torch.randn(3, generator=number) if draw(st.booleans()) else None,
        bounds=torch.rand(2, looked_at, generator=number) + 0.5 if draw(st.booleans()) else None,
        axes=torch.randn(5, looked_at, generator=number) if looked_at == 3 or draw(st.booleans()) else None,
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(head=heads(), channels=st.integers(1, 3), depth=st.integers(1, 7), windows=st.integers(1, 9))
def test_what_it_says_is_what_the_compiled_one_says(
    tmp_path_factory: pytest.TempPathFactory, head: Head, channels: int, depth: int, windows: int
) -> None:
    rng = np.random.default_rng(depth)
    x = rng.standard_normal((20, SAMPLES, channels)).astype(np.float32)
    made = trained(None)
    encoder = make_encoder(depth, channels, 5, 8, depth)
    shape = replace(made.shape, channels=channels, components=tuple("ZNE"[:channels]) if channels > 1 else ("*",))
    made = replace(made, encoder=encoder, head=head, selfcheck_x=x, shape=shape)
    packed = export(made, tmp_path_factory.mktemp("packed") / "m")
    assert_same(NumpyEncoder(packed).encode(x[:windows]), TorchScriptEncoder(packed, "cpu", 1).encode(x[:windows]))


@pytest.mark.parametrize("name", ["demo", "rutford"])
def test_the_shipped_packages(name: str) -> None:
    packed = package.load(package.find(f"models/{name}"))
    with np.load(packed.folder / "selfcheck.npz") as recorded:
        x = recorded["x"]
    got, expected = NumpyEncoder(packed).encode(x), TorchScriptEncoder(packed, "cpu", 1).encode(x)
    np.testing.assert_allclose(got.membership, expected.membership, rtol=0.0, atol=1e-5)
    np.testing.assert_array_equal(got.cluster, expected.cluster)


def _zeroed(folder: Path) -> None:
    state = torch.load(folder / "weights.pt", weights_only=True)
    torch.save({name: torch.zeros_like(value) for name, value in state.items()}, folder / "weights.pt")


def _without_centres(folder: Path) -> None:
    state = torch.load(folder / "weights.pt", weights_only=True)
    torch.save({name: value for name, value in state.items() if name != "centres"}, folder / "weights.pt")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "weights.pt").write_bytes(b"PK nothing"), "weights.pt: "),
        (lambda folder: torch.save([1], folder / "weights.pt"), "not a dictionary of tensors"),
        (_without_centres, "weights.pt has no centres"),
        (_zeroed, "self-check failed in numpy: embedding differs"),
    ],
)
def test_weights_that_are_not_those_of_the_encoder_are_refused(
    tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    packed = export(trained(), tmp_path / "m")
    damage(packed.folder)
    document = json.loads((packed.folder / "model.json").read_text())
    document["sha256"]["weights.pt"] = package.sha256_of(packed.folder / "weights.pt")
    (packed.folder / "model.json").write_text(json.dumps(document))
    with pytest.raises(PackageError, match=said):
        NumpyEncoder(package.load(packed.folder))


class _Counted:
    def __init__(self) -> None:
        self.windows = 0

    def encode(self, normalised: Float32Array) -> Encoded:
        self.windows += len(normalised)
        return Encoded(*(np.zeros((len(normalised), 1), np.float32) for _ in range(2)), *(np.zeros(1),) * 2)  # type: ignore[arg-type]  # looked at by nobody


def test_the_other_one_is_loaded_when_there_are_many_and_only_then() -> None:
    few, many = _Counted(), _Counted()
    loads: list[int] = []
    encoder = UntilMany(few, lambda: (loads.append(few.windows), many)[1], most=10)
    for size in (4, 6):
        encoder.encode(np.zeros((size, 2, 1), np.float32))
    assert (few.windows, loads) == (10, [])
    for size in (1, 5):
        encoder.encode(np.zeros((size, 2, 1), np.float32))
    assert (few.windows, many.windows, loads) == (10, 6, [10])
