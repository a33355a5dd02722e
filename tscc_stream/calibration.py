"""What a package says of itself in numbers: the self-check that every way of running it must pass; its calibration."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tscc_stream.drift import Reference
from tscc_stream.messages import Float32Array, Float64Array
from tscc_stream.package import Package, PackageError
from tscc_stream.stages.infer import Encoded


def self_check(package: Package, encode: Callable[[Float32Array], Encoded], where: str) -> None:
    """The recorded inputs must still give the recorded outputs, within the package's tolerance, else PackageError."""
    with np.load(package.folder / "selfcheck.npz", allow_pickle=False) as recorded:
        expected = {name: recorded[name] for name in ("x", "embedding", "membership", "cluster")}
    got = encode(expected["x"])
    tolerance = package.spec.precision_tolerance
    failed = f"model package {package.folder}: self-check failed {where}"
    for name, value in (("embedding", got.embedding), ("membership", got.membership)):
        error = float(np.abs(value - expected[name]).max()) if value.shape == expected[name].shape else np.inf
        if not error <= tolerance:
            raise PackageError(f"{failed}: {name} differs by {error:.2g}, expected at most {tolerance:.2g}")
    margin = np.diff(np.sort(expected["membership"], axis=1)[:, -2:], axis=1)[:, 0]
    if np.any((got.cluster != expected["cluster"]) & (margin > 2 * tolerance)):
        raise PackageError(f"{failed}: clusters differ")


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
