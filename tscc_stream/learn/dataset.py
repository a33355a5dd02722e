"""Data sets of windows: what training reads and `dataset build` writes, here as npz, in `stored` as Parquet.

Arrays of a file, in any order: x [n, samples, channels] float32 (band-passed and resampled, in counts, before
normalisation), sid [n] (NET.STA.LOC.CHA), onset_ns [n] int64, sample_rate_hz (scalar); optional y [n] int64 with
y_names, triggered [n] bool (False: cut at random), peak_ratio [n] (of the trigger; 0: cut at random), and window: JSON
of the WindowShape that cut them. Out of a journal also cluster [n] int64, what the live model said, and model_sha256
[n], which model that was, and verdict [n]: what it is in a person's word, '' where nobody has said anything.
"""

from __future__ import annotations

import json
import logging
import os
import zipfile
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from tscc_stream.messages import AnyArray, Float32Array
from tscc_stream.mistakes import first
from tscc_stream.package import EACH_CHANNEL, FORMAT, PackageSpec
from tscc_stream.source_id import sensor_of

_log = logging.getLogger(__name__)
_ASSUMED_COMPONENTS = {1: EACH_CHANNEL, 3: ("Z", "N", "E")}
Int64Array = npt.NDArray[np.int64]
_NAMES_TOGETHER = 100_000
"""As Python's text, of which many would take much memory."""


class DataSetError(ValueError):
    """A data set that cannot be used, and why, in one sentence."""


@dataclass(frozen=True, slots=True)
class WindowShape:
    """How windows are cut: what a model package later states of itself. Band in Hz, warm-up in seconds; components: the
    channels of a window, as in the package.
    """

    sample_rate_hz: float
    samples: int
    onset_sample: int
    band_hz: tuple[float, float]
    band_corners: int = 4
    warmup_seconds: float = 0.0
    channels: int = 1
    components: tuple[str, ...] = EACH_CHANNEL

    def draft(self) -> PackageSpec:
        """A package specification with this shape, for the live stages to cut windows by before any model exists.

        Raises DataSetError where the shape contradicts itself.
        """
        try:
            return self._draft()
        except ValidationError as error:
            raise DataSetError(f"window: {first(error, 'shape')}") from error

    def _draft(self) -> PackageSpec:
        return PackageSpec.model_validate(
            {
                "format": FORMAT,
                "name": "draft",
                "version": "0",
                "created": "",
                "training_data": {},
                "normalisation": "none",
                "clusters": 1,
                "embedding": 1,
                "fuzzifier": 2.0,
                "distance": "euclidean",
                "novelty": None,
                "metrics": {},
                "precision_tolerance": 1.0,
                "sha256": {},
                **asdict(self),
            }
        )


def shape_of(spec: PackageSpec) -> WindowShape:
    """The windows of an existing model."""
    return WindowShape(
        spec.sample_rate_hz,
        spec.samples,
        spec.onset_sample,
        spec.band_hz,
        spec.band_corners,
        spec.warmup_seconds,
        spec.channels,
        spec.components,
    )


def assumed_shape(data: DataSet) -> WindowShape:
    """For data sets that do not say how they were cut: onset after a fifth of the window, 0.04 to 0.4 of the rate, one
    channel or Z, N, E. Raises DataSetError for another number of channels.
    """
    _, samples, channels = data.x.shape
    rate = data.sample_rate_hz
    if channels not in _ASSUMED_COMPONENTS:
        raise DataSetError(f"windows of {channels} channels, and the data set does not say of which components")
    components = _ASSUMED_COMPONENTS[channels]
    return WindowShape(rate, samples, samples // 5, (0.04 * rate, 0.4 * rate), channels=channels, components=components)


_PER_WINDOW = ("x", "sid", "onset_ns", "y", "triggered", "cluster", "model_sha256", "peak_ratio", "verdict")
"""Arrays of a data set that have one row a window."""


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """x [n, samples, channels] float32, sid [n], onset_ns [n] int64; see the module. y indexes y_names."""

    x: Float32Array
    sid: npt.NDArray[np.str_]
    onset_ns: Int64Array
    sample_rate_hz: float
    y: Int64Array | None = None
    y_names: tuple[str, ...] = ()
    triggered: npt.NDArray[np.bool_] | None = None
    window: WindowShape | None = None
    cluster: Int64Array | None = None
    model_sha256: npt.NDArray[np.str_] | None = None
    peak_ratio: Float32Array | None = None
    verdict: npt.NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: AnyArray, x: Float32Array | None = None) -> DataSet:
        """The chosen windows, by index or mask, in that order. x: their samples, where they are not these here."""
        parts = {name: getattr(self, name) for name in _PER_WINDOW[1:]}
        chosen = {name: part[rows] for name, part in parts.items() if part is not None}
        return replace(self, x=self.x[rows] if x is None else x, **chosen)

    def in_time(self) -> DataSet:
        """The same windows by onset, then channel."""
        return self.take(np.lexsort((self.sid, self.onset_ns)))

    @property
    def recorder(self) -> npt.NDArray[np.str_]:
        """What recorded each window [n]: its channel, or where windows have several channels, its sensor."""
        return self.sid if self.x.shape[2] == 1 else self.sensor

    @property
    def sensor(self) -> npt.NDArray[np.str_]:
        """At which sensor each window was recorded [n]: its channel without the component."""
        parts = np.array_split(self.sid, len(self.sid) // _NAMES_TOGETHER + 1)
        return np.concatenate([np.array([sensor_of(name) for name in part.tolist()], dtype=str) for part in parts])

    @property
    def span_ns(self) -> int:
        """How long one window lasts."""
        return round(int(self.x.shape[1]) / self.sample_rate_hz * 1e9)


def by_verdict(data: DataSet) -> DataSet:
    """The windows of which a person said what they are, with y by that. Raises DataSetError where there is none."""
    if data.verdict is None or not (said := data.verdict != "").any():
        raise DataSetError("nobody has said what any window is; expected verdicts, as the console takes them")
    names, y = np.unique(data.verdict[said], return_inverse=True)
    return replace(data.take(said), y=y.astype(np.int64), y_names=tuple(str(name) for name in names))


def distance_ns(at_ns: Int64Array, sorted_ns: Int64Array) -> Int64Array:
    """From each time to the nearest of some sorted ones; as far as can be where there are none."""
    if not sorted_ns.size:
        return np.full(len(at_ns), np.iinfo(np.int64).max)
    place = np.searchsorted(sorted_ns, at_ns)
    before, after = sorted_ns[np.maximum(place - 1, 0)], sorted_ns[np.minimum(place, len(sorted_ns) - 1)]
    nearest: Int64Array = np.minimum(np.abs(at_ns - before), np.abs(at_ns - after))
    return nearest


def load(path: Path) -> DataSet:
    """A data set out of a file, without the windows that hold no signal, which are counted in the log.

    Raises DataSetError, saying what is wrong and where.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError as error:
        raise DataSetError(f"data set {path}: no such file") from error
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        told = "" if "pickle" in str(error) else f": {error}"  # numpy's advice there is to trust the file
        raise DataSetError(f"data set {path}: not a readable npz file, or a truncated one{told}") from error
    try:
        data = _checked(arrays)
    except DataSetError as error:
        raise DataSetError(f"data set {path}: {error}") from error
    return data.take(np.flatnonzero(fit)) if not (fit := usable(data.x, path)).all() else data


def _checked(arrays: dict[str, AnyArray]) -> DataSet:
    for name in ("x", "sid", "onset_ns", "sample_rate_hz"):
        if name not in arrays:
            raise DataSetError(f"array {name} is missing; expected x, sid, onset_ns and sample_rate_hz")
    x = arrays["x"]
    if x.ndim != 3 or not np.issubdtype(x.dtype, np.number) or 0 in x.shape:
        raise DataSetError(f"x is {x.dtype} {list(x.shape)}; expected numbers [n, samples, channels], none of them 0")
    for name in _PER_WINDOW[1:]:
        if name in arrays and arrays[name].shape != (len(x),):
            raise DataSetError(f"{name} is {list(arrays[name].shape)}; expected [{len(x)}], one per window of x")
    if arrays["sid"].dtype.kind != "U":
        raise DataSetError(f"sid holds {arrays['sid'].dtype}; expected text such as BW.UH1..SHZ")
    for name in ("onset_ns", "y", "cluster"):
        if name in arrays and arrays[name].dtype.kind not in "iu":
            raise DataSetError(f"{name} holds {arrays[name].dtype}; expected whole numbers")
    rate = arrays["sample_rate_hz"]
    if rate.size != 1 or rate.dtype.kind not in "iuf" or not 0 < float(rate.reshape(())) < np.inf:
        raise DataSetError("sample_rate_hz is not one positive number")
    check_windows(x, arrays["sid"])
    _check_ratios(arrays.get("peak_ratio", np.empty(0)))
    return _as_cut(_assembled(arrays, float(rate.reshape(()))))


def _as_cut(data: DataSet) -> DataSet:
    """The same, if the windows have the shape that is said of them."""
    stated = data.window and [data.window.samples, data.window.channels]
    if stated and stated != list(data.x.shape[1:]):
        raise DataSetError(f"windows are {list(data.x.shape[1:])}, but were cut as {stated} [samples, channels]")
    return data


def _check_ratios(ratio: AnyArray) -> None:
    if ratio.dtype.kind not in "iuf" or not np.all(np.isfinite(ratio) & (ratio >= 0.0)):
        raise DataSetError("peak_ratio holds values that are no ratios; expected numbers of 0 or more")


def check_windows(x: AnyArray, sid: AnyArray, where: str = "") -> None:
    """Raises DataSetError where windows x [n, samples, channels] of channels sid [n] are damaged."""
    bad = ~np.isfinite(x).all(axis=(1, 2))
    if bad.any():
        first = int(np.argmax(bad))
        others = f"; {int(bad.sum()) - 1} others are alike" if bad.sum() > 1 else ""
        raise DataSetError(f"{where}window {first} ({sid[first]}) holds values that are not finite{others}")


NO_SIGNAL = "a channel of theirs is constant, as of a sensor at its rail"


def hold_signal(x: AnyArray) -> npt.NDArray[np.bool_]:
    """Which of the windows x [n, samples, channels] have a signal in every channel: neither constant nor infinite."""
    varies: npt.NDArray[np.bool_] = (x != x[:, :1]).any(axis=1).all(axis=1)
    return varies & np.isfinite(x).all(axis=(1, 2))


def usable(x: AnyArray, path: Path) -> npt.NDArray[np.bool_]:
    """The same of windows of a data set; those that are left out are counted in the log.

    Raises DataSetError where none is left.
    """
    fit = hold_signal(x)
    tell_left_out(path, int((~fit).sum()), len(fit))
    return fit


def tell_left_out(path: Path, left_out: int, count: int) -> None:
    """Of windows without a signal. Raises DataSetError where all of them are."""
    if left_out and left_out == count:
        raise DataSetError(f"data set {path}: all {count} windows hold no signal: {NO_SIGNAL}")
    if left_out:
        _log.warning("data set %s: %d of %d windows left out: %s", path, left_out, count, NO_SIGNAL)


def _assembled(arrays: dict[str, AnyArray], rate_hz: float) -> DataSet:
    return DataSet(
        x=np.ascontiguousarray(arrays["x"], np.float32),
        sid=arrays["sid"],
        onset_ns=arrays["onset_ns"].astype(np.int64),
        sample_rate_hz=rate_hz,
        y=arrays["y"].astype(np.int64) if "y" in arrays else None,
        y_names=tuple(str(name) for name in arrays.get("y_names", np.empty(0, str))),
        triggered=arrays["triggered"].astype(bool) if "triggered" in arrays else None,
        window=read_shape(str(arrays["window"])) if "window" in arrays else None,
        cluster=arrays["cluster"].astype(np.int64) if "cluster" in arrays else None,
        model_sha256=arrays["model_sha256"].astype(str) if "model_sha256" in arrays else None,
        peak_ratio=arrays["peak_ratio"].astype(np.float32) if "peak_ratio" in arrays else None,
        verdict=arrays["verdict"].astype(str) if "verdict" in arrays else None,
    )


def written_shape(shape: WindowShape) -> str:
    """How windows were cut, as `read_shape` takes it."""
    return json.dumps(asdict(shape))


def read_shape(stored: str) -> WindowShape:
    """How windows were cut, out of JSON. Raises DataSetError."""
    try:
        fields: dict[str, Any] = json.loads(stored)
        low, high = fields.pop("band_hz")
        components = tuple(str(code) for code in fields.pop("components", EACH_CHANNEL))
        return WindowShape(**fields, band_hz=(float(low), float(high)), components=components)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataSetError(f"window does not describe how windows were cut: {error}") from error


def save(data: DataSet, path: Path) -> None:
    """Write the file in one step: it is whole, or it is not there. Equal windows give equal bytes."""
    arrays: dict[str, AnyArray] = {
        "x": data.x.astype(np.float32),
        "sid": data.sid,
        "onset_ns": data.onset_ns,
        "sample_rate_hz": np.array(data.sample_rate_hz),
    }
    if data.y is not None:
        arrays["y"] = data.y
        arrays["y_names"] = np.array(data.y_names, dtype=str)
    for name in ("triggered", "cluster", "model_sha256", "peak_ratio", "verdict"):
        if (one := getattr(data, name)) is not None:
            arrays[name] = one
    if data.window is not None:
        arrays["window"] = np.array(written_shape(data.window))
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
