"""`bench frontend`: packed records to windows (decode, band-pass, STA/LTA, trigger, window), beside the field's way.

Ours is what the daemon does with a read of a socket: RecordDecoder, then FrontHalf.feed_batch. "stages" is FrontHalf
record by record, which decides what is right: before anything is timed, the windows of both are compared to the bit.
All take turns over stretches of the same streams: 512-byte Steim-2 records of 1 kHz, a trigger each 180 s a channel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import islice
from statistics import median

import numpy as np

from tscc_stream import miniseed
from tscc_stream.bench.measure import FIELD, Figure
from tscc_stream.bench.obspy_front import ObspyFront
from tscc_stream.config import Config
from tscc_stream.messages import RecordBatch, Window
from tscc_stream.package import PackageSpec
from tscc_stream.pipeline import FrontHalf, FrontMessage
from tscc_stream.record_decoder import RecordDecoder
from tscc_stream.sampling import NS_PER_SECOND

RATE_HZ = 1000.0
BATCH = 512
"""Records of a read of 256 KiB."""
WARM_UP = 14
"""Records of each channel before anything is timed: some 5 s, after which its histories are full."""
CHANNELS = (10, 200, 1000, 5000)
OF_THE_FIELD = 200
ROUNDS = 5
SAMPLES_A_ROUND = 4_000_000
_T0_NS = 1_767_225_600 * NS_PER_SECOND
_BYTES = 512
_SIGNALS = 200
"""More channels than that share them."""
_TRIGGER_EVERY_S = 180.0
_STATION = slice(8, 13)

Step = Callable[[list[bytes]], list[FrontMessage]]


def run(
    channels: tuple[int, ...] = CHANNELS, rounds: int = ROUNDS, samples: int = SAMPLES_A_ROUND
) -> dict[str, dict[str, Figure]]:
    """Processor time in ns for each sample, all work included; ratios against the field's way at 200 channels."""
    config = Config.model_validate(
        {
            "condition": {"band_hz": (20.0, 200.0)},
            "trigger": {"sta_seconds": 0.05, "lta_seconds": 1.0, "trigger_on": 6.0, "trigger_off": 1.5},
        }
    )
    spec = _spec()
    signals = {n: _signals(n, rounds * samples / RATE_HZ / n + 10.0) for n in {*channels, OF_THE_FIELD}}
    _compare(config, spec, _signals(20, 60.0))
    variants: dict[str, _Variant] = {
        f"ours, {n} channels" if n != OF_THE_FIELD else "ours": _Variant(_ours(config, spec), signals[n], n, samples)
        for n in channels
    }
    variants["stages"] = _Variant(_stages(config, spec), signals[OF_THE_FIELD], OF_THE_FIELD, samples // 50)
    variants[FIELD] = _Variant(_field(config, spec), signals[OF_THE_FIELD], OF_THE_FIELD, samples // 50)
    spent: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            spent[name].append(variant.round())
    field = median(spent[FIELD])
    return {"frontend": {name: Figure(median(some), "ns/sample", field / median(some)) for name, some in spent.items()}}


class _Variant:
    """One way, and its place in the streams of n channels."""

    def __init__(self, step: Step, signals: list[list[bytes]], channels: int, samples: int) -> None:
        self._step, self._signals, self._channels = step, signals, channels
        self._a_round = max(1, round(samples / channels / _mean_samples(signals)))
        self._at = 0
        self._go(WARM_UP)

    def round(self) -> float:
        """Processor time in ns for each sample over the next stretch."""
        records = self._next(self._a_round)
        begin = time.process_time_ns()
        for batch in records:
            self._step(batch)
        spent = time.process_time_ns() - begin
        return spent / sum(int.from_bytes(record[30:32], "big") for batch in records for record in batch)

    def _go(self, records: int) -> None:
        for batch in self._next(records):
            self._step(batch)

    def _next(self, records: int) -> list[list[bytes]]:
        """The next records of each channel, channel by channel at each time, in batches."""
        rows = range(self._at, self._at + records)
        self._at += records
        signals = self._signals
        flat = (
            _of(number, signals[number % len(signals)][row % len(signals[number % len(signals)])])
            for row in rows
            for number in range(self._channels)
        )
        return list(iter(lambda: list(islice(flat, BATCH)), []))


def _of(number: int, record: bytes) -> bytes:
    return record[: _STATION.start] + f"{number:05}".encode() + record[_STATION.stop :]


def _mean_samples(signals: list[list[bytes]]) -> float:
    return float(np.mean([int.from_bytes(record[30:32], "big") for signal in signals for record in signal]))


def _signals(channels: int, seconds: float) -> list[list[bytes]]:
    return [_records(number, seconds) for number in range(min(channels, _SIGNALS))]


def _records(number: int, seconds: float) -> list[bytes]:
    """Noise of some counts as a quiet geophone has it, with a burst that triggers now and then."""
    rng = np.random.default_rng(number)
    n = int(seconds * RATE_HZ)
    x = rng.normal(0.0, 40.0, n)
    for begin in np.arange(rng.uniform(2.0, _TRIGGER_EVERY_S), seconds - 1.0, _TRIGGER_EVERY_S):
        first = int(begin * RATE_HZ)
        x[first : first + 300] += rng.normal(0.0, 1500.0, 300) * np.exp(-np.arange(300) / 80.0)
    made = miniseed.encode("FDSN:XX_00000__G_H_Z", _T0_NS, RATE_HZ, np.rint(x).astype(np.int32))
    return made[:-1]


def _decoded(decoder: RecordDecoder, records: list[bytes]) -> Iterable[RecordBatch]:
    places = range(0, _BYTES * len(records), _BYTES)
    for part in decoder.decode(b"".join(records), places, [_BYTES] * len(records)):
        assert isinstance(part, RecordBatch)  # noqa: S101 none of them is damaged
        yield part


def _ours(config: Config, spec: PackageSpec) -> Step:
    front, decoder = FrontHalf(config, spec), RecordDecoder()
    return lambda records: [m for batch in _decoded(decoder, records) for m in front.feed_batch(batch)]


def _stages(config: Config, spec: PackageSpec) -> Step:
    front = FrontHalf(config, spec)
    return lambda records: [m for record in records for m in front.feed(miniseed.decode(record))]


def _field(config: Config, spec: PackageSpec) -> Step:
    front = ObspyFront(config, spec)

    def step(records: list[bytes]) -> list[FrontMessage]:
        for record in records:
            front.packet(record)
        return []

    return step


def _compare(config: Config, spec: PackageSpec, signals: list[list[bytes]]) -> None:
    """Both give the same windows, to the bit. Raises AssertionError."""
    found = []
    for step in (_ours(config, spec), _stages(config, spec)):
        flat = [_of(number, record) for number, signal in enumerate(signals) for record in signal]
        windows = [m for at in range(0, len(flat), BATCH) for m in step(flat[at : at + BATCH]) if isinstance(m, Window)]
        found.append([(w.uid, w.normalised.tobytes(), w.peak_ratio, w.duration_s) for w in windows])
    if not found[0] or found[0] != found[1]:
        raise AssertionError(f"{len(found[0])} windows by batches, {len(found[1])} record by record, or not the same")


def _spec() -> PackageSpec:
    """Windows of the shipped model for mines' rates; nothing is inferred here."""
    return PackageSpec.model_validate(
        {
            **{"format": 1, "name": "bench", "version": "1", "created": "2026-01-01", "training_data": {}},
            **{"sample_rate_hz": 250.0, "samples": 500, "channels": 1, "onset_sample": 100, "band_hz": (10.0, 120.0)},
            **{"band_corners": 2, "warmup_seconds": 2.0, "normalisation": "z", "clusters": 2, "embedding": 2},
            **{"fuzzifier": 1.5, "distance": "euclidean", "novelty": None, "metrics": {}, "precision_tolerance": 1e-3},
            "sha256": {},
        }
    )
