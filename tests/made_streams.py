"""Model packages, signals and cut streams for the tests of the stages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tscc_stream.messages import (
    QUALITIES,
    Block,
    Characteristic,
    Float32Array,
    Float64Array,
    Record,
    RecordBatch,
    read_only,
)
from tscc_stream.package import PackageSpec
from tscc_stream.sampling import offset_ns
from tscc_stream.stages.infer import Encoded

T0 = 1_274_977_440_000_000_000
"""2010-05-27T16:24:00 UTC."""
SECOND = 1_000_000_000
SID = "FDSN:BW_UH1__S_H_Z"


def sid_of(number: int) -> str:
    return f"FDSN:XX_S{number:03}__E_H_Z"


def batch_of(records: Sequence[Record], stations: Sequence[str] | None = None) -> RecordBatch:
    """The same records side by side, each under its NET_STA or under the station given."""
    names = stations or ["_".join(one.sid.removeprefix("FDSN:").split("_")[:2]) for one in records]
    channels = list(dict.fromkeys(zip(names, (one.sid for one in records), strict=True)))
    return RecordBatch(
        [sid for _, sid in channels],
        [name for name, _ in channels],
        np.array([channels.index((name, one.sid)) for name, one in zip(names, records, strict=True)], np.int64),
        np.array([one.start_ns for one in records], np.int64),
        np.array([one.sample_rate_hz for one in records]),
        np.cumsum([0, *(one.samples.size for one in records)]),
        np.array([QUALITIES.index(one.quality) for one in records], np.int64),
        read_only(np.concatenate([np.zeros(0), *(one.samples for one in records)])),
        records[0].received_ns if records else 0,
    )


def package_spec(**changes: object) -> PackageSpec:
    """A small model: windows of 40 samples at 50 Hz, the onset at sample 10."""
    values: dict[str, object] = {
        "format": 1,
        "name": "tiny",
        "version": "1",
        "created": "2026-01-01",
        "training_data": {},
        "sample_rate_hz": 50.0,
        "samples": 40,
        "channels": 1,
        "onset_sample": 10,
        "band_hz": (2.0, 20.0),
        "band_corners": 2,
        "warmup_seconds": 1.0,
        "normalisation": "z",
        "clusters": 2,
        "embedding": 3,
        "fuzzifier": 1.5,
        "distance": "euclidean",
        "novelty": None,
        "metrics": {},
        "precision_tolerance": 1e-4,
        "sha256": {},
    }
    return PackageSpec.model_validate({**values, **changes})


def noise_with_bursts(
    seed: int, samples: int, bursts: Sequence[int] = (), *, length: int = 60, gain: float = 30.0, offset: float = 0.0
) -> Float64Array:
    """Whole counts: Gaussian noise of 100 counts around `offset`, and decaying bursts that begin at given samples."""
    rng = np.random.default_rng(seed)
    data = rng.normal(0.0, 100.0, samples)
    for begin in bursts:
        n = min(length, samples - begin)
        data[begin : begin + n] += gain * rng.normal(0.0, 100.0, n) * np.exp(-np.arange(n) / (0.4 * length))
    return np.rint(data + offset)


def pieces(values: npt.NDArray[np.generic], cuts: Sequence[int]) -> list[tuple[int, npt.NDArray[np.generic]]]:
    """(first index, values) of the non-empty parts between the cuts."""
    bounds = sorted({0, len(values), *(cut for cut in cuts if 0 < cut < len(values))})
    return [(a, values[a:b]) for a, b in pairwise(bounds)]


def records(
    samples: npt.NDArray[np.generic],
    rate_hz: float,
    cuts: Sequence[int] = (),
    *,
    sid: str = SID,
    start_ns: int = T0,
    quality: frozenset[str] = frozenset(),
) -> list[Record]:
    return [
        Record(sid, start_ns + offset_ns(first, rate_hz), rate_hz, read_only(part.copy()), quality)
        for first, part in pieces(samples, cuts)
    ]


def blocks(
    samples: Float64Array,
    rate_hz: float,
    cuts: Sequence[int] = (),
    *,
    sid: str = SID,
    start_ns: int = T0,
    quality: frozenset[str] = frozenset(),
) -> list[Block]:
    """One segment, cut into blocks."""
    return [
        Block(sid, first, start_ns + offset_ns(first, rate_hz), rate_hz, read_only(part.astype(np.float64)), quality)
        for first, part in pieces(samples, cuts)
    ]


def characteristics(
    values: Float64Array, rate_hz: float, cuts: Sequence[int] = (), *, sid: str = SID, start_ns: int = T0
) -> list[Characteristic]:
    """A given characteristic function over blocks of zeros."""
    zeros = blocks(np.zeros(len(values)), rate_hz, cuts, sid=sid, start_ns=start_ns)
    return [
        Characteristic(b, read_only(np.array(part, dtype=np.float64)))
        for b, (_, part) in zip(zeros, pieces(values, cuts), strict=True)
    ]


def cuts_of(samples: int, most: int = 12) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, max(1, samples - 1)), max_size=most)


class FakeEncoder:
    """Deterministic, window by window: what a window gets does not depend on its batch."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def encode(self, normalised: Float32Array) -> Encoded:
        self.sizes.append(len(normalised))
        rows = [self._one(window[:, 0].astype(np.float64)) for window in normalised]
        embedding, membership, cluster, distance = (np.array(column) for column in zip(*rows, strict=True))
        return Encoded(
            embedding.astype(np.float32),
            membership.astype(np.float32),
            cluster.astype(np.int64),
            distance.astype(np.float32),
        )

    @staticmethod
    def _one(window: Float64Array) -> tuple[list[float], list[float], int, list[float]]:
        energy = float(np.square(window).sum())
        early = float(np.square(window[: len(window) // 3]).sum()) / max(energy, 1e-9)
        return [energy, early, window[0]], [early, 1.0 - early], int(early < 0.5), [1.0 - early, early]
