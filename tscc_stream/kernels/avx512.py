"""Two pieces of the encoder in instructions of AVX-512, for compiled loops: a tile of a matrix product, and GELU.

Given to LLVM as it wants them, because it does not find them in a loop: a tile's sums stay in 24 of the 32 registers
while all taps of a convolution are added, and GELU looks up polynomials in tables that are registers. Places are
addresses, and distances are in bytes. Only where `available` says so: elsewhere LLVM ends the process.
"""

from __future__ import annotations

import math
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.core import config as _config
from numba.extending import intrinsic

from tscc_stream.messages import Float32Array

ROWS, COLUMNS = 12, 32
"""Of a tile: 24 registers of sums, 2 of weights; the products then run as fast as the processor multiplies."""
_LANES, _REGISTER, _FLOAT = 16, 64, 4
_PANEL = COLUMNS * _FLOAT
_UNROLLED = 2
_PIECE = 0.359375
"""Width of one polynomial's range, exact in float32."""
_LOWEST, _HIGHEST, _DEGREE = -16, 15, 5
_ROUND = 12582912.0  # 1.5 * 2^23: added, it leaves the nearest whole number in the lowest bits

_Value = Any
cgutils: Any = _cgutils  # numba has no types for these
config: Any = _config
_scalar, _int32, _int64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_vector, _places = ir.VectorType(_scalar, _LANES), ir.VectorType(_int32, _LANES)


def available() -> bool:
    """Whether this processor has the instructions, and numba's settings in the environment leave them in use."""
    if config.CPU_NAME or config.CPU_FEATURES or config.DISABLE_JIT or not config.ENABLE_AVX:
        return False
    try:
        return bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))
    except RuntimeError:  # LLVM knows no features of this kind of processor
        return False


def gelu_table() -> Float32Array:
    """Coefficients [6, 32], the highest power first, of the normal distribution function around i * _PIECE in column
    i mod 32. Within 1e-7, and 0 below -5.6 and 1 above 5.2.
    """
    table = np.zeros((_DEGREE + 1, _HIGHEST - _LOWEST + 1))
    reach = _PIECE / 2
    offsets = reach * np.polynomial.chebyshev.chebpts1(64)
    table[-1, _HIGHEST] = 1.0
    for place in range(_LOWEST + 1, _HIGHEST):
        values = [0.5 * math.erfc(-(place * _PIECE + offset) / math.sqrt(2.0)) for offset in offsets]
        fitted = np.polynomial.Chebyshev.fit(offsets, values, _DEGREE, domain=[-reach, reach])
        coefficients = fitted.convert(kind=np.polynomial.Polynomial).coef[::-1]
        table[_DEGREE + 1 - len(coefficients) :, place % table.shape[1]] = coefficients
    return np.ascontiguousarray(table.astype(np.float32))


def _add_products(
    _context: Any, x: Any, row: Any, tap: Any, taps: Any, inner: Any, weights: Any, offset: Any, before: Any,
    before_row: Any, y: Any,
) -> Any:  # fmt: skip
    """Writes y [ROWS, COLUMNS]: offset + before + the sum over taps of x [ROWS, inner] by weights [inner, COLUMNS].

    x: of the first tap, the others each `tap` farther; rows of x and y lie `row` apart, those of before `before_row`.
    weights: [taps, inner, COLUMNS] without gaps, inner even. `before` is added last, as what is largest.
    """
    return types.void(*[types.int64] * 10), _write_products


def _gelu_rows(_context: Any, x: Any, y: Any, row: Any, rows: Any, table: Any) -> Any:
    """Writes y: x times the normal distribution function of x, COLUMNS of so many rows; table: as gelu_table has it."""
    return types.void(*[types.int64] * 5), _write_gelu


add_products: Any = intrinsic(_add_products)
gelu_rows: Any = intrinsic(_gelu_rows)


def _write_products(context: Any, build: Any, _signature: Any, arguments: Any) -> _Value:
    x, row, tap, taps, inner, weights, offset, before, before_row, y = arguments
    registers = range(0, _PANEL, _REGISTER)
    sums = [_start(build, [_load(build, _farther(build, offset, column)) for column in registers]) for _ in range(ROWS)]
    with cgutils.for_range(build, taps) as each:
        tap_x = build.add(x, build.mul(tap, each.index))
        tap_weights = build.add(weights, build.mul(_times(build, inner, _PANEL), each.index))
        starts = [build.add(tap_x, _times(build, row, number)) for number in range(ROWS)]
        with cgutils.for_range(build, build.udiv(inner, _whole(_UNROLLED))) as step:
            for number in range(_UNROLLED):
                channel = build.add(_times(build, step.index, _UNROLLED), _whole(number))
                _add_channel(build, sums, starts, tap_weights, channel)
    for number, places in enumerate(sums):
        from_row, to_row = (
            build.add(at, _times(build, apart, number)) for at, apart in ((before, before_row), (y, row))
        )
        for column, place in zip(registers, places, strict=True):
            value = build.fadd(build.load(place), _load(build, _farther(build, from_row, column)))
            _store(build, value, _farther(build, to_row, column))
    return context.get_dummy_value()


def _start(build: Any, values: list[_Value]) -> list[_Value]:
    """Places that hold these values, which LLVM makes registers of."""
    places = [cgutils.alloca_once(build, _vector) for _ in values]
    for place, value in zip(places, values, strict=True):
        build.store(value, place)
    return places


def _add_channel(build: Any, sums: list[list[_Value]], starts: list[_Value], weights: _Value, channel: _Value) -> None:
    at = build.add(weights, _times(build, channel, _PANEL))
    weight = [_load(build, _farther(build, at, column)) for column in range(0, _PANEL, _REGISTER)]
    for start, places in zip(starts, sums, strict=True):
        value = build.load(_pointer(build, build.add(start, _times(build, channel, _FLOAT)), _scalar), align=_FLOAT)
        spread = _spread(build, value)
        for place, factor in zip(places, weight, strict=True):
            build.store(_fused(build, spread, factor, build.load(place)), place)


def _write_gelu(context: Any, build: Any, _signature: Any, arguments: Any) -> _Value:
    x, y, row, rows, table = arguments
    half = 2 * _REGISTER
    halves = [
        (_load(build, _farther(build, table, power * half)), _load(build, _farther(build, table, power * half + 64)))
        for power in range(_DEGREE + 1)
    ]
    with cgutils.for_range(build, rows) as each:
        at = build.mul(row, each.index)
        for column in range(0, _PANEL, _REGISTER):
            place = _farther(build, at, column)
            _store(build, _gelu(build, _load(build, build.add(x, place)), halves), build.add(y, place))
    return context.get_dummy_value()


def _gelu(build: Any, x: _Value, halves: list[tuple[_Value, _Value]]) -> _Value:
    lowest, highest = _constant(_LOWEST * _PIECE), _constant(_HIGHEST * _PIECE)
    inside = build.select(build.fcmp_ordered(">", x, lowest), x, lowest)
    inside = build.select(build.fcmp_ordered("<", inside, highest), inside, highest)
    rounded = _fused(build, inside, _constant(1.0 / _PIECE), _constant(_ROUND))
    offset = _fused(build, build.fsub(rounded, _constant(_ROUND)), _constant(-_PIECE), inside)
    place = build.bitcast(rounded, _places)  # the lookup takes its lowest five bits
    lookup = "llvm.x86.avx512.vpermi2var.ps.512"
    coefficients = [_call(build, lookup, _vector, low, place, high) for low, high in halves]
    share = coefficients[0]
    for coefficient in coefficients[1:]:
        share = _fused(build, share, offset, coefficient)
    return build.fmul(share, x)


def _fused(build: Any, a: _Value, b: _Value, c: _Value) -> _Value:
    """The sum a b + c, rounded once."""
    return _call(build, "llvm.fma.v16f32", _vector, a, b, c)


def _call(build: Any, name: str, result: Any, *arguments: _Value) -> _Value:
    function = ir.FunctionType(result, [argument.type for argument in arguments])
    return build.call(cgutils.get_or_insert_function(build.module, function, name), arguments)


def _spread(build: Any, scalar: _Value) -> _Value:
    nothing = ir.Constant(_vector, ir.Undefined)
    first = build.insert_element(nothing, scalar, ir.Constant(_int32, 0))
    return build.shuffle_vector(first, nothing, ir.Constant(_places, [0] * _LANES))


def _load(build: Any, address: _Value) -> _Value:
    return build.load(_pointer(build, address, _vector), align=_FLOAT)


def _store(build: Any, value: _Value, address: _Value) -> None:
    build.store(value, _pointer(build, address, _vector), align=_FLOAT)


def _pointer(build: Any, address: _Value, to: Any) -> _Value:
    return build.inttoptr(address, to.as_pointer())


def _farther(build: Any, address: _Value, by: int) -> _Value:
    return build.add(address, _whole(by))


def _times(build: Any, value: _Value, factor: int) -> _Value:
    return build.mul(value, _whole(factor))


def _whole(number: int) -> _Value:
    return ir.Constant(_int64, number)


def _constant(number: float) -> _Value:
    return ir.Constant(_vector, [float(np.float32(number))] * _LANES)
