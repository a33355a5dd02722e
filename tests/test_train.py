"""The training loop: what it draws, what it minimises, and that a run cut off and resumed is the same run."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tscc_stream import cli, package
from tscc_stream.learn import clusters, commands, dataset, material, run, views
from tscc_stream.learn.averaging import AveragedEncoder
from tscc_stream.learn.clusters import Head
from tscc_stream.learn.dataset import DataSet, DataSetError, WindowShape
from tscc_stream.learn.network import make_encoder, pool
from tscc_stream.learn.objective import Circumstances
from tscc_stream.learn.settings import Settings, TrainingError, settings_of
from tscc_stream.learn.train import Trainer, load_checkpoint, save_checkpoint
from tscc_stream.package import Normalisation
from tscc_stream.stages.extract import normalise

SAMPLES = 32
TINY = Settings(
    clusters=2,
    epochs_pretrain=2,
    epochs_finetune=3,
    batch_size=8,
    representation=4,
    hidden=6,
    depth=3,
    seed=1,
    mask=0.3,
)
KINDS: dict[str, object] = {"distance": "mahalanobis", "space": "representation"}
KNOWN = Circumstances(
    torch.arange(21) % 2 == 0,
    torch.linspace(0.0, 0.8, 21),
    torch.where(torch.arange(21) % 2 == 0, torch.linspace(-1.0, 1.0, 21), torch.nan),
)
NS = 1_000_000_000


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def windows(n: int = 21, seed: int = 0) -> np.ndarray:
    """Two kinds: noise, and noise with a burst in the middle."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, SAMPLES, 1))
    x[::2, 12:20] *= 20.0
    return x.astype(np.float32)


def data_set(n: int = 21, seed: int = 0, start_ns: int = 0) -> DataSet:
    return DataSet(
        x=windows(n, seed),
        sid=np.array(["SM.S001..SHZ"] * n),
        onset_ns=start_ns + np.arange(n, dtype=np.int64) * NS,
        sample_rate_hz=50.0,
        window=WindowShape(50.0, SAMPLES, 8, (2.0, 20.0)),
    )


def weights(trainer: Trainer) -> list[torch.Tensor]:
    assert trainer.head is not None
    parts = (trainer.head.metric, trainer.head.log_weight, trainer.head.bounds, trainer.head.axes)
    head = [part for part in parts if part is not None]
    return [*trainer.averaged_encoder().state_dict().values(), trainer.head.centres, *head]


def nothing(*_: object) -> None:
    pass


@pytest.mark.parametrize(
    ("stop_after", "changed"),
    [
        (1, {}),
        (2, KINDS),
        (4, {**KINDS, "averaging": 0.0}),
        (5, {**KINDS, "bounded": False}),
        (3, {"head": "mixture", "axes": 2, "space": "representation"}),
        (1, {"contrast_share": 0.3}),
        (4, {"among": "triggered", "space": "representation"}),
        (4, {"clusters": None}),
    ],
)
def test_a_resumed_run_gives_the_same_weights_bit_for_bit(
    tmp_path: Path, stop_after: int, changed: dict[str, object]
) -> None:
    settings = replace(TINY, **changed)
    whole = Trainer(settings, windows(), KNOWN)
    whole.run(nothing)

    class KilledError(Exception):
        pass

    def stop(epoch: object) -> None:
        save_checkpoint(cut_off, tmp_path / "checkpoint.pt")
        if len(cut_off.history) == stop_after:
            raise KilledError

    cut_off = Trainer(settings, windows(), KNOWN)
    with pytest.raises(KilledError):
        cut_off.run(stop)
    resumed = Trainer(settings, windows(), KNOWN)
    load_checkpoint(resumed, tmp_path / "checkpoint.pt")
    assert len(resumed.history) == stop_after
    resumed.run(nothing)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert whole.history == resumed.history


def test_nothing_depends_on_the_global_random_state() -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        trainer = Trainer(TINY, windows())
        trainer.run(nothing)
        assert torch.equal(before, torch.get_rng_state())
        results.append(weights(trainer))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_seed_matters_and_the_caller_s_windows_stay_as_they_were() -> None:
    x = windows()
    kept = x.copy()
    first, second = Trainer(TINY, x), Trainer(replace(TINY, seed=2), x)
    first.run(nothing)
    second.run(nothing)
    assert np.array_equal(x, kept)
    assert not torch.equal(weights(first)[0], weights(second)[0])


def test_a_checkpoint_of_other_settings_or_a_broken_one_is_refused(tmp_path: Path) -> None:
    save_checkpoint(Trainer(TINY, windows()), tmp_path / "checkpoint.pt")
    with pytest.raises(TrainingError, match="other settings"):
        load_checkpoint(Trainer(replace(TINY, seed=9), windows()), tmp_path / "checkpoint.pt")
    (tmp_path / "checkpoint.pt").write_bytes(b"PK")
    with pytest.raises(TrainingError, match="cannot be read"):
        load_checkpoint(Trainer(TINY, windows()), tmp_path / "checkpoint.pt")


def test_training_lowers_the_contrastive_loss() -> None:
    alone = replace(TINY, contrast_share=1.0, surrogate_share=0.0)
    trainer = Trainer(replace(alone, epochs_pretrain=12, epochs_finetune=0, rate_pretrain=3e-3), windows(64))
    trainer.run(nothing)
    losses = [epoch.contrast for epoch in trainer.history]
    assert np.mean(losses[-4:]) < 0.9 * losses[0]


def test_fine_tuning_makes_clusters_more_compact() -> None:
    x = normalise(windows(40), "asinh_mad")

    def looseness(clustering_share: float) -> float:
        """Clustering loss over mean square of the representations, so that shrinking alone gains nothing."""
        settings = replace(
            TINY,
            epochs_finetune=6,
            rate_finetune=1e-3,
            averaging=0.5,
            contrast_share=1.0,
            clustering_share=clustering_share,
            bounded=False,
            space="representation",
            surrogate_share=0.0,
        )
        trainer = Trainer(settings, x)
        trainer.run(nothing)
        r_nd = trainer.embed()
        assert trainer.head is not None
        return float(Head(trainer.head.centres).fuzziness(r_nd, 1.5) / (r_nd - r_nd.mean(dim=0)).square().sum(1).mean())

    assert looseness(10.0) < 0.9 * looseness(0.0)


@pytest.mark.parametrize("how", ["plain", "along"])
def test_the_clustering_term_reaches_every_weight_and_matches_finite_differences(how: str) -> None:
    encoder = make_encoder(0, 1, 3, 4, 2).double()
    x = torch.from_numpy(windows(5)).double()
    draw = torch.Generator().manual_seed(0)
    head = Head(torch.randn(2, 3, dtype=torch.float64, generator=draw))
    if how == "along":
        with torch.no_grad():
            r_nd = pool(encoder(x))
        head = clusters.along(r_nd, torch.randn(3, 1, dtype=torch.float64, generator=draw))
        head = replace(head, centres=head.seen(r_nd)[:2] + 0.1)

    def loss() -> torch.Tensor:
        return head.fuzziness(pool(encoder(x)), 1.5)

    loss().backward()
    for name, weight in encoder.named_parameters():
        assert weight.grad is not None, name
        assert float(weight.grad.abs().max()) > 1e-9, name
        at = int(weight.grad.abs().argmax())
        slope = float(weight.grad.view(-1)[at])
        step = 1e-6
        with torch.no_grad():
            weight.view(-1)[at] += step
            above = float(loss())
            weight.view(-1)[at] -= 2 * step
            below = float(loss())
            weight.view(-1)[at] += step
        assert (above - below) / (2 * step) == pytest.approx(slope, rel=1e-4), name


@pytest.mark.parametrize("changed", [{}, {"bounded": False}, {"head": "mixture", "axes": 2}, {"among": "triggered"}])
def test_the_trainer_s_clustering_term_moves_the_network(changed: dict[str, object]) -> None:
    trainer = Trainer(replace(TINY, space="representation", **changed), windows(), KNOWN)
    trainer.start_fine_tuning()
    assert trainer.head is not None
    trainer.objective.terms(trainer.encoder, torch.from_numpy(windows()), KNOWN, trainer.head).clustering.backward()
    assert all(p.grad is not None and float(p.grad.norm()) > 0 for p in trainer.encoder.parameters())


@pytest.mark.parametrize("kept", [0.0, 0.9])
def test_weights_are_averaged_as_torch_does(kept: float) -> None:
    encoder = make_encoder(0, 1, 3, 4, 2)
    ours = AveragedEncoder(encoder, kept)
    theirs = AveragedModel(encoder, multi_avg_fn=get_ema_multi_avg_fn(kept) if kept else None)
    for number in range(4):
        for weight in encoder.parameters():
            weight.data.add_(0.1 * number * weight.data + 0.1)
        ours.update(encoder)
        theirs.update_parameters(encoder)
    for one, other in zip(ours.encoder.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("length", [2, 3, 32])
def test_two_crops_overlap_where_they_say(length: int) -> None:
    rng = np.random.default_rng(0)
    x = torch.arange(5 * length, dtype=torch.float32).view(5, length, 1)
    seen = set()
    for _ in range(200):
        crops = views.two_crops(x, rng)
        assert torch.equal(crops.a[:, -crops.overlap :], crops.b[:, : crops.overlap])
        assert crops.a.shape[1] <= length
        assert (crops.a.diff(dim=1) == 1).all()
        seen.add(crops.overlap)
    assert seen == set(range(2, length + 1)) or length > 20


def test_noise_and_flips_keep_size_and_draw_from_the_generator() -> None:
    x = torch.from_numpy(windows(12))
    once, again = (views.with_noise(x, 0.5, np.random.default_rng(4)) for _ in range(2))
    assert torch.equal(once, again)
    assert 0 < float((once - x).std()) < float(x.std())
    assert torch.equal(views.with_noise(x, 0.0, np.random.default_rng(4)), x)
    up = views.flipped(x, np.random.default_rng(4))
    assert torch.equal(up.abs(), x.abs())
    assert not torch.equal(up, x)


def test_the_mask_hides_whole_samples_at_the_stated_rate() -> None:
    encoder = make_encoder(0, 1, 4, 6, 0)
    x, generator = torch.ones(8, 500, 1), torch.Generator().manual_seed(0)
    plain = encoder(x)
    (seen,) = views.represent_all(encoder, [views.Shown(x)], 500, views.Losses(generator, 0.0, 0.0))
    torch.testing.assert_close(seen, plain)
    lost = 1.0 - views._kept(x, 0.3, views.Losses(generator, 0.3, 0.0))
    assert float(lost.mean()) == pytest.approx(0.3, abs=0.03)


def test_fewer_triggered_windows_than_clusters_are_refused_before_any_work() -> None:
    settings = replace(TINY, space="representation", among="triggered", clusters=3)
    with pytest.raises(TrainingError, match="2 training windows to cluster: expected at least 3"):
        Trainer(settings, windows(), Circumstances(torch.arange(21) < 2))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"clusters": 0}, "clusters 0: expected 1"),
        ({"batch_size": 0}, "batch size 0"),
        ({"epochs_finetune": -1}, "epochs finetune"),
        ({"clusters": 30}, "21 training windows to cluster: expected at least 30"),
        ({"hidden": -3}, "hidden -3: expected 1 or more"),
        ({"depth": -1}, "depth -1: expected 0 or more, below 20"),
        ({"dropout": 1.0}, "dropout 1.0: expected 0 or more, below 1"),
        ({"averaging": 2.0}, "averaging 2.0"),
        ({"noise": float("nan")}, "noise nan"),
        ({"rate_pretrain": -1.0}, "rate pretrain -1.0"),
        ({"fuzzifier": 1.0}, "fuzzifier 1: expected more than 1"),
        ({"distance": "mahalanobis"}, "distance mahalanobis: expected space representation with it"),
        ({"head": "mixture"}, "head mixture: expected space representation with it"),
        ({"bounded": False}, "bounded False: expected space representation with it"),
    ],
)
def test_settings_that_cannot_work_are_refused(changed: dict[str, object], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        Trainer(replace(TINY, **changed), windows())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"nose": 1}, "nose unknown; expected some of clusters, epochs_pretrain"),
        ({"noise": "loud"}, "noise: expected a number, not 'loud'"),
        ({"head": "feet"}, "head: expected 'centres' or 'mixture', not 'feet'"),
    ],
    ids=str,
)
def test_settings_by_name_are_checked(wrong: dict[str, object], said: str) -> None:
    assert settings_of({"clusters": None, "noise": 0.5}) == Settings(clusters=None, noise=0.5)
    with pytest.raises(TrainingError, match=said):
        settings_of(wrong)


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("hidden", 2, "expected NAME=VALUE"),
        ("seed=3", 1, "setting seed: given twice"),
        ("nose=1", 1, "nose unknown"),
    ],
)
def test_a_setting_that_is_none_is_refused_in_one_sentence(
    text: str, status: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset.save(data_set(), tmp_path / "d.npz")
    given = ["--data", str(tmp_path / "d.npz"), "--out", str(tmp_path / "m"), "--set", text]
    assert cli.main(["train", *given]) == status
    assert said in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    x = windows()
    x[0] = 1e38
    with pytest.raises(TrainingError, match="the loss became"):
        Trainer(TINY, x).run(nothing)


def _command(tmp_path: Path, **more: object) -> package.Package:
    arguments = {"epochs_pretrain": 1, "epochs_finetune": 1, "batch_size": 32, "repr_dims": 4, "device": "cpu"}
    arguments |= {"clusters": 2, "finer": {"hidden": 6, "depth": 3}} | more
    return commands.train_model(tmp_path / "d.npz", tmp_path / "models" / "m", runs=tmp_path / "training", **arguments)


def test_a_run_that_was_killed_while_it_began_hinders_no_later_one(tmp_path: Path) -> None:
    request = run.Request(tmp_path / "north-east.npz", tmp_path / "m", TINY, runs=tmp_path / "training")
    first, second, third = (run._folder(request, {"settings": number}) for number in range(3))
    assert all(folder.name.startswith("north-east__m_") for folder in (first, second, third))
    for folder, left in ((first, b""), (second, b'{"settings": \xff')):
        (folder / "settings.json").write_bytes(left)
    assert run._folder(request, {"settings": 2}) == third
    assert run._folder(request, {"settings": 0}) not in (first, second, third)
    assert sorted(path.name for path in third.iterdir()) == ["settings.json"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: int) -> None:
        raise OSError(5, "Input/output error")

    path = tmp_path / "checkpoint.pt"
    save_checkpoint(Trainer(TINY, windows()), path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output error") as said:
        save_checkpoint(Trainer(replace(TINY, seed=2), windows()), path)
    assert said.value.filename == str(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_leaves_a_package_and_a_run_folder(tmp_path: Path) -> None:
    dataset.save(data_set(60), tmp_path / "d.npz")
    made = _command(tmp_path, provenance="made up", licence="none needed", command="tscc-stream train ...")
    assert package.load(made.folder).sha256 == made.sha256
    assert (made.spec.clusters, made.spec.embedding, made.spec.samples) == (2, 4, SAMPLES)
    assert made.spec.novelty is None  # 12 windows are too few to calibrate on
    assert made.spec.training_data["origin"] == "made up"
    assert "tscc-stream train ..." in (made.folder / "card.md").read_text(encoding="utf-8")
    (folder,) = (tmp_path / "training").iterdir()
    assert folder.name.startswith("d__m_")
    assert {path.name for path in folder.iterdir()} == {
        "train.log",
        "metrics.json",
        "settings.json",
        "checkpoint.pt",
        "loss.png",
    }
    assert [e["phase"] for e in json.loads((folder / "metrics.json").read_text())["history"]] == [
        "pretrain",
        "finetune",
    ]


def test_an_interrupted_command_is_taken_up_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.save(data_set(60), tmp_path / "d.npz")
    whole = _command(tmp_path)
    expected = (whole.folder / "weights.pt").read_bytes()
    save = run.save_checkpoint

    def then_die(trainer: Trainer, path: Path) -> None:
        save(trainer, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "save_checkpoint", then_die)
    with pytest.raises(KeyboardInterrupt):
        _command(tmp_path)
    monkeypatch.setattr(run, "save_checkpoint", save)
    again = _command(tmp_path)
    folders = sorted((tmp_path / "training").iterdir())
    assert len(folders) == 2
    assert "resumed after epoch 1 of 2" in (folders[1] / "train.log").read_text()
    assert (again.folder / "weights.pt").read_bytes() == expected


def test_calibration_windows_are_later_than_training_windows_and_only_triggered() -> None:
    data = replace(data_set(100), triggered=np.arange(100) % 2 == 0)
    training, held = _split(data)
    assert training.onset_ns.max() + training.span_ns < held.onset_ns.min()
    assert held.triggered is not None
    assert held.triggered.all()
    assert 5 <= len(held) <= 15


def test_every_third_minute_may_calibrate_and_shares_no_time_with_the_others() -> None:
    data = replace(data_set(400, start_ns=7 * NS), triggered=np.arange(400) % 2 == 0)
    training, held = _split(data, every=3)
    assert set((held.onset_ns // (60 * NS) % 3).tolist()) == {2}
    assert held.triggered is not None
    assert held.triggered.all()
    assert len(held) == 60  # two whole minutes of the seven, every second window
    apart = np.abs(training.onset_ns[:, None] - held.onset_ns[None, :]).min()
    assert apart >= data.span_ns
    assert len(training) + 2 * len(held) > 390
    with pytest.raises(TrainingError, match="every 1 minutes: expected 2 or more"):
        _split(data, every=1)


def _split(data: DataSet, calibration: DataSet | None = None, every: int | None = None) -> tuple[DataSet, DataSet]:
    stored = {Path("data"): data, Path("held"): calibration}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "load", stored.__getitem__)
        return material.split(Path("data"), Path("held") if calibration else None, every)


def test_training_windows_that_share_time_with_calibration_windows_are_left_out() -> None:
    training, held = _split(data_set(50), data_set(10, start_ns=20 * NS))
    assert len(held) == 10
    near = np.abs(training.onset_ns[:, None] - held.onset_ns[None, :]).min(axis=1)
    assert near.min() >= training.span_ns
    assert len(training) == 40


def test_data_of_another_shape_cannot_calibrate() -> None:
    other = replace(data_set(10), window=WindowShape(50.0, SAMPLES, 9, (2.0, 20.0)))
    with pytest.raises(DataSetError, match="different shape"):
        _split(data_set(50), other)


def test_a_data_set_that_does_not_say_how_it_was_cut_gets_a_stated_guess(tmp_path: Path) -> None:
    dataset.save(replace(data_set(60), window=None), tmp_path / "d.npz")
    spec = _command(tmp_path).spec
    assert (spec.onset_sample, spec.samples, spec.sample_rate_hz) == (SAMPLES // 5, SAMPLES, 50.0)
    assert spec.band_hz == pytest.approx((2.0, 20.0))
    (folder,) = (tmp_path / "training").iterdir()
    assert "does not say how its windows were cut" in (folder / "train.log").read_text()


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="device tpu: torch cannot use it here"):
        _command(tmp_path, device="tpu")


def test_surrogates_keep_the_spectrum_and_lose_the_onset() -> None:
    x = torch.from_numpy(windows(40))
    made = views.surrogates(x, np.random.default_rng(0))
    assert torch.equal(made, views.surrogates(x, np.random.default_rng(0)))
    before, after = (torch.fft.rfft(one, dim=1).abs()[:, 1:-1] for one in (x, made))
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)

    def peak(one: torch.Tensor) -> float:
        return float((one.abs().amax(dim=1) / one.std(dim=1))[::2].mean())

    assert peak(made) < 0.9 * peak(x)


@pytest.mark.parametrize("how", ["z", "asinh_mad", "none"])
def test_windows_are_normalised_in_batches_as_the_live_path_does(how: Normalisation) -> None:
    x = windows(6)
    seen = views.normalised(torch.from_numpy(x), how).numpy()
    assert np.allclose(seen, normalise(x, how), atol=1e-5)
    again = views.normalised(views.standardised(torch.from_numpy(seen), how), how).numpy()
    assert np.allclose(again, seen, atol=1e-4)


def test_the_judge_learns_to_tell_windows_from_surrogates() -> None:
    alone = replace(TINY, contrast_share=0.0, epochs_pretrain=30, epochs_finetune=0, rate_pretrain=5e-3, noise=0.3)
    trainer = Trainer(replace(alone, mask=0.0), windows(64))
    trainer.run(nothing)
    said = [epoch.surrogate for epoch in trainer.history]
    assert np.mean(said[-5:]) < 0.9 * said[0]


def test_the_judge_learns_what_was_triggered_and_what_others_saw() -> None:
    """Bursts were triggered, noise was not; every second burst was seen by others and has the other sign."""
    x = windows(64)
    triggered = torch.arange(64) % 2 == 0
    shares = torch.where(triggered & (torch.arange(64) % 4 == 0), 0.8, 0.0)
    alone = replace(
        TINY, contrast_share=0.0, surrogate_share=0.0, mask=0.0, noise=0.0, epochs_pretrain=30, epochs_finetune=0
    )
    x[::4] = np.abs(x[::4])
    seen_by = replace(alone, flip=False, rate_pretrain=5e-3)
    strength = torch.where(triggered, torch.from_numpy(np.abs(x).max(axis=(1, 2))).log(), torch.nan)
    strength = (strength - strength.nanmean()) / 0.3
    trainer = Trainer(seen_by, x, Circumstances(triggered, shares, strength))
    trainer.run(nothing)
    first, last = trainer.history[0], trainer.history[-1]
    assert last.background < 0.5 * first.background
    assert last.coincidence < 0.8 * first.coincidence
    assert last.strength < 0.8 * first.strength
    assert first.surrogate == first.contrast == 0.0
    assert trainer.head is not None
    assert trainer.head.axes is not None
    assert trainer.head.axes.shape == (4, 3 + 4)


@pytest.mark.parametrize(
    ("known", "outputs"),
    [
        (Circumstances(), [0]),
        (Circumstances(torch.arange(21) % 2 == 0), [1]),
        (Circumstances(None, torch.full((21,), 0.8)), [2]),
        (Circumstances(torch.arange(21) % 2 == 0, torch.full((21,), 0.8)), [1, 2]),
        (Circumstances(strength=torch.linspace(-1.0, 1.0, 21)), [3]),
        (KNOWN, [1, 2, 3]),
    ],
    ids=["nothing known", "triggered", "coincidence", "both", "strength", "all"],
)
def test_clusters_lie_where_the_judge_looks(known: Circumstances, outputs: list[int]) -> None:
    trainer = Trainer(replace(TINY, epochs_finetune=0), windows(), known)
    assert trainer.objective.directions(known) is None  # undecided yet
    trainer.run(nothing)
    judge = trainer.objective.judge.weight.detach()[outputs].T
    assert trainer.head is not None
    assert trainer.head.axes is not None
    assert torch.equal(trainer.head.axes[:, : len(outputs)], judge)
    assert trainer.head.axes.shape == (4, len(outputs) + 4)  # the rest from afar
    assert trainer.troubles == []


def test_a_judge_that_has_learnt_nothing_is_reported() -> None:
    trainer = Trainer(replace(TINY, epochs_pretrain=0, epochs_finetune=0), windows(), KNOWN)
    trainer.run(nothing)
    assert trainer.head is not None
    assert trainer.head.axes is None
    assert trainer.troubles[0] == "the judge has learnt nothing: clusters lie in the whole representation"


def test_circumstances_are_read_off_the_data_set_and_never_off_labels() -> None:
    ratios = np.where(np.arange(40) % 2 == 0, np.exp(np.arange(40.0)), 0.0).astype(np.float32)
    mixed = replace(data_set(40), triggered=ratios > 0.0, y=np.arange(40) % 2, peak_ratio=ratios)
    known = material.circumstances(mixed)
    assert known.strength is not None
    assert known.strength.isnan().tolist() == (ratios == 0.0).tolist()
    assert known.strength[::2].numpy() == pytest.approx((np.arange(0, 40, 2) - 19.0) / np.std(np.arange(0, 40, 2)))
    assert known.triggered is not None
    assert known.triggered.tolist() == (np.arange(40) % 2 == 0).tolist()
    assert known.coincidence is None  # one sensor
    assert material.circumstances(data_set(40)).parts == (None, None, None)
    assert material.circumstances(replace(mixed, triggered=np.ones(40, bool), peak_ratio=np.full(40, 5.0))).parts == (
        None,
        None,
        None,
    )
    rng = np.random.default_rng(0)
    at = 100 * NS * np.arange(120)
    onset = np.concatenate([at + (rng.random(120) * NS / 20).astype(np.int64) for _ in range(3)])
    several = replace(
        data_set(360), onset_ns=onset, sid=np.repeat(["SM.S001..SHZ", "SM.S002..SHZ", "SM.S003..SHZ"], 120)
    )
    shares = material.circumstances(several).coincidence
    assert shares is not None
    assert shares.tolist() == [1.0] * 360


def test_whole_representations_are_clustered_among_triggered_windows() -> None:
    triggered = torch.arange(21) % 2 == 0
    settings = replace(TINY, space="representation", among="triggered", bounded=False, epochs_finetune=0)
    trainer = Trainer(settings, windows(), Circumstances(triggered))
    trainer.run(nothing)
    assert trainer.head is not None
    assert trainer.head.axes is None
    r_nd = trainer.embed()[triggered]
    cluster_n = trainer.head.assign(r_nd)
    for k in range(2):
        torch.testing.assert_close(trainer.head.centres[k], r_nd[cluster_n == k].mean(dim=0))


def test_bfloat16_trains_the_same_network_a_little_less_exactly() -> None:
    """On a graphics card by default; here on the processor, where it is asked for."""
    found = []
    for precision in ("float32", "bfloat16"):
        trainer = Trainer(replace(TINY, precision=precision, epochs_finetune=0), windows())
        trainer.run(nothing)
        found.append(trainer)
    exact, half = (trainer.embed() for trainer in found)
    assert half.dtype == torch.float32
    assert not torch.equal(exact, half)
    assert float((exact - half).norm() / exact.norm()) < 0.05
    assert not replace(TINY, device="cpu").half
    assert replace(TINY, device="cuda:0").half
    assert not replace(TINY, device="cuda:0", precision="float32").half


def test_training_goes_on_from_an_encoder_and_lets_others_number_the_clusters() -> None:
    first = Trainer(TINY, windows())
    first.run(nothing)
    settings = replace(TINY, epochs_pretrain=0, epochs_finetune=0, seed=5)
    plain = Trainer(settings, windows(), start=first.averaged_encoder())
    turned = Trainer(settings, windows(), start=first.averaged_encoder(), arrange=lambda *_: [1, 0])
    for trainer in (plain, turned):
        trainer.run(nothing)
        assert torch.equal(trainer.embed(), first.embed())
    assert plain.head is not None
    assert turned.head is not None
    assert {tuple(c) for c in plain.head.centres.tolist()} == {tuple(c) for c in turned.head.centres.tolist()}
    with pytest.raises(TrainingError, match="shape"):
        Trainer(replace(settings, hidden=8), windows(), start=first.averaged_encoder())


def test_a_command_can_go_on_from_a_package(tmp_path: Path) -> None:
    dataset.save(data_set(60), tmp_path / "d.npz")
    first = _command(tmp_path, recipe="published")
    assert first.spec.normalisation == "z"
    again = commands.train_model(
        tmp_path / "d.npz",
        tmp_path / "models" / "again",
        init=first.folder,
        epochs_pretrain=0,
        epochs_finetune=0,
        recipe="published",
        clusters="auto",
        device="cpu",
        runs=tmp_path / "training",
    )
    with pytest.raises(TrainingError, match="setting hidden: expected what the model has"):
        commands.train_model(tmp_path / "d.npz", tmp_path / "no", init=first.folder, finer={"hidden": 7})
    before, after = (torch.load(m.folder / "weights.pt", weights_only=True) for m in (first, again))
    assert torch.equal(before["blocks.0.conv1.weight"], after["blocks.0.conv1.weight"])
    assert again.spec.normalisation == "z"
    assert "Number of clusters" in (again.folder / "card.md").read_text(encoding="utf-8")
    (folder,) = (tmp_path / "training").glob("d__again_*")
    assert (folder / "clusters.png").is_file()


def test_a_cluster_that_swallowed_the_others_is_reported() -> None:
    r_nd = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    centres = torch.tensor([[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]])
    said = clusters.trouble(clusters.Head(centres), r_nd)
    assert said == [
        "cluster 0 has swallowed the others: 400 of 400 windows",
        "cluster 1 is empty: 0 of 400 windows",
    ]
