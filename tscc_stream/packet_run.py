"""Ordinary data packets that lie one after the other in a buffer, found by compiled code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from tscc_stream.kernels import frames as kernel
from tscc_stream.messages import read_only
from tscc_stream.seedlink.frames import PAYLOAD_LIMIT, station_name

MOST_PACKETS: Final = 1000
"""In one run, which has at most PAYLOAD_LIMIT bytes of payload."""
_FEWEST_BYTES: Final = 64
_station_name = lru_cache(16_384)(station_name)


@dataclass(frozen=True, slots=True)
class Run:
    """n packets. at, lengths: of their payloads [n]; sequences [n]; stations: NET_STA [n], empty in version 3.

    end: offset after them.
    """

    at: list[int]
    lengths: list[int]
    sequences: list[int]
    stations: list[str]
    end: int


def take_run(buffer: bytearray, start: int, protocol: int) -> Run:
    """Those that begin at `start` and are whole; none where the first packet is not an ordinary one."""
    if len(buffer) - start < _FEWEST_BYTES:
        return Run([], [], [], [], start)
    room = min(MOST_PACKETS, (len(buffer) - start) // _FEWEST_BYTES + 1)
    at, length, id_at = np.empty((3, room), np.int64)
    sequence = np.empty(room, np.uint64)
    data = read_only(np.frombuffer(buffer, np.uint8))
    if protocol == 4:
        count, end = kernel.run_v4(data, start, PAYLOAD_LIMIT, at, length, sequence, id_at)
        begins, stops = id_at[:count].tolist(), at[:count].tolist()
        stations = [_station_name(bytes(buffer[a:b])) for a, b in zip(begins, stops, strict=True)]
    else:
        count, end = kernel.run_v3(data, start, PAYLOAD_LIMIT, at, length, sequence)
        stations = [""] * count
    return Run(at[:count].tolist(), length[:count].tolist(), sequence[:count].tolist(), stations, end)
