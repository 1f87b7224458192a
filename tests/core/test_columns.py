"""Ragged columns behave as lists of lists would."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headway.core import Column, Ragged, concat_columns, pad_sequence, slice_columns, take_rows

rows_of_ids = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6)


def as_lists(column: Ragged) -> list[list[int]]:
    return [
        column.values[a:b].tolist()
        for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)
    ]


@given(rows_of_ids)
def test_rows_come_back_as_they_were_given(rows: list[list[int]]) -> None:
    assert as_lists(Ragged.from_rows(rows)) == rows


@given(rows_of_ids, st.data())
def test_take_picks_rows_in_the_given_order(rows: list[list[int]], data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8) if rows else st.just([]))
    taken = Ragged.from_rows(rows).take(np.asarray(index, np.int64))
    assert as_lists(taken) == [rows[i] for i in index]


@given(rows_of_ids, st.integers(1, 4))
def test_last_keeps_the_newest_ids(rows: list[list[int]], length: int) -> None:
    assert as_lists(Ragged.from_rows(rows).last(length)) == [row[-length:] for row in rows]


@given(rows_of_ids, st.integers(1, 4))
def test_padding_then_dropping_the_fill_gives_the_kept_ids(
    rows: list[list[int]], width: int
) -> None:
    ragged = Ragged.from_rows(rows)
    padded = ragged.padded(width, -1)
    assert padded.shape == (len(rows), width)
    assert as_lists(Ragged.from_padded(padded)) == [row[-width:] for row in rows]


@given(rows_of_ids, rows_of_ids)
def test_concat_stacks_rows(first: list[list[int]], second: list[list[int]]) -> None:
    stacked = concat_columns([{"b": Ragged.from_rows(first)}, {"b": Ragged.from_rows(second)}])["b"]
    assert isinstance(stacked, Ragged)
    assert as_lists(stacked) == first + second


def test_slices_and_takes_cover_every_column() -> None:
    columns: dict[str, Column] = {
        "d": np.arange(6, dtype=np.float32).reshape(3, 2),
        "b": Ragged.from_rows([[1], [], [2, 3]]),
    }
    cut = slice_columns(columns, 1, 3)
    picked = take_rows(columns, np.array([2, 0]))
    assert isinstance(cut["b"], Ragged)
    assert isinstance(picked["b"], Ragged)
    assert as_lists(cut["b"]) == [[], [2, 3]]
    assert as_lists(picked["b"]) == [[2, 3], [1]]
    assert not isinstance(cut["d"], Ragged)
    assert cut["d"].tolist() == [[2, 3], [4, 5]]


def test_a_padded_sequence_is_filled_with_row_zero_and_masked() -> None:
    ids, mask = pad_sequence(Ragged.from_rows([[4, 5, 6], [7], []]), 2)
    assert ids.tolist() == [[5, 6], [7, 0], [0, 0]]
    assert mask.tolist() == [[1, 1], [1, 0], [0, 0]]
