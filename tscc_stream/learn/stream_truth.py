"""What is known of a continuous stream: which source's signal each detection belongs to.

Two kinds of table: the simulated mine's truth.csv (one row for each source and channel: event_id, kind, channel,
onset_ns, end_ns, snr), and a catalogue with one row an event and columns p_utc_STA and, where known, snr_STA.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isnan
from pathlib import Path

from tscc_stream.sampling import seconds_to_ns

EARLY_NS = 50_000_000
"""A trigger may open as early before a simulated arrival: half a sample of a slow channel, the filter's first swing."""
BEFORE_P_NS, AFTER_P_NS = 250_000_000, 1_600_000_000
"""Around a catalogue's P time, whose model is rough; after it until S has passed."""
EVENT = "event"
NOISE = "noise"

_P, _SNR = "p_utc_", "snr_"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StreamTruthError(ValueError):
    """A table of truth, or detections, that cannot be used, and why, in one sentence."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """The signal of one source at one channel: detections with onset from first_ns to last_ns belong to it.

    place: NET.STA.LOC.CHA, or a station's code alone, which holds for all its channels. snr: nan where not known.
    """

    first_ns: int
    last_ns: int
    place: str
    kind: str
    event: str
    snr: float


def read(path: Path) -> list[Arrival]:
    """All arrivals of a table. Raises StreamTruthError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            return list(_arrivals(reader, reader.fieldnames or (), path))
    except FileNotFoundError as error:
        raise StreamTruthError(f"{path}: no such file") from error
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        if isinstance(error, StreamTruthError):
            raise
        raise StreamTruthError(f"{path}: not a table of truth: {error}") from error


def _arrivals(rows: Iterable[dict[str, str]], columns: Iterable[str], path: Path) -> Iterator[Arrival]:
    names = set(columns)
    stations = sorted(name.removeprefix(_P) for name in names if name.startswith(_P))
    if {"kind", "channel", "onset_ns", "end_ns", "snr"} <= names:
        return (_of_mine(row, number) for number, row in enumerate(rows))
    if stations:
        return (_of_catalogue(row, str(number), station) for number, row in enumerate(rows) for station in stations)
    raise StreamTruthError(f"{path}: expected columns kind, channel, onset_ns, end_ns and snr, or p_utc_STATION")


def _of_mine(row: dict[str, str], number: int) -> Arrival:
    first, last = int(row["onset_ns"]) - EARLY_NS, int(row["end_ns"])
    return Arrival(first, last, row["channel"], row["kind"], row.get("event_id", str(number)), float(row["snr"]))


def _of_catalogue(row: dict[str, str], event: str, station: str) -> Arrival:
    at = datetime.fromisoformat(row[_P + station])
    p_ns = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1) * 1000
    return Arrival(
        p_ns - BEFORE_P_NS, p_ns + AFTER_P_NS, station, EVENT, event, float(row.get(_SNR + station) or "nan")
    )


def within(arrivals: Iterable[Arrival], places: Iterable[str], span_ns: tuple[int, int]) -> list[Arrival]:
    """Those at the channels (NET.STA.LOC.CHA) and in the time of a stream."""
    known = {name for place in places for name in (place, place.split(".")[1])}
    return [a for a in arrivals if a.place in known and span_ns[0] <= a.first_ns and a.last_ns < span_ns[1]]


class Lookup:
    """Arrivals by channel and time."""

    def __init__(self, arrivals: list[Arrival]) -> None:
        self._bins: dict[tuple[str, int], list[Arrival]] = {}
        for arrival in arrivals:
            for number in range(arrival.first_ns // _BIN_NS, arrival.last_ns // _BIN_NS + 1):
                self._bins.setdefault((arrival.place, number), []).append(arrival)

    def at(self, nslc: str, onset_ns: int) -> list[Arrival]:
        """Arrivals to which a detection may belong, the strongest first."""
        places = (nslc, nslc.split(".")[1])
        some = [a for place in places for a in self._bins.get((place, onset_ns // _BIN_NS), [])]
        alive = [a for a in some if a.first_ns <= onset_ns <= a.last_ns]
        return sorted(alive, key=lambda a: 0.0 if isnan(a.snr) else -a.snr)


_BIN_NS = seconds_to_ns(10.0)
