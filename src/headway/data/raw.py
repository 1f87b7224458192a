"""Rows as they stand in files, before anything is learnt from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.core import DataError


@dataclass(frozen=True, slots=True, eq=False)
class RawTable:
    """Rows as they stand in the files, in their order.

    Attributes:
        columns: name to float64 with NaN for a missing number, or to an object array of text
            (None where missing) or of tuples of text.
    """

    columns: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        """Refuse a table that is empty or uneven.

        Raises:
            DataError: if there is no row or columns differ in length.
        """
        lengths = {len(column) for column in self.columns.values()}
        if len(lengths) > 1:
            raise DataError(f"columns of one table have different lengths: {sorted(lengths)}")
        if not sum(lengths):
            raise DataError("the data has no rows")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> NDArray[Any]:
        """Return a column.

        Raises:
            DataError: if there is none of that name.
        """
        if name not in self.columns:
            raise DataError(f"there is no column {name!r}; there are {list(self.columns)}")
        return self.columns[name]

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column of numbers.

        Raises:
            DataError: if there is none of that name, or it holds text.
        """
        column = self.column(name)
        if column.dtype != np.float64:
            raise DataError(f"column {name!r} holds text where numbers are needed")
        return column

    def values(self, name: str, rows: NDArray[np.int64] | None = None) -> list[Any]:
        """Return a column, or some rows of it, as Python values with None for missing ones."""
        column = self.column(name)
        chosen: list[Any] = (column if rows is None else column[rows]).tolist()
        if column.dtype == np.float64:
            return [None if math.isnan(value) else value for value in chosen]
        return chosen

    def joined(self, other: RawTable, on: str) -> RawTable:
        """Return this table with the columns of ``other``, missing where its key is unknown.

        Raises:
            DataError: if a key stands twice in ``other``.
        """
        keys = other.values(on)
        place = {key: i for i, key in enumerate(keys)}
        if len(place) != len(keys):
            raise DataError(f"column {on!r} holds a value twice where each must be unique")
        rows = np.array([place.get(key, -1) for key in self.values(on)], np.int64)
        columns = dict(self.columns)
        for name, column in other.columns.items():
            if name not in columns:
                columns[name] = column[rows]
                columns[name][rows < 0] = np.nan if column.dtype == np.float64 else None
        return RawTable(columns)


def objects(values: list[Any]) -> NDArray[Any]:
    """Return a column of text or tuples; NumPy would make a matrix of tuples of one length."""
    return np.fromiter(values, object, len(values))
