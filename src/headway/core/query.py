"""A ranking request, checked against a schema before anything else sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.core.clock import Ns
from headway.core.columns import Column, Columns, Ragged
from headway.core.errors import QueryError
from headway.core.schema import Dense, Feature, IdFeature, Schema, Scope, Sparse


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One user with context, and ``size`` candidates to score.

    Attributes:
        id: the caller's name for it, echoed in the reply.
        context: query-level columns, one row each.
        candidates: candidate-level columns, ``size`` rows each.
        size: number of candidates; told apart because a model may have no candidate column.
        timeout: how long the caller will wait, or None for the plan's default.
    """

    id: str
    context: Columns
    candidates: Columns
    size: int
    timeout: Ns | None = None


def check_query(query: Query, schema: Schema) -> None:
    """Accept a query whose columns fit the schema exactly.

    Raises:
        QueryError: naming the first feature that is missing, unknown, of the wrong type or
            shape, not finite, or out of its table's range.
    """
    if query.size < 0:
        raise QueryError(f"a query cannot have {query.size} candidates")
    check_columns(query.context, schema, Scope.QUERY, 1)
    check_columns(query.candidates, schema, Scope.CANDIDATE, query.size)


def check_columns(columns: Columns, schema: Schema, scope: Scope, rows: int) -> None:
    """Accept columns that hold exactly the features of a scope, with ``rows`` rows each.

    Raises:
        QueryError: as ``check_query``.
    """
    expected = schema.of_scope(scope)
    missing = [f.name for f in expected if f.name not in columns]
    if missing:
        raise QueryError(f"missing {scope}-level feature {missing[0]!r}")
    if len(columns) != len(expected):
        unknown = sorted(set(columns) - {f.name for f in expected})
        raise QueryError(f"unknown {scope}-level feature {unknown[0]!r}")
    for feature in expected:
        _check_column(feature, columns[feature.name], schema, rows)


def _check_column(feature: Feature, column: Column, schema: Schema, rows: int) -> None:
    if isinstance(feature, Dense):
        _check_dense(feature, column, rows)
    elif isinstance(feature, Sparse):
        if isinstance(column, Ragged) or column.dtype != np.int64 or column.shape != (rows,):
            raise QueryError(f"feature {feature.name!r} must be int64 of shape [{rows}]")
        _check_ids(feature, column, schema)
    else:
        if not isinstance(column, Ragged):
            raise QueryError(f"feature {feature.name!r} must be ragged: values and offsets")
        _check_ragged(feature.name, column, rows, feature.max_length)
        _check_ids(feature, column.values, schema)


def _check_dense(feature: Dense, column: Column, rows: int) -> None:
    shape = (rows, feature.width)
    if isinstance(column, Ragged) or column.dtype != np.float32 or column.shape != shape:
        raise QueryError(f"feature {feature.name!r} must be float32 of shape {list(shape)}")
    if not np.isfinite(column).all():
        raise QueryError(f"feature {feature.name!r} holds NaN or infinity; send finite values")


def _check_ragged(name: str, column: Ragged, rows: int, max_length: int) -> None:
    offsets, values = column.offsets, column.values
    if values.dtype != np.int64 or offsets.dtype != np.int64 or values.ndim != 1:
        raise QueryError(f"feature {name!r} must have int64 values and offsets")
    if offsets.shape != (rows + 1,) or offsets[0] != 0 or offsets[-1] != len(values):
        raise QueryError(
            f"feature {name!r}: offsets must be {rows + 1} numbers from 0 to {len(values)}"
        )
    lengths = np.diff(offsets)
    if rows and lengths.min() < 0:
        raise QueryError(f"feature {name!r}: offsets must not fall")
    if rows and lengths.max() > max_length:
        raise QueryError(
            f"feature {name!r}: a row has {lengths.max()} ids, the limit is {max_length}"
        )


def _check_ids(feature: IdFeature, ids: NDArray[np.int64], schema: Schema) -> None:
    if not len(ids):
        return
    limit = schema.table(feature.table).rows
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= limit:
        bad = low if low < 0 else high
        raise QueryError(
            f"feature {feature.name!r}: id {bad} is outside its table {feature.table!r}, "
            f"which has rows 0 to {limit - 1}"
        )
