"""What may pass ends with status 1, and systemd tries again. Status 2, after which it does not, is for mistakes.

Errors of a disk are real ones: /proc/self/mem is a file whose first bytes cannot be read (EIO).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_site import Here, Running, write_settings

from tscc_stream import package
from tscc_stream.edges import torchscript
from tscc_stream.edges.torchscript import TorchScriptEncoder
from tscc_stream.package import PackageError, PackageUnavailableError

DEMO = package.find("models/demo")
UNREADABLE = "/proc/self/mem"
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(DEMO, folder)
    return folder


def unreadable(path: Path) -> None:
    path.unlink()
    path.symlink_to(UNREADABLE)


def broken(folder: Path) -> None:
    """Hashes hold, and what they are of is no encoder."""
    (folder / "encoder.ts").write_bytes(b"no encoder")
    document = json.loads((folder / "model.json").read_text())
    document["sha256"]["encoder.ts"] = package.sha256_of(folder / "encoder.ts")
    (folder / "model.json").write_text(json.dumps(document))


def run(file: Path) -> tuple[int, str]:
    """The daemon's exit status, and what it said."""
    with Running("run", "--config", file) as daemon:
        return daemon.wait(), daemon.text


@pytest.mark.parametrize("name", ["model.json", "labels.json", "weights.pt"])
def test_a_file_that_cannot_be_read_is_tried_again(name: str, model: Path, tmp_path: Path, here: Here) -> None:
    unreadable(model / name)
    done = here("check-config", write_settings(tmp_path, model=str(model)))
    said = f"tscc-stream: model package {model}: cannot read {name}: Input/output error\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_the_daemon_ends_so_that_it_is_started_again(model: Path, tmp_path: Path) -> None:
    unreadable(model / "encoder.ts")
    status, told = run(write_settings(tmp_path, model=str(model)))
    assert (status, "cannot read encoder.ts: Input/output error" in told) == (1, True), told


@pytest.mark.parametrize("key", ["model", "shadow"])
def test_of_a_candidate_as_well(key: str, model: Path, tmp_path: Path, here: Here) -> None:
    unreadable(model / "novelty.npz")
    done = here("check-config", write_settings(tmp_path, **{key: str(model)}))
    assert (done.returncode, "cannot read novelty.npz: Input/output error" in done.stderr) == (1, True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA device here")
def test_a_graphics_card_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    status, told = run(write_settings(tmp_path, inference={"device": "cuda"}))
    assert (status, "this machine has no CUDA device that torch can use" in told) == (1, True), told


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "model.json").unlink(), "there is no model.json in it"),
        (lambda folder: (folder / "weights.pt").unlink(), "weights.pt is missing"),
        (lambda folder: (folder / "weights.pt").write_bytes(b"other"), "weights.pt was changed"),
    ],
)
def test_mistakes_stay_mistakes(
    spoil: Callable[[Path], object], said: str, model: Path, tmp_path: Path, here: Here
) -> None:
    spoil(model)
    done = here("check-config", write_settings(tmp_path, model=str(model)))
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("spoil", "said"), [(shutil.rmtree, "no such folder"), (broken, "encoder.ts cannot be loaded")]
)
def test_the_daemon_ends_for_good_over_a_mistake(
    spoil: Callable[[Path], object], said: str, model: Path, tmp_path: Path
) -> None:
    spoil(model)
    status, told = run(write_settings(tmp_path, model=str(model)))
    assert (status, said in told) == (2, True), told


def test_want_of_memory_passes_in_torchs_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 60, dtype=torch.uint8)

    def load(*_: object, **__: object) -> None:
        raise of_torch.value

    monkeypatch.setattr(torchscript.torch.jit, "load", load)
    with pytest.raises(PackageUnavailableError, match=r"encoder\.ts cannot be loaded: .*allocate"):
        TorchScriptEncoder(package.load(DEMO), "cpu", 1)


def test_a_device_that_the_encoder_cannot_be_loaded_on_is_told_from_an_encoder_that_is_none(model: Path) -> None:
    missing = torch.device("cuda:63")
    with pytest.raises(PackageUnavailableError, match=r"encoder\.ts cannot be loaded on cuda:63: "):
        torchscript._read(package.load(model), missing)
    broken(model)
    with pytest.raises(PackageError) as refused:
        torchscript._read(package.load(model), missing)
    assert not isinstance(refused.value, PackageUnavailableError)


@needs_cuda
def test_a_card_whose_memory_somebody_else_has_is_waited_for() -> None:
    torch.cuda.set_per_process_memory_fraction(1e-9)
    try:
        with pytest.raises(PackageUnavailableError, match="out of memory"):
            TorchScriptEncoder(package.load(DEMO), "cuda", 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
