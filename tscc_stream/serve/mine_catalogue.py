"""What happens in the simulated mine, and where: sensors, working faces, machines, and every source in order of time.

Lengths and frequencies follow the sampling rate, so that at any rate a 500-sample window holds P and S: the site is
0.9 km wide at 1000 Hz (a mine), 18 km at 50 Hz (a regional network), 150 m at 6 kHz (a stope). Positions are metres
(x, y across, z downward), times are seconds after the start. Everything is drawn from streams of its own, named by
what it is for: neither the number of channels nor the length of the run changes what an earlier source looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np

from tscc_stream.messages import Float64Array

GENERATOR_VERSION = 1
KINDS = ("microseismic", "blast", "drilling", "mechanical", "spike", "test_pulse")
P_SPEED = 5500.0  # m/s
S_SPEED = 3200.0
WINDOW_SAMPLES = 500  # sizes below are shares of this many samples
NOISE_COUNTS = 60.0  # standard deviation of an average sensor's background

_SMALLEST_FALLOFF = 0.8  # b value of the Gutenberg-Richter law
_MAGNITUDE_RANGE = 2.4  # relative moment magnitude: 0 is the smallest simulated
# Sources of each kind for one microseismic event; spikes and test pulses count per channel.
_SHARE = {"microseismic": 1.0, "blast": 0.08, "drilling": 0.08, "mechanical": 0.16, "spike": 0.12, "test_pulse": 0.05}
_DRILLING_BURSTS = (3, 7)
_TONES_HZ = 50.0  # mains


def stream(seed: int, *key: int) -> np.random.Generator:
    """The independent random stream of `seed` with this name (a SeedSequence spawn key)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([GENERATOR_VERSION, seed], spawn_key=key)))


_SENSOR, _SITE, _SHARED, _LOCAL = range(4)


@dataclass(frozen=True, slots=True)
class Site:
    """Scale of the simulated mine and its fixed places: faces [4, 3] and machines [3, 3] in metres."""

    seed: int
    rate_hz: float
    extent_m: float
    window_s: float
    faces: Float64Array
    machines: Float64Array


@dataclass(frozen=True, slots=True)
class Sensor:
    """One vertical sensor. gain: factor on ground motion; noise_counts: standard deviation of its background.

    colour: pole of the low-pass part of the background; hum: (Hz, counts, phase) of each mains line.
    """

    number: int
    position_m: Float64Array
    gain: float
    noise_counts: float
    colour: float
    breath_s: float
    breath_phase: float
    hum: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Source:
    """One cause of signal. strength: magnitude for events and blasts, log10 of relative amplitude for the rest.

    frequency_hz: corner frequency or resonance. delays_s, weights: shots of a blast, strokes of a drill, hits of a
    machine. normal, slip: unit vectors of a double couple, None for other kinds. channel: sensor number where only
    one sensor sees it.
    """

    kind: str
    number: int
    origin_s: float
    position_m: Float64Array
    strength: float
    frequency_hz: float
    delays_s: Float64Array
    weights: Float64Array
    normal: Float64Array | None = None
    slip: Float64Array | None = None
    channel: int | None = None

    @property
    def identity(self) -> str:
        where = "" if self.channel is None else f"-S{self.channel:03d}"
        return f"{self.kind}{where}-{self.number:05d}"


def make_site(seed: int, rate_hz: float) -> Site:
    """The mine of a seed at the size that suits a sampling rate."""
    rng = stream(seed, _SITE)
    extent = 900.0 * 1000.0 / rate_hz
    faces = rng.uniform([0.2, 0.2, 0.2], [0.8, 0.8, 0.5], (4, 3)) * extent
    machines = rng.uniform([0.1, 0.1, 0.0], [0.9, 0.9, 0.4], (3, 3)) * extent
    return Site(seed, rate_hz, extent, WINDOW_SAMPLES / rate_hz, faces, machines)


def make_sensor(site: Site, number: int) -> Sensor:
    """Sensor `number` (from 1): place, gain and background."""
    rng = stream(site.seed, _SENSOR, number)
    position = rng.uniform([0.0, 0.0, 0.0], [1.0, 1.0, 0.4]) * site.extent_m
    gain = float(np.exp(0.3 * rng.standard_normal()))
    noise = NOISE_COUNTS * gain * float(np.exp(0.4 * rng.standard_normal()))
    colour = float(rng.uniform(0.85, 0.97))
    breath, phase = float(rng.uniform(8.0, 40.0)) * site.window_s, float(rng.uniform(0.0, 2 * np.pi))
    loud = rng.random() < 0.3
    lines = [
        (_TONES_HZ * k, float(rng.uniform(0.3, 1.0)) / k, float(rng.uniform(0.0, 2 * np.pi))) for k in (1, 2, 3, 5)
    ]
    # The recorder's anti-alias filter leaves nothing of a line beyond 0.4 of the sampling rate.
    hum = tuple((hz, a * noise, p) for hz, a, p in lines if loud and hz < 0.4 * site.rate_hz)
    return Sensor(number, position, gain, noise, colour, breath, phase, hum)


def _arrivals(rng: np.random.Generator, per_hour: float, seconds: float) -> Iterator[float]:
    """Times of a Poisson process, one after the other."""
    at = 0.0
    while per_hour > 0.0:
        at += float(rng.exponential(3600.0 / per_hour))
        if at >= seconds:
            return
        yield at


def _unit(rng: np.random.Generator) -> Float64Array:
    vector = rng.standard_normal(3)
    return np.asarray(vector / np.linalg.norm(vector))


def _near(rng: np.random.Generator, places: Float64Array, spread_m: float) -> Float64Array:
    return np.asarray(places[rng.integers(len(places))] + spread_m * rng.standard_normal(3))


_ONE = np.ones(1)
_NOW = np.zeros(1)


def _microseismic(site: Site, rng: np.random.Generator, number: int, at: float) -> Source:
    """Double couple; corner frequency falls with moment (Brune 1970; stress drop rises a little with size)."""
    most = 10.0 ** (-_SMALLEST_FALLOFF * _MAGNITUDE_RANGE)
    magnitude = float(-np.log10(1.0 - rng.random() * (1.0 - most)) / _SMALLEST_FALLOFF)
    place = _near(rng, site.faces, 0.08 * site.extent_m)
    normal = _unit(rng)
    slip = np.cross(normal, _unit(rng))
    corner = 0.35 * site.rate_hz * 10.0 ** (-magnitude / 2.4) * float(np.exp(0.2 * rng.standard_normal()))
    slip = slip / np.linalg.norm(slip)
    return Source("microseismic", number, at, place, magnitude, corner, _NOW, _ONE, normal, slip)


def _blast(site: Site, rng: np.random.Generator, number: int, at: float) -> Source:
    """A development round: delayed shots at one face."""
    place = _near(rng, site.faces, 0.02 * site.extent_m)
    strength = float(rng.uniform(1.2, 2.2))
    shots = int(rng.integers(6, 19))
    spacing = float(rng.uniform(0.04, 0.12)) * site.window_s
    delays = spacing * (np.arange(shots) + 0.1 * rng.random(shots))
    corner = float(rng.uniform(0.08, 0.16)) * site.rate_hz
    return Source("blast", number, at, place, strength, corner, delays - delays[0], rng.uniform(0.5, 1.5, shots))


def _drilling(site: Site, rng: np.random.Generator, number: int, at: float) -> Source:
    """One burst of percussion: strokes at a steady pace."""
    place = _near(rng, site.faces, 0.03 * site.extent_m)
    seconds = float(rng.uniform(3.0, 12.0)) + site.window_s / 4
    period = float(rng.uniform(0.8, 1.4)) / min(60.0, 0.06 * site.rate_hz)
    strokes = max(3, int(seconds / period))
    delays = period * (np.arange(strokes) + 0.03 * rng.standard_normal(strokes))
    resonance = float(rng.uniform(0.2, 0.32)) * site.rate_hz
    weights = rng.uniform(0.7, 1.3, strokes)
    return Source("drilling", number, at, place, float(rng.uniform(0.2, 0.9)), resonance, delays - delays[0], weights)


def _mechanical(site: Site, rng: np.random.Generator, number: int, at: float) -> Source:
    """A machine that rings: narrow-band, rising slowly. Each machine keeps its tone."""
    which = int(rng.integers(len(site.machines)))
    tone = (0.12 + 0.06 * which) * site.rate_hz * float(np.exp(0.02 * rng.standard_normal()))
    strength = float(rng.uniform(0.5, 1.3))
    swell = float(rng.uniform(0.05, 0.2)) * site.window_s
    hits = np.sort(rng.gamma(2.0, swell, 80))
    weights = 0.3 * rng.standard_normal(80)
    return Source("mechanical", number, at, site.machines[which], strength, tone, hits - hits[0], weights)


_MAKE: dict[str, Callable[[Site, np.random.Generator, int, float], Source]] = {
    "microseismic": _microseismic,
    "blast": _blast,
    "drilling": _drilling,
    "mechanical": _mechanical,
}


def _drilling_starts(rng: np.random.Generator, per_hour: float, seconds: float, site: Site) -> Iterator[float]:
    """Bursts come in sequences: a hole is drilled in several goes with pauses."""
    for start in _arrivals(rng, per_hour, seconds):
        at = start
        for _ in range(int(rng.integers(*_DRILLING_BURSTS))):
            yield at
            at += float(rng.uniform(15.0, 25.0)) + site.window_s


def shared_sources(site: Site, seconds: float, events_per_hour: float) -> list[Source]:
    """Sources that every sensor may see, in order of origin time."""
    found = []
    for place, (kind, make) in enumerate(_MAKE.items()):
        per_hour = events_per_hour * _SHARE[kind]
        times = stream(site.seed, _SHARED, place)
        starts = partial(_drilling_starts, site=site) if kind == "drilling" else _arrivals
        made = enumerate(starts(times, per_hour, seconds))
        found += [make(site, stream(site.seed, _SHARED, place, n), n, at) for n, at in made if at < seconds]
    return sorted(found, key=lambda source: source.origin_s)


def local_sources(site: Site, sensor: Sensor, seconds: float, events_per_hour: float) -> list[Source]:
    """Spikes and test pulses of one sensor, in order of time. Test pulses come at a fixed interval and size."""
    rng = stream(site.seed, _LOCAL, sensor.number)
    found = []
    for n, at in enumerate(_arrivals(rng, events_per_hour * _SHARE["spike"], seconds)):
        strength, width = float(rng.uniform(1.2, 2.4)), int(rng.integers(1, 4))
        weights = np.full(width, 1.0 if rng.random() < 0.5 else -1.0)
        delays, nyquist = np.arange(width) / site.rate_hz, 0.5 * site.rate_hz
        found.append(
            Source("spike", n, at, sensor.position_m, strength, nyquist, delays, weights, channel=sensor.number)
        )
    interval = 3600.0 / max(events_per_hour * _SHARE["test_pulse"], 1e-9)
    first = float(stream(site.seed, _LOCAL, sensor.number, 0).uniform(0.0, interval))
    for n in count():
        at = first + n * interval
        if at >= seconds:
            break
        pulse = 0.1 * site.rate_hz
        found.append(Source("test_pulse", n, at, sensor.position_m, 1.7, pulse, _NOW, _ONE, channel=sensor.number))
    return sorted(found, key=lambda source: source.origin_s)
