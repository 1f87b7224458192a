"""Vector code in LLVM's own form, for the compiled lookups and the probes of memory.

Every target lowers it to what it has (AVX2, AVX-512, NEON); plain Numba loops over 8-bit records
run ten times slower because the running sum is kept in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import extending, njit, types
from numba.core import cgutils

F32, BF16, INT8, INT4 = 0, 1, 2, 3
"""How the values of a record are stored; the last two have a scale and a bias behind."""
BITS = {F32: 32, BF16: 16, INT8: 8, INT4: 4}
BLOCKS = (64, 32, 16, 8, 4, 2, 1)
"""Vector lengths; a row is covered by blocks of the longest that fits, the last one overlapping."""
LINE = 64
"""Bytes of a cache line."""


def source_number(*files: str) -> int:
    """Return a number that changes with this file and those given.

    Numba's cache sees only the file of the compiled function and what that closes over, so a
    cached function that uses intrinsics closes over the number of the files that make them.
    """
    told = b"".join(Path(file).read_bytes() for file in (__file__, *files))
    return int.from_bytes(hashlib.sha256(told).digest()[:7], "little")


SOURCES = source_number()
"""Changes with this file; what uses its intrinsics closes over it."""

CLASS = object.__basicsize__ // 8 - 1
DATA, AXES, SHAPE, STRIDES, TYPE = (CLASS + 1 + at for at in (0, 1, 2, 3, 5))
"""Where NumPy's public ``PyArrayObject`` has its fields, in words of 8 bytes."""
ITEMS = tuple.__basicsize__ // 8
"""Where a tuple has its first item, likewise."""

intrinsic: Any = extending.intrinsic  # its own types know nothing of the typing context
_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
Values = dict[str, Any]


def inner(function: Callable[..., Any]) -> Any:
    """Compile what other compiled functions call; it is cached as part of them."""
    return njit(nogil=True, error_model="numpy")(function)


def entry(function: Callable[..., Any]) -> Any:
    """Compile, with a cache, what Python calls; it must close over ``SOURCES``."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder can be written: compile anew in every process
        return inner(function)


def pointer_at(builder: Any, address: Any, kind: Any) -> Any:
    """Return an address as a pointer to values of a kind."""
    return builder.inttoptr(address, kind.as_pointer())


def load_at(builder: Any, address: Any, kind: Any) -> Any:
    """Load without assuming alignment: records and callers' ids may lie anywhere."""
    return builder.load(pointer_at(builder, address, kind), align=1)


def splat(builder: Any, scalar: Any, lanes: int) -> Any:
    """Return a vector with a scalar in all lanes."""
    kind = ir.VectorType(scalar.type, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, _I32(0))
    return builder.shuffle_vector(
        first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    )


def multiply_add(builder: Any, left: Any, right: Any, addend: Any) -> Any:
    """Fused where the target fuses fast, two instructions elsewhere; never a library call."""
    vector = left.type
    kind = ir.FunctionType(vector, [vector] * 3)
    name = f"llvm.fmuladd.v{vector.count}f32"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, [left, right, addend])


def _prefetch(builder: Any, address: Any) -> None:
    pointer = pointer_at(builder, address, _I8)
    kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, _I32(0), _I32(3), _I32(1)])


def _values_at(builder: Any, form: int, lanes: int, address: Any, column: Any) -> list[Any]:
    """Return ``lanes`` stored values as float32, before scale and bias.

    4-bit codes come as those at even and those at odd columns, to be interleaved only when all
    records are summed up; more than one of them start at an even column.
    """
    if form == INT4 and lanes > 1:
        lanes //= 2
    vector, wide = ir.VectorType(_F32, lanes), ir.VectorType(_I32, lanes)
    if form == F32:
        return [load_at(builder, address, vector)]
    kind = ir.IntType(16) if form == BF16 else _I8
    raw = builder.zext(load_at(builder, address, ir.VectorType(kind, lanes)), wide)
    if form == BF16:  # the upper half of a float32
        return [builder.bitcast(builder.shl(raw, constant(wide, 16)), vector)]
    if form == INT8:
        return [builder.uitofp(raw, vector)]
    low, high = builder.and_(raw, constant(wide, 15)), builder.lshr(raw, constant(wide, 4))
    pair = [builder.uitofp(low, vector), builder.uitofp(high, vector)]
    if column is None:
        return pair
    odd = builder.trunc(column, ir.IntType(1))
    return [builder.select(odd, pair[1], pair[0])]


def constant(kind: Any, value: float) -> Any:
    """Return a vector with a constant in all lanes."""
    return ir.Constant(kind, [value] * kind.count)


def _interleave(builder: Any, even: Any, odd: Any) -> Any:
    count = even.type.count
    order = [i // 2 + count * (i % 2) for i in range(2 * count)]
    return builder.shuffle_vector(even, odd, ir.Constant(ir.VectorType(_I32, 2 * count), order))


def _pool_block(builder: Any, lanes: int, form: int, a: Values, *, weighted: bool) -> None:
    """Sum ``lanes`` values of each of ``count`` records, in order, and store them."""
    scaled, pairs = form in {INT8, INT4}, form == INT4 and lanes > 1
    vector = ir.VectorType(_F32, lanes // 2 if pairs else lanes)
    totals = [cgutils.alloca_once(builder, vector) for _ in range(2 if pairs else 1)]
    bias = cgutils.alloca_once(builder, _F32)
    for place in totals:
        builder.store(constant(vector, 0.0), place)
    builder.store(ir.Constant(_F32, 0.0), bias)
    skip = builder.udiv(builder.mul(a["column"], _I64(BITS[form])), _I64(8))
    with cgutils.for_range(builder, a["count"]) as loop:
        _prefetch_record(
            builder, loop.index, a, skip, max(1, lanes * BITS[form] // 8), scaled=scaled
        )
        record = builder.add(
            a["table"], builder.mul(_checked_id(builder, loop.index, a), a["row_bytes"])
        )
        column = None if pairs else a["column"]
        row = _values_at(builder, form, lanes, builder.add(record, skip), column)
        factor = _load_float(builder, a["weights"], loop.index) if weighted else None
        if scaled:
            scale, shift = _tail_at(builder, form, builder.add(record, a["row_bytes"]))
            shift = builder.fmul(shift, factor) if weighted else shift
            factor = builder.fmul(scale, factor) if weighted else scale
            builder.store(builder.fadd(builder.load(bias), shift), bias)
        for place, values in zip(totals, row, strict=True):
            builder.store(_added(builder, builder.load(place), values, factor), place)
    sums = [builder.load(place) for place in totals]
    result = _interleave(builder, *sums) if pairs else sums[0]
    if scaled:
        result = builder.fadd(result, splat(builder, builder.load(bias), lanes))
    result = builder.fdiv(result, splat(builder, a["divisor"], lanes))
    target = builder.add(a["out"], builder.mul(a["column"], _I64(4)))
    builder.store(result, pointer_at(builder, target, result.type), align=1)


def _added(builder: Any, total: Any, values: Any, factor: Any) -> Any:
    if factor is None:
        return builder.fadd(total, values)
    return multiply_add(builder, values, splat(builder, factor, values.type.count), total)


def _tail_at(builder: Any, form: int, end: Any) -> tuple[Any, Any]:
    """Return scale and bias of the record that ends there; see ``bundle.TableEntry``."""
    if form == INT8:
        tail = builder.sub(end, _I64(8))
        return _load_float(builder, tail, _I64(0)), _load_float(builder, tail, _I64(1))
    # Three bytes, and the byte of codes before them, which falls out.
    word = load_at(builder, builder.sub(end, _I64(4)), _I32)
    scale = builder.bitcast(builder.shl(builder.lshr(word, _I32(18)), _I32(17)), _F32)
    zero = builder.uitofp(builder.and_(builder.lshr(word, _I32(8)), _I32(1023)), _F32)
    steps = builder.fmul(zero, ir.Constant(_F32, -1 / 16))
    return scale, builder.fmul(scale, builder.fadd(steps, ir.Constant(_F32, 24.5)))


def _load_float(builder: Any, address: Any, index: Any) -> Any:
    return load_at(builder, builder.add(address, builder.mul(index, _I64(4))), _F32)


def _checked_id(builder: Any, index: Any, a: Values) -> Any:
    """Load an id; one outside the table is noted in ``bad`` and reads record 0 instead."""
    value = load_at(builder, builder.add(a["ids"], builder.mul(index, _I64(8))), _I64)
    inside = builder.icmp_unsigned("<", value, a["rows"])
    wrong = builder.zext(builder.not_(inside), _I64)
    builder.store(builder.or_(builder.load(a["bad"]), wrong), a["bad"])
    return builder.select(inside, value, _I64(0))


def _prefetch_record(
    builder: Any, index: Any, a: Values, skip: Any, span: int, *, scaled: bool
) -> None:
    ahead = builder.add(index, a["ahead"])
    last = builder.sub(a["readable"], _I64(1))
    near = builder.select(builder.icmp_signed("<", ahead, last), ahead, last)
    value = load_at(builder, builder.add(a["ids"], builder.mul(near, _I64(8))), _I64)
    record = builder.add(a["table"], builder.mul(value, a["row_bytes"]))
    first = builder.add(record, skip)
    for offset in range(0, span, LINE):
        _prefetch(builder, builder.add(first, _I64(offset)))
    end = builder.add(record, a["row_bytes"]) if scaled else builder.add(first, _I64(span))
    _prefetch(builder, builder.sub(end, _I64(1)))


_NAMES = (
    "format", "block", "table", "rows", "row_bytes", "column", "ids", "count", "readable", "out",
    "weights", "ahead",
)  # fmt: skip


@intrinsic
def pool(_typing, _numbers, _divisor):
    """Pool one block of columns over ``count`` ids; returns 1 if an id was outside the table.

    ``numbers`` are int64 in the order of ``_NAMES``; the sum is divided by ``divisor``. Format,
    block length and weights are switched on here, outside the loop over ids.
    """
    signature = types.int64(types.UniTuple(types.int64, len(_NAMES)), types.float32)

    def generate(_context, builder, _signature, values):
        a = dict(zip(_NAMES, cgutils.unpack_tuple(builder, values[0]), strict=True))
        a["divisor"] = values[1]
        a["bad"] = cgutils.alloca_once_value(builder, _I64(0))
        builder.store(_I64(0), a["bad"])
        done = builder.append_basic_block("pooled")
        weighted = builder.zext(builder.icmp_unsigned("!=", a["weights"], _I64(0)), _I64)
        kind = builder.add(builder.mul(a["format"], _I64(2)), weighted)
        switch = builder.switch(builder.add(builder.mul(a["block"], _I64(8)), kind), done)
        for block in BLOCKS:
            for key in range(2 * len(BITS)):
                case = builder.append_basic_block(f"block{block}.{key}")
                switch.add_case(_I64(8 * block + key), case)
                with builder.goto_block(case):
                    _pool_block(builder, block, key // 2, a, weighted=bool(key % 2))
                    builder.branch(done)
        builder.position_at_end(done)
        return builder.load(a["bad"])

    return signature, generate


@intrinsic
def ask_lines(_typing, _address, _size):
    """Ask all lines that ``size`` bytes lie in into the cache."""

    def generate(context, builder, _signature, values):
        _each_line(builder, values, lambda place: _prefetch(builder, place))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def read_lines(_typing, _address, _size):
    """Return the sum of a byte of every line that ``size`` bytes lie in."""

    def generate(_context, builder, _signature, values):
        total = cgutils.alloca_once(builder, _I64)
        builder.store(_I64(0), total)

        def read(place: Any) -> None:
            # An atomic load costs no more; plain ones would be made a gather, which does.
            byte = builder.load_atomic(pointer_at(builder, place, _I8), "monotonic", 1)
            builder.store(builder.add(builder.load(total), builder.zext(byte, _I64)), total)

        _each_line(builder, values, read)
        return builder.load(total)

    return types.int64(types.int64, types.int64), generate


def _each_line(builder: Any, span: Any, use: Callable[[Any], None]) -> None:
    """Use a byte every 64, and the last: in each line one, or two rather than a branch."""
    address, size = span
    steps = builder.udiv(builder.add(size, _I64(LINE - 1)), _I64(LINE))
    with cgutils.for_range(builder, steps) as loop:
        use(builder.add(address, builder.mul(loop.index, _I64(LINE))))
    use(builder.sub(builder.add(address, size), _I64(1)))


@intrinsic
def int64_at(_typing, _address, _index):
    """Return element ``index`` of the int64 array at ``address``."""

    def generate(_context, builder, _signature, values):
        return load_at(builder, builder.add(values[0], builder.mul(values[1], _I64(8))), _I64)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def code_at(_typing, _address, _index, _size):
    """Return element ``index`` of the unsigned numbers of 1, 2 or 4 bytes at ``address``.

    Numbers of 0 bytes are 0.
    """

    def generate(_context, builder, _signature, values):
        address, index, size = values
        place = builder.add(address, builder.mul(index, size))
        found = cgutils.alloca_once_value(builder, _I64(0))
        builder.store(_I64(0), found)  # in every turn of a loop
        done = builder.append_basic_block("found")
        switch = builder.switch(size, done)
        for width in (1, 2, 4):
            case = builder.append_basic_block(f"code{width}")
            switch.add_case(_I64(width), case)
            with builder.goto_block(case):
                code = load_at(builder, place, ir.IntType(8 * width))
                builder.store(builder.zext(code, _I64), found)
                builder.branch(done)
        builder.position_at_end(done)
        return builder.load(found)

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def store_float(_typing, _address, _index, _value):
    """Set element ``index`` of the float32 array at ``address``."""

    def generate(context, builder, _signature, values):
        address = builder.add(values[0], builder.mul(values[1], _I64(4)))
        builder.store(values[2], pointer_at(builder, address, _F32), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), generate
