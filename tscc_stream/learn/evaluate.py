"""`evaluate`: a model on labelled windows, or stored representations and assignments, judged beside its baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tscc_stream import package as packages
from tscc_stream.edges.torchscript import TorchScriptEncoder
from tscc_stream.learn import probes, stored
from tscc_stream.learn.baselines import BATCH, Clustering, baselines
from tscc_stream.learn.dataset import DataSet, Int64Array
from tscc_stream.learn.features import log_spectrogram, series
from tscc_stream.learn.latent import encoder_of
from tscc_stream.learn.network import Encoder
from tscc_stream.learn.probes import PROBES, Split
from tscc_stream.learn.report import Report, Table
from tscc_stream.learn.scores import Score, contingency, judge_clusters, score, time_blocks
from tscc_stream.messages import AnyArray, Float32Array, Float64Array
from tscc_stream.package import Package
from tscc_stream.progress import Update, silent
from tscc_stream.stages.extract import normalise

Representation = Literal["series", "spectrogram"]
FEWEST_WINDOWS = 20
MODEL = "model"
_STEPS = (3, 7, 10)
"""How far an evaluation is, of ten: windows encoded, baselines fitted, probes taught."""


class EvaluationError(ValueError):
    """Something that cannot be evaluated, and why, in one sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A model's view of labelled windows in order of time, for the figures.

    y indexes names; normalised: what the encoder saw; r [n, D]; membership [n, K]; methods: model and baselines.
    """

    package: Package
    encoder: Encoder
    data: DataSet
    normalised: Float32Array
    y: Int64Array
    names: tuple[str, ...]
    r: Float64Array
    membership: Float64Array
    group: Int64Array
    methods: dict[str, Clustering]
    report: Report

    @property
    def scores(self) -> dict[str, Score]:
        """Of each method, by the names of `methods`."""
        own = {} if self.report.clustering is None else {MODEL: self.report.clustering}
        return own | self.report.baselines


def evaluate_model(
    model: Path,
    data: Path,
    *,
    representation: Representation = "series",
    seed: int = 0,
    update: Update = silent,
) -> Judged:
    """A model package on a labelled data set (npz). Nothing is chosen by labels but what the probes learn.

    representation: what the probes beside R are taught on, standardised windows or log-spectrograms. Raises
    EvaluationError, DataSetError or PackageError with one sentence.
    """
    package = packages.load(model)
    windows = stored.load(data).in_time()
    _check_fit(windows, package, data)
    y, names = _labels(windows, data)
    normalised = normalise(windows.x, package.spec.normalisation)
    r, membership, group = _encoded(package, normalised, update)
    encoder = encoder_of(package)
    methods = baselines(windows.x, normalised, encoder, package.spec.clusters, seed)
    update(_STEPS[1], _STEPS[-1])
    table = _Judge(y, windows.onset_ns, windows.span_ns, seed)
    beside = series(windows.x) if representation == "series" else log_spectrogram(windows.x)
    report = Report(
        subject=f"{package.spec.name} {package.spec.version} on {data.name}",
        classes=_counts(y, names),
        clusters=package.spec.clusters,
        clustering=table.clusters(group, package.spec.clusters),
        representation=table.probes(r),
        raw=table.probes(beside),
        baselines={name: table.clusters(method.group, method.clusters) for name, method in methods.items()},
        confusion=_confusion(y, group, package.spec.clusters),
        notes=_notes_on_times(package.spec.clusters == len(names), representation),
        seed=seed,
    )
    update(_STEPS[-1], _STEPS[-1])
    own = Clustering(f"TSCC ({package.spec.name})", r, group, package.spec.clusters)
    return Judged(
        package, encoder, windows, normalised, y, names, r, membership, group, {MODEL: own, **methods}, report
    )


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """Stored representations r [n, D] with classes y [n] and, where given, clusters group [n], for the figures."""

    y: Int64Array
    names: tuple[str, ...]
    r: Float64Array
    group: Int64Array | None
    report: Report


def evaluate_arrays(representations: Path, labels: Path, assignments: Path | None = None, *, seed: int = 0) -> Arrays:
    """Stored arrays (npy). Times are not known, so splits are random, stratified by class. Raises EvaluationError."""
    r = _representations(representations)
    given = _whole_numbers(labels, len(r))
    values, y = np.unique(given, return_inverse=True)
    _check_classes(y, values.tolist(), labels)
    names = tuple(f"class {value}" for value in values)
    group = None if assignments is None else np.unique(_whole_numbers(assignments, len(r)), return_inverse=True)[1]
    clusters = 0 if group is None else int(group.max()) + 1
    table = _Judge(y, None, 0, seed)
    report = Report(
        subject=representations.name,
        classes=_counts(y, names),
        clusters=clusters,
        clustering=None if group is None else table.clusters(group, clusters),
        representation=table.probes(r),
        raw={},
        baselines={},
        confusion=[] if group is None else _confusion(y, group, clusters),
        notes=(
            f"Probes: mean of {probes.RANDOM_SPLITS} stratified random halvings, as no times are known.",
            _cluster_note(clusters == len(names), "a random half")
            if group is not None
            else "No assignments were given.",
        ),
        seed=seed,
    )
    return Arrays(y, names, r, group, report)


class _Judge:
    """Scores of methods on the same windows, with the same splits, blocks and seed."""

    def __init__(self, y: Int64Array, onset_ns: Int64Array | None, span_ns: int, seed: int) -> None:
        self._y = y
        self._seed = seed
        self._blocks = time_blocks(onset_ns, len(y))
        self._splits: list[Split] = (
            probes.splits_at_random(y, seed) if onset_ns is None else probes.splits_by_time(onset_ns, span_ns)
        )
        self._late = np.zeros(len(y), bool)
        self._late[self._splits[0][1]] = True

    def clusters(self, group: Int64Array, clusters: int) -> Score:
        return score([judge_clusters(self._y, group, clusters, self._late)], self._blocks, self._seed)

    def probes(self, features: AnyArray) -> Table:
        return {
            name: score(probes.probe(name, features, self._y, self._splits), self._blocks, self._seed)
            for name in PROBES
        }


def _check_fit(windows: DataSet, package: Package, path: Path) -> None:
    spec, (_, samples, channels) = package.spec, windows.x.shape
    if not np.isclose(windows.sample_rate_hz, spec.sample_rate_hz, rtol=1e-4):
        raise EvaluationError(
            f"data set {path}: {windows.sample_rate_hz:g} Hz, but model {spec.name} expects {spec.sample_rate_hz:g} Hz"
        )
    if (samples, channels) != (spec.samples, spec.channels):
        raise EvaluationError(
            f"data set {path}: windows of {samples} samples and {channels} channel(s), but model {spec.name} "
            f"expects {spec.samples} and {spec.channels}"
        )


def _labels(windows: DataSet, path: Path) -> tuple[Int64Array, tuple[str, ...]]:
    if windows.y is None:
        raise EvaluationError(f"data set {path}: holds no labels y; evaluate needs to know what the windows are")
    values, y = np.unique(windows.y, return_inverse=True)
    known = dict(enumerate(windows.y_names))
    names = tuple(known.get(int(value), f"class {value}") for value in values)
    _check_classes(y, list(names), path)
    return y, names


def _check_classes(y: Int64Array, names: Sequence[object], path: Path) -> None:
    if len(names) < 2:
        raise EvaluationError(f"{path}: all {len(y)} windows are {names[0]}; expected two classes or more")
    if len(y) < FEWEST_WINDOWS or np.bincount(y).min() < 2:
        raise EvaluationError(
            f"{path}: {len(y)} windows in {len(names)} classes, the smallest {np.bincount(y).min()}; "
            f"expected {FEWEST_WINDOWS} windows and 2 of each class, or more"
        )


def _encoded(
    package: Package, normalised: Float32Array, update: Update
) -> tuple[Float64Array, Float64Array, Int64Array]:
    encoder, parts = TorchScriptEncoder(package), []
    for at in range(0, len(normalised), BATCH):
        parts.append(encoder.encode(normalised[at : at + BATCH]))
        update(_STEPS[0] * at / len(normalised), _STEPS[-1])
    return (
        np.concatenate([part.embedding for part in parts]).astype(np.float64),
        np.concatenate([part.membership for part in parts]).astype(np.float64),
        np.concatenate([part.cluster for part in parts]),
    )


def _read(path: Path) -> AnyArray:
    try:
        array: AnyArray = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise EvaluationError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise EvaluationError(f"{path}: not a readable npy file of numbers: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise EvaluationError(f"{path}: holds no array of numbers")
    if not np.isfinite(array).all():
        raise EvaluationError(f"{path}: {int((~np.isfinite(array)).sum())} values are not finite")
    return array


def _representations(path: Path) -> Float64Array:
    array = _read(path)
    if array.ndim != 2 or 0 in array.shape:
        raise EvaluationError(f"{path}: shape {list(array.shape)}; expected [n, dimensions], one row per window")
    return array.astype(np.float64)


def _whole_numbers(path: Path, n: int) -> Int64Array:
    array = _read(path)
    if array.shape != (n,):
        raise EvaluationError(f"{path}: shape {list(array.shape)}; expected [{n}], one per row of the representations")
    if not np.array_equal(array, np.floor(array)):
        raise EvaluationError(f"{path}: expected whole numbers")
    return array.astype(np.int64)


def _counts(y: Int64Array, names: tuple[str, ...]) -> dict[str, int]:
    return dict(zip(names, np.bincount(y).tolist(), strict=True))


def _confusion(y: Int64Array, group: Int64Array, clusters: int) -> list[list[int]]:
    counts = np.zeros((int(y.max()) + 1, clusters), np.int64)
    found = contingency(y, group).astype(np.int64)
    counts[:, : found.shape[1]] = found
    rows: list[list[int]] = counts.tolist()
    return rows


def _cluster_note(matched: bool, other: str) -> str:
    if matched:
        return "Clusters stand for classes by the best one-to-one matching."
    return f"Each cluster stands for its commonest class, learnt on {other} and judged on the rest, and vice versa."


def _notes_on_times(matched: bool, representation: Representation) -> tuple[str, ...]:
    return (
        "Probes: taught on one half by time and judged on the other, and vice versa; the mean of both. "
        f"'raw' is the {'z-normalised windows' if representation == 'series' else 'log-spectrograms'}.",
        _cluster_note(matched, "one half by time"),
        "Baselines: fitted without labels on the very windows that are judged, with as many clusters as the model.",
    )
