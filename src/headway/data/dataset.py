"""Encoded impressions grouped by query: what models train on and guards judge on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.core import (
    Column,
    Columns,
    DataError,
    Query,
    QueryError,
    Schema,
    Scope,
    check_columns,
    slice_columns,
    take_rows,
)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Impressions (rows), each belonging to a query whose features are stored once.

    Attributes:
        schema: features, tables and tasks.
        context: query-level columns, one row per query.
        candidates: candidate-level columns, one row per impression.
        row_to_query: int64 ``[rows]``, the query of each impression; never falls.
        labels: float32 ``[rows, tasks]``.
    """

    schema: Schema
    context: Columns
    candidates: Columns
    row_to_query: NDArray[np.int64]
    labels: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together.

        Raises:
            DataError: if row counts differ, queries are out of order or have gaps, or a column
                is missing, of another type than the schema says, or out of its table's range.
        """
        rows, index = len(self.row_to_query), self.row_to_query
        if self.labels.shape != (rows, len(self.schema.tasks)):
            raise DataError(f"labels have shape {self.labels.shape}, not [{rows}, tasks]")
        if self.labels.dtype != np.float32 or index.dtype != np.int64 or index.ndim != 1:
            raise DataError(
                f"labels must be float32 and row_to_query int64 [rows], not {self.labels.dtype} "
                f"and {index.dtype} {list(index.shape)}"
            )
        # The first of 0 and steps of 0 or 1: every query has its rows, side by side.
        steps = np.diff(index)
        if rows and (index[0] != 0 or steps.min(initial=0) < 0 or steps.max(initial=0) > 1):
            raise DataError(
                "the rows of one query must stand together, in the order of queries, which are "
                "numbered from 0 without gaps"
            )
        try:
            check_columns(self.context, self.schema, Scope.QUERY, self.queries)
            check_columns(self.candidates, self.schema, Scope.CANDIDATE, rows)
        except QueryError as error:
            raise DataError(f"the data set does not fit its schema: {error}") from error

    def __len__(self) -> int:
        return len(self.row_to_query)

    @property
    def queries(self) -> int:
        """How many queries there are."""
        return int(self.row_to_query[-1]) + 1 if len(self) else 0

    def flat(self, rows: NDArray[np.int64] | slice = slice(None)) -> dict[str, Column]:
        """Return all features with one row per impression, query-level ones repeated."""
        index = np.arange(len(self), dtype=np.int64)[rows]
        columns = take_rows(self.context, self.row_to_query[index])
        columns.update(take_rows(self.candidates, index))
        return columns

    def take(self, rows: NDArray[np.int64]) -> Dataset:
        """Return the given impressions, in rising order, with the queries they need."""
        kept = np.unique(rows)
        used, new = np.unique(self.row_to_query[kept], return_inverse=True)
        return Dataset(
            schema=self.schema,
            context=take_rows(self.context, used),
            candidates=take_rows(self.candidates, kept),
            row_to_query=new.astype(np.int64),
            labels=self.labels[kept],
        )

    def narrowed(self, schema: Schema) -> Dataset:
        """Return the same impressions with the features of another schema, all of them known.

        Raises:
            DataError: if they lack a feature, or hold ids beyond a table.
        """
        if schema == self.schema:
            return self
        missing = [
            f.name for f in schema.features if f.name not in {**self.context, **self.candidates}
        ]
        if missing:
            raise DataError(
                f"the data set has no feature {missing[0]!r}; encode it with that schema"
            )
        names = {f.name for f in schema.features}
        return Dataset(
            schema=schema,
            context={name: column for name, column in self.context.items() if name in names},
            candidates={name: column for name, column in self.candidates.items() if name in names},
            row_to_query=self.row_to_query,
            labels=self.labels,
        )

    def query(self, index: int) -> Query:
        """Return query ``index`` with its impressions as candidates."""
        start, stop = np.searchsorted(self.row_to_query, [index, index + 1])
        return Query(
            id=str(index),
            context=slice_columns(self.context, index, index + 1),
            candidates=slice_columns(self.candidates, int(start), int(stop)),
            size=int(stop - start),
        )
