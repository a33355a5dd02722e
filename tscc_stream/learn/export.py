"""A trained encoder and its centres to a model package: one of the two files that touch TorchScript."""

# No `from __future__ import annotations`: TorchScript wants the type of `centres` itself, not its name.
import io
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tscc_stream.learn.clusters import Head
from tscc_stream.learn.dataset import WindowShape
from tscc_stream.learn.latent import encoder_of
from tscc_stream.learn.losses import SMALLEST_SQUARED_DISTANCE
from tscc_stream.learn.network import Encoder
from tscc_stream.learn.saving import save_tensors
from tscc_stream.learn.time_major import TimeMajorEncoder
from tscc_stream.messages import AnyArray, Float32Array
from tscc_stream.package import Label, Normalisation, Package, PackageError, load, write

PRECISION_TOLERANCE = 1e-3
"""Largest error of embedding and membership that a load forgives: float32 on any processor, TF32 off."""
SELFCHECK_WINDOWS = 16
RECOMPILE_TOLERANCE = 1e-5
"""Largest change of a membership by another order of work."""


class Inference(nn.Module):
    """What encoder.ts holds: the encoder with the clustering head inside.

    forward(x [B, samples, channels] float32, normalised) -> embedding [B, D], membership [B, K], cluster [B] int64,
    squared distance to each centre [B, K]. How distances and memberships come about: see clusters.Head. `assign` gives
    the same of embeddings that the encoder's weights gave elsewhere.
    """

    centres: Tensor
    metric: Tensor
    log_weight: Tensor
    bounds: Tensor
    axes: Tensor

    def __init__(self, encoder: Encoder, head: Head, fuzzifier: float) -> None:
        super().__init__()
        clusters, looked_at = head.centres.shape
        self.encoder = TimeMajorEncoder(encoder)
        self.mixture, self.bounded, self.turned = (
            part is not None for part in (head.log_weight, head.bounds, head.axes)
        )
        self._keep("centres", head.centres, head.centres)
        self._keep("metric", head.metric, torch.eye(looked_at))
        self._keep("log_weight", head.log_weight, torch.zeros(clusters))
        self._keep("bounds", head.bounds, torch.ones(2, looked_at))
        self._keep("axes", head.axes, torch.eye(looked_at))
        self.sharpness = 1.0 / (fuzzifier - 1.0)
        self.smallest = SMALLEST_SQUARED_DISTANCE

    def _keep(self, name: str, part: Tensor | None, otherwise: Tensor) -> None:
        self.register_buffer(name, (otherwise if part is None else part).detach().clone().float())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.assign(self.encoder(x).to(self.centres.dtype))

    @torch.jit.export
    def assign(self, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        seen = embedding @ self.axes if self.turned else embedding
        if self.bounded:
            seen = torch.tanh((seen - self.bounds[0]) / self.bounds[1])
        difference = seen[:, None, :] - self.centres[None, :, :]
        squared = (difference[:, :, None, :] @ self.metric)[:, :, 0, :].square().sum(dim=2)
        if self.mixture:
            membership = torch.softmax(self.log_weight - 0.5 * squared, dim=1)
            return embedding, membership, membership.argmax(dim=1), squared
        membership = torch.softmax(-squared.clamp_min(self.smallest).log() * self.sharpness, dim=1)
        return embedding, membership, squared.argmin(dim=1), squared


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What a package is made of.

    selfcheck_x, calibration_x: normalised windows [n, samples, channels], of which the latter took part neither in
    training nor in centres (None: uncalibrated, no window is ever called unknown). card: Markdown. evaluate_only: as in
    the package.
    """

    name: str
    encoder: Encoder
    head: Head
    fuzzifier: float
    shape: WindowShape
    normalisation: Normalisation
    selfcheck_x: Float32Array
    calibration_x: Float32Array | None
    training_data: dict[str, Any]
    metrics: dict[str, Any]
    card: str
    version: str = "1"
    labels: dict[int, Label] = field(default_factory=dict)
    evaluate_only: str = ""


def infer(module: nn.Module, x: Float32Array, batch: int = 64) -> tuple[Float32Array, ...]:
    """The module's four results for normalised windows x [n, samples, channels], on the host."""
    with torch.inference_mode():
        parts = [module(part) for part in torch.split(torch.as_tensor(x), batch)]
    return tuple(torch.cat(results).numpy() for results in zip(*parts, strict=True))


def script(module: Inference) -> bytes:
    """The module as TorchScript; not frozen, since a frozen one silently ignores being moved to a device.

    Equal modules give equal bytes where PYTHONHASHSEED is set: torch lists constants in the order of a set.
    """
    payload = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch announces TorchScript's end; this is its seam
        torch.jit.save(torch.jit.script(module.eval()), payload)
    return payload.getvalue()


def export(trained: Trained, folder: Path) -> Package:
    """Write a whole package, then put it in place in one step; what was there is untouched unless all went well.

    Labels of an earlier package are not kept: its clusters were others. Raises PackageError where it cannot be made.
    """
    trained = replace(trained, encoder=_on_host(trained.encoder), head=trained.head.to("cpu"))
    module = Inference(trained.encoder, trained.head, trained.fuzzifier).eval()
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        try:
            _fill(fresh, trained, module)
        except OSError as error:
            raise PackageError(
                f"model package {folder}: cannot be written: {error.strerror}; what was there is untouched"
            ) from error
        load(fresh)
        fresh.chmod(0o755)
        _put_in_place(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return load(folder)


def _on_host(encoder: Encoder) -> Encoder:
    copy = encoder.like()
    copy.load_state_dict({name: value.cpu().float() for name, value in encoder.state_dict().items()})
    return copy.eval()


def _fill(fresh: Path, trained: Trained, module: Inference) -> None:
    head = {name: part for name, part in trained.head.state().items() if part is not None}
    save_tensors({**trained.encoder.state_dict(), **head}, fresh / "weights.pt")
    (fresh / "encoder.ts").write_bytes(script(module))
    x = trained.selfcheck_x[:SELFCHECK_WINDOWS]
    embedding, membership, cluster, squared = infer(module, x)
    np.savez(
        fresh / "selfcheck.npz",
        x=x,
        embedding=embedding,
        membership=membership,
        cluster=cluster,
        squared_distance=squared,
    )
    (fresh / "card.md").write_text(trained.card, encoding="utf-8")
    if trained.calibration_x is not None:
        np.savez(fresh / "novelty.npz", allow_pickle=False, **calibration(module, trained.calibration_x))
    write(
        fresh,
        _spec(trained, module, None if trained.calibration_x is None else len(trained.calibration_x)),
        trained.labels,
    )


def calibration(module: nn.Module, x: Float32Array) -> dict[str, AnyArray]:
    """What novelty.npz holds of windows x [n, samples, channels], by ascending nearest squared distance: that distance
    (scores), and for drift the cluster and the largest membership of each.
    """
    _, membership, cluster, squared = infer(module, x)
    nearest = squared.min(axis=1).astype(np.float64)
    order = np.argsort(nearest, kind="stable")
    return {"scores": nearest[order], "clusters": cluster[order], "memberships": membership.max(axis=1)[order]}


def _spec(trained: Trained, module: Inference, calibrated: int | None) -> dict[str, Any]:
    novelty = {"score": "nearest_squared_distance", "calibration_windows": calibrated} if calibrated else None
    return {
        "name": trained.name,
        "version": trained.version,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "training_data": trained.training_data,
        **asdict(trained.shape),
        "normalisation": trained.normalisation,
        "clusters": len(module.centres),
        "embedding": trained.encoder.shape[1],
        "fuzzifier": trained.fuzzifier,
        "distance": "euclidean" if trained.head.metric is None else "mahalanobis",
        "novelty": novelty,
        "metrics": trained.metrics,
        "evaluate_only": trained.evaluate_only,
        "precision_tolerance": PRECISION_TOLERANCE,
    }


def _put_in_place(fresh: Path, folder: Path) -> None:
    """Swap folders by renaming: at no time is there a half-written package under the name."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        if not (folder / "model.json").is_file():
            raise PackageError(f"{folder} exists and is no model package: give another --out")
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def recompile(folder: Path) -> float:
    """Write a package's encoder.ts anew out of its weights, in the form of this version; returns the largest change of
    a membership over the self-check windows.

    Weights, clusters, calibration, card and names stay as they are, and so do the recorded outputs that the self-check
    compares with; the package's sha256 changes with the file. Raises PackageError where the weights do not give what
    the package recorded, and leaves it untouched then.
    """
    old = load(folder)
    encoder, head = encoder_of(old), _head_of(old)
    module = Inference(encoder, head, old.spec.fuzzifier).eval()
    change = _change(old, module)
    if not change <= RECOMPILE_TOLERANCE:
        raise PackageError(
            f"model package {folder}: its weights give memberships that differ by {change:.2g} from what it recorded, "
            f"expected at most {RECOMPILE_TOLERANCE:g}; it is left as it was"
        )
    with _remade(old) as fresh:
        (fresh / "encoder.ts").write_bytes(script(module))
        write(fresh, old.spec.model_dump(exclude={"format", "sha256"}), old.labels)
    return change


def _head_of(package: Package) -> Head:
    state = torch.load(package.folder / "weights.pt", map_location="cpu", weights_only=True)
    return Head(**{part.name: state.get(part.name) for part in fields(Head)})


def _change(package: Package, module: Inference) -> float:
    """Largest difference of a membership from the recorded ones."""
    with np.load(package.folder / "selfcheck.npz", allow_pickle=False) as recorded:
        return float(np.abs(infer(module, recorded["x"])[1] - recorded["membership"]).max())


@contextmanager
def _remade(old: Package) -> Iterator[Path]:
    """A copy of a package's hashed files to change; takes its place at the end, unless something is raised."""
    folder = old.folder
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name in old.spec.sha256:
            shutil.copyfile(folder / name, fresh / name)
        yield fresh
        load(fresh)
        fresh.chmod(0o755)
        _put_in_place(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def annotate(
    folder: Path,
    *,
    card: str | None = None,
    metrics: dict[str, Any] | None = None,
    labels: dict[int, Label] | None = None,
) -> Package:
    """A package with another card, with measured numbers added to its metrics, or with its clusters named.

    Card and metrics are part of what identifies a package, so its sha256 changes with them; the model does not.
    """
    old = load(folder)
    with _remade(old) as fresh:
        if card is not None:
            (fresh / "card.md").write_text(card, encoding="utf-8")
        document = old.spec.model_dump(exclude={"format", "sha256"})
        document["metrics"] = {**old.spec.metrics, **(metrics or {})}
        write(fresh, document, old.labels if labels is None else labels)
    return load(folder)
