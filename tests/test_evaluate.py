"""`evaluate`: whole reports from tiny data, and one clear sentence for whatever cannot be judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tscc_stream import cli
from tscc_stream.learn import autoencoder, dataset, examples, features, latent
from tscc_stream.learn.clusters import Head
from tscc_stream.learn.dataset import DataSet, WindowShape
from tscc_stream.learn.evaluate import evaluate_model
from tscc_stream.learn.export import Trained, export
from tscc_stream.learn.network import make_encoder
from tscc_stream.learn.report import Report, markdown
from tscc_stream.learn.scores import Score
from tscc_stream.package import PackageError, find, load

SAMPLES, RATE, ONSET = 64, 50.0, 12
SCORES = {"acc", "nmi", "auprc"}
PROBES = {"linear", "knn", "svm"}


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def labelled(n: int = 60, seed: int = 0) -> DataSet:
    """Every second window holds a strong decaying burst after its onset, the others noise alone; one a second."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, SAMPLES, 1))
    t = np.arange(SAMPLES - ONSET) / RATE
    y = np.arange(n) % 2
    sign = rng.choice([-1.0, 1.0], n)
    burst = np.cos(2 * np.pi * 8 * t) * np.exp(-6 * t)
    x[:, ONSET:, 0] += 25.0 * (y * sign)[:, None] * burst
    sid = np.array([f"XX.{'AB'[i % 3 == 0]}..HHZ" for i in range(n)])
    shape = WindowShape(RATE, SAMPLES, ONSET, (2.0, 20.0), 4, 1.0)
    onset_ns = (1_700_000_000 + np.arange(n)) * 10**9
    return DataSet(x.astype(np.float32), sid, onset_ns, RATE, y, ("noise", "burst"), None, shape)


def make_model(folder: Path, clusters: int = 2) -> Path:
    rng = np.random.default_rng(1)
    x = labelled(24, seed=2).x
    made = Trained(
        name="small",
        encoder=make_encoder(0, 1, representation=5, hidden=8, depth=4),
        head=Head(torch.from_numpy(rng.standard_normal((clusters, 5)).astype(np.float32))),
        fuzzifier=1.5,
        shape=WindowShape(RATE, SAMPLES, ONSET, (2.0, 20.0), 4, 1.0),
        normalisation="z",
        selfcheck_x=x,
        calibration_x=None,
        training_data={},
        metrics={},
        card="# small\n",
    )
    return export(made, folder / "small").folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models"))


def test_a_model_on_labelled_windows_gives_the_whole_report(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, report = tmp_path / "d.npz", tmp_path / "report"
    dataset.save(labelled(), data)
    assert cli.main(["evaluate", "--model", str(model), "--data", str(data), "--report", str(report)]) == 0
    found = json.loads((report / "report.json").read_text())
    assert (found["n"], found["clusters"], found["classes"]) == (60, 2, {"noise": 30, "burst": 30})
    assert set(found["clustering"]) == SCORES
    assert set(found["representation"]) == set(found["raw"]) == PROBES
    assert {
        "kmeans_raw",
        "kmeans_logspec",
        "gmm_log_kurtosis",
        "kmeans_untrained",
        "gmm_untrained",
        "dec_logspec",
    } == set(found["baselines"])
    for part in ("representation", "raw", "baselines"):
        for name, scores in found[part].items():
            assert set(scores) == SCORES
            for score, value in scores.items():
                low, high = found["intervals"][part][name][score]
                assert 0.0 <= low <= high <= 100.0
                assert 0.0 <= value <= 100.0
    assert found["baselines"]["gmm_log_kurtosis"]["acc"] > 90.0
    assert found["raw"]["svm"]["acc"] > 80.0
    assert np.array(found["confusion"]).sum() == 60
    text = (report / "report.md").read_text()
    assert capsys.readouterr().out in text.replace("\n![", "![").split("![")[0] + "\n"
    expected = {"comparison", "clusters", "confusion", "representatives", "latent", "samples", "architecture"}
    assert {Path(name).stem for name in found["figures"]} == expected
    for name in found["figures"]:
        assert (report / name).read_bytes().startswith(b"\x89PNG")
        assert f"]({name})" in text


def test_the_same_seed_gives_the_same_report_and_leaves_the_global_random_state(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "d.npz"
    dataset.save(labelled(40), data)
    first = evaluate_model(model, data, representation="spectrogram", seed=3).report
    # Only now: some library draws from the global state while it is imported.
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    second = evaluate_model(model, data, representation="spectrogram", seed=3).report
    assert first == second
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])


def test_more_clusters_than_classes_are_judged_by_majority(tmp_path: Path) -> None:
    data = tmp_path / "d.npz"
    dataset.save(labelled(40), data)
    report = evaluate_model(make_model(tmp_path, clusters=5), data).report
    assert report.clustering is not None
    assert report.clusters == 5
    assert any("commonest class" in note for note in report.notes)
    assert "above the best of the untrained controls: ACC" in markdown(report)


@pytest.mark.parametrize(("nmi", "word"), [(0.5, "is above"), (0.3, "is NOT above")])
def test_a_model_is_above_its_controls_only_by_both_measures(nmi: float, word: str) -> None:
    def made(acc: float, nmi: float) -> Score:
        return Score(acc, nmi, 0.5, (acc, acc), (nmi, nmi), (0.5, 0.5))

    controls = {"gmm_log_kurtosis": made(0.7, 0.1), "gmm_untrained": made(0.6, 0.4)}
    text = markdown(Report("m", {"a": 3, "b": 7}, 2, made(0.8, nmi), {}, {}, controls, [], (), 0))
    assert word in text
    assert "ACC 80.0 % against 70.0 % (log kurtosis" in text
    assert "against 40.0 % (untrained encoder, Gaussian mixture)" in text
    assert "commonest class would give ACC 70.0 %" in text


def test_stored_arrays_give_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    r = rng.standard_normal((80, 6)) + 6.0 * y[:, None]
    for name, array in (("r", r), ("y", y.astype(float) * 7), ("p", np.where(np.arange(80) < 4, y, 1 - y))):
        np.save(tmp_path / f"{name}.npy", array)
    out = tmp_path / "report"
    named = [str(tmp_path / f"{name}.npy") for name in "ryp"]
    arguments = ["--representations", named[0], "--labels", named[1], "--assignments", named[2], "--report", str(out)]
    assert cli.main(["evaluate", *arguments]) == 0
    found = json.loads((out / "report.json").read_text())
    assert found["clustering"]["acc"] == 95.0
    assert found["representation"]["linear"] == {"acc": 100.0, "nmi": 100.0, "auprc": 100.0}
    assert (found["raw"], found["baselines"]) == ({}, {})
    assert found["classes"] == {"class 0": 40, "class 7": 40}
    assert "| **clustering** | 95.00" in capsys.readouterr().out
    assert cli.main(["evaluate", *arguments[:4]]) == 0
    assert "clustering" not in capsys.readouterr().out


def _refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main(["evaluate", *map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Error" not in err
    return err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: replace(d, sample_rate_hz=100.0), "100 Hz, but model small expects 50 Hz"),
        (
            lambda d: replace(d, x=d.x[:, :40], window=None),
            "40 samples and 1 channel(s), but model small expects 64 and 1",
        ),
        (lambda d: replace(d, x=np.repeat(d.x, 3, axis=2), window=None), "64 samples and 3 channel(s)"),
        (lambda d: replace(d, y=None), "holds no labels y"),
        (lambda d: replace(d, y=np.zeros_like(d.y)), "all 60 windows are noise; expected two classes or more"),
        (lambda d: d.take(np.arange(10)), "10 windows in 2 classes"),
        (lambda d: replace(d, y=np.sort(d.y)), "expected 5 or more of two classes in each half"),
        (lambda d: replace(d, x=np.where(np.arange(60)[:, None, None] == 3, np.nan, d.x)), "window 3"),
        (lambda d: replace(d, y=d.y[:5]), "y is [5]; expected [60]"),
    ],
)
def test_data_that_do_not_fit_are_refused_in_one_sentence(
    change: object, sentence: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "d.npz"
    dataset.save(change(labelled()), path)  # type: ignore[operator]  # one of the forms that are tried
    assert sentence in _refused(capsys, "--model", model, "--data", path)


@pytest.mark.parametrize(
    ("name", "array", "sentence"),
    [
        ("r", np.ones(30), "shape [30]; expected [n, dimensions]"),
        ("r", np.full((30, 2), np.nan), "60 values are not finite"),
        ("r", np.full((30, 2), "x"), "holds no array of numbers"),
        ("y", np.arange(20) % 2, "shape [20]; expected [30]"),
        ("y", np.linspace(0, 1, 30), "expected whole numbers"),
        ("y", np.zeros(30), "all 30 windows are 0"),
        ("p", np.zeros((30, 1)), "shape [30, 1]; expected [30]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_sentence(
    name: str, array: np.ndarray, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"r": np.random.default_rng(0).standard_normal((30, 2)), "y": np.arange(30) % 2, "p": np.arange(30) % 3}
    for key, value in (good | {name: array}).items():
        np.save(tmp_path / f"{key}.npy", value)
    r, y, p = (tmp_path / f"{key}.npy" for key in "ryp")
    assert sentence in _refused(capsys, "--representations", r, "--labels", y, "--assignments", p)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.npy").write_bytes(b"\x93NUMPY but not for long")
    assert "not a readable npy file" in _refused(
        capsys, "--representations", tmp_path / "r.npy", "--labels", tmp_path / "none.npy"
    )
    np.save(tmp_path / "r.npy", np.ones((30, 2)))
    assert "no such file" in _refused(
        capsys, "--representations", tmp_path / "r.npy", "--labels", tmp_path / "none.npy"
    )


@pytest.mark.parametrize(
    "arguments",
    [[], ["--model", "m"], ["--representations", "r"], ["--model", "m", "--data", "d", "--representations", "r"]],
    ids=" ".join,
)
def test_half_a_command_is_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", *arguments]) == 2
    assert "evaluate: expected --model with --data" in capsys.readouterr().err


def test_the_network_comes_back_out_of_a_package(model: Path, tmp_path: Path) -> None:
    encoder = latent.encoder_of(load(model))
    assert encoder.shape == (1, 5, 8, 4)
    original = make_encoder(0, 1, 5, 8, 4)
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), original.parameters(), strict=True))
    other = load(model)
    other.folder = tmp_path
    torch.save({"something": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(PackageError, match="holds no encoder known here"):
        latent.encoder_of(other)


@pytest.mark.parametrize("name", ["demo", "rutford"])
def test_the_network_of_a_shipped_model_gives_what_its_selfcheck_states(name: str) -> None:
    """Whatever stands in weights.pt beside the network: centres, metric, bounds."""
    model = load(find(f"models/{name}"))
    stated = np.load(model.folder / "selfcheck.npz")
    with torch.inference_mode():
        found = latent.encoder_of(model)(torch.from_numpy(stated["x"])).amax(dim=1).numpy()
    np.testing.assert_allclose(found, stated["embedding"], atol=1e-4)


def test_log_kurtosis_is_that_of_its_definition_and_high_for_bursts() -> None:
    data = labelled()
    x = data.x[0, :, 0].astype(float)
    literal = np.log(np.mean((x - x.mean()) ** 4) / np.var(x) ** 2)
    found = features.log_kurtosis(data.x)[:, 0]
    assert found[0] == pytest.approx(literal)
    assert found[data.y == 1].min() > np.median(found[data.y == 0])


def test_a_log_spectrogram_shows_a_tone_where_it_is() -> None:
    tone = np.sin(2 * np.pi * 0.25 * np.arange(500))[None, :, None]
    spectrum = features.log_spectrogram(tone).reshape(33, -1)
    assert set(spectrum.argmax(axis=0)) == {16}
    assert spectrum.shape[1] == 28


def test_the_autoencoder_finds_plain_clusters_and_targets_are_surer() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    latent_nd, group = autoencoder.embedded_clusters(rng.standard_normal((120, 12)) + 8 * y[:, None], 2, seed=0)
    assert latent_nd.shape == (120, 10)
    assert max(np.mean(group == y), np.mean(group != y)) > 0.95
    soft = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    target = autoencoder.target_of(soft)
    torch.testing.assert_close(target.sum(dim=1), torch.ones(2))
    assert target[0, 0] > 0.8


def test_the_examples_are_found_by_their_rules() -> None:
    data = labelled()
    up, down = examples.first_motions(data.x[:, :, 0], ONSET, data.sid)
    assert up.waveform[up.begin] > 0 > down.waveform[down.begin]
    assert not up.synthetic
    quiet = labelled().take(np.flatnonzero(data.y == 0))
    for shown in (
        *examples.first_motions(quiet.x[:, :, 0], ONSET, quiet.sid),
        *examples.near_and_far(quiet.x[:, :, 0], ONSET, quiet.sid),
    ):
        assert shown.synthetic
        assert "synthetic" in shown.title


def test_examples_are_sought_among_events_where_labels_tell() -> None:
    data = labelled(20)
    assert examples.events_of(data).tolist() == list(range(20))
    assert examples.events_of(replace(data, y_names=("noise", "icequake"))).tolist() == list(range(1, 20, 2))
    assert examples.events_of(replace(data, y=None, y_names=())).tolist() == list(range(20))


def test_a_ricker_wavelet_stands_as_far_above_the_noise_as_was_asked() -> None:
    wavelet = latent.ricker_above_noise(400, 100, 0.05, -5.0)
    assert int(np.argmax(wavelet)) == 120
    assert 10 * np.log10(np.mean(wavelet[100:140] ** 2)) == pytest.approx(-5.0, abs=1e-4)
