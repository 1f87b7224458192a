"""Encoded impressions grouped by query: what models train on and guards judge on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.core import Column, Columns, DataError, Query, Schema, slice_columns, take_rows


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
            DataError: if row counts differ or queries are out of order.
        """
        rows = len(self.row_to_query)
        if self.labels.shape != (rows, len(self.schema.tasks)):
            raise DataError(f"labels have shape {self.labels.shape}, not [{rows}, tasks]")
        for name, column in self.candidates.items():
            if len(column) != rows:
                raise DataError(f"column {name!r} has {len(column)} rows, labels have {rows}")
        if rows and (np.diff(self.row_to_query) < 0).any():
            raise DataError("the rows of one query must stand together, in the order of queries")

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

    def query(self, index: int) -> Query:
        """Return query ``index`` with its impressions as candidates."""
        start, stop = np.searchsorted(self.row_to_query, [index, index + 1])
        return Query(
            id=str(index),
            context=slice_columns(self.context, index, index + 1),
            candidates=slice_columns(self.candidates, int(start), int(stop)),
            size=int(stop - start),
        )
