"""The order of work of packages gives what the plain network gives, whatever the shapes, also once compiled."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tscc_stream import cli, package
from tscc_stream.edges.torchscript import TorchScriptEncoder
from tscc_stream.learn import export as exporting
from tscc_stream.learn import time_major
from tscc_stream.learn.clusters import Head
from tscc_stream.learn.export import Inference, recompile, script
from tscc_stream.learn.latent import encoder_of
from tscc_stream.learn.network import Encoder, make_encoder, pool
from tscc_stream.learn.time_major import TimeMajorEncoder
from tscc_stream.package import PackageError

SHIPPED = Path(__file__).parents[1] / "models"
REFERENCE = Path(os.environ.get("TSCC_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "tscc_reference"


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def _windows(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _plain(encoder: Encoder, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return pool(encoder(x))


@given(
    batch=st.integers(1, 2 * time_major.CHUNK + 1),
    time=st.integers(1, 70),
    channels=st.integers(1, 3),
    depth=st.integers(0, 7),
)
def test_any_batch_length_and_number_of_channels(batch: int, time: int, channels: int, depth: int) -> None:
    encoder = make_encoder(0, channels, 5, 8, depth)
    x = _windows(batch, time, channels)
    quick = TimeMajorEncoder(encoder)
    before = x.clone()
    torch.testing.assert_close(quick(x), _plain(encoder, x), atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before)


@given(time=st.integers(1, 70), depth=st.integers(0, 7))
def test_the_products_that_a_gpu_runs_give_the_same(time: int, depth: int) -> None:
    encoder = make_encoder(0, 2, 5, 8, depth)
    x = _windows(3, time, 2)
    got = TimeMajorEncoder(encoder)._by_mixed_products(x).amax(dim=0)
    torch.testing.assert_close(got, _plain(encoder, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 8, 33])
def test_the_published_shape_compiled(batch: int) -> None:
    encoder = make_encoder(0, 1).eval()
    frozen = torch.jit.freeze(torch.jit.load(io.BytesIO(script(Inference(encoder, Head(torch.zeros(2, 32)), 1.5)))))
    x = _windows(batch, 500, 1)
    for _ in range(3):  # the compiler takes shapes into account from the second call on
        with torch.inference_mode():
            got = frozen(x)[0]
        assert float((got - _plain(encoder, x)).abs().max()) < 1e-5


def test_double_precision_agrees_to_rounding() -> None:
    encoder = make_encoder(0, 1, 4, 6, 5).double()
    x = _windows(5, 40, 1).double()
    assert float((TimeMajorEncoder(encoder)(x) - _plain(encoder, x)).abs().max()) < 1e-12


@pytest.mark.parametrize("name", ["demo", "rutford"])
def test_shipped_packages_say_of_real_windows_what_their_weights_say(name: str) -> None:
    loaded = package.load(SHIPPED / name)
    encoder = TorchScriptEncoder(loaded, "cpu", 1)
    with np.load(loaded.folder / "selfcheck.npz") as recorded:
        x, membership, cluster = recorded["x"], recorded["membership"], recorded["cluster"]
    got = encoder.encode(x)
    assert np.abs(got.embedding - _plain(encoder_of(loaded), torch.from_numpy(x)).numpy()).max() < 1e-5
    assert np.abs(got.membership - membership).max() < 1e-5
    assert np.array_equal(got.cluster, cluster)


@pytest.mark.data
def test_the_published_weights_and_windows() -> None:
    if not REFERENCE.is_dir():
        pytest.skip(f"the published windows are not at {REFERENCE}")
    with np.load(REFERENCE / "finetuning_expected.npz") as expected:
        x = torch.from_numpy(expected["x"])
    encoder = make_encoder(0, 1)
    assert float((TimeMajorEncoder(encoder)(x) - _plain(encoder, x)).abs().max()) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
def test_on_a_cuda_device() -> None:
    loaded = package.load(SHIPPED / "rutford")
    on_cpu, on_cuda = TorchScriptEncoder(loaded, "cpu", 1), TorchScriptEncoder(loaded, "cuda")
    x = _windows(300, 500, 1).numpy()
    expected = on_cpu.encode(x)
    for warm in (False, True):
        if warm:
            on_cuda.warm_up(128)
        got = on_cuda.encode(x)
        assert np.abs(got.embedding - expected.embedding).max() < 1e-3
        assert np.mean(got.cluster == expected.cluster) > 0.99


def _copied(tmp_path: Path) -> Path:
    folder = tmp_path / "m"
    folder.mkdir()
    for path in (SHIPPED / "demo").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def _older(folder: Path, compiled: bytes) -> None:
    """Put another encoder.ts into a package, its hash right."""
    old = package.load(folder)
    (folder / "encoder.ts").write_bytes(compiled)
    package.write(folder, old.spec.model_dump(exclude={"format", "sha256"}), old.labels)


def test_a_package_of_an_older_form_is_compiled_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _copied(tmp_path)
    _older(folder, b"another form")
    before = package.load(folder)
    assert cli.main(["model", "recompile", str(folder)]) == 0
    after = package.load(folder)
    assert "compiled anew, memberships within" in capsys.readouterr().out
    changed = {name for name, sha256 in after.spec.sha256.items() if before.spec.sha256[name] != sha256}
    assert changed == {"encoder.ts"}
    without = {"sha256"}
    assert after.spec.model_dump(exclude=without) == before.spec.model_dump(exclude=without)
    assert after.labels == before.labels
    assert cli.main(["model", "verify", str(folder)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_weights_that_do_not_give_what_was_recorded_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _copied(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(exporting, "encoder_of", lambda _: make_encoder(1, 1, 32, 32, 7))
    with pytest.raises(PackageError, match=r"its weights give memberships that differ by .* it is left as it was"):
        recompile(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
