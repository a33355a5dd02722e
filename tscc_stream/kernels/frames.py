"""Ordinary data packets at the head of a buffer, many at once; versions 4 and 3 of SeedLink.

Ordinary is what compiled code can tell apart by a packet's own few bytes: version 4's `SE`, format 2 or 3, subformat D;
version 3's `SL` and six hexadecimal digits before a big-endian miniSEED 2 record with blockette 1000 first. Whatever is
not, or not whole yet, ends the run and is seedlink.frames' to judge.

Sources: FDSN SeedLink Protocol 4.0, section "Data Transfer"; SEED manual 2.4, chapter 8.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tscc_stream.kernels.compiled import compiled, inlined
from tscc_stream.messages import AnyArray, Int64Array

_V4_HEADER = 17
_V3_HEADER = 8
_TO_BLOCKETTE_1000 = 56
"""Bytes of a record up to the end of a blockette 1000 that comes first."""


@inlined
def _little(data: AnyArray, at: Any, count: int) -> Any:
    value = np.uint64(0)
    for k in range(count):
        value |= np.uint64(data[at + k]) << np.uint64(8 * k)
    return value


@inlined
def _big16(data: AnyArray, at: Any) -> Any:
    return (np.int64(data[at]) << 8) | np.int64(data[at + 1])


@compiled
def run_v4(
    data: AnyArray,
    start: int,
    most_bytes: int,
    at: Int64Array,
    length: Int64Array,
    sequence: AnyArray,
    id_at: Int64Array,
) -> tuple[int, int]:
    """How many ordinary packets follow one another from `start` in `data` (bytes), and the offset after them.

    at, length, sequence (unsigned), id_at: [n] to be filled, n packets at most; id_at: where the station id begins,
    which ends at `at`. most_bytes: of payload in all, and of one packet.
    """
    count: Any = 0
    total: Any = 0
    o: Any = start
    while count < at.size and o + _V4_HEADER <= data.size:
        if data[o] != 0x53 or data[o + 1] != 0x45:
            break
        if (data[o + 2] != 0x32 and data[o + 2] != 0x33) or data[o + 3] != 0x44:
            break
        size = np.int64(_little(data, o + 4, 4))
        begin = o + _V4_HEADER + np.int64(data[o + 16])
        if total + size > most_bytes or begin + size > data.size:
            break
        at[count], length[count], id_at[count] = begin, size, o + _V4_HEADER
        sequence[count] = _little(data, o + 8, 8)
        total += size
        count += 1
        o = begin + size
    return count, o


@compiled
def run_v3(
    data: AnyArray,
    start: int,
    most_bytes: int,
    at: Int64Array,
    length: Int64Array,
    sequence: AnyArray,
) -> tuple[int, int]:
    """The same of version 3, where packets name no station and records state their own length."""
    count: Any = 0
    total: Any = 0
    o: Any = start
    while count < at.size and o + _V3_HEADER + _TO_BLOCKETTE_1000 <= data.size:
        if data[o] != 0x53 or data[o + 1] != 0x4C:
            break
        number, digits = np.uint64(0), 0
        for k in range(2, 8):
            byte = np.int64(data[o + k])
            if 48 <= byte <= 57:
                digit = byte - 48
            elif 65 <= byte <= 70 or 97 <= byte <= 102:
                digit = (byte & 0x5F) - 55
            else:
                break
            number = (number << np.uint64(4)) | np.uint64(digit)
            digits += 1
        begin = o + _V3_HEADER
        exponent = np.int64(data[begin + 54])
        if digits < 6 or not 1900 <= _big16(data, begin + 20) <= 2100 or not 7 <= exponent <= 20:
            break
        if _big16(data, begin + 46) != 48 or _big16(data, begin + 48) != 1000:
            break
        if data[begin] == 0x4D and data[begin + 1] == 0x53 and data[begin + 2] == 3:
            break
        size = np.int64(1) << exponent
        if total + size > most_bytes or begin + size > data.size:
            break
        at[count], length[count], sequence[count] = begin, size, number
        total += size
        count += 1
        o = begin + size
    return count, o
