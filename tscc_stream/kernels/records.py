"""Many miniSEED 2 records of a buffer at once: start times and samples.

Sources: SEED manual 2.4, chapter 8 (fixed header, blockettes 1000 and 1001) and appendix B (Steim-1 and Steim-2).
Covered are big-endian records with blockette 1000 first and 1001 or nothing after it; what is not covered, or does not
add up, is said to be so, and libmseed's to judge.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tscc_stream.kernels.compiled import compiled, inlined
from tscc_stream.messages import AnyArray, Float64Array, Int64Array

INT32, STEIM1, STEIM2 = 3, 10, 11
HEADER_BYTES = 64
"""With blockettes 1000 and 1001."""
FRAME_BYTES = 64
SPARE = 16
"""Places that are overwritten behind the samples."""
_US_AT = 61
_FIRST_YEAR, _LAST_YEAR = 1971, 2100
_DAY_NS = 86_400_000_000_000


@inlined
def _u16(data: AnyArray, at: Any) -> Any:
    return (np.int64(data[at]) << 8) | np.int64(data[at + 1])


@inlined
def _word(data: AnyArray, at: Any) -> Any:
    o = np.uint64(at)  # else each index is looked at whether it counts from the end
    return (
        (np.uint32(data[o]) << np.uint32(24))
        | (np.uint32(data[o + np.uint64(1)]) << np.uint32(16))
        | (np.uint32(data[o + np.uint64(2)]) << np.uint32(8))
        | np.uint32(data[o + np.uint64(3)])
    )


@inlined
def _has_number(data: AnyArray, at: Any) -> bool:
    """Whether the record begins with a number as SEED has it, or with blanks or nothing in its place."""
    for i in range(6):
        byte = data[at + i]
        if not (48 <= byte <= 57 or byte == 32 or byte == 0):
            return False
    return True


@compiled
def read_starts(data: AnyArray, at: Int64Array, has_us: AnyArray, start_ns: Int64Array, samples: Int64Array) -> None:
    """Start (ns since 1970) and number of samples of the records that begin at `at` [n] in `data` (bytes).

    has_us [n] bool: blockette 1001 follows blockette 1000. samples is -1 where the header begins otherwise or states no
    time that can be.
    """
    for i in range(at.size):
        o = at[i]
        year, day = _u16(data, o + 20), _u16(data, o + 22)
        hour, minute, second = np.int64(data[o + 24]), np.int64(data[o + 25]), np.int64(data[o + 26])
        tenths_ms = _u16(data, o + 28)
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        if not (_FIRST_YEAR <= year <= _LAST_YEAR and 1 <= day <= 365 + leap):
            samples[i] = -1
            continue
        if hour > 23 or minute > 59 or second > 59 or tenths_ms > 9999 or not _has_number(data, o):
            samples[i] = -1
            continue
        before = year - 1
        days = (year - 1970) * 365 + before // 4 - 492 - (before // 100 - 19) + (before // 400 - 4) + day - 1
        us = np.int64(np.int8(data[o + _US_AT])) if has_us[i] else np.int64(0)
        seconds = (hour * 60 + minute) * 60 + second
        start_ns[i] = days * _DAY_NS + seconds * 1_000_000_000 + tenths_ms * 100_000 + us * 1_000
        samples[i] = _u16(data, o + 30)


@compiled
def walk(data: AnyArray, first: int, at: Int64Array, length: Int64Array, fresh: AnyArray) -> int:
    """Places and stated lengths of the records that lie side by side in `data` (bytes) from `first` on; how many.

    As many as `at` has room for, up to the first that is cut short, or has no blockette 1000 right after the fixed
    header. fresh [n] bool: what a header states beside number and time differs from the one before.
    """
    o = np.int64(first)
    for i in range(at.size):
        if o + HEADER_BYTES > data.size or _u16(data, o + 46) != 48 or _u16(data, o + 48) != 1000:
            return i
        power = data[o + 54]
        if power < 7 or power > 16 or o + (np.int64(1) << power) > data.size:
            return i
        at[i] = o
        length[i] = np.int64(1) << power
        fresh[i] = i == 0
        if i > 0:
            before = at[i - 1]
            for k in range(6, 61):
                if (k < 20 or k >= 32) and data[o + k] != data[before + k]:
                    fresh[i] = True
        o += length[i]
    return at.size


def _layouts(words: list[tuple[int, int, int]]) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:
    """Of words [16] by nibble * 4 + the highest two bits: how many differences, -1 where that means nothing; shifts up
    [16, 7], then down [16], that leave one of them; and a mask [16, 7] of those that there are.

    words: nibble * 4 + bits, number of differences, width of each; the first has the highest place of those used.
    """
    counts, down = np.zeros(16, np.int64), np.zeros(16, np.int64)
    up, mask = np.zeros((16, _MOST), np.int64), np.zeros((16, _MOST), np.int32)
    for word, n, width in words:
        counts[word], down[word] = n, 32 - width
        up[word, : max(0, n)] = 32 - width * np.arange(n, 0, -1)
        mask[word, : max(0, n)] = -1
    return counts, up, down, mask


_MOST = 7
"""Differences in a word."""
_IN_BYTES = [(4, 4, 8), (5, 4, 8), (6, 4, 8), (7, 4, 8)]
_COUNTS_1, _UP_1, _DOWN_1, _MASK_1 = _layouts(
    [*_IN_BYTES, *((8 + bits, 2, 16) for bits in range(4)), *((12 + bits, 1, 32) for bits in range(4))]
)
_COUNTS_2, _UP_2, _DOWN_2, _MASK_2 = _layouts(
    [*_IN_BYTES, (8, -1, 32), (9, 1, 30), (10, 2, 15), (11, 3, 10), (12, 5, 6), (13, 6, 5), (14, 7, 4), (15, -1, 32)]
)


@inlined
def _steim(
    data: AnyArray,
    at: Any,
    end: Any,
    samples: Any,
    counts: AnyArray,
    up: AnyArray,
    down: AnyArray,
    mask: AnyArray,
    out: Float64Array,
    begin: Any,
) -> bool:
    """Samples of one record into out[begin:]; SPARE more places are overwritten. Whether all add up.

    No word takes a branch of its own: which it would be, nothing foretells, and a wrong guess costs more than a word.
    """
    x, last = np.int32(_word(data, at + 4)), np.int32(_word(data, at + 8))
    k, stop = begin, begin + samples
    begins = 3  # behind the first and the last sample
    first = True
    while at + FRAME_BYTES <= end and k < stop:
        codes = _word(data, at)
        nothing = False
        for w in range(begins, 16):
            word = _word(data, at + 4 * w)
            code = ((codes >> np.uint32(30 - 2 * w)) & np.uint32(3)) << np.uint32(2) | word >> np.uint32(30)
            code = np.uint64(code)
            n = counts[code]
            nothing |= n < 0
            if k >= stop:
                continue
            if first and n > 0:  # the first difference leads to the first sample, which is stated
                x = np.int32(x - (np.int32(word << up[code, 0]) >> down[code]))
                first = False
            for j in range(_MOST):
                x = np.int32(x + ((np.int32(word << up[code, j]) >> down[code]) & mask[code, j]))
                out[np.uint64(k + j)] = x
            k += n
        if nothing:
            return False
        at += FRAME_BYTES
        begins = 1
    return bool(k >= stop and out[stop - 1] == last)


@compiled
def unpack(
    data: AnyArray,
    at: Int64Array,
    end: Int64Array,
    encoding: Int64Array,
    begin: Int64Array,
    out: Float64Array,
    whole: AnyArray,
) -> None:
    """Samples of records, packed in `data` (bytes) from `at` to `end` [n], to out[begin[i]:begin[i + 1]].

    `out` has SPARE places more. whole [n] bool: left False where the samples cannot be had so, or where the last one is
    not the one stated; what stands in `out` is then undefined.
    """
    for i in range(at.size):
        samples = begin[i + 1] - begin[i]
        if samples <= 0:
            continue
        if encoding[i] == INT32:
            if at[i] + 4 * samples <= end[i]:
                for k in range(samples):
                    out[begin[i] + k] = np.int32(_word(data, at[i] + 4 * k))
                whole[i] = True
        elif encoding[i] == STEIM2 and at[i] + FRAME_BYTES <= end[i]:
            whole[i] = _steim(data, at[i], end[i], samples, _COUNTS_2, _UP_2, _DOWN_2, _MASK_2, out, begin[i])
        elif encoding[i] == STEIM1 and at[i] + FRAME_BYTES <= end[i]:
            whole[i] = _steim(data, at[i], end[i], samples, _COUNTS_1, _UP_1, _DOWN_1, _MASK_1, out, begin[i])
