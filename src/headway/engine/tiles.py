"""Tiles of products in LLVM's own form, and what follows a product in the same pass.

A dense tower's time goes into a few products. Here a tile of six rows by 64 columns is summed up
in registers and finished while it is in the nearest cache: scaled, shifted by the bias and by the
row's query, put through the activation, stored, and rounded to codes for the next product.

Cached functions that use these close over ``SOURCES``, as in ``vectors``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from headway.engine.machine import machine_facts
from headway.engine.vectors import intrinsic

LANES = 16
"""Columns in one vector; outputs come in so many, the last ones masked."""
WIDE, TALL = 4, 6
"""Vectors and rows of a full tile: 24 sums stay in 32 registers beside weights and one value."""
SCRATCH_BYTES = TALL * WIDE * LANES * 4

PRODUCT_F32, PRODUCT_INT8, MAP = 0, 1, 2
"""What a step does: multiply by weights, float or codes; or pass values on."""
NO_OTHER, ADD, MULTIPLY, SUBTRACT, SUBTRACT_FROM = 0, 1, 2, 3, 4
"""How a step combines what it has with another value: with, or from it."""
LINEAR, RELU, SIGMOID, TANH = 0, 1, 2, 3
"""Activations."""
PER_CHUNK, PER_ROW, PER_QUERY = 0, 1, 2
"""Which row of a value a candidate reads: its place in the chunk, its own, its query's."""
SOURCES = int.from_bytes(hashlib.sha256(Path(__file__).read_bytes()).digest()[:7], "little")
"""Changes with this file."""
_I1, _I8, _I32, _I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_F32 = ir.FloatType()
_FLOATS, _INTS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
_BYTES, _MASK = ir.VectorType(_I8, LANES), ir.VectorType(_I1, LANES)
_DOT = "llvm.x86.avx512.vpdpbusd.512"
HAS_DOT = "avx512_vnni" in machine_facts().vector_features


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(_at(builder, address, kind), align=1)


def _splat(builder: Any, scalar: Any) -> Any:
    kind = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, _I32(0))
    return builder.shuffle_vector(
        first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
    )


def _all(value: float) -> Any:
    return ir.Constant(_FLOATS, [value] * LANES)


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _multiply_add(builder: Any, left: Any, right: Any, addend: Any) -> Any:
    return _call(builder, "llvm.fmuladd.v16f32", _FLOATS, left, right, addend)


def _dot_groups(builder: Any, total: Any, left: Any, right: Any) -> Any:
    """Add to each lane the dot product of four unsigned with four signed bytes, exactly."""
    if HAS_DOT:
        return _call(builder, _DOT, _INTS, total, left, right)
    for place in range(4):
        low = ir.Constant(_INTS, [24 - 8 * place] * LANES)
        top = ir.Constant(_INTS, [24] * LANES)
        unsigned = builder.lshr(builder.shl(left, low), top)
        signed = builder.ashr(builder.shl(right, low), top)
        total = builder.add(total, builder.mul(unsigned, signed))
    return total


def _apart(builder: Any) -> None:
    """Keep the calling function out of others: among their values its sums would leave registers."""
    builder.function.attributes.add("noinline")


def _sum_tile(builder: Any, shape: tuple[int, int], a: dict[str, Any], *, codes: bool) -> None:
    """Sum up a tile of products over the inner axis and store it, ``[rows, WIDE * LANES]``."""
    rows, width = shape
    kind = _INTS if codes else _FLOATS
    last = builder.sub(a["left"], _I64(1))
    starts = []
    for row in range(rows):
        # Rows beyond the last are that row once more: no tile needs a shape of its own.
        place = builder.select(builder.icmp_signed("<", _I64(row), last), _I64(row), last)
        starts.append(builder.add(a["source"], builder.mul(place, a["row_bytes"])))
    before, loop = builder.block, builder.append_basic_block("inner")
    done = builder.append_basic_block("summed")
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(_I64)
    index.add_incoming(_I64(0), before)
    sums = [[builder.phi(kind) for _ in range(width)] for _ in range(rows)]
    at = builder.add(a["weight"], builder.mul(index, _I64(4 * LANES * width)))
    weights = [_load(builder, builder.add(at, _I64(4 * LANES * c)), kind) for c in range(width)]
    step = builder.mul(index, _I64(4))
    following: list[list[Any]] = []
    for start in starts:
        value = _splat(builder, _load(builder, builder.add(start, step), _I32 if codes else _F32))
        row_sums = sums[len(following)]
        following.append(
            [
                _dot_groups(builder, total, value, weight)
                if codes
                else _multiply_add(builder, value, weight, total)
                for total, weight in zip(row_sums, weights, strict=True)
            ]
        )
    more = builder.add(index, _I64(1))
    index.add_incoming(more, loop)
    for row_sums, row_following in zip(sums, following, strict=True):
        for total, value in zip(row_sums, row_following, strict=True):
            total.add_incoming(ir.Constant(kind, [0] * LANES), before)
            total.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", more, a["inner"]), loop, done)
    builder.position_at_end(done)
    for row, row_sums in enumerate(following):
        for column, total in enumerate(row_sums):
            place = 4 * LANES * (WIDE * row + column)
            target = builder.add(a["scratch"], _I64(place))
            builder.store(total, _at(builder, target, kind), align=1)


_TILE = ("shape", "source", "row_bytes", "left", "weight", "inner", "scratch")


@intrinsic
def sum_tile(_typing, _numbers):
    """Sum up one tile; ``shape`` is 4 for codes, plus 2 for a tall one, plus 1 for a wide one."""

    def generate(_context, builder, _signature, values):
        _apart(builder)
        a = dict(zip(_TILE, cgutils.unpack_tuple(builder, values[0]), strict=True))
        done = builder.append_basic_block("tiled")
        switch = builder.switch(a["shape"], done)
        for key in range(8):
            case = builder.append_basic_block(f"tile{key}")
            switch.add_case(_I64(key), case)
            builder.position_at_end(case)
            shape = TALL if key & 2 else 1, WIDE if key & 1 else 1
            _sum_tile(builder, shape, a, codes=bool(key & 4))
            builder.branch(done)
        builder.position_at_end(done)
        return _context.get_dummy_value()

    return types.void(types.UniTuple(types.int64, len(_TILE))), generate


def _mask(builder: Any, left: Any) -> Any:
    places = ir.Constant(_INTS, list(range(LANES)))
    return builder.icmp_signed("<", places, _splat(builder, builder.trunc(left, _I32)))


def _load_some(builder: Any, address: Any, mask: Any) -> Any:
    pointer = _at(builder, address, _FLOATS)
    zeros = _all(0.0)
    return _call(builder, "llvm.masked.load.v16f32.p0", _FLOATS, pointer, _I32(1), mask, zeros)


def _choose(
    builder: Any, key: Any, cases: dict[int, Callable[[], Any]], otherwise: Callable[[], Any]
) -> Any:
    """Return the vector of the case that ``key`` names, or ``otherwise``."""
    rest, done = builder.append_basic_block("rest"), builder.append_basic_block("chosen")
    switch = builder.switch(key, rest)
    made = []
    for number, make in [*cases.items(), (None, otherwise)]:
        block = rest if number is None else builder.append_basic_block(f"case{number}")
        if number is not None:
            switch.add_case(_I64(number), block)
        builder.position_at_end(block)
        made.append((make(), builder.block))
        builder.branch(done)
    builder.position_at_end(done)
    result = builder.phi(_FLOATS)
    for value, block in made:
        result.add_incoming(value, block)
    return result


def _clamp(builder: Any, value: Any, low: float, high: float) -> Any:
    """Return the value within bounds, NaN as the lower one: an instruction each."""
    value = builder.select(builder.fcmp_ordered(">", value, _all(low)), value, _all(low))
    return builder.select(builder.fcmp_ordered("<", value, _all(high)), value, _all(high))


def _exponential(builder: Any, value: Any) -> Any:
    """Return e to the value by splitting off powers of two; relative error about 1e-7."""
    value = _clamp(builder, value, -87.0, 87.0)
    count = builder.fmul(value, _all(float(1 / np.log(2))))
    count = _call(builder, "llvm.rint.v16f32", _FLOATS, count)
    whole = 0.693359375  # ln 2 in few bits, so that its multiples are exact
    rest = _multiply_add(builder, count, _all(-whole), value)
    rest = _multiply_add(builder, count, _all(-float(np.log(2) - whole)), rest)
    total = _all(1 / 5040)
    for divisor in (720, 120, 24, 6, 2, 1, 1):
        total = _multiply_add(builder, total, rest, _all(1 / divisor))
    shift = builder.shl(builder.fptosi(count, _INTS), ir.Constant(_INTS, [23] * LANES))
    return builder.bitcast(builder.add(builder.bitcast(total, _INTS), shift), _FLOATS)


def _sigmoid(builder: Any, value: Any) -> Any:
    below = builder.fadd(_exponential(builder, builder.fsub(_all(0.0), value)), _all(1.0))
    return builder.fdiv(_all(1.0), below)


def _activate(builder: Any, kind: Any, value: Any) -> Any:
    def relu() -> Any:
        positive = builder.fcmp_unordered(">", value, _all(0.0))  # NaN stays NaN
        return builder.select(positive, value, _all(0.0))

    def tanh() -> Any:
        twice = _sigmoid(builder, builder.fadd(value, value))
        return builder.fsub(builder.fadd(twice, twice), _all(1.0))

    cases = {RELU: relu, SIGMOID: lambda: _sigmoid(builder, value), TANH: tanh}
    return _choose(builder, kind, cases, lambda: value)


def _combine(builder: Any, a: dict[str, Any], mask: Any, value: Any) -> Any:
    def other() -> Any:
        return _load_some(builder, a["other"], mask)

    cases = {
        ADD: lambda: builder.fadd(value, other()),
        MULTIPLY: lambda: builder.fmul(value, other()),
        SUBTRACT: lambda: builder.fsub(value, other()),
        SUBTRACT_FROM: lambda: builder.fsub(other(), value),
    }
    return _choose(builder, a["combine"], cases, lambda: value)


_FINISH = (
    "op", "total", "total_bytes", "total_map", "rows", "vectors", "left", "scale", "bias",
    "combine", "other", "other_bytes", "other_map", "activation",
    "out", "out_bytes", "codes", "codes_bytes",
)  # fmt: skip


def _row_of(builder: Any, index: Any, mapping: Any) -> Any:
    """Return the row that a candidate reads: its own, or where there is a map what that says."""
    mapped = builder.icmp_signed("!=", mapping, _I64(0))
    row = cgutils.alloca_once_value(builder, index)
    builder.store(index, row)
    with builder.if_then(mapped):
        builder.store(_load(builder, builder.add(mapping, builder.mul(index, _I64(8))), _I64), row)
    return builder.load(row)


def _finish_vector(builder: Any, a: dict[str, Any], rounding: tuple[Any, Any]) -> None:
    mask = _mask(builder, a["left"])

    def scaled() -> Any:
        sums = builder.sitofp(_load(builder, a["total"], _INTS), _FLOATS)
        return builder.fmul(sums, _load(builder, a["scale"], _FLOATS))

    sources = {
        PRODUCT_INT8: scaled,
        MAP: lambda: _load_some(builder, a["total"], mask),
    }
    value = _choose(builder, a["op"], sources, lambda: _load(builder, a["total"], _FLOATS))
    shifts = {0: lambda: value}
    value = _choose(
        builder,
        a["bias"],
        shifts,
        lambda: builder.fadd(value, _load(builder, a["bias"], _FLOATS)),
    )
    value = _combine(builder, a, mask, value)
    value = _activate(builder, a["activation"], value)
    with builder.if_then(builder.icmp_signed("!=", a["out"], _I64(0))):
        pointer = _at(builder, a["out"], _FLOATS)
        store = "llvm.masked.store.v16f32.p0"
        _call(builder, store, ir.VoidType(), value, pointer, _I32(1), mask)
    with builder.if_then(builder.icmp_signed("!=", a["codes"], _I64(0))):
        code = _multiply_add(builder, value, *rounding)
        code = _clamp(builder, _call(builder, "llvm.rint.v16f32", _FLOATS, code), 0.0, 255.0)
        code = builder.trunc(builder.fptosi(code, _INTS), _BYTES)
        pointer = _at(builder, a["codes"], _BYTES)
        store = "llvm.masked.store.v16i8.p0"
        _call(builder, store, ir.VoidType(), code, pointer, _I32(1), mask)


@intrinsic
def finish_tile(_typing, _numbers, _inverse, _zero):
    """Bring a tile of sums or values to where it goes; addresses of 0 are left out."""
    signature = types.void(types.UniTuple(types.int64, len(_FINISH)), types.float32, types.float32)

    def generate(context, builder, _signature, values):
        _apart(builder)
        given = dict(zip(_FINISH, cgutils.unpack_tuple(builder, values[0]), strict=True))
        rounding = _splat(builder, values[1]), _splat(builder, values[2])
        with cgutils.for_range(builder, given["rows"]) as rows:
            starts = dict(given)
            for name in ("total", "other"):
                row = _row_of(builder, rows.index, given[f"{name}_map"])
                offset = builder.mul(row, given[f"{name}_bytes"])
                starts[name] = builder.add(given[name], offset)
            for name in ("out", "codes"):
                there = builder.icmp_signed("!=", given[name], _I64(0))
                place = builder.add(given[name], builder.mul(rows.index, given[f"{name}_bytes"]))
                starts[name] = builder.select(there, place, _I64(0))
            with cgutils.for_range(builder, given["vectors"]) as vectors:
                _finish_vector(builder, _moved(builder, starts, vectors.index), rounding)
        return context.get_dummy_value()

    return signature, generate


def _moved(builder: Any, starts: dict[str, Any], index: Any) -> dict[str, Any]:
    """Return the addresses of the vector ``index``."""
    floats = builder.mul(index, _I64(4 * LANES))
    moved = dict(starts)
    for name in ("total", "other", "scale"):
        moved[name] = builder.add(starts[name], floats)
    for name, offset in (
        ("bias", floats),
        ("out", floats),
        ("codes", builder.mul(index, _I64(LANES))),
    ):
        there = builder.icmp_signed("!=", starts[name], _I64(0))
        moved[name] = builder.select(there, builder.add(starts[name], offset), _I64(0))
    moved["left"] = builder.sub(starts["left"], builder.mul(index, _I64(LANES)))
    return moved
