"""From arrays as callers have them to checked columns: taken as they are where they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headway.core import (
    Column,
    Dense,
    Feature,
    Query,
    QueryError,
    Ragged,
    Schema,
    Scope,
    Sparse,
    check_query,
)

Values = ArrayLike | Ragged | tuple[ArrayLike, ArrayLike]
"""What a caller may give for one feature; see ``Ranker.score``."""
PAD = -1
"""Fills up the rows of padded bags and sequences; dropped wherever it stands."""
_FLOAT, _SIGNED, _UNSIGNED = np.dtype(np.float32), np.dtype(np.int64), np.dtype(np.uint64)
_BEYOND = 2**63 - 1


class Asker:
    """Turns what callers give into queries of one schema."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._context = [_Slot(f, schema) for f in schema.of_scope(Scope.QUERY)]
        self._candidates = [_Slot(f, schema) for f in schema.of_scope(Scope.CANDIDATE)]
        self._names = frozenset(f.name for f in schema.features)

    def query(self, columns: Mapping[str, Values]) -> Query:
        """Return the columns as a checked query; arrays of the right type are not copied.

        Raises:
            QueryError: naming the feature that is missing, unknown or does not fit.
        """
        if columns.keys() != self._names:
            for name in columns:
                if name not in self._names:
                    known = sorted(self._names)
                    raise QueryError(f"unknown feature {name!r}; there are {known}")
        context = {s.name: s.column(columns[s.name]) for s in self._context if s.name in columns}
        candidates = {
            s.name: s.column(columns[s.name]) for s in self._candidates if s.name in columns
        }
        size = len(next(iter(candidates.values()))) if candidates else 1
        query = Query("", context, candidates, size)
        self.check(query)
        return query

    def check(self, query: Query) -> None:
        """Accept a query that fits; a quick look at each column, and the full check on doubt.

        Raises:
            QueryError: as ``core.check_query``.
        """
        context, candidates, size = query.context, query.candidates, query.size
        good = len(context) == len(self._context) and len(candidates) == len(self._candidates)
        good = good and all(s.name in context and s.fits(context[s.name], 1) for s in self._context)
        good = good and all(
            s.name in candidates and s.fits(candidates[s.name], size) for s in self._candidates
        )
        if not good:
            check_query(query, self._schema)


class _Slot:
    """What the column of one feature must be, and how it is made."""

    __slots__ = ("column", "fits", "limit", "most", "name", "single", "width")

    def __init__(self, feature: Feature, schema: Schema) -> None:
        self.name = feature.name
        self.single = feature.scope is Scope.QUERY
        self.width, self.most = 1, 0
        self.limit = np.array(0, _UNSIGNED)
        self.column: Callable[[Any], Column]
        self.fits: Callable[[Any, int], bool]
        if isinstance(feature, Dense):
            self.width, self.column, self.fits = feature.width, self._dense, self._dense_fits
            return
        self.limit = np.array(schema.table(feature.table).rows, _UNSIGNED)
        if isinstance(feature, Sparse):
            self.column, self.fits = self._sparse, self._sparse_fits
        else:
            self.most = feature.max_length
            self.column, self.fits = self._ragged, self._ragged_fits

    def _dense(self, values: Values) -> Column:
        if type(values) is np.ndarray and values.dtype == _FLOAT and values.ndim == 2:
            return values
        dense = _numbers(self.name, values, "fiu")
        with np.errstate(over="ignore"):  # what does not fit becomes infinite and is refused
            dense = dense.astype(_FLOAT, copy=False)
        if dense.ndim == 1:
            dense = dense[None] if self.single else dense[:, None]
        return dense

    def _sparse(self, values: Values) -> Column:
        if type(values) is np.ndarray and values.dtype == _SIGNED and values.ndim == 1:
            return values
        return _integers(self.name, values)

    def _ragged(self, values: Values) -> Column:
        if isinstance(values, Ragged):
            return values
        if isinstance(values, tuple) and len(values) == 2:
            return Ragged(_integers(self.name, values[0]), _integers(self.name, values[1]))
        ids = _integers(self.name, values)
        if self.single and ids.ndim == 1:
            ids = ids[None]
        if ids.ndim != 2:
            raise QueryError(
                f"feature {self.name!r} must be ids of shape [rows, length], padded with {PAD}, or "
                f"a tuple (values, offsets), not an array of shape {list(ids.shape)}"
            )
        return Ragged.from_padded(ids, PAD)

    # Each of the following may say no to a column that fits, never yes to one that does not.

    def _dense_fits(self, column: Column, rows: int) -> bool:
        if type(column) is not np.ndarray or column.dtype != _FLOAT:
            return False
        shaped = column.shape == (rows, self.width)
        return shaped and np.count_nonzero(np.isfinite(column)) == column.size

    def _sparse_fits(self, column: Column, rows: int) -> bool:
        return (
            type(column) is np.ndarray
            and column.dtype == _SIGNED
            and column.shape == (rows,)
            and self._inside(column)
        )

    def _ragged_fits(self, column: Column, rows: int) -> bool:
        if type(column) is not Ragged:
            return False
        values, offsets = column.values, column.offsets
        if values.dtype != _SIGNED or offsets.dtype != _SIGNED or values.ndim != 1:
            return False
        if offsets.shape != (rows + 1,) or offsets[0] != 0 or offsets[-1] != len(values):
            return False
        if rows == 1:
            return len(values) <= self.most and self._inside(values)
        lengths = (offsets[1:] - offsets[:-1]).view(_UNSIGNED)  # negative ones become huge
        return not np.count_nonzero(lengths > self.most) and self._inside(values)

    def _inside(self, ids: NDArray[np.int64]) -> bool:
        # Seen as unsigned, a negative id is huge: one comparison finds both ends.
        return not np.count_nonzero(ids.view(_UNSIGNED) >= self.limit)


def _integers(name: str, values: Values) -> NDArray[np.int64]:
    ids = _numbers(name, values, "iu")
    if ids.dtype.kind == "u" and ids.itemsize == 8 and ids.size and int(ids.max()) > _BEYOND:
        raise QueryError(f"feature {name!r}: id {int(ids.max())} is beyond 63 bits")
    return ids.astype(_SIGNED, copy=False)


def _numbers(name: str, values: Values, kinds: str) -> NDArray[Any]:
    wanted = "numbers" if "f" in kinds else "integers"
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise QueryError(f"feature {name!r} has rows of different length: {error}") from error
    if array.size and array.dtype.kind not in kinds:
        raise QueryError(f"feature {name!r} must hold {wanted}, not {array.dtype}")
    return np.atleast_1d(array)
