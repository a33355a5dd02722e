"""One variant of `bench memory`, a process of its own: memory_process VARIANT CHANNELS SECONDS RATE_HZ.

Prints by how many MiB the process has grown over what it was with everything loaded and two channels served.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator

import numpy as np

from tscc_stream import package
from tscc_stream.bench import live
from tscc_stream.bench.load import SAMPLES, background
from tscc_stream.bench.measure import FIELD
from tscc_stream.config import Config
from tscc_stream.messages import Int64Array, RecordBatch, read_only

CHUNK = 50
"""Records of a batch: what is handed over at once is no part of what is kept."""
_NS = 1_000_000_000


def main(variant: str, channels: int, seconds: float, rate_hz: float) -> None:
    some = _field(seconds) if variant == FIELD else _ours()
    records = int(seconds * rate_hz / SAMPLES) + 1
    for batch in _batches(range(2), records, rate_hz):
        some(batch)
    before = _rss()
    for batch in _batches(range(2, channels + 2), records, rate_hz):
        some(batch)
    print(_rss() - before)  # noqa: T201  # for the process that started this one


def _rss() -> float:
    gc.collect()
    return live.rss_mib()


def _batches(channels: range, records: int, rate_hz: float) -> Iterator[RecordBatch]:
    """So many records of each, one round after the other."""
    noise = background(rate_hz, 0)
    sids = [f"FDSN:XX_L{number:04d}__G_H_Z" for number in range(channels.stop)]
    for nth in range(records):
        for first in range(channels.start, channels.stop, CHUNK):
            channel = np.arange(first, min(first + CHUNK, channels.stop))
            yield _batch(sids, channel, nth, rate_hz, noise)


def _batch(sids: list[str], channel: Int64Array, nth: int, rate_hz: float, noise: Int64Array) -> RecordBatch:
    n, at = len(channel), nth % (noise.shape[1] // SAMPLES) * SAMPLES
    samples = noise[channel % len(noise), at : at + SAMPLES].astype(np.float64).ravel()
    return RecordBatch(
        sids,
        [""] * len(sids),
        channel,
        np.full(n, 1_700_000_000 * _NS + nth * round(SAMPLES * _NS / rate_hz)),
        np.full(n, rate_hz),
        np.arange(n + 1) * SAMPLES,
        np.zeros(n, np.int64),
        read_only(samples),
    )


def _ours() -> Callable[[RecordBatch], object]:
    """The front half as the daemon has it, with the site's defaults."""
    from tscc_stream.pipeline import FrontHalf  # noqa: PLC0415  # each variant loads what it needs

    config = Config.model_validate({"condition": {"band_hz": live.BAND_HZ}, "network": {"min_channels": 3}})
    front = FrontHalf(config, package.load(package.find(f"models/{live.MODEL}")).spec)
    return front.feed_batch


def _field(seconds: float) -> Callable[[RecordBatch], object]:
    """An RtTrace per channel that keeps as many seconds, as obspy documents it for real-time data (obspy.realtime)."""
    from obspy import Trace, UTCDateTime  # noqa: PLC0415  # loaded where it is needed
    from obspy.realtime import RtTrace  # noqa: PLC0415  # loaded where it is needed

    kept: dict[str, RtTrace] = {}

    def feed(batch: RecordBatch) -> None:
        for i in range(len(batch)):
            record = batch.record(i)
            network, station, location, *channel = record.sid.removeprefix("FDSN:").split("_")
            header = {
                "network": network,
                "station": station,
                "location": location,
                "channel": "".join(channel),
                "sampling_rate": record.sample_rate_hz,
                "starttime": UTCDateTime(ns=record.start_ns),
            }
            trace = kept.setdefault(record.sid, RtTrace(max_length=seconds))
            trace.append(Trace(record.samples.astype(np.int32), header), gap_overlap_check=True)

    return feed


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
