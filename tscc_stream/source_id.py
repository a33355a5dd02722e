"""FDSN source identifiers: `FDSN:NET_STA_LOC_B_S_SS` in messages, `NET.STA.LOC.CHA` in topics and file names.

Source: FDSN Source Identifiers, https://docs.fdsn.org/projects/source-identifiers, version 1.0.
"""

from __future__ import annotations

import re
from functools import lru_cache

_PREFIX = "FDSN:"
_NSLC_PART = re.compile(r"[A-Za-z0-9-]*")


@lru_cache(maxsize=65536)
def to_nslc(sid: str) -> str:
    """`FDSN:BW_UH1__S_H_Z` -> `BW.UH1..SHZ`.

    Raises ValueError when `sid` is not an FDSN source identifier with six parts.
    """
    parts = sid.removeprefix(_PREFIX).split("_")
    if not sid.startswith(_PREFIX) or len(parts) != 6:
        raise ValueError(f"source id {sid!r}: expected FDSN:NET_STA_LOC_BAND_SOURCE_SUBSOURCE")
    network, station, location, *channel = parts
    joined = "".join(channel) if all(len(code) == 1 for code in channel) else "_".join(channel)
    return f"{network}.{station}.{location}.{joined}"


def name_of(sid: str) -> str:
    """For people: NET.STA.LOC.CHA; what is no such source identifier as it is, such as one of another scheme."""
    try:
        return to_nslc(sid)
    except ValueError:
        return sid


@lru_cache(maxsize=65536)
def from_nslc(nslc: str) -> str:
    """`BW.UH1..SHZ` -> `FDSN:BW_UH1__S_H_Z`.

    Raises ValueError when `nslc` is not four dotted codes with a channel of three letters (or `B_S_SS`).
    """
    parts = nslc.split(".")
    if len(parts) != 4 or not all(_NSLC_PART.fullmatch(part) for part in parts[:3]):
        raise ValueError(f"channel {nslc!r}: expected NET.STA.LOC.CHA")
    network, station, location, channel = parts
    codes = channel.split("_") if "_" in channel else list(channel)
    if len(codes) != 3:
        raise ValueError(f"channel {nslc!r}: expected a channel code of three letters, got {channel!r}")
    return f"{_PREFIX}{network}_{station}_{location}_{'_'.join(codes)}"


@lru_cache(maxsize=65536)
def split_component(sid: str) -> tuple[str, str]:
    """`FDSN:BW_UH1__S_H_Z` -> (`FDSN:BW_UH1__S_H`, `Z`): the sensor, and which of its components.

    Raises ValueError as `to_nslc` does.
    """
    to_nslc(sid)
    sensor, _, component = sid.rpartition("_")
    return sensor, component


def with_component(sensor: str, component: str) -> str:
    """The source id of one of a sensor's components."""
    return f"{sensor}_{component}"


def sensor_of(nslc: str) -> str:
    """`BW.UH1..SHZ` -> `BW.UH1..SH`, `BW.UH1..S_H_Z` -> `BW.UH1..S_H`: without the component."""
    rest, _, component = nslc.rpartition("_")
    return nslc[:-1] if "." in component else rest
