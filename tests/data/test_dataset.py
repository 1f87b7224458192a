"""A data set stores query-level features once and gives them back per impression."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headway.core import Bag, DataError, Dense, Ragged, Schema, Scope, Sparse, Table
from headway.data import Dataset

SCHEMA = Schema(
    features=(
        Dense(name="d", scope=Scope.QUERY),
        Bag(name="b", table="t", scope=Scope.QUERY, max_length=3),
        Sparse(name="s", table="t", scope=Scope.CANDIDATE),
    ),
    tables=(Table(name="t", rows=10, dim=2),),
)


def dataset(row_to_query: list[int]) -> Dataset:
    rows, queries = len(row_to_query), max(row_to_query) + 1
    return Dataset(
        schema=SCHEMA,
        context={
            "d": np.array([[0], [1], [2]], np.float32)[:queries],
            "b": Ragged.from_rows([[1], [], [2, 3]][:queries]),
        },
        candidates={"s": np.arange(rows, dtype=np.int64)},
        row_to_query=np.array(row_to_query, np.int64),
        labels=np.zeros((rows, 1), np.float32),
    )


def test_flat_rows_repeat_their_query() -> None:
    flat = dataset([0, 0, 1, 2, 2]).flat(np.array([1, 3, 4]))
    assert flat["d"].tolist() == [[0], [2], [2]]  # type: ignore[union-attr]
    assert flat["s"].tolist() == [1, 3, 4]  # type: ignore[union-attr]
    assert isinstance(flat["b"], Ragged)
    assert flat["b"].lengths().tolist() == [1, 2, 2]


def test_taking_rows_keeps_only_the_queries_they_need() -> None:
    taken = dataset([0, 0, 1, 2, 2]).take(np.array([4, 1]))
    assert taken.queries == 2
    assert taken.row_to_query.tolist() == [0, 1]
    assert taken.candidates["s"].tolist() == [1, 4]  # type: ignore[union-attr]
    assert taken.context["d"].tolist() == [[0], [2]]  # type: ignore[union-attr]


def test_a_query_holds_its_own_impressions_as_candidates() -> None:
    query = dataset([0, 0, 1, 2, 2]).query(2)
    assert query.size == 2
    assert query.candidates["s"].tolist() == [3, 4]  # type: ignore[union-attr]
    assert query.context["d"].tolist() == [[2]]  # type: ignore[union-attr]


def test_parts_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(DataError, match="must stand together"):
        dataset([0, 1, 0])
    for wrong in ([-1, 0], [0, 2], [1, 1]):
        with pytest.raises(DataError, match="numbered from 0 without gaps"):
            replace(dataset([0, 1]), row_to_query=np.array(wrong, np.int64))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"labels": np.zeros((3, 1), np.float32)}, "labels have shape"),
        ({"labels": np.zeros((2, 1))}, "labels must be float32"),
        ({"candidates": {"s": np.zeros(3, np.int64)}}, r"'s' must be int64 of shape \[2\]"),
        ({"candidates": {"s": np.zeros(2, np.int32)}}, "'s' must be int64"),
        ({"candidates": {"s": np.array([0, 10])}}, "id 10 is outside its table"),
        ({"candidates": {}}, "missing candidate-level feature 's'"),
        ({"context": dataset([0, 1, 2]).context}, r"'d' must be float32 of shape \[2, 1\]"),
    ],
)
def test_columns_that_do_not_fit_the_schema_are_refused(
    change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        replace(dataset([0, 1]), **change)
