"""Windows worth showing, chosen by rules and not by eye; synthetic ones where the data hold none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tscc_stream.learn.dataset import DataSet, Int64Array
from tscc_stream.learn.latent import ricker
from tscc_stream.messages import AnyArray, Float32Array, Float64Array

CLEAR = 10.0
"""Peak after the onset over standard deviation before it, from which a window is clear enough to be shown."""
BEGUN = 4.0
"""Times the standard deviation before the onset at which a signal has begun."""
_SETTLED = 0.8  # share of the time before the onset that counts as noise: the trigger may come late
_ENERGY = (0.05, 0.75)  # shares of the energy after the onset between which its duration is taken
_NEAR = 0.2  # of the time before the onset: so near to it must the signal begin
_BEFORE = 20  # samples before the signal among which nothing may stand out
_LOUD = 1.0 / 3.0  # share of the clear windows, the loudest, among which durations are compared
_NOISE = 0.01  # of synthetic windows, relative to the peak


EVENTS = ("microseismic", "event", "earthquake", "icequake")
"""Names of classes that hold seismic events."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A window [samples] and what it shows; begin: sample at which the signal begins."""

    title: str
    waveform: Float64Array
    begin: int
    synthetic: bool


def events_of(data: DataSet) -> Int64Array:
    """Rows of the windows that are labelled as seismic events; all rows where no label says so."""
    wanted = [number for number, name in enumerate(data.y_names) if name in EVENTS]
    rows = np.flatnonzero(np.isin(data.y, wanted)) if data.y is not None and wanted else np.empty(0, np.int64)
    return rows if rows.size else np.arange(len(data))


def first_motions(x: Float32Array, onset: int, names: AnyArray) -> tuple[Example, Example]:
    """Upward and downward first motion. x [n, samples], onset: sample, names [n].

    The noise is the first 80 % before the onset; the signal begins where it first exceeds BEGUN times the noise's
    standard deviation, its polarity is the sign there. Shown is, for each polarity, the clear window whose first
    half swing stands out most from the 20 samples before it. A Ricker wavelet, and its mirror, stand in where there
    is none.
    """
    best: dict[int, tuple[float, int, int]] = {}
    for row in np.flatnonzero(clarity(x, onset) >= CLEAR):
        begin, strength = _first_swing(x[row].astype(np.float64), onset)
        sign = int(np.sign(x[row, begin]))
        if begin > 0 and strength > best.get(sign, (0.0, 0, 0))[0]:
            best[sign] = (strength, int(row), begin)
    up, down = (
        Example(f"first motion {word}, {names[best[sign][1]]}", x[best[sign][1]].astype(float), best[sign][2], False)
        if sign in best
        else _made(f"first motion {word}", x.shape[1], onset, sign, (0.05,))
        for word, sign in (("up", 1), ("down", -1))
    )
    return up, down


def near_and_far(x: Float32Array, onset: int, names: AnyArray) -> tuple[Example, Example]:
    """A local and a distant event, told by duration: the time in which the energy grows from 5 to 75 % of its end.

    The energy is counted from the onset, less that of the noise. Among the loudest third of the clear windows whose
    signal begins at the onset, the shortest is called local, the longest distant: phases part on a long way. Without
    coordinates this is a guess, and its title says so. Two and four Ricker wavelets stand in where fewer than two
    windows are clear.
    """
    clear = clarity(x, onset)
    rows = np.array([row for row in np.flatnonzero(clear >= CLEAR) if _begins_at(x[row].astype(np.float64), onset)])
    if len(rows) < 2:
        near = _made("local event", x.shape[1], onset, 1, (0.1, 0.1))
        return near, _made("distant event", x.shape[1], onset, 1, (0.05, 0.05, 0.03, 0.03))
    loud = rows[np.argsort(-clear[rows])][: max(2, round(_LOUD * len(rows)))]
    durations = [_duration(x[row].astype(np.float64), onset) for row in loud]
    near_row, far_row = int(loud[int(np.argmin(durations))]), int(loud[int(np.argmax(durations))])
    return (
        Example(f"short, as if local: {names[near_row]}", x[near_row].astype(float), onset, False),
        Example(f"long, as if distant: {names[far_row]}", x[far_row].astype(float), onset, False),
    )


def clarity(x: Float32Array, onset: int) -> Float64Array:
    """[n]: peak after the onset over the standard deviation before it."""
    noise = x[:, : max(2, round(_SETTLED * onset))].astype(np.float64)
    peak = np.abs(x[:, onset:].astype(np.float64) - noise.mean(axis=1, keepdims=True)).max(axis=1)
    found: Float64Array = peak / np.maximum(noise.std(axis=1), 1e-12)
    return found


def _first_swing(waveform: Float64Array, onset: int) -> tuple[int, float]:
    """Where the signal begins (0: nowhere near the onset), and how far its first half swing stands out."""
    quiet = max(2, round(_SETTLED * onset))
    level = max(float(waveform[:quiet].std()), 1e-12)
    loud = np.flatnonzero(np.abs(waveform[quiet : 2 * onset]) > BEGUN * level)
    if not loud.size:
        return 0, 0.0
    begin = quiet + int(loud[0])
    crossings = np.flatnonzero(np.sign(waveform[begin:]) != np.sign(waveform[begin]))
    end = begin + (int(crossings[0]) if crossings.size else 1)
    before = float(np.abs(waveform[max(0, begin - _BEFORE) : begin]).max())
    return begin, float(np.abs(waveform[begin:end]).max()) / max(before, level)


def _begins_at(waveform: Float64Array, onset: int) -> bool:
    begin, _ = _first_swing(waveform, onset)
    return begin > 0 and abs(begin - onset) <= _NEAR * onset


def _duration(waveform: Float64Array, onset: int) -> int:
    begin = max(0, onset - round(_NEAR * onset))
    energy = np.cumsum(waveform[begin:] ** 2 - waveform[: round(_SETTLED * onset)].var())
    low, high = (int(np.argmax(energy >= share * energy[-1])) for share in _ENERGY)
    return high - low


def _made(what: str, samples: int, onset: int, sign: int, peaks: tuple[float, ...]) -> Example:
    """Ricker wavelets one after another, each of its frequency in cycles a sample, in weak noise of a fixed seed."""
    waveform = _NOISE * np.random.default_rng(0).standard_normal(samples)
    apart = (samples - onset) // (len(peaks) + 1)
    for number, peak in enumerate(peaks):
        waveform += sign * ricker(samples, onset + number * apart, peak) / (1 + number)
    return Example(f"{what}: synthetic Ricker", waveform, onset, True)
