"""Slices are the frequent ids of the largest tables, and users that training never saw."""

from __future__ import annotations

import numpy as np
import pytest

from headway.compress.checks import shared_rows
from headway.compress.guard import GuardSettings
from headway.compress.guard_slices import find_slices
from headway.core import DataError, Schema, Scope, Sparse, Table
from headway.data import Dataset

SCHEMA = Schema(
    features=(
        Sparse(name="user", table="users", scope=Scope.QUERY),
        Sparse(name="hour", table="hours", scope=Scope.QUERY),
        Sparse(name="item", table="items", scope=Scope.CANDIDATE),
    ),
    tables=(
        Table(name="users", rows=1000, dim=4),
        Table(name="hours", rows=24, dim=4),
        Table(name="items", rows=500, dim=4),
    ),
)
SETTINGS = GuardSettings(slice_tables=2, slice_ids=2, slice_rows=50)


def rows(users: range, seed: int) -> Dataset:
    """Ten rows for each user; item 3 is a third of them, item 4 a fifth."""
    rng = np.random.default_rng(seed)
    count = 10 * len(users)
    item = rng.choice([3, 4, *range(10, 200)], count, p=[1 / 3, 1 / 5, *[7 / 15 / 190] * 190])
    return Dataset(
        schema=SCHEMA,
        context={
            "user": np.array(users, np.int64),
            "hour": rng.integers(24, size=len(users)).astype(np.int64),
        },
        candidates={"item": item.astype(np.int64)},
        row_to_query=np.repeat(np.arange(len(users)), 10),
        labels=(rng.random((count, 1)) < 0.3).astype(np.float32),
    )


def test_slices_are_frequent_ids_of_large_tables_and_new_users() -> None:
    test = rows(range(80, 140), 1)
    found = {s.name: s.rows for s in find_slices(test, rows(range(100), 0), SETTINGS)}
    assert list(found) == ["item = 3", "item = 4", "user not in training"]
    np.testing.assert_array_equal(found["item = 3"], np.flatnonzero(test.candidates["item"] == 3))
    assert found["user not in training"].tolist() == list(range(200, 600))
    assert all(rows.dtype == np.int64 for rows in found.values())


def test_without_training_rows_nobody_is_new() -> None:
    found = find_slices(rows(range(80, 140), 1), None, SETTINGS)
    assert [s.name for s in found] == ["item = 3", "item = 4"]


def test_slices_can_be_left_out() -> None:
    off = GuardSettings(margin_slice=None)
    assert find_slices(rows(range(80, 140), 1), None, off) == ()


def test_a_column_that_is_missing_is_an_error() -> None:
    whole = rows(range(5), 0)
    with pytest.raises(DataError, match="item"):
        Dataset(SCHEMA, whole.context, {}, whole.row_to_query, whole.labels)


def test_shared_rows_are_counted_feature_for_feature() -> None:
    train, test = rows(range(100), 0), rows(range(200, 300), 1)
    assert shared_rows(test, train) == 0
    assert shared_rows(train.take(np.arange(0, 500, 2)), train) == 1
    both = rows(range(100), 0)
    item = np.asarray(both.candidates["item"]).copy()
    item[:500] = 499
    half = Dataset(SCHEMA, both.context, {"item": item}, both.row_to_query, both.labels)
    assert shared_rows(half, train) == 0.5
    assert shared_rows(test.take(np.array([], np.int64)), train) == 0
