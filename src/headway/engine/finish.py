"""What follows a product, in LLVM's own form and in one pass over its sums.

They are scaled, shifted by the bias and by another value such as the query's row, put through the
activation, stored, and rounded to codes for the next product. What is done is decided once for
four vectors; only the columns behind the last four are taken one vector at a time, masked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from headway.engine.activations import clamp, sigmoid, tanh
from headway.engine.machine import machine_facts
from headway.engine.tiles import LANES, WIDE, call, first_lanes, keep_apart, load_masked
from headway.engine.vectors import (
    constant,
    intrinsic,
    load_at,
    multiply_add,
    pointer_at,
    splat,
)

SUMS_F32, SUMS_INT8, VALUES = 0, 1, 2
"""What is finished: sums of a tile, float or of codes; or values as they are."""
NO_OTHER, ADD, MULTIPLY, SUBTRACT, SUBTRACT_FROM = 0, 1, 2, 3, 4
"""How a step combines what it has with another value: with, or from it."""
ONE_COLUMN = 4
"""Added to that where the other value has one column for all."""
LINEAR, RELU, SIGMOID, TANH, PRELU, REST = 0, 1, 2, 3, 4, 5
"""Activations; ``REST`` takes away what the value's codes stand for."""
_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_FLOATS, _INTS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(_I32, LANES)
_BYTES = ir.VectorType(_I8, LANES)
_CURRENT_ROUNDING = 4
_HAS_512 = "avx512f" in machine_facts().vector_features
_NUMBERS = (
    "kind", "total", "total_bytes", "total_map", "rows", "columns", "scale", "bias",
    "combine", "other", "other_bytes", "other_map", "activation", "slope",
    "out", "out_bytes", "codes", "codes_bytes",
)  # fmt: skip
Vectors = list[Any]
Make = Callable[[], Vectors]
Masks = list[Any]
Addresses = dict[str, Any]


@intrinsic
def finish_tile(_typing, _numbers, _inverse, _zero):
    """Bring a tile of sums or values to where it goes; addresses of 0 are left out.

    ``numbers`` are int64 in the order of ``_NUMBERS``; codes are ``round(value * inverse + zero)``.
    """
    signature = types.void(types.UniTuple(types.int64, len(_NUMBERS)), types.float32, types.float32)

    def generate(context, builder, _signature, values):
        keep_apart(builder)
        a = dict(zip(_NUMBERS, cgutils.unpack_tuple(builder, values[0]), strict=True))
        a["inverse"], a["zero"] = (splat(builder, value, LANES) for value in values[1:])
        with cgutils.for_range(builder, a["rows"]) as rows:
            _finish_row(builder, _row(builder, a, rows.index))
        return context.get_dummy_value()

    return signature, generate


def _finish_row(builder: Any, a: Addresses) -> None:
    """Take four vectors at a time while they are full, then one by one."""
    block = _I64(WIDE * LANES)
    full = builder.sdiv(a["columns"], block)
    with cgutils.for_range(builder, full) as blocks:
        moved = _moved(builder, a, builder.mul(blocks.index, block))
        _finish(builder, moved, [None] * WIDE)
    done = builder.mul(full, block)
    left = builder.sub(a["columns"], done)
    vectors = builder.sdiv(builder.add(left, _I64(LANES - 1)), _I64(LANES))
    with cgutils.for_range(builder, vectors) as single:
        offset = builder.mul(single.index, _I64(LANES))
        mask = first_lanes(builder, builder.sub(left, offset))
        _finish(builder, _moved(builder, a, builder.add(done, offset)), [mask])


def _row(builder: Any, a: Addresses, index: Any) -> Addresses:
    """Return the addresses of a row."""
    row = dict(a)
    for name in ("total", "other"):
        number = _mapped(builder, index, a[f"{name}_map"])
        row[name] = builder.add(a[name], builder.mul(number, a[f"{name}_bytes"]))
    for name in ("out", "codes"):
        place = builder.add(a[name], builder.mul(index, a[f"{name}_bytes"]))
        row[name] = _if_there(builder, a[name], place)
    return row


def _mapped(builder: Any, index: Any, mapping: Any) -> Any:
    """Return the row that a candidate reads: its own, or where there is a map what that says."""
    row = cgutils.alloca_once_value(builder, index)
    builder.store(index, row)
    with builder.if_then(builder.icmp_signed("!=", mapping, _I64(0))):
        at = builder.add(mapping, builder.mul(index, _I64(8)))
        builder.store(load_at(builder, at, _I64), row)
    return builder.load(row)


def _moved(builder: Any, a: Addresses, column: Any) -> Addresses:
    """Return the addresses of a column of a row."""
    floats, moved = builder.mul(column, _I64(4)), dict(a)
    for name in ("total", "scale", "slope"):
        moved[name] = builder.add(a[name], floats)
    single = builder.icmp_signed(">", a["combine"], _I64(ONE_COLUMN))
    moved["other"] = builder.select(single, a["other"], builder.add(a["other"], floats))
    for name, offset in (("bias", floats), ("out", floats), ("codes", column)):
        moved[name] = _if_there(builder, a[name], builder.add(a[name], offset))
    return moved


def _if_there(builder: Any, address: Any, moved: Any) -> Any:
    return builder.select(builder.icmp_signed("!=", address, _I64(0)), moved, _I64(0))


def _finish(builder: Any, a: Addresses, masks: Masks) -> None:
    """Load sums or values and do all that follows; a vector's mask leaves columns alone."""

    def sums(kind: Any) -> Make:
        return lambda: [load_at(builder, place, kind) for place in _each_at(builder, a, masks)]

    def scaled() -> Vectors:
        return rescale(builder, a, sums(_INTS)())

    def shifted() -> Vectors:
        sources = {VALUES: lambda: _loaded(builder, a["total"], masks)}
        return shift(builder, a, choose(builder, a["kind"], sources, sums(_FLOATS)))

    values = choose(builder, a["kind"], {SUMS_INT8: scaled}, shifted)
    follow(builder, a, values, masks)


def rescale(builder: Any, a: Addresses, sums: Vectors) -> Vectors:
    """Return sums of codes as floats, with the bias."""
    plain: Masks = [None] * len(sums)
    scales, biases = _loaded(builder, a["scale"], plain), _loaded(builder, a["bias"], plain)
    return [
        multiply_add(builder, builder.sitofp(total, _FLOATS), scale, bias)
        for total, scale, bias in zip(sums, scales, biases, strict=True)
    ]


def shift(builder: Any, a: Addresses, values: Vectors) -> Vectors:
    """Return values with the bias, if there is one."""

    def shifted() -> Vectors:
        biases = _loaded(builder, a["bias"], [None] * len(values))
        return [builder.fadd(value, bias) for value, bias in zip(values, biases, strict=True)]

    return choose(builder, a["bias"], {0: lambda: values}, shifted)


def follow(
    builder: Any, a: Addresses, values: Vectors, masks: Masks, *, common: bool = False
) -> None:
    """Combine, activate, store and round values.

    Args:
        builder: where the code goes.
        a: addresses and numbers by name.
        values: with the bias.
        masks: of each vector, None for all lanes.
        common: leave out what ``is_common`` does not promise.
    """
    values = _combined(builder, a, values, masks, common=common)
    values = _activated(builder, a, values, common=common)
    with builder.if_then(builder.icmp_signed("!=", a["out"], _I64(0))):
        for place, (value, mask) in enumerate(zip(values, masks, strict=True)):
            _store(builder, value, _vector_at(builder, a["out"], 4 * place), mask)
    with builder.if_then(builder.icmp_signed("!=", a["codes"], _I64(0))):
        for place, (value, mask) in enumerate(zip(values, masks, strict=True)):
            code = _rounded(builder, value, a["inverse"], a["zero"])
            _store(builder, code, _vector_at(builder, a["codes"], place), mask)


def _each_at(builder: Any, a: Addresses, masks: Masks) -> list[Any]:
    return [_vector_at(builder, a["total"], 4 * place) for place in range(len(masks))]


def _vector_at(builder: Any, address: Any, place: int) -> Any:
    return builder.add(address, _I64(place * LANES))


def _combined(
    builder: Any, a: Addresses, values: Vectors, masks: Masks, *, common: bool
) -> Vectors:
    def beside() -> Vectors:
        return _loaded(builder, a["other"], masks)

    def single() -> Vectors:
        scalar = load_at(builder, a["other"], ir.FloatType())
        return [splat(builder, scalar, LANES)] * len(values)

    def each(combine: Callable[[Any, Any], Any], others: Callable[[], Vectors]) -> Make:
        return lambda: [combine(v, other) for v, other in zip(values, others(), strict=True)]

    ways = {
        ADD: builder.fadd,
        MULTIPLY: builder.fmul,
        SUBTRACT: builder.fsub,
        SUBTRACT_FROM: lambda value, other: builder.fsub(other, value),
    }
    cases = {way: each(combine, beside) for way, combine in ways.items()}
    if common:
        cases = {way: cases[way] for way in (ADD, MULTIPLY)}
    else:
        cases |= {way + ONE_COLUMN: each(combine, single) for way, combine in ways.items()}
    return choose(builder, a["combine"], cases, lambda: values)


def _activated(builder: Any, a: Addresses, values: Vectors, *, common: bool) -> Vectors:
    def if_positive(value: Any, otherwise: Any) -> Any:
        positive = builder.fcmp_unordered(">", value, _all(0.0))  # NaN stays NaN
        return builder.select(positive, value, otherwise)

    def prelu() -> Vectors:
        slopes = _loaded(builder, a["slope"], [None] * len(values))
        pairs = zip(values, slopes, strict=True)
        return [if_positive(value, builder.fmul(value, slope)) for value, slope in pairs]

    def each(activate: Callable[[Any], Any]) -> Make:
        return lambda: [activate(value) for value in values]

    cases = {
        RELU: each(lambda value: if_positive(value, _all(0.0))),
        SIGMOID: each(lambda value: sigmoid(builder, value)),
        TANH: each(lambda value: tanh(builder, value)),
        PRELU: prelu,
        REST: each(lambda value: _rest(builder, a, value)),
    }
    if common:
        cases = {kind: cases[kind] for kind in (RELU, PRELU)}
    return choose(builder, a["activation"], cases, lambda: values)


def _rest(builder: Any, a: Addresses, value: Any) -> Any:
    """Return a vector less what its codes stand for."""
    code = clamp(builder, multiply_add(builder, value, a["inverse"], a["zero"]), 0.0, 255.0)
    code = call(builder, "llvm.rint.v16f32", _FLOATS, code)
    steps = builder.fsub(code, a["zero"])
    return builder.fsub(value, builder.fdiv(steps, a["inverse"]))


def _rounded(builder: Any, value: Any, inverse: Any, zero: Any) -> Any:
    """Return a vector's codes, halves to even; NaN becomes 0."""
    value = clamp(builder, multiply_add(builder, value, inverse, zero), 0.0, 255.0)
    if _HAS_512:
        name, kept = "llvm.x86.avx512.mask.cvtps2dq.512", constant(_INTS, 0)
        whole = call(builder, name, _INTS, value, kept, _I16(-1), _I32(_CURRENT_ROUNDING))
    else:
        whole = builder.fptosi(call(builder, "llvm.rint.v16f32", _FLOATS, value), _INTS)
    return builder.trunc(whole, _BYTES)


def choose(builder: Any, key: Any, cases: dict[int, Make], otherwise: Make) -> Vectors:
    """Return the vectors of the case that ``key`` names, or ``otherwise``."""
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
    results = [builder.phi(_FLOATS) for _ in made[0][0]]
    for values, block in made:
        for result, value in zip(results, values, strict=True):
            result.add_incoming(value, block)
    return results


def _loaded(builder: Any, address: Any, masks: Masks) -> Vectors:
    places = [_vector_at(builder, address, 4 * place) for place in range(len(masks))]
    return [
        load_at(builder, place, _FLOATS)
        if mask is None
        else load_masked(builder, place, _FLOATS, mask)
        for place, mask in zip(places, masks, strict=True)
    ]


def _store(builder: Any, value: Any, address: Any, mask: Any) -> None:
    pointer = pointer_at(builder, address, value.type)
    if mask is None:
        builder.store(value, pointer, align=1)
        return
    name = f"llvm.masked.store.v16{'f32' if value.type == _FLOATS else 'i8'}.p0"
    call(builder, name, ir.VoidType(), value, pointer, _I32(1), mask)


def _all(value: float) -> Any:
    return constant(_FLOATS, value)
