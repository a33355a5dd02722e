"""Ground motion of one source at one sensor, in counts and without noise, and the sensor's background.

A trace is a train of delta functions (shots, strokes) with scattered arrivals behind each, convolved with the source
pulse, anelastic attenuation and the recorder's anti-alias filter. All of it is causal: nothing comes before the onset.
Sources: pulse, Brune (1970, J. Geophys. Res. 75); radiation pattern, Aki & Richards (2002, eq. 4.33); attenuation
with its dispersion, Azimi et al. (1968), in the form of Aki & Richards (2002, eq. 5.88).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft, signal

from tscc_stream.messages import AnyArray, Float64Array
from tscc_stream.serve.mine_catalogue import (
    NOISE_COUNTS,
    P_SPEED,
    S_SPEED,
    Sensor,
    Site,
    Source,
    stream,
)

Complex128Array = npt.NDArray[np.complex128]

_QUIETEST = 0.2  # peak in standard deviations of the background, below which an arrival is left out
_ALIAS_CORNER, _ALIAS_ORDER = 0.38, 6
_CODA, _BACKGROUND = 10, 11  # names of random streams


@dataclass(frozen=True, slots=True)
class _Path:
    """How a kind of source radiates. p, s: amplitudes in units of the noise at half the site's width; spread: power
    of the fall with distance; q_p, q_s: quality factors; coda: scattered amplitude; tail: its decay in windows.
    """

    p: float
    s: float
    spread: float
    q_p: float
    q_s: float
    coda: float
    tail: float


_PATHS = {
    "microseismic": _Path(p=14.0, s=40.0, spread=1.0, q_p=400.0, q_s=300.0, coda=0.3, tail=0.08),
    "blast": _Path(p=14.0, s=2.0, spread=1.0, q_p=300.0, q_s=200.0, coda=0.25, tail=0.04),
    "drilling": _Path(p=20.0, s=0.0, spread=1.6, q_p=150.0, q_s=150.0, coda=0.15, tail=0.02),
    "mechanical": _Path(p=10.0, s=0.0, spread=1.3, q_p=150.0, q_s=150.0, coda=0.0, tail=0.01),
}


@dataclass(frozen=True, slots=True)
class Arrival:
    """Signal of one source at one sensor.

    samples: [n] float64 counts, the first at index `start` of the run. onset_s, s_onset_s: P and S arrivals, seconds
    after the run's start (s_onset_s None where no S was made). end_s: when its last shot has died away.
    """

    source: Source
    start: int
    samples: Float64Array
    onset_s: float
    s_onset_s: float | None
    end_s: float


@lru_cache(maxsize=64)
def _grid(n: int, rate_hz: float) -> tuple[Float64Array, Complex128Array]:
    """Frequencies (Hz) of an rfft of n samples, and the anti-alias filter there."""
    frequency = fft.rfftfreq(n, 1.0 / rate_hz)
    b, a = signal.butter(_ALIAS_ORDER, 2 * np.pi * _ALIAS_CORNER * rate_hz, analog=True)
    _, response = signal.freqs(b, a, worN=2 * np.pi * frequency)
    return frequency, response


def _pulse(source: Source, frequency: Float64Array) -> Complex128Array:
    """Spectrum (seconds) of the source pulse: about unit height before any filter."""
    s, corner = 2j * np.pi * frequency, 2 * np.pi * source.frequency_hz
    if source.kind in ("microseismic", "blast"):
        return np.asarray(s / (s + corner) ** 2)
    if source.kind == "spike":
        return np.full(len(frequency), 0.5 / source.frequency_hz, complex)
    damping = {"drilling": 0.12, "mechanical": 0.02, "test_pulse": 0.08}[source.kind]
    return np.asarray(corner / (s**2 + 2 * damping * corner * s + corner**2))


def _attenuation(frequency: Float64Array, travel_s: float, quality: float, rate_hz: float) -> Complex128Array:
    t_star = travel_s / quality
    safe = np.maximum(frequency, frequency[1])
    return np.asarray(np.exp(-np.pi * frequency * t_star - 2j * frequency * t_star * np.log(0.5 * rate_hz / safe)))


def _radiation(source: Source, ray: Float64Array) -> tuple[float, float]:
    """Vertical P and S amplitudes along a unit ray: of a double couple, or of an explosion."""
    upward = float(np.copysign(max(abs(ray[2]), 0.35), -ray[2]))
    if source.normal is None or source.slip is None:
        return upward, 1.0
    along_normal, along_slip = float(ray @ source.normal), float(ray @ source.slip)
    p = 2.0 * along_normal * along_slip
    s = along_normal * source.slip + along_slip * source.normal - p * ray
    # Scattering fills the nodes: no sensor sees a perfect zero.
    return float(np.copysign(max(abs(p), 0.1), p)) * upward, float(np.copysign(max(abs(s[2]), 0.1), -s[2]))


def _train(source: Source, n: int, rate_hz: float, coda: Float64Array) -> Complex128Array:
    """Spectrum of the shots at their delays, each followed by scattered arrivals coda [n]."""
    deltas = np.zeros(n)
    np.add.at(deltas, np.rint(source.delays_s * rate_hz).astype(int), source.weights)
    scattered = coda.copy()
    scattered[0] = 1.0
    return np.asarray(fft.rfft(deltas) * fft.rfft(scattered))


def _faded(samples: Float64Array) -> Float64Array:
    """The last tenth falls to zero, so that an arrival ends without a step."""
    last = len(samples) // 10
    samples[-last:] *= 0.5 * (1.0 + np.cos(np.pi * np.arange(1, last + 1) / last))
    return samples


def _shared(site: Site, sensor: Sensor, source: Source) -> Arrival | None:
    path = _PATHS[source.kind]
    ray = sensor.position_m - source.position_m
    distance = max(float(np.linalg.norm(ray)), 0.03 * site.extent_m)
    size = 10.0 ** (source.strength / 2 if source.kind == "microseismic" else source.strength - 1.0)
    scale = NOISE_COUNTS * sensor.gain * size * (0.5 * site.extent_m / distance) ** path.spread
    if scale * max(path.p, path.s) * float(np.max(np.abs(source.weights))) < _QUIETEST * sensor.noise_counts:
        return None
    p_s, s_s = distance / P_SPEED, distance / S_SPEED
    lag = s_s - p_s if path.s else 0.0
    tail = path.tail * site.window_s
    length = lag + float(source.delays_s[-1]) + 7.0 * tail + 2.0 / source.frequency_hz
    n = fft.next_fast_len(int(length * site.rate_hz * 1.15) + 64, real=True)
    rng = stream(site.seed, _CODA, sensor.number, _kind_number(source), source.number)
    fading = path.coda * np.exp(-np.arange(n) / (tail * site.rate_hz))
    frequency, alias = _grid(n, site.rate_hz)
    onset = (source.origin_s + p_s) * site.rate_hz
    start = int(np.floor(onset))
    p, s = _radiation(source, ray / max(float(np.linalg.norm(ray)), 1e-9))
    spectrum = p * path.p * _train(source, n, site.rate_hz, fading * rng.standard_normal(n))
    spectrum *= _attenuation(frequency, p_s, path.q_p, site.rate_hz)
    if path.s:
        late = s * path.s * _train(source, n, site.rate_hz, fading * rng.standard_normal(n))
        spectrum += late * _attenuation(frequency, s_s, path.q_s, site.rate_hz) * np.exp(-2j * np.pi * frequency * lag)
    spectrum *= _pulse(source, frequency) * alias * np.exp(-2j * np.pi * frequency * (onset - start) / site.rate_hz)
    samples = _faded(scale * site.rate_hz * fft.irfft(spectrum, n))
    first = onset / site.rate_hz
    end = first + lag + float(source.delays_s[-1]) + 2.0 * tail + 1.0 / source.frequency_hz
    return Arrival(source, start, samples, first, first + lag if path.s else None, end)


def _kind_number(source: Source) -> int:
    return sorted(_PATHS).index(source.kind)


def _local(site: Site, sensor: Sensor, source: Source) -> Arrival:
    """A disturbance in the sensor's own electronics: straight into the recorder, no path."""
    lasts = 0.02 * site.window_s if source.kind == "spike" else 0.4 * site.window_s
    n = fft.next_fast_len(int(1.2 * lasts * site.rate_hz) + 64, real=True)
    frequency, alias = _grid(n, site.rate_hz)
    # What the recorder itself makes starts on a sample.
    start = int(np.ceil(source.origin_s * site.rate_hz))
    spectrum = _train(source, n, site.rate_hz, np.zeros(n)) * _pulse(source, frequency) * alias * site.rate_hz
    counts = NOISE_COUNTS * sensor.gain * 10.0**source.strength
    first = start / site.rate_hz
    return Arrival(source, start, _faded(counts * fft.irfft(spectrum, n)), first, None, first + lasts)


def render(site: Site, sensor: Sensor, source: Source) -> Arrival | None:
    """The signal of a source at a sensor; None where it is far below the background."""
    if source.channel is not None:
        return _local(site, sensor, source)
    arrival = _shared(site, sensor, source)
    if arrival is None or np.max(np.abs(arrival.samples)) < _QUIETEST * sensor.noise_counts:
        return None
    return arrival


class Background:
    """Coloured noise of one sensor with a slowly breathing level, and mains hum; asked for in order, in any cut."""

    def __init__(self, site: Site, sensor: Sensor) -> None:
        self._site = site
        self._sensor = sensor
        self._rng = stream(site.seed, _BACKGROUND, sensor.number)
        pole = sensor.colour
        # White noise plus the same through one pole, scaled to unit variance.
        self._b, self._a = np.array([1.3, -pole]), np.array([1.0, -pole])
        impulse = signal.lfilter(self._b, self._a, np.eye(1, 4096)[0])
        self._scale = sensor.noise_counts / float(np.sqrt(np.sum(impulse**2)))
        self._state: AnyArray = np.zeros(1)
        self._at = 0

    def take(self, n: int) -> Float64Array:
        """The next n samples, [n] float64 counts."""
        coloured, self._state = signal.lfilter(self._b, self._a, self._rng.standard_normal(n), zi=self._state)
        seconds = np.arange(self._at, self._at + n) / self._site.rate_hz
        self._at += n
        breath = 2 * np.pi * seconds / self._sensor.breath_s + self._sensor.breath_phase
        noise = coloured * (self._scale * (1.0 + 0.25 * np.sin(breath)))
        for hz, counts, phase in self._sensor.hum:
            noise += counts * np.sin(2 * np.pi * hz * seconds + phase)
        return np.asarray(noise)
