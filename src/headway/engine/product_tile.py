"""A tile of a product with what follows it, while its sums are still in registers.

Cached functions that use this close over ``SOURCES``, as in ``vectors``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from headway.engine import activations, finish, tiles
from headway.engine.finish import follow, rescale, shift
from headway.engine.tiles import LANES, SUM_BYTES, TALL, WIDE, first_lanes, keep_apart, sum_tile
from headway.engine.vectors import intrinsic, pointer_at, source_number, splat

SOURCES = source_number(
    __file__, *(file.__file__ for file in (activations, finish, tiles) if file.__file__)
)
"""Changes with this file and those that it builds on."""
_I64 = ir.IntType(64)
_NUMBERS = (
    "shape", "source", "row_bytes", "left", "weight", "weight_bytes", "columns", "inner", "before", "scratch",
    "scale", "bias", "combine", "other", "other_bytes", "activation", "slope",
    "out", "out_bytes", "codes", "codes_bytes",
)  # fmt: skip


@intrinsic
def product_tile(_typing, _numbers, _inverse, _zero):
    """Sum up one tile; leave the sums in ``scratch``, or without one finish a full tile.

    Sums go on from those at ``before``, if that is not 0. ``shape`` is 8 for codes, plus 4 for a tall one, plus its vectors less one. Weights have
    ``weight_bytes`` between inner rows, and are not read beyond ``columns``. What is finished here
    must be common: nothing, a sum or a product with another value by rows; no activation, ReLU or
    PReLU.
    """
    signature = types.void(types.UniTuple(types.int64, len(_NUMBERS)), types.float32, types.float32)

    def generate(context, builder, _signature, values):
        keep_apart(builder)
        a = dict(zip(_NUMBERS, cgutils.unpack_tuple(builder, values[0]), strict=True))
        a["inverse"], a["zero"] = (splat(builder, value, LANES) for value in values[1:])
        done = builder.append_basic_block("tiled")
        switch = builder.switch(a["shape"], done)
        for key in range(16):
            case = builder.append_basic_block(f"tile{key}")
            switch.add_case(_I64(key), case)
            builder.position_at_end(case)
            _tile(builder, (TALL if key & 4 else 1, 1 + key % WIDE), a, codes=bool(key & 8))
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, generate


def _tile(builder: Any, shape: tuple[int, int], a: dict[str, Any], *, codes: bool) -> None:
    rows, width = shape
    mask = first_lanes(builder, builder.sub(a["columns"], _I64((width - 1) * LANES)))
    sums = sum_tile(builder, shape, a, mask, codes=codes)
    if shape != (TALL, WIDE):  # others are rare, and code is compiled for each
        _keep(builder, a["scratch"], sums)
        return
    with builder.if_else(builder.icmp_signed("!=", a["scratch"], _I64(0))) as (left, finished):
        with left:
            _keep(builder, a["scratch"], sums)
        with finished:
            masks = [None] * (width - 1) + [mask]
            for row in range(rows):
                with builder.if_then(builder.icmp_signed("<", _I64(row), a["left"])):
                    moved = _row(builder, a, row)
                    add = rescale if codes else shift
                    follow(builder, moved, add(builder, moved, sums[row]), masks, common=True)


def _keep(builder: Any, scratch: Any, sums: list[list[Any]]) -> None:
    """Store sums, with a full tile's columns in each row."""
    for row, vectors in enumerate(sums):
        for column, total in enumerate(vectors):
            place = _I64(SUM_BYTES * row + 4 * LANES * column)
            target = pointer_at(builder, builder.add(scratch, place), total.type)
            builder.store(total, target, align=1)


def _row(builder: Any, a: dict[str, Any], row: int) -> dict[str, Any]:
    """Return the addresses of a row of the tile."""
    moved = dict(a)
    for name in ("other", "out", "codes"):
        place = builder.add(a[name], builder.mul(_I64(row), a[f"{name}_bytes"]))
        there = builder.icmp_signed("!=", a[name], _I64(0))
        moved[name] = builder.select(there, place, _I64(0))
    return moved
