"""Filter and averages of WIDE channels side by side, one number of each in every register, sample by sample.

Written in LLVM's own terms: of a loop over arrays it keeps the memories in the cache instead of in registers, which
takes nearly twice as long. Products and sums are taken one by one, in the order in which stages.condition takes them.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tscc_stream.kernels.compiled import compiled
from tscc_stream.messages import Float64Array

SECTIONS = 4
"""Second-order sections of the filter (b0 b1 b2 a1 a2); b0 of all but the first has to be 1."""
WIDE = 8
"""Columns: as many as there are numbers in the widest registers."""
PER_SECTION = 5
CENTRE, FIRST_SECTION, MEMORIES = 0, 1, 1 + PER_SECTION * SECTIONS
STA, LTA = MEMORIES + 2 * SECTIONS, MEMORIES + 2 * SECTIONS + 1
STA_SHARE, LTA_SHARE, STA_KEPT, LTA_KEPT = LTA + 1, LTA + 2, LTA + 3, LTA + 4
HIGHEST_STA, LOWEST_LTA = LTA_KEPT + 1, LTA_KEPT + 2
ROWS = LOWEST_LTA + 1
"""Of the columns: centre, sections, memories, averages, their shares and what is kept of them, and of the call the
highest STA and the lowest LTA."""

_ROW = ir.VectorType(ir.DoubleType(), WIDE)
_INDEX = ir.IntType(64)
_NUMBER_BYTES = 8


def _step(b: ir.IRBuilder, rows: list[Any], memories: list[Any], x: Any) -> tuple[list[Any], Any, Any]:
    """One sample [WIDE]: memories and averages after it, STA and LTA."""
    after: list[Any] = []
    v = b.fsub(x, rows[CENTRE])
    for section in range(SECTIONS):
        first = FIRST_SECTION + PER_SECTION * section
        b0, b1, b2, a1, a2 = rows[first : first + PER_SECTION]
        near, far = memories[2 * section : 2 * section + 2]
        w = b.fadd(v if section else b.fmul(b0, v), near)
        after.append(b.fadd(b.fsub(b.fmul(b1, v), b.fmul(a1, w)), far))
        after.append(b.fsub(b.fmul(b2, v), b.fmul(a2, w)))
        v = w
    square = b.fmul(v, v)
    sta = b.fadd(b.fmul(rows[STA_SHARE], square), memories[-2])
    lta = b.fadd(b.fmul(rows[LTA_SHARE], square), memories[-1])
    return [*after, b.fmul(rows[STA_KEPT], sta), b.fmul(rows[LTA_KEPT], lta)], sta, lta


def _loop(b: ir.IRBuilder, columns: Any, tile: Any, stretch: Any) -> None:
    """The body of `filter_columns`; the memories stay in registers from sample to sample."""

    def load(array: Any, row: Any) -> Any:
        value = b.load(b.gep(array, [row]))
        value.align = _NUMBER_BYTES
        return value

    def store(value: Any, array: Any, row: Any) -> None:
        b.store(value, b.gep(array, [row])).align = _NUMBER_BYTES

    rows = [load(columns, _INDEX(row)) for row in range(HIGHEST_STA)]
    before, loop, end = b.block, b.append_basic_block("sample"), b.append_basic_block("end")
    b.branch(loop)
    b.position_at_end(loop)
    k = b.phi(_INDEX)
    k.add_incoming(_INDEX(0), before)
    going = [*range(MEMORIES, STA_SHARE), HIGHEST_STA, LOWEST_LTA]
    carried = [b.phi(_ROW) for _ in going]
    *memories, highest, lowest = carried
    after, sta, lta = _step(b, rows, memories, load(tile, k))
    after.append(b.select(b.fcmp_ordered(">", sta, highest), sta, highest))
    after.append(b.select(b.fcmp_ordered("<", lta, lowest), lta, lowest))
    store(sta, tile, b.add(k, stretch))
    store(lta, tile, b.add(k, b.add(stretch, stretch)))
    following = b.add(k, _INDEX(1))
    k.add_incoming(following, loop)
    least, most = (ir.Constant(_ROW, [value] * WIDE) for value in (0.0, math.inf))
    for value, first in zip(carried, [*rows[MEMORIES:STA_SHARE], least, most], strict=True):
        value.add_incoming(first, before)
    for value, later in zip(carried, after, strict=True):
        value.add_incoming(later, loop)
    b.cbranch(b.icmp_signed("<", following, stretch), loop, end)
    b.position_at_end(end)
    for row, later in zip(going, after, strict=True):
        store(later, columns, _INDEX(row))


@intrinsic
def _filter(_context: Any, columns: Any, tile: Any, stretch: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        arrays = [
            builder.bitcast(context.make_array(kind)(context, builder, value).data, _ROW.as_pointer())
            for kind, value in zip(signature.args[:2], arguments[:2], strict=True)
        ]
        _loop(builder, arrays[0], arrays[1], arguments[2])
        return context.get_dummy_value()

    return types.void(columns, tile, types.int64), generate


@compiled
def filter_columns(columns: Float64Array, tile: Float64Array, stretch: int) -> None:
    """Samples to STA and LTA, column by column; memories and averages in `columns` go on, and extremes
    are the call's.

    columns [ROWS x WIDE]; tile [3 x stretch x WIDE or longer]: samples, then STA, then LTA, a row of WIDE numbers for
    each sample. stretch is 1 or more. Both arrays are flat.
    """
    _filter(columns, tile, stretch)  # type: ignore[call-arg]  # the context is the compiler's
