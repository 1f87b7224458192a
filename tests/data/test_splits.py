"""Rows that choose never judge, and no part looks ahead of the one before it."""

from __future__ import annotations

from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.core import DataError, UsageError
from headway.data import (
    ColumnSplit,
    OrderSplit,
    RawTable,
    Split,
    TimeSplit,
    UserSplit,
    split_rows,
)


def table(users: list[int], times: list[int]) -> RawTable:
    return RawTable(
        {
            "user": np.array([f"u{user}" for user in users], object),
            "time": np.array(times, np.float64),
        }
    )


def parts(split: Split) -> list[list[int]]:
    return [p.tolist() for p in (split.train, split.valid, split.choose, split.test)]


def test_by_order_the_parts_stand_in_a_row() -> None:
    rows = table([0] * 20, list(range(20)))
    split = split_rows(rows, OrderSplit(test=0.2, choose=0.1, valid=0.1))
    assert parts(split) == [list(range(12)), [12, 13], [14, 15], [16, 17, 18, 19]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=40, max_size=80))
def test_by_time_every_row_is_in_one_part_and_no_moment_in_two(times: list[int]) -> None:
    try:
        split = split_rows(
            table([0] * len(times), times),
            TimeSplit(column="time", test=0.3, choose=0.2, valid=0.2),
        )
    except DataError:
        return  # so few moments that a part came out empty
    found = parts(split)
    assert sorted(chain(*found)) == list(range(len(times)))
    moments = [[times[row] for row in part] for part in found]
    assert all(max(a) < min(b) for a, b in pairwise(moments))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=40, max_size=80))
def test_by_user_the_last_share_of_each_user_judges(rows: list[tuple[int, int]]) -> None:
    users, times = [u for u, _ in rows], [t for _, t in rows]
    rule = UserSplit(user="user", time="time", test=0.25, choose=0.25, valid=0.25)
    try:
        found = parts(split_rows(table(users, times), rule))
    except DataError:
        return
    assert sorted(chain(*found)) == list(range(len(rows)))
    for user in set(users):
        mine = [[times[r] for r in part if users[r] == user] for part in found]
        wanted = users.count(user) - round(users.count(user) * 0.75)
        assert wanted <= len(mine[3]) or not wanted
        # More than wanted only by the rest of the moment at the cut.
        assert len([t for t in mine[3] if t > min(mine[3])]) <= wanted
        filled = [part for part in mine if part]
        assert all(max(a) < min(b) for a, b in pairwise(filled))


@settings(max_examples=50, deadline=None)
@given(queries=st.lists(st.integers(0, 12), min_size=40, max_size=80), sort=st.booleans())
def test_by_order_no_query_is_in_two_parts(queries: list[int], *, sort: bool) -> None:
    queries = sorted(queries) if sort else queries
    raw = table(queries, list(range(len(queries))))
    rule = OrderSplit(test=0.3, choose=0.2, valid=0.2)
    try:
        found = parts(split_rows(raw, rule, ("user",)))
    except DataError:
        return
    assert list(chain(*found)) == list(range(len(queries)))
    held = [{queries[row] for row in part} for part in found]
    assert sum(map(len, held)) == len(set(queries))


def test_by_order_a_cut_moves_back_to_the_first_row_of_its_query() -> None:
    raw = table([0, 0, 0, 1, 1, 1, 2, 2, 3, 3], list(range(10)))
    split = split_rows(raw, OrderSplit(test=0.1, choose=0.2, valid=0.2), ("user",))
    assert parts(split) == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]


@pytest.mark.parametrize("same", [{"valid": "test"}, {"train": "test"}, {"valid": "train"}])
def test_one_value_for_two_parts_is_refused(same: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="three different values of the column 'split'"):
        ColumnSplit(column="split", **same)  # type: ignore[arg-type]


def test_a_row_in_two_parts_is_refused() -> None:
    a, b, c = (np.array([i], np.int64) for i in range(3))
    with pytest.raises(DataError, match="row 2 is in two parts"):
        Split(a, b, c, c)


def test_by_column_choosing_rows_come_out_of_the_valid_ones() -> None:
    column = np.array(["train", "valid", "test", "valid", "other", "valid", "valid"], object)
    split = split_rows(RawTable({"split": column}), ColumnSplit(column="split"))
    assert parts(split) == [[0], [1, 5], [3, 6], [2]]


def test_an_empty_part_is_named() -> None:
    with pytest.raises(DataError, match="no rows for choose"):
        split_rows(table([0] * 4, [1] * 4), OrderSplit(test=0.5, choose=0.01, valid=0.3))


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(UsageError, match="train needs some"):
        OrderSplit(test=0.5, choose=0.3, valid=0.2)


def test_a_missing_user_or_time_is_named_by_its_row() -> None:
    rows = RawTable({"user": np.array(["a", None], object), "time": np.array([0, np.nan])})
    rule = UserSplit(user="user", time="time", test=0.2)
    with pytest.raises(DataError, match="'user' has no value in row 1"):
        split_rows(rows, rule)
    with pytest.raises(DataError, match="'time' has no value in row 1"):
        split_rows(rows, TimeSplit(column="time", test=0.2))
