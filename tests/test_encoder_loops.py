"""The network by compiled loops gives what the plain network gives, window by window, and is used where it does."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from in_time import PATIENCE_S

from tscc_stream import package
from tscc_stream.edges import encoder_loops, torchscript
from tscc_stream.edges.encoder_loops import EncoderLoops
from tscc_stream.edges.torchscript import TorchScriptEncoder
from tscc_stream.kernels import avx512
from tscc_stream.kernels.compiled import compiled
from tscc_stream.learn.network import Encoder, make_encoder, pool
from tscc_stream.learn.time_major import TimeMajorEncoder
from tscc_stream.messages import Float32Array

SHIPPED = Path(__file__).parents[1] / "models"

pytestmark = pytest.mark.usefixtures("one_torch_thread")
needs_avx512 = pytest.mark.skipif(not avx512.available(), reason="this processor has no AVX-512")


def _windows(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _plain(encoder: Encoder, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return pool(encoder(x))


def _loops(encoder: Encoder) -> EncoderLoops:
    return EncoderLoops(TimeMajorEncoder(encoder).state_dict())


@needs_avx512
@given(
    batch=st.integers(1, 3),
    time=st.integers(avx512.ROWS, 70),
    channels=st.integers(1, 3),
    depth=st.integers(0, 7),
    hidden=st.sampled_from([5, 32, 40, 64]),
    representation=st.sampled_from([3, 32, 33, 64, 70]),
)
def test_any_shape(batch: int, time: int, channels: int, depth: int, hidden: int, representation: int) -> None:
    encoder = make_encoder(0, channels, representation, hidden, depth)
    x = _windows(batch, time, channels)
    before = x.clone()
    torch.testing.assert_close(_loops(encoder)(x), _plain(encoder, x), atol=3e-6, rtol=3e-6)
    assert torch.equal(x, before)


@needs_avx512
def test_the_published_shape_as_exactly_as_torch_has_it() -> None:
    encoder, x = make_encoder(0, 1), _windows(8, 500, 1)
    exact = _plain(make_encoder(0, 1).double(), x.double())
    of_torch = float((_plain(encoder, x) - exact).abs().max())
    assert float((_loops(encoder)(x) - exact).abs().max()) < 2 * of_torch < 5e-6


@needs_avx512
def test_a_window_has_one_result_whatever_its_batch() -> None:
    loops, x = _loops(make_encoder(0, 1, depth=4)), _windows(9, 200, 1)
    together = loops(x)
    assert torch.equal(torch.cat([loops(x[4:]), loops(x[:1])]), torch.cat([together[4:], together[:1]]))
    assert torch.equal(loops(_windows(1, 50, 1)), _loops(make_encoder(0, 1, depth=4))(_windows(1, 50, 1)))


@needs_avx512
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_in_its_window(value: float) -> None:
    loops, x = _loops(make_encoder(0, 1, depth=3)), _windows(3, 60, 1)
    expected = loops(x)
    x[1, 59] = value
    got = loops(x)
    assert bool(got[1].isnan().all())
    assert torch.equal(got[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("shape", [(1, avx512.ROWS - 1, 2), (1, 50, 1)])
def test_windows_of_another_shape_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected 12 samples or more of 2 channels"):
        _loops(make_encoder(0, 2, depth=1))(_windows(*shape))


@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize("convolution", ["taps1", "taps2"])
def test_convolutions_of_other_widths_are_refused(convolution: str, taps: int) -> None:
    """The loops would read memory that is not theirs, which ends the process."""
    state = TimeMajorEncoder(make_encoder(0, 1, 32, 32, 1)).state_dict()
    state[f"blocks.0.{convolution}"] = state[f"blocks.0.{convolution}"][:1].repeat(taps, 1, 1)
    with pytest.raises(ValueError, match=f"with {taps} taps, expected 3"):
        EncoderLoops(state)


@compiled
def _gelu(x: Float32Array, y: Float32Array, table: Float32Array) -> None:
    row = avx512.COLUMNS * 4
    avx512.gelu_rows(x.ctypes.data, y.ctypes.data, row, x.size // avx512.COLUMNS, table.ctypes.data)


@needs_avx512
def test_gelu_within_a_rounding_of_its_largest_values() -> None:
    x = np.concatenate([np.linspace(-9, 9, 1 << 16), [-1e30, 1e30, 0.0, -0.0] * 8]).astype(np.float32)
    y = np.empty_like(x)
    _gelu(x, y, avx512.gelu_table())
    exact = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.astype(np.float64)])
    assert np.abs(y - exact)[:-32].max() < 1e-6
    assert y[-32:].tolist() == [0.0, np.float32(1e30), 0.0, 0.0] * 8


def _shipped() -> tuple[package.Package, torch.Tensor, Float32Array]:
    loaded = package.load(SHIPPED / "rutford")
    with np.load(loaded.folder / "selfcheck.npz") as recorded:
        return loaded, torch.from_numpy(recorded["x"]), recorded["embedding"]


@needs_avx512
@pytest.mark.parametrize("threads", [1, 2])
def test_shipped_packages_run_by_it(threads: int) -> None:
    loaded, x, embedding = _shipped()
    encoder = TorchScriptEncoder(loaded, "cpu", threads)
    got = encoder.encode(x.numpy())
    assert encoder._loops is not None
    assert torch.equal(torch.from_numpy(got.embedding), encoder._loops(x))
    assert np.abs(got.embedding - embedding).max() < 1e-5


def test_torchscript_runs_it_on_other_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_loops.avx512, "available", lambda: False)
    loaded, x, embedding = _shipped()
    encoder = TorchScriptEncoder(loaded, "cpu", 1)
    assert encoder._loops is None
    assert np.abs(encoder.encode(x.numpy()).embedding - embedding).max() < 1e-5


@pytest.mark.parametrize("setting", ["NUMBA_CPU_NAME=generic", "NUMBA_ENABLE_AVX=0", "NUMBA_DISABLE_JIT=1"])
def test_numba_s_settings_are_heeded(setting: str) -> None:
    """Else LLVM would end the process."""
    code = "from tscc_stream.kernels import avx512; print(avx512.available())"
    name, value = setting.split("=")
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert answer.stdout.strip() == "False"


@needs_avx512
def test_torchscript_runs_what_the_loops_get_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchscript, "_loops_of", lambda *_: _loops(make_encoder(1, 1, 32, 32, 7)))
    loaded, x, embedding = _shipped()
    encoder = TorchScriptEncoder(loaded, "cpu", 1)
    assert encoder._loops is None
    assert encoder.told[0].startswith("compiled loops are not used: ")
    assert "self-check failed by compiled loops" in encoder.told[0]
    assert np.abs(encoder.encode(x.numpy()).embedding - embedding).max() < 1e-5


class _Another(torch.nn.Module):
    """A network of another form, with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(1, 2)

    def assign(self, embedding: torch.Tensor) -> torch.Tensor:
        return embedding


def test_networks_of_another_form_are_left_to_torchscript() -> None:
    assert torchscript._loops_of(_Another(), 500) is None
    assert torchscript._loops_of(torch.nn.Linear(1, 2), 500) is None
    assert not encoder_loops.fits(avx512.ROWS - 1)


def test_modules_of_before_have_no_head_apart_and_are_left_to_torchscript() -> None:
    encoder = make_encoder(0, 1, depth=2).eval()
    module = torch.jit.script(TimeMajorEncoder(encoder).eval())
    assert torchscript._loops_of(module, 500) is None
    x = _windows(2, 60, 1)
    torch.testing.assert_close(torchscript._frozen(module)(x), _plain(encoder, x), atol=1e-5, rtol=1e-5)
