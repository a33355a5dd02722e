"""Model packages: what is written is what was trained, whole or not at all, and refused once changed."""

from __future__ import annotations

import errno
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tscc_stream import package
from tscc_stream.calibration import calibration_scores
from tscc_stream.edges.torchscript import TorchScriptEncoder
from tscc_stream.learn import export as exporting
from tscc_stream.learn import losses
from tscc_stream.learn.clusters import Head
from tscc_stream.learn.dataset import WindowShape
from tscc_stream.learn.export import Inference, Trained, annotate, export, infer, script
from tscc_stream.learn.network import Encoder, make_encoder, pool
from tscc_stream.learn.saving import save_tensors
from tscc_stream.package import Label, PackageError

SAMPLES = 64


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def trained(calibration: int | None = 50) -> Trained:
    return Trained(
        name="small",
        encoder=make_encoder(0, 1, representation=5, hidden=8, depth=6),
        head=Head(torch.from_numpy(_normal(3, 5, seed=1))),
        fuzzifier=1.5,
        shape=WindowShape(50.0, SAMPLES, 12, (2.0, 20.0), 4, 1.0),
        normalisation="asinh_mad",
        selfcheck_x=_normal(20, SAMPLES, 1, seed=2),
        calibration_x=None if calibration is None else _normal(calibration, SAMPLES, 1, seed=3),
        training_data={"origin": "random numbers"},
        metrics={"epochs": 0},
        card="# small\n",
        labels={1: Label(name="blast", event_type="explosion")},
    )


def test_the_script_gives_what_the_encoder_and_the_formulas_give(tmp_path: Path) -> None:
    made = trained()
    folder = export(made, tmp_path / "m").folder
    module = torch.jit.load(folder / "encoder.ts")
    x = torch.from_numpy(_normal(7, SAMPLES, 1, seed=4))
    embedding, membership, cluster, squared = module(x)
    with torch.no_grad():
        r_bd = pool(made.encoder(x))
        d_bk = losses.squared_distances(r_bd, made.head.centres)
    torch.testing.assert_close(embedding, r_bd, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(squared, d_bk, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(membership, losses.memberships(d_bk, 1.5), atol=1e-4, rtol=1e-4)
    assert torch.equal(cluster, d_bk.argmin(dim=1))
    assert cluster.dtype == torch.int64


def test_the_script_takes_any_batch_and_length_and_can_be_frozen_after_a_move() -> None:
    module = Inference(make_encoder(0, 1, 5, 8, 6), Head(torch.zeros(2, 5)), 1.5).eval()
    loaded = torch.jit.load(io.BytesIO(script(module)))
    assert len(list(loaded.encoder.named_parameters())) > 0  # a frozen module has none
    frozen = torch.jit.freeze(loaded.to("cpu").eval())
    for shape in ((1, SAMPLES, 1), (9, SAMPLES, 1), (2, 3, 1), (2, 500, 1)):
        x = torch.from_numpy(_normal(*shape))
        torch.testing.assert_close(frozen(x)[0], module(x)[0], atol=1e-5, rtol=1e-5)


def test_a_window_on_a_centre_has_finite_membership() -> None:
    encoder = make_encoder(0, 1, 5, 8, 3)
    x = torch.from_numpy(_normal(1, SAMPLES, 1))
    with torch.no_grad():
        centres = torch.cat([pool(encoder(x)), torch.zeros(1, 5)])
        membership = Inference(encoder, Head(centres), 1.5)(x)[1]
    assert membership[0].tolist() == pytest.approx([1.0, 0.0], abs=1e-3)


def test_the_live_path_loads_a_package_and_its_self_check_holds(tmp_path: Path) -> None:
    made = trained()
    export(made, tmp_path / "m")
    loaded = package.load(tmp_path / "m")
    encoder = TorchScriptEncoder(loaded, "cpu")
    x = _normal(4, SAMPLES, 1, seed=5)
    expected = infer(Inference(made.encoder, made.head, 1.5).eval(), x)
    assert np.allclose(encoder.encode(x).embedding, expected[0], atol=1e-5)
    assert (loaded.name_of(1), loaded.name_of(0)) == ("blast", "cluster 0")
    scores = calibration_scores(loaded)
    assert scores is not None
    assert scores.size == 50
    assert np.allclose(scores, np.sort(infer(Inference(made.encoder, made.head, 1.5), made.calibration_x)[3].min(1)))


def test_the_weights_alone_rebuild_the_encoder(tmp_path: Path) -> None:
    made = trained()
    export(made, tmp_path / "m")
    state = torch.load(tmp_path / "m" / "weights.pt", weights_only=True)
    centres = state.pop("centres")
    rebuilt = Encoder(1, 5, 8, 6)
    rebuilt.load_state_dict(state)
    x = torch.from_numpy(_normal(2, SAMPLES, 1))
    assert torch.equal(rebuilt(x), made.encoder(x))
    assert torch.equal(centres, made.head.centres)


def test_mahalanobis_distances_are_those_of_the_whitened_space(tmp_path: Path) -> None:
    made = trained()
    r_nd = torch.from_numpy(_normal(300, 5, seed=6)) * torch.tensor([1.0, 3.0, 0.2, 5.0, 1.0])
    made = replace(made, head=replace(made.head, metric=losses.whitening(r_nd, shrinkage=0.0)))
    loaded = export(made, tmp_path / "m")
    assert loaded.spec.distance == "mahalanobis"
    x = torch.from_numpy(_normal(4, SAMPLES, 1))
    with torch.no_grad():
        embedding, membership, _, squared = torch.jit.load(tmp_path / "m" / "encoder.ts")(x)
    inverse = torch.linalg.inv(torch.cov(r_nd.T.double(), correction=0))
    for b in range(4):
        for k in range(3):
            apart = (embedding[b] - made.head.centres[k]).double()
            assert float(squared[b, k]) == pytest.approx(float(apart @ inverse @ apart), rel=1e-3)
    torch.testing.assert_close(membership, losses.memberships(squared, 1.5), atol=1e-5, rtol=1e-4)


def test_all_files_are_there_and_nothing_else(tmp_path: Path) -> None:
    export(trained(), tmp_path / "m")
    names = {path.name for path in (tmp_path / "m").iterdir()}
    files = {"model.json", "weights.pt", "encoder.ts", "selfcheck.npz", "novelty.npz", "labels.json", "card.md"}
    assert names == files
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    spec = json.loads((tmp_path / "m" / "model.json").read_text())
    assert set(spec["sha256"]) == files - {"model.json", "labels.json"}


def test_without_calibration_windows_nothing_is_novel(tmp_path: Path) -> None:
    loaded = export(trained(None), tmp_path / "m")
    assert loaded.spec.novelty is None
    assert calibration_scores(loaded) is None
    assert not (tmp_path / "m" / "novelty.npz").exists()


@pytest.mark.parametrize("name", ["weights.pt", "encoder.ts", "selfcheck.npz", "novelty.npz", "card.md"])
def test_a_changed_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    export(trained(), tmp_path / "m")
    path = tmp_path / "m" / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(PackageError, match=f"{name} was changed"):
        package.load(tmp_path / "m")


def test_wrong_recorded_outputs_fail_the_self_check(tmp_path: Path) -> None:
    made = trained()
    folder = export(made, tmp_path / "m").folder
    with np.load(folder / "selfcheck.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(folder / "selfcheck.npz", **arrays | {"embedding": arrays["embedding"] + 0.01})
    document = json.loads((folder / "model.json").read_text())
    document["sha256"]["selfcheck.npz"] = package.sha256_of(folder / "selfcheck.npz")
    (folder / "model.json").write_text(json.dumps(document))
    with pytest.raises(PackageError, match="embedding differs by"):
        TorchScriptEncoder(package.load(folder), "cpu")


def test_a_failed_export_leaves_the_old_package_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = export(trained(), tmp_path / "m")
    before = {path.name: path.read_bytes() for path in old.folder.iterdir()}

    def full_disk(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporting, "script", full_disk)
    with pytest.raises(
        PackageError, match="m: cannot be written: No space left on device; what was there is untouched"
    ):
        export(replace(trained(), name="other"), tmp_path / "m")
    assert {path.name: path.read_bytes() for path in old.folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    save_tensors({"weights": torch.ones(3)}, path)
    path.with_name("weights.pt.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        save_tensors({"weights": torch.zeros(10)}, path)
    assert torch.load(path)["weights"].tolist() == [1.0, 1.0, 1.0]
    assert list(tmp_path.iterdir()) == [path]


def test_an_export_replaces_an_earlier_package_but_no_other_folder(tmp_path: Path) -> None:
    first = export(trained(), tmp_path / "m")
    second = export(replace(trained(), name="other"), tmp_path / "m")
    assert first.sha256 != second.sha256
    assert package.load(tmp_path / "m").spec.name == "other"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(PackageError, match="no model package"):
        export(trained(), tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "thesis"]


def test_the_caller_s_encoder_is_left_as_it_was(tmp_path: Path) -> None:
    made = trained()
    made.encoder.train()
    before = {name: value.clone() for name, value in made.encoder.state_dict().items()}
    export(made, tmp_path / "m")
    assert made.encoder.training
    assert all(torch.equal(before[name], value) for name, value in made.encoder.state_dict().items())


def test_measured_numbers_and_names_can_be_added_without_touching_the_model(tmp_path: Path) -> None:
    before = export(trained(), tmp_path / "m")
    after = annotate(tmp_path / "m", card="# measured\n", metrics={"acc": 90.0}, labels={0: Label(name="noise")})
    assert after.spec.metrics == {"epochs": 0, "acc": 90.0}
    assert after.name_of(0) == "noise"
    assert (tmp_path / "m" / "card.md").read_text() == "# measured\n"
    assert after.sha256 != before.sha256
    assert after.spec.sha256["encoder.ts"] == before.spec.sha256["encoder.ts"]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
