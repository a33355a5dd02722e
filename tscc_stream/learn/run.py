"""A training run on disk: its folder with log, metrics, checkpoints and loss plot, and the package at its end."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tscc_stream import __version__
from tscc_stream.learn import choose, coincidence, dataset
from tscc_stream.learn.clusters import Head
from tscc_stream.learn.dataset import DataSet, DataSetError, WindowShape
from tscc_stream.learn.export import SELFCHECK_WINDOWS, Trained, export
from tscc_stream.learn.identity import keeping
from tscc_stream.learn.network import Encoder
from tscc_stream.learn.objective import Circumstances, Terms
from tscc_stream.learn.settings import Settings, TrainingError
from tscc_stream.learn.train import Arrange, Epoch, Trainer, load_checkpoint, save_checkpoint
from tscc_stream.messages import Float32Array
from tscc_stream.package import EACH_CHANNEL, Package
from tscc_stream.stages.extract import normalise

CALIBRATION_SHARE = 0.2
CALIBRATION_LEAST = 1000  # 10 / alpha at the default alpha of 0.01
_MINUTE_NS = 60_000_000_000
LOG = logging.getLogger("tscc_stream.train")

TERMS = Terms._fields
_CHECKPOINT, _METRICS, _SETTINGS = "checkpoint.pt", "metrics.json", "settings.json"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be trained: data, where the package goes, settings.

    calibration: a second data set; else, where calibrate_every is given, that many-th minute of the first, or the last
    fifth of it by time. start, arrange: as in train.Trainer; init: whose clusters keep their ids where they are found
    again and nothing else is said. provenance: what the card and model.json say of the data's origin and licence.
    """

    data: Path
    out: Path
    settings: Settings
    calibration: Path | None = None
    calibrate_every: int | None = None
    runs: Path = Path("training")
    provenance: str = "not stated"
    licence: str = "not stated"
    command: str = ""
    start: Encoder | None = None
    arrange: Arrange | None = None
    init: Package | None = None


def train(request: Request) -> Package:
    """Train, calibrate and export; takes up an unfinished run of the same request where there is one.

    Raises DataSetError, TrainingError or PackageError with what is wrong.
    """
    training, calibration = _split(request)
    shape = training.window or dataset.assumed_shape(training)
    seen = normalise(training.x, request.settings.normalisation)
    arrange = request.arrange
    if arrange is None and request.init is not None:
        arrange = keeping(request.init, seen)
    trainer = Trainer(request.settings, seen, _circumstances(training), request.start, arrange)
    folder = _folder(request)
    with _logging_to(folder / "train.log"):
        if training.window is None:
            LOG.warning("%s does not say how its windows were cut; the package will state %s", request.data, shape)
        LOG.info("%d training windows, %d calibration windows", len(training), len(calibration))
        if (folder / _CHECKPOINT).is_file():
            load_checkpoint(trainer, folder / _CHECKPOINT)
            LOG.info("resumed after epoch %d of %d", len(trainer.history), trainer.epochs)
        _run(trainer, folder)
        for sentence in trainer.troubles:
            LOG.warning("%s", sentence)
        package = _export(request, trainer, shape, calibration)
        _finish(folder, trainer, package)
    return package


def _split(request: Request) -> tuple[DataSet, DataSet]:
    """Training and calibration windows, apart in time. Only triggered windows calibrate, as only those come live."""
    data = dataset.load(request.data).in_time()
    if request.calibration is not None:
        held = dataset.load(request.calibration).in_time()
        if held.x.shape[1:] != data.x.shape[1:] or held.window != data.window:
            raise DataSetError(f"{request.calibration} and {request.data} hold windows of different shape")
        training = data.take(~_overlapping(data, held))
    elif request.calibrate_every is not None:
        training, held = _by_minutes(data, request.calibrate_every)
    else:
        cut = data.onset_ns[int((1.0 - CALIBRATION_SHARE) * (len(data) - 1))]
        training = data.take(data.onset_ns + data.span_ns < cut)
        held = data.take(data.onset_ns >= cut)
    return training, held if held.triggered is None else held.take(held.triggered)


def _by_minutes(data: DataSet, every: int) -> tuple[DataSet, DataSet]:
    """Windows to train on, and those of every so-many-th minute, with which the former share no time at any sensor."""
    if every < 2:
        raise TrainingError(f"calibrate every {every} minutes: expected 2 or more")
    mine = data.onset_ns // _MINUTE_NS % every == every - 1
    held = data.take(mine)
    apart = dataset.distance_ns(data.onset_ns, np.sort(held.onset_ns)) >= data.span_ns
    return data.take(~mine & apart), held


def _circumstances(data: DataSet) -> Circumstances:
    """What a data set says of its windows beside their samples; labels, where it has them, have no part in it."""
    triggered = data.triggered
    mixed = triggered is not None and triggered.any() and not triggered.all()
    shares = coincidence.shares(data)
    return Circumstances(
        torch.from_numpy(triggered) if mixed else None,
        None if shares is None else torch.from_numpy(shares),
        _strength(data),
    )


def _strength(data: DataSet) -> torch.Tensor | None:
    """As Circumstances has it; None where no two peak ratios differ."""
    if data.peak_ratio is None:
        return None
    there = data.peak_ratio > 0.0
    logs = np.log(np.where(there, data.peak_ratio, 1.0))
    spread = float(logs[there].std()) if there.any() else 0.0
    if spread == 0.0:
        return None
    return torch.from_numpy(np.where(there, (logs - logs[there].mean()) / spread, np.nan).astype(np.float32))


def _overlapping(data: DataSet, held: DataSet) -> np.ndarray:
    """Windows of `data` that share time with the span of `held` in the same channel, or at the same sensor."""
    shared = np.zeros(len(data), bool)
    for recorder in np.unique(held.recorder):
        onsets = np.sort(held.onset_ns[held.recorder == recorder])
        mine = data.recorder == recorder
        shared[mine] = dataset.distance_ns(data.onset_ns[mine], onsets) < data.span_ns
    return shared


def _identity(request: Request) -> dict[str, Any]:
    """What makes two requests the same run."""
    digest = hashlib.sha256(request.data.read_bytes()).hexdigest()
    held = None if request.calibration is None else hashlib.sha256(request.calibration.read_bytes()).hexdigest()
    start = None if request.start is None else _digest(request.start)
    return {
        "data": digest,
        "calibration": held,
        "calibrate_every": request.calibrate_every,
        "start": start,
        "settings": asdict(request.settings),
    }


def _digest(encoder: Encoder) -> str:
    """SHA-256 of all weights."""
    digest = hashlib.sha256()
    for weight in encoder.state_dict().values():
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()


def _folder(request: Request) -> Path:
    """The newest unfinished run of the same request, else a new folder `<data>__<name>_<date_time>`."""
    identity, stem = _identity(request), f"{request.data.stem}__{request.out.name}"
    for folder in sorted(request.runs.glob(f"{stem}_*"), reverse=True):
        stated = folder / _SETTINGS
        if stated.is_file() and not (folder / _METRICS).exists() and json.loads(stated.read_text()) == identity:
            return folder
    folder = request.runs / f"{stem}_{datetime.now(UTC):%Y%m%d_%H%M%S}"
    for attempt in range(1, 1000):
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            folder = folder.with_name(f"{folder.name.split('-')[0]}-{attempt}")
    (folder / _SETTINGS).write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
    return folder


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        handler.close()


def _run(trainer: Trainer, folder: Path) -> None:
    steps = -(-len(trainer.x_ntc) // trainer.settings.batch_size)
    with _bar(trainer.epochs * steps, len(trainer.history) * steps) as step:

        def after(epoch: Epoch) -> None:
            terms = {name: getattr(epoch, name) for name in TERMS}
            said = " ".join(f"{name} {value:.4f}" for name, value in terms.items())
            LOG.info("epoch %d %s %s", epoch.number, epoch.phase, said)
            save_checkpoint(trainer, folder / _CHECKPOINT)

        trainer.run(after, step)


@contextmanager
def _bar(total: int, done: int) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error where that is a terminal."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("training", total=total, completed=done)
        yield lambda: progress.advance(task)


def _export(request: Request, trainer: Trainer, shape: WindowShape, calibration: DataSet) -> Package:
    chosen = request.settings
    seen = normalise(calibration.x, chosen.normalisation)
    enough = len(seen) >= CALIBRATION_LEAST
    if not enough:
        LOG.warning("%d calibration windows, expected %d: no window will be unknown", len(seen), CALIBRATION_LEAST)
    trained = Trained(
        name=request.out.name,
        encoder=trainer.averaged_encoder(),
        head=_head(trainer),
        fuzzifier=chosen.fuzzifier,
        shape=shape,
        normalisation=chosen.normalisation,
        selfcheck_x=_some(seen if len(seen) else trainer.x_ntc.numpy()),
        calibration_x=seen if enough else None,
        training_data=_training_data(request, trainer, len(seen)),
        metrics=_metrics(trainer),
        card=_card(request, trainer, shape, len(seen) if enough else 0),
    )
    return export(trained, request.out)


def _head(trainer: Trainer) -> Head:
    if trainer.head is None:
        raise TrainingError("no clusters: the run has not ended")
    return trainer.head


def _some(x: Float32Array) -> Float32Array:
    """Windows spread over all, for the self-check."""
    chosen: Float32Array = x[np.unique(np.linspace(0, len(x) - 1, SELFCHECK_WINDOWS).astype(int))]
    return chosen


def _training_data(request: Request, trainer: Trainer, calibration: int) -> dict[str, Any]:
    return {
        "origin": request.provenance,
        "licence": request.licence,
        "windows": len(trainer.x_ntc),
        "calibration_windows": calibration,
        "sha256": hashlib.sha256(request.data.read_bytes()).hexdigest(),
        "settings": asdict(request.settings),
        "software": {"tscc-stream": __version__, "torch": str(torch.__version__)},
    }


def _metrics(trainer: Trainer) -> dict[str, Any]:
    last = trainer.history[-1] if trainer.history else None
    return {
        "epochs": len(trainer.history),
        **{name: None if last is None else round(getattr(last, name), 5) for name in TERMS},
        "troubles": list(trainer.troubles),
    }


def _card(request: Request, trainer: Trainer, shape: WindowShape, calibration: int) -> str:
    chosen = request.settings
    single = shape.components == EACH_CHANNEL
    channels = "one channel" if single else f"the components {', '.join(shape.components)} of one sensor"
    novelty = f"{calibration} windows" if calibration else "none: no window is called unknown"
    lines = [
        f"# {request.out.name}",
        "",
        f"TSCC encoder, {len(_head(trainer).centres)} clusters, windows of {shape.samples} samples at "
        f"{shape.sample_rate_hz:g} Hz",
        f"({shape.band_hz[0]:g} to {shape.band_hz[1]:g} Hz, onset at sample {shape.onset_sample}), of {channels}.",
        "",
        f"- Trained on: {request.provenance} ({len(trainer.x_ntc)} windows; licence: {request.licence})",
        f"- Novelty calibration: {novelty}",
        f"- Epochs: {chosen.epochs_pretrain} pre-training, {chosen.epochs_finetune} fine-tuning; seed {chosen.seed}",
        f"- Made by: `{request.command or 'tscc-stream train'}`",
        *(f"- Trouble: {sentence}" for sentence in trainer.troubles),
        "",
    ]
    if trainer.choices:
        number = len(_head(trainer).centres)
        lines += ["## Number of clusters", "", choose.explain(trainer.choices, number)]
    return "\n".join(lines)


def _finish(folder: Path, trainer: Trainer, package: Package) -> None:
    history = [asdict(epoch) for epoch in trainer.history]
    document = {"package": str(package.folder), "sha256": package.sha256, "history": history, **_metrics(trainer)}
    _plot(trainer.history, folder / "loss.png")
    if trainer.choices:
        number = len(_head(trainer).centres)
        choose.plot(trainer.choices, number, folder / "clusters.png")
        (folder / "clusters.md").write_text(choose.explain(trainer.choices, number), encoding="utf-8")
    (folder / _METRICS).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    LOG.info("wrote %s", package.folder)


def _plot(history: list[Epoch], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 slow to import, wanted once
    from matplotlib.figure import Figure  # noqa: PLC0415  # loaded where it is needed

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in TERMS:
        there = [epoch for epoch in history if getattr(epoch, name)]
        if there:
            axes.plot([epoch.number + 1 for epoch in there], [getattr(epoch, name) for epoch in there], label=name)
    axes.set(xlabel="epoch", ylabel="loss")
    if axes.lines:
        axes.legend()
    figure.savefig(path, dpi=100)
