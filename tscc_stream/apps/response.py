"""Counts to metres per second, by the site's StationXML (https://www.fdsn.org/xml/station, version 1.2).

A peak amplitude within a band is divided by the channel's overall sensitivity at the band's geometric mean: counts per
m/s there. Responses in acceleration or displacement are converted at that same frequency (factor 2 pi f, or its
inverse). So it is right for what swings near that frequency, and an estimate for the rest of the band.

    responses = Responses(Path("site.xml"))
    responses.metres_per_second("XX.A..HHZ", 1200.0, at_ns, (10.0, 20.0))   # None: stays in counts, `refused` says why
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

NOT_THERE = "the StationXML has no response for it at that time"
_PER_VELOCITY = {"M": -1, "M/S": 0, "M/S**2": 1}
"""Power of 2 pi f by which counts per that unit become counts per m/s."""


class ResponseError(ValueError):
    """A StationXML file, or a channel's response in it, that cannot be used, and why."""


class Responses:
    """Several channels and epochs out of one file. refused: channel -> why its amplitudes stay in counts."""

    def __init__(self, path: Path) -> None:
        """Raises ResponseError where the file cannot be read."""
        self._path = path
        self._inventory = _inventory(path)
        self._epochs = _epochs(self._inventory)
        self._known: dict[tuple[int, float], float | ResponseError] = {}
        self.refused: dict[str, str] = {}

    def metres_per_second(self, channel: str, counts: float, at_ns: int, band_hz: tuple[float, float]) -> float | None:
        """A peak amplitude as ground velocity; None where the channel has no usable response then. Never raises.

        channel: NET.STA.LOC.CHA; at_ns: which epoch holds; band_hz: in which the amplitude was taken.
        """
        try:
            return counts / self.sensitivity(channel, at_ns, math.sqrt(band_hz[0] * band_hz[1]))
        except ResponseError as error:
            self.refused.setdefault(channel, str(error))
            return None

    def sensitivity(self, channel: str, at_ns: int, frequency_hz: float) -> float:
        """Counts per m/s at a frequency. Raises ResponseError."""
        for number, (start_ns, end_ns, response) in enumerate(self._epochs.get(channel, ())):
            if start_ns <= at_ns < end_ns:
                return self._at(channel, number, response, frequency_hz)
        raise ResponseError(f"channel {channel}: {NOT_THERE}")

    def _at(self, channel: str, number: int, response: Any, frequency_hz: float) -> float:  # noqa: ANN401 of obspy
        key = (id(response), frequency_hz)
        if key not in self._known:
            try:
                self._known[key] = _counts_per_velocity(response, frequency_hz)
            except ResponseError as error:
                self._known[key] = ResponseError(f"{self._path}: channel {channel}, epoch {number + 1}: {error}")
        found = self._known[key]
        if isinstance(found, ResponseError):
            raise found
        return found


def _inventory(path: Path) -> Any:  # noqa: ANN401 obspy has no types
    import obspy  # noqa: PLC0415 takes a second

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return obspy.read_inventory(str(path), format="STATIONXML")
    except OSError as error:
        raise ResponseError(f"StationXML {path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # its reader may raise anything at all on a foreign file
        first = (str(error).splitlines() or [""])[0]
        raise ResponseError(f"StationXML {path}: not a readable StationXML file: {first:.200}") from error


def _epochs(inventory: Any) -> dict[str, list[tuple[int, int, Any]]]:  # noqa: ANN401 obspy has no types
    """Channel -> (start ns, end ns, response) of each epoch that has a response."""
    found: dict[str, list[tuple[int, int, Any]]] = {}
    for network in inventory:
        for station in network:
            for channel in station:
                name = f"{network.code}.{station.code}.{channel.location_code}.{channel.code}"
                start, end = channel.start_date, channel.end_date
                span = (-(2**63) if start is None else int(start.ns), 2**63 if end is None else int(end.ns))
                if channel.response is not None:
                    found.setdefault(name, []).append((*span, channel.response))
    return found


def _counts_per_velocity(response: Any, frequency_hz: float) -> float:  # noqa: ANN401 obspy has no types
    unit = _unit(response)
    gain = _gain(response, frequency_hz) * (2 * math.pi * frequency_hz) ** _PER_VELOCITY[unit]
    if not 0.0 < gain < math.inf:
        raise ResponseError(f"sensitivity {gain:g} at {frequency_hz:g} Hz; expected a number above 0")
    return gain


def _unit(response: Any) -> str:  # noqa: ANN401 obspy has no types
    """The unit of ground motion that the response takes. Raises ResponseError for another one."""
    stages = response.response_stages
    stated = stages[0].input_units if stages else getattr(response.instrument_sensitivity, "input_units", None)
    unit = str(stated or "").upper().replace("M/S/S", "M/S**2").replace("M/S^2", "M/S**2").replace("M/(S**2)", "M/S**2")
    if unit not in _PER_VELOCITY:
        raise ResponseError(f"its response is in {stated or 'no stated unit'}; expected m, m/s or m/s**2")
    return unit


def _gain(response: Any, frequency_hz: float) -> float:  # noqa: ANN401 obspy has no types
    """Counts per unit of the response at a frequency; the stated overall sensitivity where no stages are given."""
    if not response.response_stages:
        return abs(float(response.instrument_sensitivity.value))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = response.get_evalresp_response_for_frequencies([frequency_hz], output="DEF")
    except Exception as error:  # evalresp raises whatever it likes
        first = (str(error).splitlines() or [""])[0]
        raise ResponseError(f"its response cannot be evaluated: {first:.200}") from error
    return abs(complex(values[0]))
