"""The authors' published weights as a model package, to be evaluated beside others.

Source: Yang et al. 2023 (IEEE TGRS); weights and centres as their repository once held them. The pickles name classes
of TS2Vec (Yue et al. 2022), whose encoder is the network of `learn.network` under other names.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from tscc_stream import pickled
from tscc_stream.learn.clusters import Head
from tscc_stream.learn.dataset import WindowShape
from tscc_stream.learn.export import SELFCHECK_WINDOWS, Trained, export
from tscc_stream.learn.network import DEPTH, HIDDEN, REPRESENTATION, Encoder
from tscc_stream.messages import Float32Array
from tscc_stream.package import Package, sha256_of
from tscc_stream.pickled import Module, Stored, StoredTensor

SAMPLES, CHANNELS, FUZZIFIER = 500, 1, 1.5
"""Published settings."""
SHAPE = WindowShape(
    sample_rate_hz=1.0, samples=SAMPLES, onset_sample=0, band_hz=(0.001, 0.499), warmup_seconds=0.0, channels=CHANNELS
)
"""Rate, band and onset were never published: the package counts time in samples, and says that it may not go live."""
EVALUATE_ONLY = (
    "published weights, to compare with: the rate, band and onset of their windows are unknown, nothing is calibrated, "
    "and they carry no licence"
)
MOST_MODULES = 500
MOST_CLUSTERS = 256
_LONGEST_NAME = 100

_RENAMES = (
    (re.compile(r"input_fc\.(weight|bias)"), r"projection.\1"),
    (re.compile(r"feature_extractor\.net\.(\d+)\.(conv[12])\.conv\.(weight|bias)"), r"blocks.\1.\2.\3"),
    (re.compile(r"feature_extractor\.net\.(\d+)\.projector\.(weight|bias)"), r"blocks.\1.residual.\2"),
)
_AVERAGED_PREFIX, _AVERAGED_COUNT = "module.", "n_averaged"


class WeightsError(ValueError):
    """Published weights that cannot be taken over, and why in one sentence."""


def import_reference(weights: Path, centres: Path, out: Path) -> Package:
    """Read the authors' two pickles, running nothing of them, and write a package to `out`.

    weights: TSEncoder or its state_dict, plain or within torch's AveragedModel; centres: one tensor [K, 32]. Raises
    PickledError or WeightsError with what is wrong, PackageError where the package cannot be written.
    """
    encoder = _encoder(weights)
    centres_kd = torch.from_numpy(_centres(centres))
    hashes = {"weights_sha256": sha256_of(weights), "centres_sha256": sha256_of(centres)}
    return export(
        Trained(
            name=out.name,
            encoder=encoder,
            head=Head(centres_kd),
            fuzzifier=FUZZIFIER,
            shape=SHAPE,
            normalisation="none",
            selfcheck_x=_made_windows(),
            calibration_x=None,
            training_data={"origin": "published TSCC weights", "licence": "none: evaluate only", **hashes},
            metrics={},
            card=_card(out.name, len(centres_kd), hashes),
            evaluate_only=EVALUATE_ONLY,
        ),
        out,
    )


def _encoder(path: Path) -> Encoder:
    stored = pickled.read(path)
    tensors = _renamed(_parameters(stored.value, path), path)
    encoder = Encoder(CHANNELS, REPRESENTATION, HIDDEN, DEPTH)
    _check_shapes(tensors, {name: tuple(value.shape) for name, value in encoder.state_dict().items()}, path)
    encoder.load_state_dict(
        {name: torch.from_numpy(_finite(stored, tensor, f"{path}: {name}")) for name, tensor in tensors.items()}
    )
    return encoder


def _parameters(value: object, path: Path) -> dict[str, StoredTensor]:
    """Tensors by their dotted names, without what AveragedModel puts before and beside them."""
    found = _flattened(value, path) if isinstance(value, Module) else value
    if not isinstance(found, dict) or not found or not all(isinstance(part, StoredTensor) for part in found.values()):
        raise WeightsError(f"{path}: holds no encoder: expected a TSEncoder or its state_dict")
    named = {str(name): tensor for name, tensor in found.items()}
    if _AVERAGED_COUNT in named:
        named = {name.removeprefix(_AVERAGED_PREFIX): t for name, t in named.items() if name != _AVERAGED_COUNT}
    return named


def _flattened(root: Module, path: Path) -> dict[str | int, object]:
    """Parameters and buffers of a module and all below it. Counted, since a pickle may hold a module within itself."""
    found: dict[str | int, object] = {}
    left = [("", root)]
    for _ in range(MOST_MODULES):
        if not left:
            return found
        prefix, module = left.pop()
        own = {**_part(module, "_parameters", path), **_part(module, "_buffers", path)}
        found |= {f"{prefix}{name}": value for name, value in own.items() if value is not None}
        children = _part(module, "_modules", path)
        if len(children) > MOST_MODULES:
            break
        left += [(f"{prefix}{name}.", child) for name, child in children.items() if isinstance(child, Module)]
    raise WeightsError(f"{path}: more than {MOST_MODULES} modules; the published encoder has 64")


def _part(module: Module, name: str, path: Path) -> dict[str | int, object]:
    part = module.state.get(name)
    if not isinstance(part, dict) or not all(len(str(key)) <= _LONGEST_NAME for key in part):
        raise WeightsError(f"{path}: a {module.of} without {name}: not a module as torch stores it")
    return part


def _renamed(tensors: dict[str, StoredTensor], path: Path) -> dict[str, StoredTensor]:
    """The same tensors under the names of `learn.network`."""
    renamed = {}
    for name, tensor in tensors.items():
        matches = [pattern.fullmatch(name) for pattern, _ in _RENAMES]
        ours = [found.expand(to) for found, (_, to) in zip(matches, _RENAMES, strict=True) if found]
        if not ours:
            raise WeightsError(f"{path}: tensor {name[:80]} is none of the published encoder's")
        renamed[ours[0]] = tensor
    return renamed


def _check_shapes(tensors: dict[str, StoredTensor], expected: dict[str, tuple[int, ...]], path: Path) -> None:
    if missing := sorted(set(expected) - set(tensors)):
        raise WeightsError(f"{path}: tensor {missing[0]} is missing, as are {len(missing) - 1} others")
    for name, tensor in tensors.items():
        if name not in expected:
            raise WeightsError(f"{path}: tensor {name} is more than the published encoder has")
        if tensor.shape != expected[name]:
            raise WeightsError(f"{path}: tensor {name} is {list(tensor.shape)}; expected {list(expected[name])}")


def _finite(stored: Stored, tensor: StoredTensor, what: str) -> Float32Array:
    values: Float32Array = stored.array(tensor).astype(np.float32)
    if not np.isfinite(values).all():
        raise WeightsError(f"{what} holds values that are not finite")
    return values


def _centres(path: Path) -> Float32Array:
    stored = pickled.read(path)
    match stored.value:
        case StoredTensor(shape=(clusters, dimensions)) as tensor if (
            2 <= clusters <= MOST_CLUSTERS and dimensions == REPRESENTATION
        ):
            return _finite(stored, tensor, f"{path}: centres")
        case StoredTensor(shape=shape):
            raise WeightsError(
                f"{path}: centres are {list(shape)}; expected [2 to {MOST_CLUSTERS}, {REPRESENTATION}], a row a cluster"
            )
    raise WeightsError(f"{path}: holds no centres: expected one tensor")


def _made_windows() -> Float32Array:
    """Self-check inputs: noise with a burst, largest value 1 as in the published windows; always the same."""
    rng = np.random.Generator(np.random.PCG64(0))
    time = np.arange(SAMPLES)
    bursts = np.exp(-np.abs(time - 100.0 - 20.0 * np.arange(SELFCHECK_WINDOWS)[:, None]) / 30.0)
    x = rng.standard_normal((SELFCHECK_WINDOWS, SAMPLES)) * (0.2 + bursts)
    made: Float32Array = (x / np.abs(x).max(axis=1, keepdims=True))[:, :, None].astype(np.float32)
    return made


def _card(name: str, clusters: int, hashes: dict[str, str]) -> str:
    return "\n".join(
        [
            f"# {name}",
            "",
            f"The weights that the authors of TSCC published (Yang et al. 2023, fine-tuned), with {clusters} centres.",
            "",
            "- **Evaluate only.** They were published without a licence: compare with them, do not hand them on.",
            f"- Windows: {SAMPLES} samples, one channel. Rate, band and place of the onset were not published:",
            "  model.json counts in samples (1 Hz, 0.001 to 0.499), its onset sample says nothing, no stream served.",
            "- Normalisation: none. Windows go in as they are, and their scale decides the cluster; the published",
            "  synthetic ones have 1 as largest absolute value.",
            "- Uncalibrated: no window is called unknown.",
            f"- Fuzzifier {FUZZIFIER:g}, Euclidean distance. The centres come from the averaged network of their",
            "  training, the weights from the plain one: that is how they were published.",
            f"- From files with SHA-256 {hashes['weights_sha256']} (weights)",
            f"  and {hashes['centres_sha256']} (centres).",
            "",
        ]
    )
