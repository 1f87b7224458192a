"""Table lookups in compiled code: read rows, convert, pool, store; the GIL is not held.

Intrinsics and kernel share one file because Numba's cache watches only the timestamp of the file
that holds the compiled function: a changed intrinsic elsewhere would leave a stale binary.

The inner loop is written in LLVM's vector form, which every target lowers to what it has (AVX2,
AVX-512, NEON); plain Numba loops over 8-bit records run ten times slower because the running sum
is kept in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, njit, types
from numba.core import cgutils
from numpy.typing import NDArray

SINGLE, BAG_SUM, BAG_MEAN, SEQUENCE = 0, 1, 2, 3
"""What a lookup does with the ids of a row."""
F32, INT8 = 0, 1
"""How a record of a table is stored."""
BLOCKS = (64, 32, 16, 8, 4, 2, 1)
"""Vector lengths; a row is covered by blocks of the longest that fits, the last one overlapping."""

LOOKUP = np.dtype(
    [
        ("op", np.int64),
        ("format", np.int64),
        ("table", np.int64),  # address of record 0
        ("rows", np.int64),
        ("row_bytes", np.int64),
        ("dim", np.int64),
        ("block", np.int64),  # one of BLOCKS, at most dim
        ("out", np.int64),  # address of this lookup's first value in output row 0
        ("out_stride", np.int64),  # bytes from one output row to the next
        ("max_length", np.int64),  # of a sequence
        ("mask", np.int64),  # address of a sequence's mask, float32 [rows, max_length]
    ]
)
"""One lookup of a tower: where its table is and where its vectors go."""

_AHEAD = 16
"""How many ids ahead a record is asked into the cache."""
_FILL = np.zeros(1, np.int64)
"""The id that fills sequences up, as the trained module saw it."""
_LINE = 64
intrinsic: Any = extending.intrinsic  # its own types know nothing of the typing context
_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()


def block_of(dim: int) -> int:
    """Return the longest vector length that fits into ``dim`` values."""
    return next(block for block in BLOCKS if block <= dim)


def _compiled(function: Callable[..., Any]) -> Any:
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder can be written: compile anew in every process
        return njit(nogil=True, error_model="numpy")(function)


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder: Any, address: Any, kind: Any) -> Any:
    """Load without assuming alignment: records and callers' ids may lie anywhere."""
    return builder.load(_at(builder, address, kind), align=1)


def _splat(builder: Any, scalar: Any, lanes: int) -> Any:
    kind = ir.VectorType(_F32, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, _I32(0))
    return builder.shuffle_vector(
        first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    )


def _multiply_add(builder: Any, left: Any, right: Any, addend: Any) -> Any:
    """Fused where the target fuses fast, two instructions elsewhere; never a library call."""
    vector = left.type
    kind = ir.FunctionType(vector, [vector] * 3)
    name = f"llvm.fmuladd.v{vector.count}f32"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, [left, right, addend])


def _prefetch(builder: Any, address: Any) -> None:
    pointer = _at(builder, address, _I8)
    kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, _I32(0), _I32(3), _I32(1)])


def _pool_block(builder: Any, lanes: int, a: dict[str, Any], *, quantized: bool) -> None:
    """Sum ``lanes`` values of each of ``count`` records, in order, and store them."""
    vector = ir.VectorType(_F32, lanes)
    total = cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * lanes))
    bias = cgutils.alloca_once_value(builder, ir.Constant(_F32, 0.0))
    builder.store(ir.Constant(vector, [0.0] * lanes), total)
    builder.store(ir.Constant(_F32, 0.0), bias)
    size = 1 if quantized else 4
    skip = builder.mul(a["column"], _I64(size))
    with cgutils.for_range(builder, a["count"]) as loop:
        _prefetch_record(builder, loop.index, a, lanes * size, quantized=quantized)
        record = builder.add(
            a["table"], builder.mul(_checked_id(builder, loop.index, a), a["row_bytes"])
        )
        values = builder.add(record, skip)
        if quantized:
            raw = builder.uitofp(_load(builder, values, ir.VectorType(_I8, lanes)), vector)
            extra = builder.add(record, a["dim"])
            scale = _splat(builder, _load(builder, extra, _F32), lanes)
            builder.store(_multiply_add(builder, raw, scale, builder.load(total)), total)
            shift = _load(builder, builder.add(extra, _I64(4)), _F32)
            builder.store(builder.fadd(builder.load(bias), shift), bias)
        else:
            row = _load(builder, values, vector)
            builder.store(builder.fadd(builder.load(total), row), total)
    result = builder.load(total)
    if quantized:
        result = builder.fadd(result, _splat(builder, builder.load(bias), lanes))
    result = builder.fdiv(result, _splat(builder, a["divisor"], lanes))
    target = builder.add(a["out"], builder.mul(a["column"], _I64(4)))
    builder.store(result, _at(builder, target, vector), align=1)


def _checked_id(builder: Any, index: Any, a: dict[str, Any]) -> Any:
    """Load an id; one outside the table is noted in ``bad`` and reads record 0 instead."""
    value = _load(builder, builder.add(a["ids"], builder.mul(index, _I64(8))), _I64)
    inside = builder.icmp_unsigned("<", value, a["rows"])
    wrong = builder.zext(builder.not_(inside), _I64)
    builder.store(builder.or_(builder.load(a["bad"]), wrong), a["bad"])
    return builder.select(inside, value, _I64(0))


def _prefetch_record(
    builder: Any, index: Any, a: dict[str, Any], span: int, *, quantized: bool
) -> None:
    ahead = builder.add(index, _I64(_AHEAD))
    last = builder.sub(a["readable"], _I64(1))
    near = builder.select(builder.icmp_signed("<", ahead, last), ahead, last)
    value = _load(builder, builder.add(a["ids"], builder.mul(near, _I64(8))), _I64)
    record = builder.add(a["table"], builder.mul(value, a["row_bytes"]))
    first = builder.add(record, builder.mul(a["column"], _I64(1 if quantized else 4)))
    for offset in range(0, span, _LINE):
        _prefetch(builder, builder.add(first, _I64(offset)))
    end = builder.add(record, a["row_bytes"]) if quantized else builder.add(first, _I64(span))
    _prefetch(builder, builder.sub(end, _I64(1)))


_NAMES = (
    "format", "block", "table", "rows", "row_bytes", "dim", "column", "ids", "count", "readable", "out",
)  # fmt: skip


@intrinsic
def _pool(_typing, _numbers, _divisor):
    """Pool one block of columns over ``count`` ids; returns 1 if an id was outside the table.

    ``numbers`` are int64 in the order of ``_NAMES``; the sum is divided by ``divisor``. Format
    and block length are switched on here, outside the loop over ids.
    """
    signature = types.int64(types.UniTuple(types.int64, len(_NAMES)), types.float32)

    def generate(_context, builder, _signature, values):
        a = dict(zip(_NAMES, cgutils.unpack_tuple(builder, values[0]), strict=True))
        a["divisor"] = values[1]
        a["bad"] = cgutils.alloca_once_value(builder, _I64(0))
        builder.store(_I64(0), a["bad"])
        done = builder.append_basic_block("pooled")
        key = builder.add(builder.mul(a["block"], _I64(2)), a["format"])
        switch = builder.switch(key, done)
        for block in BLOCKS:
            for form in (F32, INT8):
                case = builder.append_basic_block(f"block{block}.{form}")
                switch.add_case(_I64(2 * block + form), case)
                with builder.goto_block(case):
                    _pool_block(builder, block, a, quantized=form == INT8)
                    builder.branch(done)
        builder.position_at_end(done)
        return builder.load(a["bad"])

    return signature, generate


@intrinsic
def _int64_at(_typing, _address, _index):
    """Return element ``index`` of the int64 array at ``address``."""

    def generate(_context, builder, _signature, values):
        return _load(builder, builder.add(values[0], builder.mul(values[1], _I64(8))), _I64)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _store_float(_typing, _address, _index, _value):
    """Set element ``index`` of the float32 array at ``address``."""

    def generate(context, builder, _signature, values):
        address = builder.add(values[0], builder.mul(values[1], _I64(4)))
        builder.store(values[2], _at(builder, address, _F32), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), generate


@_compiled
def _vector(lookup, ids, count, readable, out):
    """Pool ``count`` ids into ``dim`` values at ``out``; returns 1 if an id was off."""
    divisor = np.float32(1.0)
    if lookup.op == BAG_MEAN and count > 1:
        divisor = np.float32(count)
    bad = 0
    column = 0
    while column < lookup.dim:
        column = min(column, lookup.dim - lookup.block)
        numbers = (
            lookup.format, lookup.block, lookup.table, lookup.rows, lookup.row_bytes, lookup.dim,
            column, ids, count, readable, out,
        )  # fmt: skip
        bad |= _pool(numbers, divisor)
        column += lookup.block
    return bad


@_compiled
def _sequence(lookup, begin, end, ids, row):
    """Write one row's last ``max_length`` vectors, filled up with record 0, and its mask."""
    out = lookup.out + row * lookup.out_stride
    mask = lookup.mask + row * lookup.max_length * 4
    begin = max(begin, end - lookup.max_length)
    length = end - begin
    bad = 0
    for position in range(length):
        at = ids + 8 * (begin + position)
        bad |= _vector(lookup, at, 1, length - position, out + 4 * lookup.dim * position)
        _store_float(mask, position, np.float32(1.0))
    for position in range(length, lookup.max_length):
        bad |= _vector(lookup, _FILL.ctypes.data, 1, 1, out + 4 * lookup.dim * position)
        _store_float(mask, position, np.float32(0.0))
    return bad


@_compiled
def _row(lookup, source, row, out_row):
    """Look up one row of a column; returns 1 if its ids or offsets were off."""
    ids, offsets, total = source[0], source[1], source[2]
    out = lookup.out + out_row * lookup.out_stride
    if lookup.op == SINGLE:
        return 1 if row >= total else _vector(lookup, ids + 8 * row, 1, total - row, out)
    begin, end = _int64_at(offsets, row), _int64_at(offsets, row + 1)
    if begin < 0 or end < begin or end > total:
        return 1
    if lookup.op == SEQUENCE:
        return _sequence(lookup, begin, end, ids, out_row)
    return _vector(lookup, ids + 8 * begin, end - begin, total - begin, out)


@_compiled
def look_up(
    lookups: NDArray[np.void], sources: NDArray[np.int64], pieces: NDArray[np.int64]
) -> int:
    """Run all lookups of a tower over all pieces, each vector straight into its place.

    The caller answers for the addresses; ids and offsets are checked here, so that a wrong one
    cannot read or write outside the tables and columns.

    Args:
        lookups: ``LOOKUP`` records ``[lookups]``.
        sources: int64 ``[pieces * lookups, 3]``, the lookups of a piece together: the address of
            a column's ids, of its offsets (0 for one id a row) and the number of ids.
        pieces: int64 ``[pieces, 3]``: first row, one past the last, and the output row of the
            first.

    Returns:
        -1, or the index of the first lookup that met an id or offset out of range.
    """
    for index in range(len(lookups)):
        for piece in range(len(pieces)):
            start, stop, out_row = pieces[piece]
            source = sources[piece * len(lookups) + index]
            bad = 0
            for row in range(start, stop):
                bad |= _row(lookups[index], source, row, out_row + row - start)
            if bad:
                return index
    return -1


def warm_up() -> None:
    """Compile, or load from the cache, so that no query waits for it."""
    nothing = np.zeros((0, 3), np.int64)
    look_up(np.zeros(0, LOOKUP), nothing, nothing)


_PLAIN_IDS = [types.Array(types.int64, 1, "C", readonly=readonly) for readonly in (False, True)]


@_compiled
def _address(array):
    return array.ctypes.data


for _kind in _PLAIN_IDS:
    _address.compile(types.int64(_kind))
_address.disable_compile()


def address_of(array: NDArray[np.int64]) -> int:
    """Return the address of an array's first element, five times as fast as NumPy can.

    Raises:
        TypeError: if the array is not int64, one-dimensional, contiguous and aligned.
    """
    return int(_address(array))
