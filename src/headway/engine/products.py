"""A tower's steps in compiled code: products of rows with packed weights, and maps of values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from headway.engine.finish import MAP, PRODUCT_INT8, SOURCES, finish_tile
from headway.engine.tiles import LANES, TALL, WIDE, sum_tile
from headway.engine.vectors import entry, inner

PER_CHUNK, PER_ROW, PER_QUERY = 0, 1, 2
"""Which row of a value a candidate reads: its place in the chunk, its own, its query's."""

VALUE = np.dtype(
    [
        ("address", np.int64),  # of row 0
        ("row_bytes", np.int64),
        ("scope", np.int64),
    ]
)
"""Where a value of the tower is: float32 or uint8 rows."""

STEP = np.dtype(
    [
        ("op", np.int64),
        ("source", np.int64),  # index of a value, as all that follow with -1 for none
        ("other", np.int64),
        ("out", np.int64),
        ("codes", np.int64),
        ("combine", np.int64),
        ("activation", np.int64),
        ("inner", np.int64),  # float32 values, or groups of four codes, of a row
        ("columns", np.int64),
        ("weight", np.int64),  # address of the packed weights; of scale and bias: 0 for none
        ("scale", np.int64),
        ("bias", np.int64),
        ("inverse", np.float32),  # codes are round(value * inverse + zero)
        ("zero", np.float32),
    ]
)
"""One step over a chunk of rows."""


@inner
def _sum_up(numbers):
    sum_tile(numbers)


@inner
def _bring(numbers, inverse, zero):
    finish_tile(numbers, inverse, zero)


@inner
def _place(value, start):
    """Return the address of the chunk's first row of a value that is read or written by rows."""
    return value.address + (start * value.row_bytes if value.scope == PER_ROW else 0)


@inner
def _read(values, index, start, row_to_query):
    """Return address, bytes of a row, and the map to rows, of what a chunk reads; 0s for none."""
    if index < 0:
        return 0, 0, 0
    value = values[index]
    if value.scope != PER_QUERY:
        return _place(value, start), value.row_bytes, 0
    if row_to_query:
        return value.address, value.row_bytes, row_to_query + 8 * start
    return value.address, 0, 0


@inner
def _written(values, index, start):
    """Return address and bytes of a row of what a chunk writes; 0s for nothing."""
    if index < 0:
        return 0, 0
    value = values[index]
    return _place(value, start), value.row_bytes


@inner
def _product(step, count, scratch, sides):
    """Multiply the chunk's rows by the weights: columns outside, so that weights stay near."""
    (source, source_bytes, _), (other, other_bytes, mapping), (out, out_bytes), (codes, width) = (
        sides
    )
    weight, column = step.weight, 0
    while column < step.columns:
        wide = step.columns - column > (WIDE - 1) * LANES
        vectors = WIDE if wide else 1
        row = 0
        while row < count:
            tall = count - row > 2
            taken = min(TALL, count - row) if tall else 1
            shape = 4 * (step.op == PRODUCT_INT8) + 2 * tall + wide
            at = source + row * source_bytes
            _sum_up((shape, at, source_bytes, count - row, weight, step.inner, scratch))
            other_row = 0 if mapping else row
            numbers = (
                step.op, scratch, 4 * WIDE * LANES, 0, taken,
                min(step.columns - column, LANES * vectors),
                step.scale + 4 * column if step.scale else 0,
                step.bias + 4 * column if step.bias else 0,
                step.combine, other + other_row * other_bytes + 4 * column, other_bytes,
                mapping + 8 * row if mapping else 0, step.activation,
                out + row * out_bytes + 4 * column if out else 0, out_bytes,
                codes + row * width + column if codes else 0, width,
            )  # fmt: skip
            _bring(numbers, step.inverse, step.zero)
            row += taken
        weight += step.inner * 4 * LANES * vectors
        column += LANES * vectors


@inner
def _map(step, count, sides):
    """Pass the chunk's rows on."""
    source, other, out, codes = sides
    numbers = (
        step.op, source[0], source[1], source[2], count, step.columns, 0, step.bias,
        step.combine, other[0], other[1], other[2], step.activation,
        out[0], out[1], codes[0], codes[1],
    )  # fmt: skip
    _bring(numbers, step.inverse, step.zero)


def _run_of(_sources: int) -> Any:
    def run_steps(steps, values, rows, row_to_query, chunk, scratch):
        """Run all steps over chunks of rows; the caller answers for the addresses.

        Args:
            steps: ``STEP`` records, in order.
            values: ``VALUE`` records.
            rows: candidates in the batch, or queries in a query tower.
            row_to_query: address of int64 ``[rows]``, or 0 if all rows are of query 0.
            chunk: most rows of a chunk, for which buffers have room.
            scratch: address of ``SCRATCH_BYTES`` bytes.
        """
        start = 0
        while start < rows:
            count = min(chunk, rows - start)
            for index in range(len(steps)):
                step = steps[index]
                sides = (
                    _read(values, step.source, start, row_to_query),
                    _read(values, step.other, start, row_to_query),
                    _written(values, step.out, start),
                    _written(values, step.codes, start),
                )
                if step.op == MAP:
                    _map(step, count, sides)
                else:
                    _product(step, count, scratch, sides)
            start += count

        return _sources

    return entry(run_steps)


run_steps = _run_of(SOURCES)


def _address_of(array):
    return array.ctypes.data


_address = entry(_address_of)


for _kind in (
    *(types.Array(types.float32, 2, "C", readonly=readonly) for readonly in (False, True)),
    *(types.Array(types.int64, 1, "C", readonly=readonly) for readonly in (False, True)),
):
    _address.compile(types.int64(_kind))
_address.disable_compile()


def address_of(array: NDArray[np.float32] | NDArray[np.int64]) -> int:
    """Return the address of an array's first element, sooner than NumPy tells it.

    Raises:
        TypeError: if it is neither float32 ``[rows, width]`` nor int64 ``[rows]``, contiguous.
    """
    return int(_address(array))


def warm_up() -> None:
    """Compile, or load from the cache, so that no query waits for it."""
    run_steps(np.zeros(0, STEP), np.zeros(0, VALUE), 0, 0, 1, 0)
