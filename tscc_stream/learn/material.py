"""What a run trains on and what it calibrates with: windows of a data set, apart in time, and what is known of them.

An npz file is held in memory, and all of its windows are used. Windows in Parquet stay there: of those that calibrate
no more than MOST_CALIBRATING are read, and clusters are found among no more than streamed.MOST_CLUSTERED.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tscc_stream.edges.parquet_windows import StoredWindows, is_windows
from tscc_stream.learn import coincidence, dataset, stored, streamed
from tscc_stream.learn.dataset import DataSet, DataSetError, WindowShape
from tscc_stream.learn.held import Held, Windows
from tscc_stream.learn.objective import Circumstances
from tscc_stream.learn.settings import Settings, TrainingError
from tscc_stream.messages import AnyArray, Float32Array, Int64Array
from tscc_stream.windows import normalise

CALIBRATION_SHARE = 0.2
MOST_CALIBRATING = 20_000
"""Windows out of Parquet that calibrate."""
_MINUTE_NS = 60_000_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """windows: normalised, that train. calibration: normalised windows [n, samples, channels], triggered ones alone, as
    only those come live. stated: whether the data set says how its windows were cut. notes: for the card, where not all
    windows were used.
    """

    windows: Windows
    known: Circumstances
    shape: WindowShape
    stated: bool
    calibration: Float32Array
    notes: tuple[str, ...] = ()

    def samples(self, rows: torch.Tensor | None) -> Float32Array:
        """Windows that train, by ascending number; None: all."""
        return torch.cat([part.cpu() for part in self.windows.read(rows)]).numpy()


def material(data: Path, settings: Settings, calibration: Path | None, calibrate_every: int | None) -> Material:
    """Of a data set. calibration, calibrate_every: as in run.Request.

    Raises DataSetError, WindowsError or TrainingError.
    """
    if not is_windows(data):
        return _held(data, settings, calibration, calibrate_every)
    return _streamed(StoredWindows(data), settings, calibration, calibrate_every)


def _held(data: Path, settings: Settings, calibration: Path | None, every: int | None) -> Material:
    training, held = split(data, calibration, every)
    x = normalise(training.x, settings.normalisation)
    windows = Held(x, torch.device(settings.device))
    shape = training.window or dataset.assumed_shape(training)
    seen = normalise(held.x, settings.normalisation)
    return Material(windows, circumstances(training), shape, training.window is not None, seen)


def split(path: Path, calibration: Path | None, every: int | None) -> tuple[DataSet, DataSet]:
    """Training and calibration windows of an npz file. Only triggered windows calibrate, as only those come live."""
    data = dataset.load(path).in_time()
    apart = None if calibration is None else _whole(_calibrating(calibration, data)).in_time()
    trains, calibrates = divided(data, apart, every)
    return data.take(trains), (data if apart is None else apart).take(calibrates)


def _streamed(windows: StoredWindows, settings: Settings, calibration: Path | None, every: int | None) -> Material:
    if not len(windows):
        raise DataSetError(f"data set {windows.path}: holds no windows")
    mine = _known(windows)
    data = mine.data
    other = None if calibration is None else _calibrating(calibration, data)
    trains, calibrates = divided(data, None if other is None else other.data, every)
    rows = np.flatnonzero(trains)
    training = stored.known_of(data, rows)
    held, note = _at_most(other or mine, calibrates)
    there = streamed.Streamed(
        windows, mine.numbers[rows], settings.normalisation, torch.device(settings.device), settings.seed
    )
    return Material(
        there,
        circumstances(training),
        data.window or dataset.assumed_shape(data),
        data.window is not None,
        normalise(held.x, settings.normalisation),
        note,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """A data set's windows that hold a signal: without samples where they lie in Parquet, `windows`, in which `numbers`
    are theirs.
    """

    data: DataSet
    numbers: Int64Array
    windows: StoredWindows | None = None

    def take(self, rows: Int64Array) -> DataSet:
        """Those of some places, with their samples."""
        if self.windows is None:
            return self.data.take(rows)
        parts = list(stored.read_rows(self.windows, self.numbers[rows]))
        return self.data.take(rows, np.concatenate(parts) if parts else None)


def _known(windows: StoredWindows) -> _Known:
    numbers = stored.fit(windows)
    return _Known(stored.known_of(stored.index(windows), numbers), numbers, windows)


def _whole(known: _Known) -> DataSet:
    return known.take(np.arange(len(known.data)))


def _calibrating(path: Path, data: DataSet) -> _Known:
    """A data set that calibrates. Raises DataSetError where its windows have another shape than those that train."""
    if is_windows(path):
        known = _known(StoredWindows(path))
    else:
        loaded = dataset.load(path)
        known = _Known(loaded, np.arange(len(loaded)))
    held = known.data
    if held.x.shape[1:] != data.x.shape[1:] or held.window != data.window:
        raise DataSetError(f"{path} holds windows of different shape than the data set that trains")
    return known


def _at_most(known: _Known, chosen: AnyArray) -> tuple[DataSet, tuple[str, ...]]:
    """MOST_CALIBRATING windows with samples of those chosen, and a note where there are more."""
    rows = np.flatnonzero(chosen)
    few = rows[stored.spread(len(rows), MOST_CALIBRATING)]
    note = () if len(few) == len(rows) else (f"calibrated with {len(few)} of {len(rows)} windows",)
    return known.take(few), note


def divided(data: DataSet, apart: DataSet | None, every: int | None) -> tuple[AnyArray, AnyArray]:
    """Masks: which windows train, and which of `apart`, or else of the same windows, calibrate; they share no time.

    every: that many-th minute calibrates; without it, and without `apart`, the last fifth by time.
    """
    if apart is not None:
        return ~_overlapping(data, apart), _came_live(apart)
    if every is not None:
        trains, calibrates = _by_minutes(data, every)
    else:
        cut = np.sort(data.onset_ns)[int((1.0 - CALIBRATION_SHARE) * (len(data) - 1))]
        trains, calibrates = data.onset_ns + data.span_ns < cut, data.onset_ns >= cut
    return trains, calibrates & _came_live(data)


def _came_live(data: DataSet) -> AnyArray:
    return np.ones(len(data), bool) if data.triggered is None else data.triggered


def _by_minutes(data: DataSet, every: int) -> tuple[AnyArray, AnyArray]:
    """Windows to train on, and those of every so-many-th minute, with which the former share no time at any sensor."""
    if every < 2:
        raise TrainingError(f"calibrate every {every} minutes: expected 2 or more")
    mine = data.onset_ns // _MINUTE_NS % every == every - 1
    apart = dataset.distance_ns(data.onset_ns, np.sort(data.onset_ns[mine])) >= data.span_ns
    return ~mine & apart, mine


def _overlapping(data: DataSet, held: DataSet) -> AnyArray:
    """Windows of `data` that share time with the span of `held` in the same channel, or at the same sensor."""
    shared = np.zeros(len(data), bool)
    recorders, of_held = data.recorder, held.recorder
    for recorder in np.unique(of_held):
        onsets = np.sort(held.onset_ns[of_held == recorder])
        mine = recorders == recorder
        shared[mine] = dataset.distance_ns(data.onset_ns[mine], onsets) < data.span_ns
    return shared


def circumstances(data: DataSet) -> Circumstances:
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
