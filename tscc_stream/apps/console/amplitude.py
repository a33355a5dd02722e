"""Counts to metres per second where the site has a StationXML, as far as apps/response.py is there to read it.

The page takes any converter; without one it shows counts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from tscc_stream.apps.console.site import Site

_log = logging.getLogger(__name__)
_RESPONSE = "tscc_stream.apps.response"

Converter = Callable[[str, int, tuple[float, float]], float | None]
"""(NET.STA.LOC.CHA, time ns, band Hz) -> counts per m/s in that band; None: it stays in counts."""


def in_counts(_channel: str, _at_ns: int, _band_hz: tuple[float, float]) -> float | None:
    """Where the site has no StationXML."""
    return None


def converter_of(site: Site) -> Converter:
    """Read once; a file that cannot be used is said in the log, and amplitudes stay in counts."""
    if site.config.stationxml is None or find_spec(_RESPONSE) is None:
        return in_counts
    response = import_module(_RESPONSE)
    beside = site.folder / site.config.stationxml
    try:
        responses = response.Responses(beside if beside.is_file() else Path(site.config.stationxml))
    except response.ResponseError as error:
        _log.error("%s; amplitudes stay in counts", error)
        return in_counts

    def convert(channel: str, at_ns: int, band_hz: tuple[float, float]) -> float | None:
        try:
            return float(responses.sensitivity(channel, at_ns, math.sqrt(band_hz[0] * band_hz[1])))
        except response.ResponseError:
            return None

    return convert
