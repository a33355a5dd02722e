"""The encoder: the published architecture, to the published numbers where they are at hand."""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tscc_stream.learn.network import Encoder, SameConv, make_encoder, pool

REFERENCE = Path(os.environ.get("TSCC_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "tscc_reference"


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def test_shapes_and_layers_are_the_published_ones() -> None:
    encoder = make_encoder(0, channels=3)
    names = set(encoder.state_dict())
    assert encoder(torch.zeros(2, 50, 3)).shape == (2, 50, 32)
    assert pool(encoder(torch.zeros(2, 50, 3))).shape == (2, 32)
    assert [block.conv1.dilation[0] for block in encoder.blocks] == [2**i for i in range(11)]
    assert {"projection.weight", "blocks.0.conv1.weight", "blocks.10.residual.bias"} <= names
    assert not any(name.startswith("blocks.9.residual") for name in names)
    assert sum(p.numel() for p in encoder.parameters()) == 258_656


def test_a_convolution_keeps_the_length_and_matches_its_formula() -> None:
    conv = SameConv(2, 3, dilation=4)
    h = torch.randn(1, 2, 10, generator=torch.Generator().manual_seed(0))
    literal = torch.zeros(1, 3, 10)
    for t in range(10):
        literal[0, :, t] = conv.bias
        for tap in range(3):
            at = t + (tap - 1) * 4
            if 0 <= at < 10:
                literal[0, :, t] += conv.weight[:, :, tap] @ h[0, :, at]
    torch.testing.assert_close(conv(h), literal)


@pytest.mark.parametrize("length", [1, 7, 8, 9])
def test_leaving_out_taps_that_see_only_padding_changes_nothing(length: int) -> None:
    conv = SameConv(4, 5, dilation=8)
    h = torch.randn(2, 4, length, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(conv(h), torch.nn.Conv1d.forward(conv, h))


def test_a_window_does_not_depend_on_its_batch() -> None:
    encoder = make_encoder(1, channels=1)
    x = torch.randn(5, 60, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together, alone = encoder(x), torch.cat([encoder(one[None]) for one in x])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_the_seed_alone_decides_the_weights() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = make_encoder(3, channels=1)
    assert torch.equal(before, torch.get_rng_state())
    second, other = make_encoder(3, channels=1), make_encoder(4, channels=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.projection.weight, other.projection.weight)


class _Shell:
    """Stands in for every class that the pickle names: takes up state, runs nothing."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        self.state = state


def _read_published(path: Path) -> dict[str, np.ndarray]:
    """Parameters of the published encoder by their dotted names, read with an unpickler that knows three functions."""
    with zipfile.ZipFile(path) as archive:
        folder = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")

        def tensor(storage: np.ndarray, offset: int, size: tuple[int, ...], *_: object) -> np.ndarray:
            return storage[offset : offset + int(np.prod(size))].reshape(size)

        class Restricted(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> object:
                if (module, name) == ("collections", "OrderedDict"):
                    return collections.OrderedDict
                if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
                    return tensor
                if (module, name) == ("torch._utils", "_rebuild_parameter"):
                    return lambda data, *_: data
                if (module, name) == ("__builtin__", "set"):
                    return set
                return _Shell

            def persistent_load(self, pid: tuple[str, ...]) -> np.ndarray:
                return np.frombuffer(archive.read(f"{folder}data/{pid[2]}"), np.float32)

        root = Restricted(io.BytesIO(archive.read(f"{folder}data.pkl"))).load()
    return dict(_parameters(root, ""))


def _parameters(shell: _Shell, prefix: str) -> collections.abc.Iterator[tuple[str, np.ndarray]]:
    for name, value in shell.state["_parameters"].items():
        if value is not None:
            yield prefix + name, value
    for name, child in shell.state["_modules"].items():
        if child is not None:
            yield from _parameters(child, f"{prefix}{name}.")


_RENAMES = (("input_fc", "projection"), ("feature_extractor.net", "blocks"), (".conv.", "."), ("projector", "residual"))


@pytest.mark.data
def test_published_weights_give_the_published_representation() -> None:
    if not REFERENCE.is_dir():
        pytest.skip(f"the published weights are not at {REFERENCE}")
    state = {}
    for name, value in _read_published(REFERENCE / "Micrseismic_Timeseries_Finetuning_phase").items():
        for old, new in _RENAMES:
            name = name.replace(old, new)  # noqa: PLW2901  # the name under which it is stored
        state[name] = torch.from_numpy(value.copy())
    encoder = Encoder()
    encoder.load_state_dict(state)
    with np.load(REFERENCE / "finetuning_expected.npz") as expected, torch.no_grad():
        got = pool(encoder(torch.from_numpy(expected["x"]))).numpy()
        assert np.abs(got - expected["embedding"]).max() < 1e-5
