"""Small archives for tests: miniSEED of several kinds, made on the spot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tscc_stream import miniseed
from tscc_stream.messages import AnyArray
from tscc_stream.sampling import offset_ns

T0 = 1_262_304_000_123_456_000  # 2010-01-01T00:00:00.123456Z


@dataclass(frozen=True)
class Made:
    """One channel: what was written, for comparison with what comes out."""

    sid: str
    rate: float
    start_ns: int
    samples: AnyArray
    records: tuple[bytes, ...]


def channel(
    sid: str,
    *,
    seconds: float = 30.0,
    rate: float = 100.0,
    start_ns: int = T0,
    length: int = 512,
    encoding: miniseed.Encoding = "steim2",
    version: int = 2,
    seed: int = 0,
) -> Made:
    """Noise with large steps now and then, so that Steim2 needs all of its widths."""
    rng = np.random.default_rng(seed)
    samples = rng.integers(-300, 300, int(seconds * rate)) + 100_000 * rng.integers(0, 9, int(seconds * rate)) // 8
    typed = samples.astype({"float32": np.float32, "float64": np.float64}.get(encoding, np.int32))
    records = miniseed.encode(
        sid, start_ns, rate, typed, record_length=length, encoding=encoding, version=3 if version == 3 else 2
    )
    return Made(sid, rate, start_ns, typed, tuple(records))


def mixed() -> list[Made]:
    """Every kind that a server has to deal with: lengths, encodings, both versions, rates, starts."""
    return [
        channel("FDSN:XX_AAA__H_H_Z", seed=1),
        channel("FDSN:XX_BBB_00_H_H_Z", seed=2, length=4096, start_ns=T0 + 1_500_000_000),
        channel("FDSN:XX_CCC__E_H_Z", seed=3, encoding="float32", version=3, length=1024, rate=50.0),
        channel("FDSN:YY_AAA_10_H_H_N", seed=4, encoding="float64", rate=200.0, seconds=5),
        channel("FDSN:YY_BBB__H_H_E", seed=5, length=256, start_ns=T0 + 7_000_000_000),
    ]


def write(folder: Path, made: list[Made]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for one in made:
        name = one.sid.replace("FDSN:", "").replace("/", "-")
        (folder / f"{name}-{one.start_ns}.mseed").write_bytes(b"".join(one.records))
    return folder


def joined(parts: list[tuple[int, AnyArray]], rate: float) -> tuple[int, AnyArray]:
    """Pieces (start ns, samples) of one unbroken channel, in any order: start and all samples; they must fit."""
    parts = sorted(parts, key=lambda part: part[0])
    start, count = parts[0][0], 0
    for begin, samples in parts:
        assert abs(begin - (start + offset_ns(count, rate))) <= 1000, "pieces overlap or leave a gap"
        count += len(samples)
    return start, np.concatenate([samples for _, samples in parts])
