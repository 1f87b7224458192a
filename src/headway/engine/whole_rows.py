"""Steps over whole rows in LLVM's own form: softmax, and what attention multiplies.

Cached functions that use these close over ``SOURCES``, as in ``vectors``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from headway.engine import product_tile, tiles
from headway.engine.activations import exponential
from headway.engine.tiles import LANES, first_lanes, keep_apart, load_masked
from headway.engine.vectors import (
    constant,
    intrinsic,
    load_at,
    multiply_add,
    pointer_at,
    source_number,
    splat,
)

SOURCES = source_number(__file__, product_tile.__file__) ^ product_tile.SOURCES
"""Changes with this file and those that it builds on."""
_I64, _F32 = ir.IntType(64), ir.FloatType()
_FLOATS = ir.VectorType(_F32, LANES)
_LOWEST = -3.4e38
_LEAST_POWER = -80.0
_SOFTMAX = ("source", "source_bytes", "out", "out_bytes", "rows", "columns")
_DOT_PLACES = ("source", "matrix", "out", "places", "inner")
_SCALE_WEIGHTS = ("values", "weight", "shift", "out", "inner", "columns")
_WEAVE = ("source", "out", "places", "inner", "columns", "weight", "shift", "weight_bytes")


@intrinsic
def softmax_rows(_typing, _numbers):
    """Write each row's exponentials, less its greatest value, divided by their sum."""

    def generate(context, builder, _signature, values):
        keep_apart(builder)
        a = dict(zip(_SOFTMAX, cgutils.unpack_tuple(builder, values[0]), strict=True))
        with cgutils.for_range(builder, a["rows"]) as rows:
            source = builder.add(a["source"], builder.mul(rows.index, a["source_bytes"]))
            out = builder.add(a["out"], builder.mul(rows.index, a["out_bytes"]))
            _softmax_row(builder, source, out, a["columns"])
        return context.get_dummy_value()

    return types.void(types.UniTuple(types.int64, len(_SOFTMAX))), generate


def _softmax_row(builder: Any, source: Any, out: Any, columns: Any) -> None:
    most = cgutils.alloca_once(builder, _FLOATS)
    builder.store(constant(_FLOATS, _LOWEST), most)
    for skip, mask in _vectors(builder, columns):
        value = load_masked(builder, builder.add(source, skip), _FLOATS, mask)
        value = builder.select(mask, value, constant(_FLOATS, _LOWEST))
        less = builder.fcmp_unordered("<", builder.load(most), value)
        builder.store(builder.select(less, value, builder.load(most)), most)
    top = splat(builder, _reduced(builder, "fmax", [builder.load(most)]), LANES)
    total = cgutils.alloca_once(builder, _FLOATS)
    builder.store(constant(_FLOATS, 0.0), total)
    for skip, mask in _vectors(builder, columns):
        value = load_masked(builder, builder.add(source, skip), _FLOATS, mask)
        power = builder.fsub(value, top)
        # What is as good as nothing is 0: numbers too small for their exponent are slow to multiply.
        told = builder.and_(
            mask, builder.fcmp_unordered(">", power, constant(_FLOATS, _LEAST_POWER))
        )
        value = builder.select(told, exponential(builder, power), constant(_FLOATS, 0.0))
        builder.store(builder.fadd(builder.load(total), value), total)
        _store_masked(builder, value, builder.add(out, skip), mask)
    whole = _reduced(builder, "fadd", [ir.Constant(_F32, 0.0), builder.load(total)])
    factor = splat(builder, builder.fdiv(ir.Constant(_F32, 1.0), whole), LANES)
    for skip, mask in _vectors(builder, columns):
        value = load_masked(builder, builder.add(out, skip), _FLOATS, mask)
        _store_masked(builder, builder.fmul(value, factor), builder.add(out, skip), mask)


@intrinsic
def weave_row(_typing, _numbers):
    """Write ``[inner, places, columns]``: each vector's values times a weight's rows, shifted."""

    def generate(context, builder, _signature, values):
        keep_apart(builder)
        a = dict(zip(_WEAVE, cgutils.unpack_tuple(builder, values[0]), strict=True))
        row_bytes = builder.mul(a["columns"], _I64(4))
        with cgutils.for_range(builder, a["inner"]) as inner:
            own = builder.mul(inner.index, a["weight_bytes"])
            for skip, mask in _vectors(builder, a["columns"]):
                place = builder.add(own, skip)
                weight = load_at(builder, builder.add(a["weight"], place), _FLOATS)
                shift = load_at(builder, builder.add(a["shift"], place), _FLOATS)
                with cgutils.for_range(builder, a["places"]) as places:
                    row = builder.add(builder.mul(places.index, a["inner"]), inner.index)
                    scalar = builder.add(a["source"], builder.mul(row, _I64(4)))
                    value = splat(builder, load_at(builder, scalar, _F32), LANES)
                    value = multiply_add(builder, value, weight, shift)
                    target = builder.mul(inner.index, a["places"])
                    target = builder.mul(builder.add(target, places.index), row_bytes)
                    target = builder.add(builder.add(a["out"], target), skip)
                    _store_masked(builder, value, target, mask)
        return context.get_dummy_value()

    return types.void(types.UniTuple(types.int64, len(_WEAVE))), generate


@intrinsic
def dot_places(_typing, _numbers):
    """Write the dot products of a row with each of ``places`` vectors of ``inner`` values."""

    def generate(context, builder, _signature, values):
        keep_apart(builder)
        a = dict(zip(_DOT_PLACES, cgutils.unpack_tuple(builder, values[0]), strict=True))
        vector_bytes = builder.mul(a["inner"], _I64(4))
        total = cgutils.alloca_once(builder, _FLOATS)
        with cgutils.for_range(builder, a["places"]) as places:
            vector = builder.add(a["matrix"], builder.mul(places.index, vector_bytes))
            builder.store(constant(_FLOATS, 0.0), total)
            for skip, mask in _vectors(builder, a["inner"]):
                left = load_masked(builder, builder.add(a["source"], skip), _FLOATS, mask)
                right = load_masked(builder, builder.add(vector, skip), _FLOATS, mask)
                builder.store(multiply_add(builder, left, right, builder.load(total)), total)
            found = _reduced(builder, "fadd", [ir.Constant(_F32, 0.0), builder.load(total)])
            target = builder.add(a["out"], builder.mul(places.index, _I64(4)))
            builder.store(found, pointer_at(builder, target, _F32), align=1)
        return context.get_dummy_value()

    return types.void(types.UniTuple(types.int64, len(_DOT_PLACES))), generate


@intrinsic
def scale_weights(_typing, _numbers):
    """Write packed weights times a value for each inner row, shifted; all of one block of columns.

    There are at most ``WIDE * LANES`` columns, so that an inner row's are side by side.
    """

    def generate(context, builder, _signature, values):
        keep_apart(builder)
        a = dict(zip(_SCALE_WEIGHTS, cgutils.unpack_tuple(builder, values[0]), strict=True))
        count = builder.sdiv(builder.add(a["columns"], _I64(LANES - 1)), _I64(LANES))
        with cgutils.for_range(builder, a["inner"]) as inner:
            scalar = builder.add(a["values"], builder.mul(inner.index, _I64(4)))
            value = splat(builder, load_at(builder, scalar, _F32), LANES)
            with cgutils.for_range(builder, count) as vector:
                place = builder.add(builder.mul(inner.index, count), vector.index)
                skip = builder.mul(place, _I64(4 * LANES))
                weight = load_at(builder, builder.add(a["weight"], skip), _FLOATS)
                shift = load_at(builder, builder.add(a["shift"], skip), _FLOATS)
                made = multiply_add(builder, value, weight, shift)
                target = pointer_at(builder, builder.add(a["out"], skip), _FLOATS)
                builder.store(made, target, align=1)
        return context.get_dummy_value()

    return types.void(types.UniTuple(types.int64, len(_SCALE_WEIGHTS))), generate


def _vectors(builder: Any, columns: Any) -> Any:
    """Go over the vectors of a row in a loop: yields a vector's offset in bytes and its mask."""
    count = builder.sdiv(builder.add(columns, _I64(LANES - 1)), _I64(LANES))
    with cgutils.for_range(builder, count) as loop:
        lane = builder.mul(loop.index, _I64(LANES))
        mask = first_lanes(builder, builder.sub(columns, lane))
        yield builder.mul(lane, _I64(4)), mask


def _reduced(builder: Any, how: str, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(_F32, [a.type for a in arguments])
    name = f"llvm.vector.reduce.{how}.v16f32"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, arguments, fastmath=("reassoc",))


def _store_masked(builder: Any, value: Any, address: Any, mask: Any) -> None:
    pointer = pointer_at(builder, address, _FLOATS)
    name = "llvm.masked.store.v16f32.p0"
    tiles.call(builder, name, ir.VoidType(), value, pointer, ir.IntType(32)(1), mask)
