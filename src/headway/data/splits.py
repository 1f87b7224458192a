"""Which rows train, which stop training, which choose compositions and which judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.core import DataError
from headway.data.raw import RawTable
from headway.data.settings import ColumnSplit, OrderSplit, SplitSettings, TimeSplit, UserSplit

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Row numbers in rising order; no row is in two parts.

    Attributes:
        train: models and transforms learn from these.
        valid: stop training early.
        choose: choose compositions.
        test: judge, and have chosen nothing.
    """

    train: Rows
    valid: Rows
    choose: Rows
    test: Rows

    def __post_init__(self) -> None:
        """Refuse a split with an empty part, or with a row in two parts.

        Raises:
            DataError: naming the part, or the row.
        """
        for name in ("train", "valid", "choose", "test"):
            if not len(getattr(self, name)):
                raise DataError(f"the split leaves no rows for {name}; check its settings")
        rows, times = np.unique(
            np.concatenate([self.train, self.valid, self.choose, self.test]), return_counts=True
        )
        if (times > 1).any():
            row = int(rows[times > 1][0])
            raise DataError(f"row {row} is in two parts of the split; give it to one of them")


def split_rows(table: RawTable, settings: SplitSettings, query_by: tuple[str, ...] = ()) -> Split:
    """Return the four parts of a table.

    Args:
        table: the rows.
        settings: of the rule.
        query_by: columns that agree among the rows of one query; a split by order then cuts
            between queries only.

    Raises:
        DataError: if a part is empty, or a column that is needed is missing or has gaps.
    """
    if isinstance(settings, ColumnSplit):
        return _by_column(table.column(settings.column), settings)
    if isinstance(settings, UserSplit):
        users = codes_of(table.column(settings.user), settings.user)
        return _by_user(users, complete_numbers(table, settings.time), settings)
    if isinstance(settings, TimeSplit):
        return _by_time(complete_numbers(table, settings.column), settings)
    return _by_order(_queries(table, query_by), settings)


def codes_of(column: NDArray[np.generic], name: str) -> Rows:
    """Return int64 numbers that are equal where the values are.

    Raises:
        DataError: if a value is missing.
    """
    seen: dict[object, int] = {}
    codes = [seen.setdefault(value, len(seen)) for value in column.tolist()]
    # NaN differs from itself, None does not.
    gaps = [i for i, value in enumerate(column.tolist()) if value is None or value != value]  # noqa: PLR0124
    if gaps:
        raise DataError(f"column {name!r} has no value in row {gaps[0]}")
    return np.array(codes, np.int64)


def complete_numbers(table: RawTable, name: str) -> NDArray[np.float64]:
    """Return a column of numbers without gaps.

    Raises:
        DataError: if a number is missing.
    """
    numbers = table.numbers(name)
    if np.isnan(numbers).any():
        raise DataError(f"column {name!r} has no value in row {int(np.isnan(numbers).argmax())}")
    return numbers


def _ends(settings: OrderSplit) -> list[float]:
    """Return the shares of rows before valid, choose and test begin."""
    test = 1 - settings.test
    choose = test - settings.choose
    return [choose - settings.valid, choose, test]


def _parts(order: Rows, cuts: Sequence[int]) -> Split:
    return Split(*(np.sort(part) for part in np.split(order, cuts)))


def _queries(table: RawTable, query_by: tuple[str, ...]) -> Rows:
    """Return int64 numbers that are equal among the rows of one query."""
    if not query_by:
        return np.arange(len(table), dtype=np.int64)
    seen: dict[tuple[object, ...], int] = {}
    keys = zip(*(table.values(name) for name in query_by), strict=True)
    return np.array([seen.setdefault(key, len(seen)) for key in keys], np.int64)


def _by_order(queries: Rows, settings: OrderSplit) -> Split:
    order = np.arange(len(queries), dtype=np.int64)
    last = np.zeros(int(queries.max()) + 1, np.int64)
    np.maximum.at(last, queries, order)
    # A cut before row i is clean if no query of the rows before it goes on from there.
    reach = np.maximum.accumulate(last[queries])
    clean = np.flatnonzero(np.r_[True, reach == order])
    wanted = [round(end * len(order)) for end in _ends(settings)]
    return _parts(order, [int(clean[np.searchsorted(clean, cut, "right") - 1]) for cut in wanted])


def _by_time(times: NDArray[np.float64], settings: OrderSplit) -> Split:
    order = np.argsort(times, kind="stable")
    rising = times[order]
    wanted = [round(end * len(order)) for end in _ends(settings)]
    # Back to the first row of the same moment, so that no moment is in two parts.
    cuts = [int(np.searchsorted(rising, rising[min(cut, len(order) - 1)])) for cut in wanted]
    return _parts(order, cuts)


def _by_user(users: Rows, times: NDArray[np.float64], settings: OrderSplit) -> Split:
    order = np.lexsort((np.arange(len(users)), times, users))
    sorted_users = users[order]
    start = np.searchsorted(sorted_users, sorted_users)
    count = np.bincount(users)[sorted_users]
    rising = times[order]
    fresh = (np.diff(sorted_users, prepend=-1) != 0) | (np.diff(rising, prepend=np.nan) != 0)
    moment = np.cumsum(fresh)
    # A moment stands behind a cut as a whole if its last row does: no moment is in two parts.
    place = np.searchsorted(moment, moment, side="right") - 1 - start
    part = np.zeros(len(order), np.int64)
    for end in _ends(settings):
        part += place >= np.rint(end * count)
    return Split(*(np.sort(order[part == i]) for i in range(4)))


def _by_column(column: NDArray[np.generic], settings: ColumnSplit) -> Split:
    train, valid, test = (
        np.flatnonzero(column == value) for value in (settings.train, settings.valid, settings.test)
    )
    # Evenly spread, because files are often sorted within their parts.
    place = np.arange(len(valid) + 1)
    chosen = np.diff(np.floor(place * settings.choose)) > 0
    return Split(train, valid[~chosen], valid[chosen], test)
