"""Tiles of products in LLVM's own form: six rows by 64 columns are summed up in registers.

A dense tower's time goes into a few products. ``finish`` takes the sums on from here while they
are in registers.
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
    splat,
)

LANES = 16
"""Columns in one vector; outputs come in so many, the last ones masked."""
WIDE, TALL = 4, 6
"""Vectors and rows of a full tile: 24 sums stay in 32 registers beside weights and one value."""
SUM_BYTES = WIDE * LANES * 4
"""Bytes of a row of a full tile's sums."""
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


def first_lanes(builder: Any, count: Any) -> Any:
    """Return a mask of the lanes below ``count``."""
    places = ir.Constant(_INTS, list(range(LANES)))
    most = builder.select(builder.icmp_signed("<", count, _I64(LANES)), count, _I64(LANES))
    return builder.icmp_signed("<", places, splat(builder, builder.trunc(most, _I32), LANES))


def load_masked(builder: Any, address: Any, kind: Any, mask: Any) -> Any:
    """Load the lanes of a mask and touch no other; those are zero."""
    name = f"llvm.masked.load.v{LANES}{'f32' if kind == _FLOATS else 'i32'}.p0"
    pointer = pointer_at(builder, address, kind)
    return call(builder, name, kind, pointer, _I32(1), mask, constant(kind, 0))


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


def _row_starts(builder: Any, rows: int, a: dict[str, Any]) -> list[Any]:
    """Return where rows start; beyond the last that row once more, so that no shape is lacking."""
    last, starts = builder.sub(a["left"], _I64(1)), []
    for row in range(rows):
        place = builder.select(builder.icmp_signed("<", _I64(row), last), _I64(row), last)
        starts.append(builder.add(a["source"], builder.mul(place, a["row_bytes"])))
    return starts


def sum_tile(
    builder: Any, shape: tuple[int, int], a: dict[str, Any], mask: Any, *, codes: bool
) -> list[list[Any]]:
    """Return a tile of products summed up over the inner axis, by rows and vectors.

    Args:
        builder: where the code goes.
        shape: rows and vectors.
        a: ``source``, ``row_bytes`` and rows ``left``; ``weight``, which has ``weight_bytes``
            between inner rows; ``inner`` rows, or groups of four of them for codes.
            Sums go on from those at ``before``, if that is not 0.
        mask: lanes of the last vector that may be read of the weights; other sums mean nothing.
        codes: whether unsigned bytes are multiplied by signed ones.
    """
    rows, width = shape
    kind = _INTS if codes else _FLOATS
    starts = _row_starts(builder, rows, a)
    first = _first_sums(builder, shape, kind, a["before"])
    before, loop = builder.block, builder.append_basic_block("inner")
    done = builder.append_basic_block("summed")
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(_I64)
    index.add_incoming(_I64(0), before)
    sums = [[builder.phi(kind) for _ in range(width)] for _ in range(rows)]
    at = builder.add(a["weight"], builder.mul(index, a["weight_bytes"]))
    places = [builder.add(at, _I64(4 * LANES * column)) for column in range(width)]
    weights = [load_at(builder, place, kind) for place in places[:-1]]
    weights.append(load_masked(builder, places[-1], kind, mask))
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
    for row_sums, row_first, row_following in zip(sums, first, following, strict=True):
        for total, start, value in zip(row_sums, row_first, row_following, strict=True):
            total.add_incoming(start, before)
            total.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", more, a["inner"]), loop, done)
    builder.position_at_end(done)
    return following


def _first_sums(builder: Any, shape: tuple[int, int], kind: Any, address: Any) -> list[list[Any]]:
    """Return zeros, or the sums so far where there is an address of such."""
    rows, width = shape
    zero, before = constant(kind, 0), builder.block
    more, ready = builder.append_basic_block("more"), builder.append_basic_block("ready")
    builder.cbranch(builder.icmp_signed("!=", address, _I64(0)), more, ready)
    builder.position_at_end(more)
    loaded = [
        [
            load_at(builder, builder.add(address, _I64(row * SUM_BYTES + 4 * LANES * column)), kind)
            for column in range(width)
        ]
        for row in range(rows)
    ]
    builder.branch(ready)
    builder.position_at_end(ready)
    found = []
    for vectors in loaded:
        found.append([builder.phi(kind) for _ in vectors])
        for start, value in zip(found[-1], vectors, strict=True):
            start.add_incoming(zero, before)
            start.add_incoming(value, more)
    return found


_DOTS = (
    "source", "row_bytes", "left", "piece_bytes", "pieces", "weight", "inner", "scratch",
)  # fmt: skip


@intrinsic
def sum_dots(_typing, _numbers):
    """Sum up products with a single column, ``[rows, pieces]``: lanes run along the inner axis.

    A row has ``pieces`` of ``inner`` float32 side by side, at most ``WIDE * LANES``; the weight
    is one such piece, with zeros to the end of its last vector.
    """

    def generate(context, builder, _signature, values):
        keep_apart(builder)
        a = dict(zip(_DOTS, cgutils.unpack_tuple(builder, values[0]), strict=True))
        starts = _row_starts(builder, TALL, a)
        with cgutils.for_range(builder, a["pieces"]) as pieces:
            offset = builder.mul(pieces.index, a["piece_bytes"])
            sums = _dots_of(builder, [builder.add(start, offset) for start in starts], a)
            for row, total in enumerate(sums):
                column = builder.add(pieces.index, _I64(row * WIDE * LANES))
                target = builder.add(a["scratch"], builder.mul(column, _I64(4)))
                builder.store(total, pointer_at(builder, target, _F32), align=1)
        return context.get_dummy_value()

    return types.void(types.UniTuple(types.int64, len(_DOTS))), generate


def _dots_of(builder: Any, starts: list[Any], a: dict[str, Any]) -> list[Any]:
    """Return the dot product of each row's piece with the weight."""
    totals = [cgutils.alloca_once(builder, _FLOATS) for _ in starts]
    for total in totals:
        builder.store(constant(_FLOATS, 0.0), total)
    vectors = builder.sdiv(builder.add(a["inner"], _I64(LANES - 1)), _I64(LANES))
    with cgutils.for_range(builder, vectors) as steps:
        lane = builder.mul(steps.index, _I64(LANES))
        mask = first_lanes(builder, builder.sub(a["inner"], lane))
        skip = builder.mul(lane, _I64(4))
        weight = load_at(builder, builder.add(a["weight"], skip), _FLOATS)
        for start, total in zip(starts, totals, strict=True):
            value = load_masked(builder, builder.add(start, skip), _FLOATS, mask)
            builder.store(multiply_add(builder, value, weight, builder.load(total)), total)
    kind = ir.FunctionType(_F32, [_F32, _FLOATS])
    reduce = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.fadd.v16f32")
    zero = ir.Constant(_F32, 0.0)
    return [
        builder.call(reduce, [zero, builder.load(total)], fastmath=("reassoc",)) for total in totals
    ]
