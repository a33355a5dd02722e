"""The compiled encoder of a model package: one of the two files that touch TorchScript (the other writes it)."""

from __future__ import annotations

import io
import os
import warnings

import numpy as np
import torch

from tscc_stream.drift import Reference
from tscc_stream.messages import Float32Array, Float64Array
from tscc_stream.package import Package, PackageError
from tscc_stream.stages.infer import Encoded


class TorchScriptEncoder:
    """A package's encoder on one device, self-checked when made.

    device: "auto" (cuda where there is one), "cpu", "cuda" or "cuda:N". threads: CPU threads for torch; "auto" takes
    half of the cores, since threads that wait for one another on a busy core cost a hundredfold (measured: 560 ms
    instead of 5 ms a window with two threads on two cores that two other programs use). Raises PackageError where the
    package cannot be run as it was recorded.
    """

    def __init__(self, package: Package, device: str = "auto", threads: int | str = "auto") -> None:
        self.device = _device(device)
        self._package = package
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(threads if isinstance(threads, int) else max(1, cores // 2))
        self._module = _load(package, self.device)
        self._self_check()

    def encode(self, normalised: Float32Array) -> Encoded:
        """[B, samples, channels] float32 -> results on the host."""
        with torch.inference_mode():
            x_btc = torch.from_numpy(np.require(normalised, np.float32, ["C", "W"])).to(self.device)
            embedding, membership, cluster, squared_distance = (out.cpu().numpy() for out in self._module(x_btc))
        return Encoded(embedding, membership, cluster, squared_distance)

    def warm_up(self, max_batch: int) -> None:
        """The first calls of a shape compile: make them before anything waits for an answer."""
        spec = self._package.spec
        for size in sorted({1, 2, max_batch}):
            for _ in range(2):
                self.encode(np.zeros((size, spec.samples, spec.channels), np.float32))

    def _self_check(self) -> None:
        """The recorded inputs must still give the recorded outputs, within the package's tolerance."""
        package = self._package
        with np.load(package.folder / "selfcheck.npz", allow_pickle=False) as recorded:
            expected = {name: recorded[name] for name in ("x", "embedding", "membership", "cluster")}
        got = self.encode(expected["x"])
        tolerance = package.spec.precision_tolerance
        for name, value in (("embedding", got.embedding), ("membership", got.membership)):
            error = float(np.abs(value - expected[name]).max()) if value.shape == expected[name].shape else np.inf
            if not error <= tolerance:
                raise PackageError(
                    f"model package {package.folder}: self-check failed on {self.device}: "
                    f"{name} differs by {error:.2g}, expected at most {tolerance:.2g}"
                )
        margin = np.diff(np.sort(expected["membership"], axis=1)[:, -2:], axis=1)[:, 0]
        if np.any((got.cluster != expected["cluster"]) & (margin > 2 * tolerance)):
            raise PackageError(f"model package {package.folder}: self-check failed on {self.device}: clusters differ")


def calibration_scores(package: Package) -> Float64Array | None:
    """Ascending nearest squared distances of the calibration windows [n]; None for an uncalibrated package."""
    if package.spec.novelty is None:
        return None
    with np.load(package.folder / "novelty.npz", allow_pickle=False) as stored:
        return np.sort(stored["scores"].astype(np.float64))


def reference_of(package: Package) -> Reference | None:
    """What drift compares with; None for an uncalibrated package. Packages may state less than all of it."""
    if package.spec.novelty is None:
        return None
    with np.load(package.folder / "novelty.npz", allow_pickle=False) as stored:
        return Reference(
            stored["scores"].astype(np.float64),
            stored["clusters"].astype(np.int64) if "clusters" in stored.files else None,
            stored["memberships"].astype(np.float64) if "memberships" in stored.files else None,
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise PackageError(f"inference.device {name}: this machine has no CUDA device that torch can use")
    return device


def _load(package: Package, device: torch.device) -> torch.nn.Module:
    """Load, move, then freeze: a frozen module silently ignores being moved."""
    payload = io.BytesIO((package.folder / "encoder.ts").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch announces TorchScript's end; the seam is Encoder
        try:
            module = torch.jit.load(payload, map_location=device).eval()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            frozen: torch.nn.Module = torch.jit.freeze(module)
        except RuntimeError as error:
            first_line = str(error).strip().splitlines()[0]
            raise PackageError(f"model package {package.folder}: encoder.ts cannot be loaded: {first_line}") from error
    return frozen
