"""Many miniSEED 2 records of a buffer at once: start times and samples.

Sources: SEED manual 2.4, chapter 8 (fixed header, blockettes 1000 and 1001) and appendix B (Steim-1 and Steim-2).
Covered are big-endian records with blockette 1000 first and 1001 or nothing after it; what is not covered, or does not
add up, is said to be so, and libmseed's to judge.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from tscc_stream.kernels.compiled import compiled, inlined
from tscc_stream.messages import AnyArray, Float64Array, Int32Array, Int64Array

INT32, STEIM1, STEIM2 = 3, 10, 11
HEADER_BYTES = 64
"""With blockettes 1000 and 1001."""
FRAME_BYTES = 64
SPARE = 8
"""Places that are overwritten behind the samples."""
_MOST_IN_WORD = 7
_COUNT = np.array([[0] * 4 + [4] * 4 + [2] * 4 + [1] * 4, [0] * 4 + [4] * 4 + [-1, 1, 2, 3] + [5, 6, 7, -1]], np.int64)
_BITS = np.array(
    [[0] * 4 + [8] * 4 + [16] * 4 + [32] * 4, [0] * 4 + [8] * 4 + [0, 30, 15, 10] + [6, 5, 4, 0]], np.uint64
)
"""Of Steim-1 and Steim-2, by a word's packing (see _packing): how many differences it holds (-1: such a code means
nothing) and how long each is."""
_US_AT = 61
_FIRST_YEAR, _LAST_YEAR = 1971, 2100
_DAY_NS = 86_400_000_000_000


@inlined
def _u16(data: AnyArray, at: Any) -> Any:
    return (np.int64(data[at]) << 8) | np.int64(data[at + 1])


@inlined
def _word(data: AnyArray, at: Any) -> Any:
    return (
        (np.uint32(data[at]) << np.uint32(24))
        | (np.uint32(data[at + 1]) << np.uint32(16))
        | (np.uint32(data[at + 2]) << np.uint32(8))
        | np.uint32(data[at + 3])
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
            here, before = np.uint64(o), np.uint64(at[i - 1])  # unsigned and without a branch: many bytes at a time
            differing = np.uint8(0)
            for k in range(6, 20):
                differing |= data[here + np.uint64(k)] ^ data[before + np.uint64(k)]
            for k in range(32, 61):
                differing |= data[here + np.uint64(k)] ^ data[before + np.uint64(k)]
            fresh[i] = differing != 0
        o += length[i]
    return at.size


@inlined
def _word_at(data: AnyArray, at: Any) -> Any:
    """The same as `_word` for an unsigned place, which costs no look at its sign."""
    return (
        (np.uint32(data[at]) << np.uint32(24))
        | (np.uint32(data[at + np.uint64(1)]) << np.uint32(16))
        | (np.uint32(data[at + np.uint64(2)]) << np.uint32(8))
        | np.uint32(data[at + np.uint64(3)])
    )


@inlined
def _packing(codes: Any, w: Any, word: Any) -> Any:
    """A word's place in _COUNT and _BITS: the two bits of it in its frame's first word, then its own first two."""
    nibble = (codes >> np.uint32(30 - 2 * w)) & np.uint32(3)
    return np.uint64((nibble << np.uint32(2)) | (word >> np.uint32(30)))


@inlined
def _spread(word: Any, count: Any, bits: Any, x: Any, out: Float64Array, k: Any) -> Any:
    """Differences of some bits each, the first in the highest place, added up from x into out[k:]; x after the last.

    Without a branch: seven places are written, those behind the last difference with what comes after it, since no
    bits are left of the word then.
    """
    down = np.int64(64) - np.int64(bits)
    left = np.uint64(word) << (np.uint64(64) - np.uint64(count) * bits)
    total = np.int64(x)
    for j in range(_MOST_IN_WORD):
        total += np.int64(left) >> down
        left <<= bits
        out[k + np.uint64(j)] = np.int32(total)
    return np.int32(total)


@inlined
def _steim(data: AnyArray, at: Any, end: Any, samples: Any, version: int, out: Any, begin: Any) -> bool:
    """Samples of one record into out[begin:]; up to six more places are overwritten. Whether all add up.

    libmseed looks at all words of the last frame, too, so a code that means nothing is one behind the samples as well.
    """
    o, stop_at, k = np.uint64(at), np.uint64(end), np.uint64(begin)
    stop = k + np.uint64(samples)
    x, last = np.int32(_word_at(data, o + np.uint64(4))), np.int32(_word_at(data, o + np.uint64(8)))
    first, begins = True, 3  # behind the first and the last sample
    while o + np.uint64(FRAME_BYTES) <= stop_at and k < stop:
        codes = _word_at(data, o)
        for w in range(begins, 16):
            word = _word_at(data, o + np.uint64(4) * np.uint64(w))
            packing = _packing(codes, w, word)
            count, bits = _COUNT[version, packing], _BITS[version, packing]
            if count < 0:
                return False
            if count == 0 or k >= stop:
                continue
            if first:  # the first difference leads to the first sample, which is stated
                x = np.int32(np.int64(x) - (np.int64(np.uint64(word) << (np.uint64(64) - np.uint64(count) * bits))
                                            >> (np.int64(64) - np.int64(bits))))  # fmt: skip
                first = False
            x = _spread(word, count, bits, x, out, k)
            k += np.uint64(count)
        o += np.uint64(FRAME_BYTES)
        begins = 1
    return bool(k >= stop and out[stop - np.uint64(1)] == last)


@inlined
def _unpacked(
    data: AnyArray, at: Any, end: Any, encoding: Any, begin: Any, stop: Any, out: Float64Array | Int32Array
) -> bool:
    """Samples of one record into out[begin:stop]; whether all of them are had."""
    samples, added_up = stop - begin, False
    if samples > 0 and encoding == INT32:
        added_up = at + 4 * samples <= end
        if added_up:
            for k in range(samples):
                out[begin + k] = np.int32(_word(data, at + 4 * k))
    elif samples > 0 and encoding in (STEIM1, STEIM2) and at + FRAME_BYTES <= end:
        added_up = _steim(data, at, end, samples, encoding - STEIM1, out, begin)
    return added_up


@compiled
def unpack(
    data: AnyArray,
    at: Int64Array,
    end: Int64Array,
    encoding: Int64Array,
    begin: Int64Array,
    out: Float64Array | Int32Array,
    whole: AnyArray,
) -> None:
    """Samples of records, packed in `data` (bytes) from `at` to `end` [n], to out[begin[i]:begin[i + 1]].

    `out` (float64 or int32) has SPARE places more. whole [n] bool: False where the samples cannot be had so, or where
    the last one is not the one stated; what stands in `out` is then undefined.
    """
    for i in range(at.size):
        whole[i] = _unpacked(data, at[i], end[i], encoding[i], begin[i], begin[i + 1], out)


@intrinsic
def _bytes_at(_context: Any, address: Any, size: Any) -> Any:
    """The bytes [size] at an address, as an array that owns nothing."""
    kind = types.Array(types.uint8, 1, "C")

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        array = context.make_array(kind)(context, builder)
        data, one = builder.inttoptr(arguments[0], array.data.type), context.get_constant(types.intp, 1)
        populate_array(  # type: ignore[no-untyped-call]  # the library gives it no type
            array, data=data, shape=[arguments[1]], strides=[one], itemsize=one, meminfo=None
        )
        return array._getvalue()

    return kind(types.int64, types.int64), generate


@compiled
def unpack_of_many(
    address: Int64Array,
    at: Int64Array,
    end: Int64Array,
    encoding: Int64Array,
    begin: Int64Array,
    out: Int32Array,
    whole: AnyArray,
) -> None:
    """As `unpack`, of records [n] whose bytes lie in `data` of their own, at these addresses, in one call.

    Threads that call once for each of many files, and so give the interpreter's lock away and take it back as often,
    hold up others that wait for it. Whoever calls keeps the bytes where they are.
    """
    for i in range(at.size):
        data: AnyArray = _bytes_at(address[i], end[i])  # type: ignore[call-arg]  # the compiler's context
        whole[i] = _unpacked(data, at[i], end[i], encoding[i], begin[i], begin[i + 1], out)
