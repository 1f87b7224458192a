"""Table lookups in compiled code: read rows, convert, pool, store; the GIL is not held."""

from __future__ import annotations

from typing import Any

import numpy as np

from headway.engine.vectors import (
    AXES,
    BLOCKS,
    CLASS,
    DATA,
    INT4,
    ITEMS,
    SHAPE,
    SOURCES,
    STRIDES,
    TYPE,
    code_at,
    entry,
    inner,
    int64_at,
    pool,
    store_float,
)

SINGLE, BAG_SUM, BAG_MEAN, BAG_WEIGHTED, SEQUENCE = 0, 1, 2, 3, 4
"""What a lookup does with the ids of a row."""

LOOKUP = np.dtype(
    [
        ("op", np.int64),
        ("format", np.int64),
        ("table", np.int64),  # address of record 0
        ("rows", np.int64),
        ("row_bytes", np.int64),
        ("dim", np.int64),
        ("block", np.int64),  # block_of(format, dim)
        ("out", np.int64),  # address of this lookup's first value in output row 0
        ("out_stride", np.int64),  # bytes from one output row to the next
        ("max_length", np.int64),  # of a list: only so many of its last ids count; 0: all
        ("mask", np.int64),  # address of a sequence's mask, float32 [rows, max_length]
        ("ahead", np.int64),  # how many ids ahead a record is asked into the cache
        ("slot", np.int64),  # place of its first array among the arrays of a piece
        ("codes", np.int64),  # address of the fold's codes
        ("code_bytes", np.int64),  # of each; 0: all ids from hot on have that record
        ("hot", np.int64),  # ids below it have the record of their own number
        ("ids", np.int64),  # how many ids the fold is of; 0: no fold, id i has record i
        ("fill", np.int64),  # address of the record number that fills sequences up; 0: record 0
    ]
)
"""One lookup of a tower: where its table is and where its vectors go."""
DONE, NOT_PLAIN = -1, -2

_FILL = np.zeros(1, np.int64)
"""The id that fills sequences up, as the trained module saw it."""
TYPES = (id(np.ndarray), id(np.dtype(np.int64)), id(np.dtype(np.float32)))
"""What a job begins with. They differ from process to process, so no cached code may hold them."""


def block_of(form: int, dim: int) -> int:
    """Return the longest vector length that fits into ``dim`` values, or pairs of 4-bit codes."""
    if form == INT4 and dim > 1:
        dim -= dim % 2
    return next(block for block in BLOCKS if block <= dim)


def ahead_of(row_bytes: int) -> int:
    """Return how many ids ahead to ask for records: some 4 kB of them were best where measured."""
    return max(8, min(64, 4096 // row_bytes))


@inner
def _vector(lookup, ids, count, readable, out, weights):
    """Pool ``count`` ids into ``dim`` values at ``out``; returns 1 if an id was off."""
    divisor = np.float32(1.0)
    if lookup.op == BAG_MEAN and count > 1:
        divisor = np.float32(count)
    bad = 0
    column = 0
    # Blocks of 4-bit codes start at even columns; an odd last value stands alone.
    wide = lookup.dim
    if lookup.format == INT4 and wide > 1:
        wide -= wide % 2
    while column < lookup.dim:
        block = lookup.block
        if column >= wide:
            block = 1
        else:
            column = min(column, wide - block)
        numbers = (
            lookup.format, block, lookup.table, lookup.rows, lookup.row_bytes, column, ids, count,
            readable, out, weights, lookup.ahead,
        )  # fmt: skip
        bad |= pool(numbers, divisor)
        column += block
    return bad


@inner
def _sequence(lookup, ids, length, out_row):
    """Write one row's vectors, filled up with those of id 0, and its mask."""
    out = lookup.out + out_row * lookup.out_stride
    mask = lookup.mask + out_row * lookup.max_length * 4
    bad = 0
    for position in range(length):
        at = ids + 8 * position
        bad |= _vector(lookup, at, 1, length - position, out + 4 * lookup.dim * position, 0)
        store_float(mask, position, np.float32(1.0))
    fill = lookup.fill if lookup.fill else _FILL.ctypes.data
    for position in range(length, lookup.max_length):
        bad |= _vector(lookup, fill, 1, 1, out + 4 * lookup.dim * position, 0)
        store_float(mask, position, np.float32(0.0))
    return bad


@inner
def _column(array, kind, width, types):
    """Return address and length of a column of values of ``width`` bytes; -1 if it is not plain."""
    if int64_at(array, CLASS) != types[0]:
        return 0, -1
    length = int64_at(int64_at(array, SHAPE), 0)
    plain = int64_at(array, AXES) & 0xFFFFFFFF == 1 and int64_at(array, TYPE) == kind
    plain &= length < 2 or int64_at(int64_at(array, STRIDES), 0) == width
    return int64_at(array, DATA), length if plain else -1


@inner
def _list(lookup, source, row, out_row):
    """Look up one row of lists; returns 1 if its ids or offsets were off."""
    ids, total, offsets, weights = source
    begin, end = int64_at(offsets, row), int64_at(offsets, row + 1)
    if begin < 0 or end < begin or end > total:
        return 1
    if lookup.max_length > 0:
        begin = max(begin, end - lookup.max_length)
    if weights:
        weights += 4 * begin
    ids += 8 * begin
    if lookup.op == SEQUENCE:
        return _sequence(lookup, ids, end - begin, out_row)
    out = lookup.out + out_row * lookup.out_stride
    return _vector(lookup, ids, end - begin, total - begin, out, weights)


@inner
def _singles(lookup, ids, total, piece):
    """Look up a piece of a column that has one id a row."""
    start, stop, out_row = int64_at(piece, 0), int64_at(piece, 1), int64_at(piece, 2)
    if stop > total:
        return 1
    bad = 0
    for row in range(start, stop):
        out = lookup.out + (out_row + row - start) * lookup.out_stride
        bad |= _vector(lookup, ids + 8 * row, 1, total - row, out, 0)
    return bad


@inner
def _lists(lookup, source, piece):
    """Look up a piece of a column of lists."""
    start, stop, out_row = int64_at(piece, 0), int64_at(piece, 1), int64_at(piece, 2)
    bad = 0
    for row in range(start, stop):
        bad |= _list(lookup, source, row, out_row + row - start)
    return bad


@inner
def _places(lookup, ids, first, last):
    """Return the records of the ids from ``first`` to ``last``; -1 for ids out of range.

    All of them before any is read, so that records can still be asked into the cache ahead.
    """
    places = np.empty(last - first, np.int64)
    for position in range(last - first):
        place = int64_at(ids, first + position)
        if place < 0 or place >= lookup.ids:
            place = -1
        elif place >= lookup.hot:
            place = lookup.hot + code_at(lookup.codes, place - lookup.hot, lookup.code_bytes)
        places[position] = place
    return places


@inner
def _folded_singles(lookup, ids, total, piece):
    """Look up a piece of a column that has one id a row, in a table whose ids share records."""
    start, stop = int64_at(piece, 0), int64_at(piece, 1)
    if stop > total or start > stop or start < 0:
        return 1
    places = _places(lookup, ids, start, stop)
    bad = _singles(lookup, places.ctypes.data - 8 * start, stop, piece)
    return bad + 0 * places.size  # named after its last use, so that it is not let go before


@inner
def _folded_lists(lookup, source, piece):
    """Look up a piece of a column of lists in a table whose ids share records."""
    ids, total, offsets, weights = source
    start, stop = int64_at(piece, 0), int64_at(piece, 1)
    first = int64_at(offsets, start)
    last = first
    # All rows before any is read: none may reach beyond the records found here.
    for row in range(start, stop):
        end = int64_at(offsets, row + 1)
        if last < 0 or end < last or end > total:
            return 1
        last = end
    places = _places(lookup, ids, first, last)
    own = (places.ctypes.data - 8 * first, last, offsets, weights)
    bad = _lists(lookup, own, piece)
    return bad + 0 * places.size  # as above


@inner
def _rows(lookup, arrays, types, piece):
    """Look up the rows of a piece of one column."""
    stop = int64_at(piece, 1)
    ids, total = _column(int64_at(arrays, 0), types[1], 8, types)
    if total < 0:
        return NOT_PLAIN
    if lookup.op == SINGLE:
        singles = (ids, total, piece)
        return _folded_singles(lookup, *singles) if lookup.ids else _singles(lookup, *singles)
    offsets, bounds = _column(int64_at(arrays, 1), types[1], 8, types)
    weights, weighed = 0, total
    if lookup.op == BAG_WEIGHTED:
        weights, weighed = _column(int64_at(arrays, 2), types[2], 4, types)
    if bounds < 0 or weighed < 0:
        return NOT_PLAIN
    if stop >= bounds or weighed != total:
        return 1
    source = (ids, total, offsets, weights)
    return _folded_lists(lookup, source, piece) if lookup.ids else _lists(lookup, source, piece)


def _entry_of(sources: int) -> Any:
    @entry
    def look_up(lookups, arrays, job, pieces):
        """Run all lookups of a tower over all pieces, each vector straight into its place.

        The caller answers for the addresses and keeps the arrays alive; ids and offsets are
        checked here, so that a wrong one cannot read or write outside tables and columns.

        Args:
            lookups: ``LOOKUP`` records ``[lookups]``.
            arrays: ``id()`` of a tuple with the NumPy arrays of all pieces, equally many for each.
                From its slot on a lookup has ids (int64), unless it takes one id a row offsets
                (int64), and if it is weighted weights (float32).
            job: address of int64 numbers: ``TYPES``; arrays of a piece; for each piece first row,
                one past the last and the output row of the first.
            pieces: how many there are.

        Returns:
            ``DONE``; or ``NOT_PLAIN`` if an array is not one-dimensional, contiguous and of that
            type; or the index of the first lookup that met an id or offset out of range.
        """
        if sources < 0:  # never: named so that the function closes over it
            return NOT_PLAIN
        types = (int64_at(job, 0), int64_at(job, 1), int64_at(job, 2))
        given = int64_at(job, 3)
        for index in range(len(lookups)):
            for piece in range(pieces):
                slot = lookups[index].slot + piece * given
                own = arrays + 8 * (ITEMS + slot)
                bad = _rows(lookups[index], own, types, job + 32 + 24 * piece)
                if bad == NOT_PLAIN:
                    return NOT_PLAIN
                if bad:
                    return index
        return DONE

    return look_up


look_up = _entry_of(SOURCES)


def warm_up() -> None:
    """Compile, or load from the cache, so that no query waits for it."""
    job = np.zeros(4, np.int64)
    look_up(np.zeros(0, LOOKUP), id(()), job.ctypes.data, 0)
