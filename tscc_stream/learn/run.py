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
from tscc_stream.edges.parquet_windows import StoredWindows, is_windows
from tscc_stream.learn import choose, saving
from tscc_stream.learn.clusters import Head
from tscc_stream.learn.export import SELFCHECK_WINDOWS, Trained, export
from tscc_stream.learn.group import ALONE, Group
from tscc_stream.learn.identity import keeping
from tscc_stream.learn.material import Material, material
from tscc_stream.learn.network import Encoder
from tscc_stream.learn.objective import Terms
from tscc_stream.learn.settings import Settings, TrainingError
from tscc_stream.learn.train import Arrange, Epoch, Trainer, read_checkpoint, save_checkpoint
from tscc_stream.messages import Float32Array
from tscc_stream.package import EACH_CHANNEL, Package

CALIBRATION_LEAST = 1000  # 10 / alpha at the default alpha of 0.01
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


def train(request: Request, group: Group = ALONE) -> Package:
    """Train, calibrate and export; takes up an unfinished run of the same request where there is one.

    group: the processes that do it together, each with the same request; the first alone writes. Raises
    DataSetError, TrainingError or PackageError with what is wrong.
    """
    found, identity = group.each(lambda: (_material(request), _identity(request)))
    group.agreed(identity, "data or settings")
    trainer = Trainer(request.settings, found.windows, found.known, request.start, _arrange(request, found), group)
    folder, state = group.told(lambda: _taken_up(request, identity))
    with _logging_to(folder / "train.log", group):
        _tell(request, found, group)
        if state is not None:
            trainer.restore(state)
            LOG.info("resumed after epoch %d of %d", len(trainer.history), trainer.epochs)
        _run(trainer, folder)
        for sentence in trainer.troubles:
            LOG.warning("%s", sentence)
        return group.told(lambda: _finished(request, trainer, found, folder))


def _finished(request: Request, trainer: Trainer, found: Material, folder: Path) -> Package:
    package = _export(request, trainer, found)
    _finish(folder, trainer, package)
    return package


def _material(request: Request) -> Material:
    return material(request.data, request.settings, request.calibration, request.calibrate_every)


def _arrange(request: Request, found: Material) -> Arrange | None:
    if request.arrange is not None or request.init is None:
        return request.arrange
    return keeping(request.init, found.samples)


def _taken_up(request: Request, identity: dict[str, Any]) -> tuple[Path, dict[str, Any] | None]:
    """The folder of the run, and the state of an unfinished one."""
    folder = _folder(request, identity)
    checkpoint = folder / _CHECKPOINT
    return folder, read_checkpoint(checkpoint, request.settings) if checkpoint.is_file() else None


def _tell(request: Request, found: Material, group: Group) -> None:
    if not found.stated:
        LOG.warning("%s does not say how its windows were cut; the package will state %s", request.data, found.shape)
    LOG.info("%d training windows, %d calibration windows", len(found.windows), len(found.calibration))
    if not group.alone:
        LOG.info("%d processes train together", group.processes)


def _identity(request: Request) -> dict[str, Any]:
    """What makes two requests the same run."""
    digest = digest_of(request.data)
    held = None if request.calibration is None else digest_of(request.calibration)
    start = None if request.start is None else _digest(request.start)
    return {
        "data": digest,
        "calibration": held,
        "calibrate_every": request.calibrate_every,
        "start": start,
        "settings": asdict(request.settings),
    }


def digest_of(path: Path) -> str:
    """SHA-256 of a data set: of an npz file's bytes, or what StoredWindows.digest says of Parquet."""
    return StoredWindows(path).digest() if is_windows(path) else hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(encoder: Encoder) -> str:
    """SHA-256 of all weights."""
    digest = hashlib.sha256()
    for weight in encoder.state_dict().values():
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()


def _folder(request: Request, identity: dict[str, Any]) -> Path:
    """The newest unfinished run of the same request, else a new folder `<data>__<name>_<date_time>`."""
    stem = f"{request.data.stem}__{request.out.name}"
    for folder in sorted(request.runs.glob(f"{stem}_*"), reverse=True):
        if not (folder / _METRICS).exists() and _stated(folder / _SETTINGS) == identity:
            return folder
    folder = request.runs / f"{stem}_{datetime.now(UTC):%Y%m%d_%H%M%S}"
    name = folder.name
    for attempt in range(1, 1000):
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            folder = folder.with_name(f"{name}-{attempt}")
    _write_json(folder / _SETTINGS, identity)
    return folder


def _stated(path: Path) -> object:
    """What a run was asked for; None where nobody can tell any more."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _write_json(path: Path, document: object) -> None:
    saving.write(path, f"{json.dumps(document, indent=1)}\n".encode())


@contextmanager
def _logging_to(path: Path, group: Group) -> Iterator[None]:
    """The first process writes the log of all."""
    handler = logging.FileHandler(path, encoding="utf-8") if group.first else logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        handler.close()


def _run(trainer: Trainer, folder: Path) -> None:
    first = trainer.group.first
    with _bar(trainer.epochs * trainer.steps, len(trainer.history) * trainer.steps, first) as step:

        def after(epoch: Epoch) -> None:
            terms = {name: getattr(epoch, name) for name in TERMS}
            said = " ".join(f"{name} {value:.4f}" for name, value in terms.items())
            LOG.info("epoch %d %s %s", epoch.number, epoch.phase, said)
            if first:
                save_checkpoint(trainer, folder / _CHECKPOINT)

        trainer.run(after, step)


@contextmanager
def _bar(total: int, done: int, shown: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error where that is a terminal."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), disable=not (shown and sys.stderr.isatty())) as progress:
        task = progress.add_task("training", total=total, completed=done)
        yield lambda: progress.advance(task)


def _export(request: Request, trainer: Trainer, found: Material) -> Package:
    chosen, seen = request.settings, found.calibration
    enough = len(seen) >= CALIBRATION_LEAST
    if not enough:
        LOG.warning("%d calibration windows, expected %d: no window will be unknown", len(seen), CALIBRATION_LEAST)
    trained = Trained(
        name=request.out.name,
        encoder=trainer.averaged_encoder(),
        head=_head(trainer),
        fuzzifier=chosen.fuzzifier,
        shape=found.shape,
        normalisation=chosen.normalisation,
        selfcheck_x=_selfcheck_x(found),
        calibration_x=seen if enough else None,
        training_data=_training_data(request, trainer, len(seen)),
        metrics=_metrics(trainer),
        card=_card(request, trainer, found, len(seen) if enough else 0),
    )
    return export(trained, request.out)


def _head(trainer: Trainer) -> Head:
    if trainer.head is None:
        raise TrainingError("no clusters: the run has not ended")
    return trainer.head


def _selfcheck_x(found: Material) -> Float32Array:
    """Windows spread over all that calibrate, or, where none do, over those that trained."""
    count = len(found.calibration) or len(found.windows)
    rows = np.unique(np.linspace(0, count - 1, SELFCHECK_WINDOWS).astype(int))
    return found.calibration[rows] if len(found.calibration) else found.samples(torch.from_numpy(rows))


def _training_data(request: Request, trainer: Trainer, calibration: int) -> dict[str, Any]:
    return {
        "origin": request.provenance,
        "licence": request.licence,
        "windows": len(trainer.windows),
        "calibration_windows": calibration,
        "sha256": digest_of(request.data),
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


def _card(request: Request, trainer: Trainer, found: Material, calibration: int) -> str:
    chosen, shape = request.settings, found.shape
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
        f"- Trained on: {request.provenance} ({len(trainer.windows)} windows; licence: {request.licence})",
        f"- Novelty calibration: {novelty}",
        f"- Epochs: {chosen.epochs_pretrain} pre-training, {chosen.epochs_finetune} fine-tuning; seed {chosen.seed}",
        *(f"- Not all windows: {note}" for note in (*found.notes, *_sampled(trainer))),
        f"- Made by: `{request.command or 'tscc-stream train'}`",
        *(f"- Trouble: {sentence}" for sentence in trainer.troubles),
        "",
    ]
    if trainer.choices:
        number = len(_head(trainer).centres)
        lines += ["## Number of clusters", "", choose.explain(trainer.choices, number)]
    return "\n".join(lines)


def _sampled(trainer: Trainer) -> tuple[str, ...]:
    if trainer.clustered is None or trainer.among == len(trainer.clustered):
        return ()
    return (f"clusters were found among {len(trainer.clustered)} of {trainer.among} windows",)


def _finish(folder: Path, trainer: Trainer, package: Package) -> None:
    history = [asdict(epoch) for epoch in trainer.history]
    document = {"package": str(package.folder), "sha256": package.sha256, "history": history, **_metrics(trainer)}
    _plot(trainer.history, folder / "loss.png")
    if trainer.choices:
        number = len(_head(trainer).centres)
        choose.plot(trainer.choices, number, folder / "clusters.png")
        (folder / "clusters.md").write_text(choose.explain(trainer.choices, number), encoding="utf-8")
    _write_json(folder / _METRICS, document)
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
