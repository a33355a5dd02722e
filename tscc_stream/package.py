"""What a model package says about itself: the only reader and writer of model.json and labels.json.

A package is a folder: model.json, weights.pt, encoder.ts, selfcheck.npz, novelty.npz, labels.json, card.md. Every file
but model.json and labels.json is hashed in model.json, so that a changed file is refused, and a changed name is not.
"""

from __future__ import annotations

import hashlib
import json
import stat
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tscc_stream.mistakes import COLOUR, COMPONENT, WORD, first
from tscc_stream.ownership import replace_text

FORMAT = 1
Normalisation = Literal["z", "asinh_mad", "none"]
EACH_CHANNEL = ("*",)
"""Components of a package whose windows are of one channel each, whichever it is."""


class PackageError(ValueError):
    """A model package that cannot be trusted or used, and why."""


class PackageUnavailableError(PackageError):
    """A package, or what it is to run on, that cannot be used at present: the same may work later."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Novelty(_Part):
    """How unknown windows are told: conformal p-value of the distance to the nearest centre.

    calibration_windows: how many windows, used neither for training nor for centres, made the scores in novelty.npz.
    """

    score: Literal["nearest_squared_distance"]
    calibration_windows: Annotated[int, Field(ge=1)]


class PackageSpec(_Part):
    """model.json. Band in Hz; onset_sample: where in the window the onset stands; warmup_seconds: raw data that the
    band filter sees before the window starts; precision_tolerance: largest error that the self-check forgives;
    evaluate_only: why this model must not serve a stream (empty: it may); components: the sensor's subsources (as Z,
    N, E) that are the channels of a window, in their order; "*" alone: any single channel.
    """

    format: Literal[1]
    name: Annotated[str, Field(pattern=WORD)]
    version: str
    created: str
    training_data: dict[str, Any]
    sample_rate_hz: Annotated[float, Field(gt=0)]
    samples: Annotated[int, Field(ge=2)]
    channels: Annotated[int, Field(ge=1)]
    onset_sample: Annotated[int, Field(ge=0)]
    band_hz: tuple[float, float]
    band_corners: Annotated[int, Field(ge=1, le=8)]
    warmup_seconds: Annotated[float, Field(ge=0)]
    normalisation: Normalisation
    clusters: Annotated[int, Field(ge=1)]
    embedding: Annotated[int, Field(ge=1)]
    fuzzifier: Annotated[float, Field(gt=1)]
    distance: Literal["euclidean", "mahalanobis"]
    novelty: Novelty | None
    metrics: dict[str, Any]
    precision_tolerance: Annotated[float, Field(gt=0)]
    evaluate_only: str = ""
    components: tuple[Annotated[str, Field(pattern=COMPONENT)], ...] = EACH_CHANNEL
    sha256: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> PackageSpec:
        low, high = self.band_hz
        if not 0 < low < high < self.sample_rate_hz / 2:
            raise ValueError(f"band_hz {low:g}-{high:g}: expected within 0 and {self.sample_rate_hz / 2:g} Hz")
        if self.onset_sample >= self.samples:
            raise ValueError(f"onset_sample {self.onset_sample}: expected below samples {self.samples}")
        if len(self.components) != self.channels or len(set(self.components)) < self.channels:
            listed = ", ".join(self.components)
            raise ValueError(f"components {listed}: expected {self.channels}, one for each channel of a window")
        if "*" in self.components and self.components != EACH_CHANNEL:
            raise ValueError("components: expected * alone, or none of them *")
        return self


class Label(_Part):
    """What people call a cluster. event_type: QuakeML event type."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    colour: Annotated[str, Field(pattern=COLOUR)] = "#888888"
    notes: str = ""
    event_type: str = "not reported"


WINDOW_KEYS = (
    "sample_rate_hz",
    "samples",
    "channels",
    "components",
    "onset_sample",
    "band_hz",
    "band_corners",
    "warmup_seconds",
    "normalisation",
)
"""What makes the windows of two packages the same."""


def other_windows(running: PackageSpec, candidate: PackageSpec) -> str:
    """How the windows of a candidate differ from those that are being cut; empty where they are the same."""
    differing = (
        f"{key} {getattr(candidate, key)} instead of {getattr(running, key)}"
        for key in WINDOW_KEYS
        if getattr(candidate, key, None) != getattr(running, key, None)
    )
    return ", ".join(differing)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Package:
    """A package whose hashes hold.

    `sha256` identifies it: the hash of `document`, the bytes of model.json, which holds all others. `labels`: of
    labels.json; `given`: names that the site's people gave since, which come first.
    """

    def __init__(self, folder: Path, spec: PackageSpec, labels: dict[int, Label], document: bytes) -> None:
        self.folder = folder
        self.spec = spec
        self.labels = labels
        self.given: dict[int, Label] = {}
        self.document = document
        self.sha256 = hashlib.sha256(document).hexdigest()

    def name_of(self, cluster: int) -> str:
        """What people call a cluster; `cluster <id>` until somebody names it."""
        label = self.label_of(cluster)
        return label.name if label else f"cluster {cluster}"

    @property
    def called(self) -> dict[str, str]:
        """What people call each cluster, by its id."""
        return {str(cluster): self.name_of(cluster) for cluster in range(self.spec.clusters)}

    def label_of(self, cluster: int) -> Label | None:
        """None until somebody names it."""
        return self.given.get(cluster) or self.labels.get(cluster)


def find(name: str, relative_to: Path | None = None) -> Path:
    """Folder of a model that a configuration names: as a path, else among the models that the package ships.

    Raises PackageError where neither exists.
    """
    base = relative_to or Path.cwd()
    for candidate in (base / name, Path(name)):
        if candidate.is_dir():
            return candidate
    shipped = Path(str(resources.files("tscc_stream"))) / "models"
    found = {path.name: path for path in shipped.iterdir()} if shipped.is_dir() else {}
    if name.removeprefix("models/") in found:
        return found[name.removeprefix("models/")]
    names = ", ".join(sorted(found)) or "none"
    raise PackageError(f"model {name}: no such folder in {base}, nor a model that is shipped ({names})")


def _read_json(path: Path) -> tuple[Any, bytes]:
    try:
        raw = path.read_bytes()
        return json.loads(raw), raw
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PackageError(f"{path.parent}: is no model package: there is no {path.name} in it") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise PackageError(f"model package {path.parent}: {path.name} is not JSON: {error}") from error


def _unreadable(path: Path, error: OSError) -> PackageUnavailableError:
    return PackageUnavailableError(f"model package {path.parent}: cannot read {path.name}: {error.strerror}")


def read_labels(folder: Path, clusters: int) -> dict[int, Label]:
    """labels.json of a package: cluster -> label; absent means unnamed. Raises PackageError."""
    path = folder / "labels.json"
    if not path.exists():
        return {}
    data, _ = _read_json(path)
    try:
        labels = {int(key): Label.model_validate(value) for key, value in data.items()}
    except ValidationError as error:
        raise PackageError(f"model package {folder}: labels.json: {first(error, 'label')}") from error
    except (AttributeError, ValueError) as error:
        raise PackageError(f"model package {folder}: labels.json: expected cluster numbers with labels") from error
    if beyond := sorted(key for key in labels if not 0 <= key < clusters):
        raise PackageError(
            f"model package {folder}: labels.json names cluster {beyond[0]}, expected 0 to {clusters - 1}"
        )
    return labels


def load(folder: Path) -> Package:
    """A package after its hashes were checked. Raises PackageError with the reason where it must be refused, and of
    those PackageUnavailableError where it cannot be read at present.
    """
    data, raw = _read_json(folder / "model.json")
    try:
        spec = PackageSpec.model_validate(data)
    except ValidationError as error:
        raise PackageError(f"model package {folder}: model.json: {first(error, 'model.json')}") from error
    for name in ("weights.pt", "encoder.ts", "selfcheck.npz"):
        if name not in spec.sha256:
            raise PackageError(f"model package {folder}: model.json holds no hash of {name}")
    for name, expected in spec.sha256.items():
        if (found := _hash_of(folder / name, folder)) is None:
            raise PackageError(f"model package {folder}: {name} is missing")
        if found != expected:
            raise PackageError(f"model package {folder}: {name} was changed: its SHA-256 is not the one in model.json")
    return Package(folder, spec, read_labels(folder, spec.clusters), raw)


def _hash_of(path: Path, folder: Path) -> str | None:
    """None where it is no file of that folder."""
    try:
        return sha256_of(path) if path.parent == folder and stat.S_ISREG(path.stat().st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from error


def same_as_loaded(loaded: Package) -> bool:
    """Whether the folder still holds what was loaded from it, labels included. Raises PackageError as `load` does."""
    again = load(loaded.folder)
    return again.sha256 == loaded.sha256 and again.labels == loaded.labels


def load_live(folder: Path) -> Package:
    """A package that may serve a stream. Raises PackageError as `load` does, and where it says that it may not."""
    loaded = load(folder)
    if loaded.spec.evaluate_only:
        raise PackageError(f"model package {folder} is for evaluation only: {loaded.spec.evaluate_only}")
    return loaded


def write(folder: Path, spec: dict[str, Any], labels: dict[int, Label]) -> PackageSpec:
    """Hash the files that lie in `folder` and write model.json and labels.json beside them; returns the spec."""
    hashes = {
        path.name: sha256_of(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in ("model.json", "labels.json")
    }
    checked = PackageSpec.model_validate({"format": FORMAT, **spec, "sha256": hashes})
    (folder / "model.json").write_text(checked.model_dump_json(indent=1) + "\n", encoding="utf-8")
    write_labels(folder, labels)
    return checked


def write_labels(folder: Path, labels: dict[int, Label]) -> None:
    """Replace labels.json in one step. Raises OSError."""
    document = {str(key): label.model_dump() for key, label in sorted(labels.items())}
    replace_text(folder / "labels.json", json.dumps(document, indent=1) + "\n")
