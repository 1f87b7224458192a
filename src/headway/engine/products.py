"""A tower's steps in compiled code: products of rows with weights, and what is done to rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from headway.engine.finish import (
    MULTIPLY,
    ONE_COLUMN,
    PRELU,
    RELU,
    SUMS_F32,
    SUMS_INT8,
    VALUES,
    finish_tile,
)
from headway.engine.product_tile import product_tile
from headway.engine.tiles import LANES, SUM_BYTES, TALL, WIDE, sum_dots
from headway.engine.vectors import DATA, ITEMS, ask_lines, entry, inner, int64_at
from headway.engine.whole_rows import SOURCES, dot_places, scale_weights, softmax_rows, weave_row

PRODUCT, PRODUCT_INT8, DOTS, MAP, OWN_MATRIX, SCALED = 0, 1, 2, 3, 4, 5
SOFTMAX, WEAVE, QUERY_DOTS = 6, 7, 8
"""What a step does. ``DOTS`` is a product with a single column; in ``OWN_MATRIX`` each row has a
matrix of its own, in ``SCALED`` weights that are multiplied by a value of its own."""
CHUNK_ROWS = 96
"""Rows of a chunk: its values stay in the second-level cache of a core."""
SCRATCH_BYTES = (CHUNK_ROWS + TALL) * SUM_BYTES
MOST_ASKED = 1 << 19
"""Bytes of weights that are asked into the caches before a run."""
MOST_INNER = 1024
"""Rows of weights that are multiplied before the next: a block of them stays near all tiles."""
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
        ("matrix", np.int64),  # instead of packed weights, or what these are multiplied by
        ("own", np.int64),  # where a row's own weights are made
        ("same_other", np.int64),  # whether all pieces read the same piece of the other value
        ("combine", np.int64),
        ("activation", np.int64),
        ("groups", np.int64),  # pieces of a row that are multiplied alike
        ("inner", np.int64),  # float32 values, or groups of four codes, of a piece
        ("columns", np.int64),  # of a piece of the result
        ("weight", np.int64),  # address of the packed weights, or offset into the matrix
        ("weight_bytes", np.int64),  # between the matrix's rows
        ("weight_size", np.int64),  # of the packed weights
        ("scale", np.int64),  # address; 0 for none, as all that follow
        ("bias", np.int64),
        ("slope", np.int64),
        ("inverse", np.float32),  # codes are round(value * inverse + zero)
        ("zero", np.float32),
    ]
)
"""One step over a chunk of rows."""


@inner
def _multiply(numbers, inverse, zero):
    product_tile(numbers, inverse, zero)


@inner
def _sum_dots(numbers):
    sum_dots(numbers)


@inner
def _soften(numbers):
    softmax_rows(numbers)


@inner
def _dot_places(numbers):
    dot_places(numbers)


@inner
def _scale_weights(numbers):
    scale_weights(numbers)


@inner
def _weave(numbers):
    weave_row(numbers)


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
def _product(step, count, scratch, sides, matrix, packed=0):
    """Multiply rows by the weights, which may lie elsewhere: columns outside, so that they stay."""
    (source, source_bytes, _), (other, other_bytes, mapping), (out, out_bytes), (codes, width) = (
        sides
    )
    weight, column = packed if packed else matrix + step.weight, 0
    blocks = (step.inner + MOST_INNER - 1) // MOST_INNER
    block = (step.inner + blocks - 1) // blocks
    sums = SUMS_INT8 if step.op == PRODUCT_INT8 else SUMS_F32
    # A row or two at the end, and narrower tiles, are not finished in registers.
    tall_rows = count if count % TALL > 2 or count % TALL == 0 else count - count % TALL
    common = _is_common(step, mapping)
    while column < step.columns:
        vectors = min(WIDE, (step.columns - column + LANES - 1) // LANES)
        columns = min(step.columns - column, LANES * vectors)
        weight_bytes = step.weight_bytes if matrix else 4 * LANES * vectors
        scale = step.scale + 4 * column if step.scale else 0
        bias = step.bias + 4 * column if step.bias else 0
        slope = step.slope + 4 * column
        direct = tall_rows if common and vectors == WIDE else 0
        done = 0
        while done < step.inner:
            taken = min(block, step.inner - done)
            last = done + taken == step.inner
            row = 0
            while row < count:
                tall = count - row > 2
                kept = scratch + SUM_BYTES * row
                tile = (
                    8 * (step.op == PRODUCT_INT8) + 4 * tall + vectors - 1,
                    source + row * source_bytes + 4 * done, source_bytes, count - row,
                    weight + done * weight_bytes, weight_bytes, columns, taken,
                    kept if done else 0, 0 if last and row < direct else kept,
                    scale, bias, step.combine, other + row * other_bytes + _beside(step, column),
                    other_bytes, step.activation, slope,
                    out + row * out_bytes + 4 * column if out else 0, out_bytes,
                    codes + row * width + column if codes else 0, width,
                )  # fmt: skip
                _multiply(tile, step.inverse, step.zero)
                row += TALL if tall else 1
            done += taken
        if direct < count:
            numbers = (
                sums, scratch + SUM_BYTES * direct, SUM_BYTES, 0, count - direct, columns,
                scale, bias, step.combine, other + direct * other_bytes + _beside(step, column),
                other_bytes, mapping, step.activation, slope,
                out + direct * out_bytes + 4 * column if out else 0, out_bytes,
                codes + direct * width + column if codes else 0, width,
            )  # fmt: skip
            _bring(numbers, step.inverse, step.zero)
        weight += 4 * columns if matrix else step.inner * weight_bytes
        column += LANES * vectors


@inner
def _is_common(step, mapping):
    """Tell whether a tile can be finished in registers."""
    return (
        mapping == 0
        and step.combine <= MULTIPLY
        and (step.activation <= RELU or step.activation == PRELU)
    )


@inner
def _beside(step, column):
    """Return how far a column of the other value is from its first."""
    return 0 if step.combine > ONE_COLUMN else 4 * column


@inner
def _row_at(side, row):
    """Return the address of a row of what a chunk reads."""
    address, row_bytes, mapping = side
    return address + (int64_at(mapping, row) if mapping else row) * row_bytes


@inner
def _pieces(step, count, scratch, sides, packed):
    """Multiply each piece of each row by the same weights: pieces are rows of their own."""
    source, other, (out, out_bytes), _ = sides
    same = step.combine > ONE_COLUMN or step.same_other
    for row in range(count):
        place = 0
        while place < step.groups:
            taken, skip = min(CHUNK_ROWS, step.groups - place), 4 * place * step.columns
            inside = (
                (_row_at(source, row) + 4 * place * step.inner, 4 * step.inner, 0),
                (_row_at(other, row) + (0 if same else skip), 0 if same else 4 * step.columns, 0),
                (out + row * out_bytes + skip, 4 * step.columns),
                (0, 0),
            )
            _product(step, taken, scratch, inside, 0, packed)
            place += taken


@inner
def _own(step, count, scratch, sides, matrix, own):
    """Multiply each row by its matrix, or its pieces by weights made for it."""
    source, other, (out, out_bytes), _ = sides
    for row in range(count):
        inside = (
            (_row_at(source, row), 0, 0),
            (_row_at(other, row), other[1], 0),
            (out + row * out_bytes, out_bytes),
            (0, 0),
        )
        if step.op == OWN_MATRIX:
            _product(step, 1, scratch, inside, _row_at(matrix, row))
        else:
            _scale_weights(
                (_row_at(matrix, row), step.weight, step.scale, own[0], step.inner, step.columns)
            )
            _pieces(step, 1, scratch, inside, own[0])


@inner
def _dots(step, count, scratch, sides):
    """Multiply rows, or their pieces, by a single column."""
    (source, source_bytes, _), (other, other_bytes, mapping), (out, out_bytes), _ = sides
    row = 0
    while row < count:
        taken, piece = min(TALL, count - row), 0
        while piece < step.groups:
            pieces = min(WIDE * LANES, step.groups - piece)
            at = source + row * source_bytes + 4 * piece * step.inner
            _sum_dots(
                (at, source_bytes, count - row, 4 * step.inner, pieces, step.weight, step.inner,
                 scratch)
            )  # fmt: skip
            other_row = 0 if mapping else row
            numbers = (
                SUMS_F32, scratch, SUM_BYTES, 0, taken, pieces, 0,
                step.bias + 4 * piece if step.bias else 0,
                step.combine, other + other_row * other_bytes + _beside(step, piece), other_bytes,
                mapping + 8 * row if mapping else 0, step.activation, step.slope + 4 * piece,
                out + row * out_bytes + 4 * piece, out_bytes, 0, 0,
            )  # fmt: skip
            _bring(numbers, step.inverse, step.zero)
            piece += pieces
        row += taken


@inner
def _map(step, count, sides):
    """Pass the chunk's rows on."""
    source, other, out, codes = sides
    numbers = (
        VALUES, source[0], source[1], source[2], count, step.columns, 0, step.bias,
        step.combine, other[0], other[1], other[2], step.activation, step.slope,
        out[0], out[1], codes[0], codes[1],
    )  # fmt: skip
    _bring(numbers, step.inverse, step.zero)


@inner
def _over_rows(step, count, sides):
    """Do what takes a row as a whole."""
    source, other, (out, out_bytes), _ = sides
    if step.op == SOFTMAX:
        _soften((source[0], source[1], out, out_bytes, count, step.columns))
        return
    for row in range(count):
        if step.op == QUERY_DOTS:
            _dot_places(
                (source[0] + row * source[1], _row_at(other, row), out + row * out_bytes,
                 step.columns, step.inner)
            )  # fmt: skip
            continue
        _weave(
            (_row_at(source, row), out + row * out_bytes, step.groups, step.inner, step.columns,
             step.weight, step.bias, step.weight_bytes)
        )  # fmt: skip


@inner
def _do(step, count, scratch, sides, extra):
    matrix, own = extra
    if step.op == MAP:
        _map(step, count, sides)
    elif step.op >= SOFTMAX:
        _over_rows(step, count, sides)
    elif step.op >= OWN_MATRIX:
        _own(step, count, scratch, sides, matrix, own)
    elif step.op == DOTS:
        _dots(step, count, scratch, sides)
    elif step.groups > 1:
        _pieces(step, count, scratch, sides, 0)
    else:
        _product(step, count, scratch, sides, matrix[0])


@inner
def _ask(steps):
    """Ask for the weights before they are needed: between queries others use the caches."""
    asked = 0
    for index in range(len(steps)):
        size = steps[index].weight_size
        asked += size
        if size and asked <= MOST_ASKED:
            ask_lines(steps[index].weight, size)


def _run_of(_sources: int) -> Any:
    def run_steps(steps, values, users, job):
        """Run all steps over chunks of rows; the caller answers for the addresses.

        Args:
            steps: ``STEP`` records, in order.
            values: ``VALUE`` records; those that ``users`` name are placed here.
            users: int64 ``[users, 3]``: a value's index, its array's, and its offset there.
            job: as ints, ``id()`` of a tuple of NumPy arrays, contiguous and aligned: what is fed
                and made, and perhaps int64 ``[rows]``, each row's query; rows of the run; one more
                than the place of that last array, or 0 if all rows are of query 0; most rows of a
                chunk, for which buffers have room, at most ``CHUNK_ROWS``; address of
                ``SCRATCH_BYTES`` bytes.
        """
        arrays, rows, told, chunk, scratch = job
        for user in range(len(users)):
            array = int64_at(arrays, ITEMS + users[user, 1])
            values[users[user, 0]].address = int64_at(array, DATA) + users[user, 2]
        row_to_query = int64_at(int64_at(arrays, ITEMS + told - 1), DATA) if told else 0
        _ask(steps)
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
                extra = (
                    _read(values, step.matrix, start, row_to_query),
                    _written(values, step.own, start),
                )
                _do(step, count, scratch, sides, extra)
            start += count

        return _sources

    return entry(run_steps)


run_steps = _run_of(SOURCES)


def warm_up() -> None:
    """Compile, or load from the cache, so that no query waits for it."""
    run_steps(
        np.zeros(0, STEP), np.zeros(0, VALUE), np.zeros((0, 3), np.int64), (id(()), 0, 0, 1, 0)
    )
