"""Tiles of products in LLVM's own form: six rows by 64 columns are summed up in registers.

A dense tower's time goes into a few products. ``finish`` takes the sums on from here while they
are in the nearest cache. Cached functions that use these close over ``SOURCES``, as in ``vectors``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from headway.engine.machine import machine_facts
from headway.engine.vectors import (
    constant,
    intrinsic,
    load_at,
    multiply_add,
    pointer_at,
    source_number,
    splat,
)

LANES = 16
"""Columns in one vector; outputs come in so many, the last ones masked."""
WIDE, TALL = 4, 6
"""Vectors and rows of a full tile: 24 sums stay in 32 registers beside weights and one value."""
SCRATCH_BYTES = TALL * WIDE * LANES * 4
SOURCES = source_number(__file__)
"""Changes with this file."""
_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS, _INTS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
_DOT = "llvm.x86.avx512.vpdpbusd.512"
HAS_DOT = "avx512_vnni" in machine_facts().vector_features


def call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Call one of LLVM's own functions."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def keep_apart(builder: Any) -> None:
    """Keep the calling function out of others: among their values its sums would leave registers."""
    builder.function.attributes.add("noinline")


def _dot_groups(builder: Any, total: Any, left: Any, right: Any) -> Any:
    """Add to each lane the dot product of four unsigned with four signed bytes, exactly."""
    if HAS_DOT:
        return call(builder, _DOT, _INTS, total, left, right)
    for place in range(4):
        low = constant(_INTS, 24 - 8 * place)
        top = constant(_INTS, 24)
        unsigned = builder.lshr(builder.shl(left, low), top)
        signed = builder.ashr(builder.shl(right, low), top)
        total = builder.add(total, builder.mul(unsigned, signed))
    return total


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
    weights = [load_at(builder, builder.add(at, _I64(4 * LANES * c)), kind) for c in range(width)]
    step = builder.mul(index, _I64(4))
    following: list[list[Any]] = []
    for start in starts:
        value = splat(
            builder, load_at(builder, builder.add(start, step), _I32 if codes else _F32), LANES
        )
        row_sums = sums[len(following)]
        following.append(
            [
                _dot_groups(builder, total, value, weight)
                if codes
                else multiply_add(builder, value, weight, total)
                for total, weight in zip(row_sums, weights, strict=True)
            ]
        )
    more = builder.add(index, _I64(1))
    index.add_incoming(more, loop)
    for row_sums, row_following in zip(sums, following, strict=True):
        for total, value in zip(row_sums, row_following, strict=True):
            total.add_incoming(constant(kind, 0), before)
            total.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", more, a["inner"]), loop, done)
    builder.position_at_end(done)
    for row, row_sums in enumerate(following):
        for column, total in enumerate(row_sums):
            place = 4 * LANES * (WIDE * row + column)
            target = builder.add(a["scratch"], _I64(place))
            builder.store(total, pointer_at(builder, target, kind), align=1)


_TILE = ("shape", "source", "row_bytes", "left", "weight", "inner", "scratch")


@intrinsic
def sum_tile(_typing, _numbers):
    """Sum up one tile; ``shape`` is 4 for codes, plus 2 for a tall one, plus 1 for a wide one."""

    def generate(_context, builder, _signature, values):
        keep_apart(builder)
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
