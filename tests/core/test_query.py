"""A query that does not fit its schema is refused with the feature's name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headway.core import (
    Bag,
    Dense,
    Query,
    QueryError,
    Ragged,
    Schema,
    Scope,
    Sparse,
    Table,
    UsageError,
    check_query,
)

SCHEMA = Schema(
    features=(
        Dense(name="age", scope=Scope.QUERY, width=2),
        Bag(name="history", table="item", scope=Scope.QUERY, max_length=3),
        Sparse(name="item", table="item", scope=Scope.CANDIDATE),
    ),
    tables=(Table(name="item", rows=10, dim=4),),
)
GOOD = Query(
    id="q",
    context={"age": np.zeros((1, 2), np.float32), "history": Ragged.from_rows([[1, 9]])},
    candidates={"item": np.array([0, 9, 3])},
    size=3,
)


def with_context(**columns: Any) -> Query:
    return replace(GOOD, context={**GOOD.context, **columns})


def test_a_fitting_query_is_accepted() -> None:
    check_query(GOOD, SCHEMA)


def test_a_query_without_candidates_is_accepted() -> None:
    check_query(replace(GOOD, candidates={"item": np.empty(0, np.int64)}, size=0), SCHEMA)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (replace(GOOD, candidates={}), "missing candidate-level feature 'item'"),
        (with_context(extra=np.zeros(1, np.int64)), "unknown query-level feature 'extra'"),
        (with_context(age=np.full((1, 2), np.nan, np.float32)), "'age' holds NaN"),
        (
            with_context(age=np.zeros((1, 3), np.float32)),
            r"'age' must be float32 of shape \[1, 2\]",
        ),
        (with_context(age=np.zeros((1, 2))), "'age' must be float32"),
        (with_context(history=Ragged.from_rows([[1, 2, 3, 4]])), "4 ids, the limit is 3"),
        (with_context(history=Ragged.from_rows([[10]])), "id 10 is outside its table 'item'"),
        (with_context(history=Ragged.from_rows([[-1]])), "id -1 is outside"),
        (with_context(history=np.array([1])), "'history' must be ragged"),
        (
            with_context(history=Ragged(np.array([1, 2]), np.array([0, 1]))),
            "offsets must be 2 numbers from 0 to 2",
        ),
        (
            replace(GOOD, candidates={"item": np.array([0, 9])}),
            r"'item' must be int64 of shape \[3\]",
        ),
        (replace(GOOD, candidates={"item": np.array([0, 9, 10])}), "id 10 is outside"),
        (replace(GOOD, size=-1), "cannot have -1 candidates"),
    ],
)
def test_a_misfit_is_refused_by_name(query: Query, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        check_query(query, SCHEMA)


def test_falling_offsets_are_refused() -> None:
    schema = Schema(
        features=(Bag(name="tags", table="t", scope=Scope.CANDIDATE, max_length=3),),
        tables=(Table(name="t", rows=5, dim=4),),
    )
    tags = Ragged(np.array([1, 2]), np.array([0, 3, 1, 2]))
    with pytest.raises(QueryError, match="offsets must not fall"):
        check_query(Query("q", {}, {"tags": tags}, 3), schema)


@pytest.mark.parametrize(
    ("features", "tables", "message"),
    [
        ((), (), "at least one feature"),
        (
            (Sparse(name="a", table="x", scope=Scope.QUERY),),
            (),
            "'a' uses the table 'x', which is not among",
        ),
        (
            (Dense(name="a", scope=Scope.QUERY), Dense(name="a", scope=Scope.QUERY)),
            (),
            r"feature names must be unique, these are not: \['a'\]",
        ),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(
    features: tuple[Any, ...], tables: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Schema(features=features, tables=tables)
