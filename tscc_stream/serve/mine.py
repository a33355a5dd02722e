"""The simulated mine with known truth: miniSEED per channel and truth.csv.

Kinds: microseismic events (double couple with P and S), blasts (delayed shots), drilling (bursts of percussion),
mechanical noise (machines that ring), spikes and test pulses (one sensor's electronics), over coloured background
with mains hum on some sensors. With `events_per_hour` = E there are per hour about E microseismic events, 0.08 E
blasts, 0.08 E drilling sequences of 3 to 6 bursts, 0.16 E machine bursts, and on every channel 0.12 E spikes and
0.05 E test pulses.

truth.csv holds one row for every source and channel where the source stands out (snr >= 1), channel by channel in
order of onset:

    event_id     kind-number; for spikes and test pulses kind-station-number
    kind         microseismic, blast, drilling, mechanical, spike, test_pulse
    origin_utc   ISO 8601, origin_ns: the same in integer ns since 1970
    x_m y_m z_m  of the source, z downward
    strength     microseismic: moment magnitude above the smallest simulated; else log10 of relative amplitude
    channel      NET.STA.LOC.CHA
    onset_ns     first arrival at the sensor; s_onset_ns: S arrival, empty where there is none
    end_ns       when the last shot or stroke has died away
    snr          peak of the noise-free signal over the standard deviation of the channel's background

The generator is frozen (GENERATOR_VERSION): models are trained on seeds 1 to 8, calibrated on 9 to 12, and scored on
seeds from 101; tests use seeds from 1001. A change that alters one sample raises the version.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import numpy as np

from tscc_stream import miniseed
from tscc_stream.messages import AnyArray, Float64Array
from tscc_stream.sampling import offset_ns, seconds_to_ns
from tscc_stream.serve.mine_catalogue import (
    GENERATOR_VERSION,
    KINDS,
    NOISE_COUNTS,
    Sensor,
    Site,
    local_sources,
    make_sensor,
    make_site,
    shared_sources,
)
from tscc_stream.serve.mine_waveforms import Arrival, Background, render
from tscc_stream.source_id import from_nslc

__all__ = [
    "DAY_NS",
    "GENERATOR_VERSION",
    "KINDS",
    "NOISE_COUNTS",
    "START_NS",
    "MineError",
    "channel_code",
    "simulate",
    "trace",
]

START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z, when seed 0 begins
DAY_NS = 86_400_000_000_000
EVENTS_PER_HOUR = 240.0

_CHUNK = 1 << 19  # samples held at a time
_FULL_SCALE = 8_388_607  # 24 bits
_STANDS_OUT = 1.0
_MOST_CHANNELS = 9999
_COLUMNS = (
    "event_id",
    "kind",
    "origin_utc",
    "origin_ns",
    "x_m",
    "y_m",
    "z_m",
    "strength",
    "channel",
    "onset_ns",
    "s_onset_ns",
    "end_ns",
    "snr",
)
# Band code by sampling rate for sensors with corners above 0.1 Hz (SEED manual, appendix A; FDSN source identifiers).
_BANDS = ((5000.0, "J"), (1000.0, "G"), (250.0, "D"), (80.0, "E"), (10.0, "S"))


class MineError(ValueError):
    """A mine that cannot be simulated as it was asked for."""


@dataclass(frozen=True, slots=True)
class _Run:
    site: Site
    samples: int
    start_ns: int
    seconds: float
    events_per_hour: float


def channel_code(number: int, rate_hz: float) -> str:
    """`SM.S001..GHZ` for sensor 1 at 1000 Hz: the band code is the one that SEED prescribes for the rate."""
    band = next(letter for least, letter in _BANDS if rate_hz >= least)
    return f"SM.S{number:03d}..{band}HZ"


def _overlay(chunk: Float64Array, at: int, arrival: Arrival) -> None:
    """Add what of an arrival falls into chunk, whose first sample has index `at`."""
    first, last = max(arrival.start, at), min(arrival.start + len(arrival.samples), at + len(chunk))
    if first < last:
        chunk[first - at : last - at] += arrival.samples[first - arrival.start : last - arrival.start]


def _chunks(run: _Run, sensor: Sensor, on_arrival: Callable[[Arrival], None], chunk: int) -> Iterator[AnyArray]:
    """One channel's samples [<= chunk] int32, in order; each arrival is reported once, in order of rendering."""
    site = run.site
    shared = shared_sources(site, run.seconds, run.events_per_hour)
    own = local_sources(site, sensor, run.seconds, run.events_per_hour)
    waiting = deque(sorted(shared + own, key=lambda source: (source.origin_s, source.identity)))
    background = Background(site, sensor)
    active: list[Arrival] = []
    for at in range(0, run.samples, chunk):
        n = min(chunk, run.samples - at)
        mixed = background.take(n)
        while waiting and waiting[0].origin_s * site.rate_hz < at + n:
            if (arrival := render(site, sensor, waiting.popleft())) is not None:
                active.append(arrival)
                on_arrival(arrival)
        for arrival in active:
            _overlay(mixed, at, arrival)
        active = [a for a in active if a.start + len(a.samples) > at + n]
        yield np.clip(np.rint(mixed), -_FULL_SCALE, _FULL_SCALE).astype(np.int32)


def _write_records(file: IO[bytes], run: _Run, sid: str, chunks: Iterator[AnyArray]) -> None:
    """Full records only, but for the last: what does not fill one waits for the next chunk."""
    kept: AnyArray = np.empty(0, np.int32)
    written = 0
    for part in chunks:
        kept = np.concatenate([kept, part])
        last = written + len(kept) == run.samples
        records = miniseed.encode(sid, run.start_ns + offset_ns(written, run.site.rate_hz), run.site.rate_hz, kept)
        taken = b"".join(records if last else records[:-1])
        held = sum(int(header.samplecnt) for _, header in miniseed.split(taken)) if taken else 0
        file.write(taken)
        written, kept = written + held, kept[held:]


def _utc(ns: int) -> str:
    whole, part = divmod(ns, 1_000_000_000)
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=whole):%Y-%m-%dT%H:%M:%S}.{part:09d}Z"


def _row(run: _Run, sensor: Sensor, channel: str, arrival: Arrival) -> list[str] | None:
    """The arrival's line of truth.csv; None where it does not stand out or begins after the run's end."""
    snr = float(np.max(np.abs(arrival.samples))) / sensor.noise_counts
    if snr < _STANDS_OUT or arrival.start >= run.samples:
        return None

    def at(seconds: float) -> int:
        return run.start_ns + seconds_to_ns(seconds)

    source = arrival.source
    second = "" if arrival.s_onset_s is None else str(at(arrival.s_onset_s))
    where = [f"{value:.1f}" for value in source.position_m]
    origin = at(source.origin_s)
    ends = [str(at(arrival.onset_s)), second, str(at(arrival.end_s)), f"{snr:.2f}"]
    return [source.identity, source.kind, _utc(origin), str(origin), *where, f"{source.strength:.3f}", channel, *ends]


def _run_of(seconds: float, rate_hz: float, seed: int, events_per_hour: float, start_ns: int) -> _Run:
    if not 10.0 <= rate_hz <= 20_000.0:
        raise MineError(f"rate {rate_hz:g} Hz: expected 10 to 20000")
    if not 0.0 < seconds <= 30 * 86_400:
        raise MineError(f"seconds {seconds:g}: expected more than 0 and at most 30 days")
    if seed < 0:
        raise MineError(f"seed {seed}: expected 0 or more")
    if not 0.0 <= events_per_hour <= 1e6:
        raise MineError(f"events per hour {events_per_hour:g}: expected 0 to 1000000")
    samples = max(1, round(seconds * rate_hz))
    return _Run(make_site(seed, rate_hz), samples, start_ns, seconds, events_per_hour)


def trace(
    number: int,
    *,
    seconds: float,
    rate_hz: float,
    seed: int,
    events_per_hour: float = EVENTS_PER_HOUR,
    chunk: int = _CHUNK,
) -> tuple[AnyArray, list[Arrival]]:
    """One channel in memory: samples [n] int32 counts and every arrival in it. `chunk` changes nothing but memory."""
    run = _run_of(seconds, rate_hz, seed, events_per_hour, START_NS)
    arrivals: list[Arrival] = []
    parts = list(_chunks(run, make_sensor(run.site, number), arrivals.append, chunk))
    return np.concatenate(parts), arrivals


def simulate(
    out: Path,
    *,
    channels: int,
    seconds: float,
    rate_hz: float,
    seed: int,
    events_per_hour: float = EVENTS_PER_HOUR,
    start_ns: int | None = None,
    on_channel: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `<out>/<NET.STA.LOC.CHA>.mseed` per channel and `<out>/truth.csv`; returns the path of the latter.

    int32 counts, 512-byte Steim2 records. The same arguments give the same bytes, and a channel's bytes depend
    neither on how many others there are nor on their order. start_ns: default, as many days after START_NS as the
    seed says, so that mines of several seeds can lie in one archive. on_channel(done, channels): after each channel.
    Memory: one chunk of 2^19 samples and the arrivals of one channel. Raises MineError with what was expected.
    """
    if not 1 <= channels <= _MOST_CHANNELS:
        raise MineError(f"channels {channels}: expected 1 to {_MOST_CHANNELS}")
    begin_ns = START_NS + seed % 3650 * DAY_NS if start_ns is None else start_ns
    run = _run_of(seconds, rate_hz, seed, events_per_hour, begin_ns)
    out.mkdir(parents=True, exist_ok=True)
    fresh = out / "truth.csv.new"
    with fresh.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_COLUMNS)
        for number in range(1, channels + 1):
            table.writerows(_write_channel(out, run, number))
            if on_channel is not None:
                on_channel(number, channels)
    return fresh.replace(out / "truth.csv")


def _write_channel(out: Path, run: _Run, number: int) -> list[list[str]]:
    sensor, channel = make_sensor(run.site, number), channel_code(number, run.site.rate_hz)
    rows: list[list[str]] = []

    def note(arrival: Arrival) -> None:
        if (row := _row(run, sensor, channel, arrival)) is not None:
            rows.append(row)

    with (out / f"{channel}.mseed").open("wb") as file:
        _write_records(file, run, from_nslc(channel), _chunks(run, sensor, note, _CHUNK))
    order = _COLUMNS.index("onset_ns")
    return sorted(rows, key=lambda row: (int(row[order]), row[0]))
