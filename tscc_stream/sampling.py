"""Integer time on a sampling grid: the only place where sample counts and nanoseconds meet.

Times are integer nanoseconds since 1970-01-01T00:00:00 UTC. Rates are Hz. Products are taken in exact rational
arithmetic, so that a sample's time does not depend on how far from the origin it is counted.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

NS_PER_SECOND = 1_000_000_000
FARTHEST_NS = 1 << 60
"""36 years, which no record lasts; a time in this century and that is still a 64-bit number."""


class RateError(ValueError):
    """A sampling rate that the settings or the model cannot serve, and why."""


@lru_cache(maxsize=1024)
def exact_rate(sample_rate_hz: float) -> Fraction:
    """The positive rate as a fraction of small terms (0.1 Hz is 1/10, not its binary neighbour)."""
    if sample_rate_hz < 1.0:
        return 1 / Fraction(1.0 / sample_rate_hz).limit_denominator(1_000_000)
    return Fraction(sample_rate_hz).limit_denominator(1_000_000)


def offset_ns(samples: int, sample_rate_hz: float) -> int:
    """Time in ns that `samples` sample intervals last, rounded to the nearest ns (halves upward)."""
    rate = exact_rate(sample_rate_hz)
    numerator = 2 * samples * NS_PER_SECOND * rate.denominator + rate.numerator
    return numerator // (2 * rate.numerator)


def offsets_ns(samples: npt.NDArray[np.int64], sample_rate_hz: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """`offset_ns` of each [n], or FARTHEST_NS where it lies beyond: a rate may be one sample a day."""
    out = np.empty(len(samples), np.int64)
    for rate_hz in np.unique(sample_rate_hz):
        at = np.flatnonzero(sample_rate_hz == rate_hz)
        rate, count = exact_rate(float(rate_hz)), samples[at]
        step = 2 * NS_PER_SECOND * rate.denominator
        if step * int(np.abs(count).max()) + rate.numerator < 1 << 63:
            out[at] = (step * count + rate.numerator) // (2 * rate.numerator)
        else:
            out[at] = [min(offset_ns(int(n), float(rate_hz)), FARTHEST_NS) for n in count]
    return out


def samples_in(duration_ns: int, sample_rate_hz: float) -> int:
    """Number of sample intervals nearest to `duration_ns` (halves upward); negative for a negative duration."""
    rate = exact_rate(sample_rate_hz)
    denominator = NS_PER_SECOND * rate.denominator
    return (2 * duration_ns * rate.numerator + denominator) // (2 * denominator)


def seconds_to_samples(seconds: float, sample_rate_hz: float) -> int:
    """Window length in samples as obspy takes it: truncation of seconds x rate (`int(sta * sampling_rate)`)."""
    return int(seconds * sample_rate_hz)


def seconds_to_ns(seconds: float) -> int:
    """Seconds of a configuration file as integer ns."""
    return round(seconds * NS_PER_SECOND)


def time_ns_of(text: str) -> int:
    """Nanoseconds since 1970 of an ISO 8601 time, to the microsecond; UTC unless it says otherwise.

    Raises ValueError saying what was expected.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text}: expected ISO 8601 such as 2009-01-21T04:20:00") from error
    since = (at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(microseconds=1) * 1000
