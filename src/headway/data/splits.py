"""Which rows train, which stop training, which choose compositions and which judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.core import DataError
from headway.data.readers import RawTable
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
        """Refuse a split with an empty part.

        Raises:
            DataError: naming the part.
        """
        for name in ("train", "valid", "choose", "test"):
            if not len(getattr(self, name)):
                raise DataError(f"the split leaves no rows for {name}; check its settings")


def split_rows(table: RawTable, settings: SplitSettings) -> Split:
    """Return the four parts of a table.

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
    order = np.arange(len(table), dtype=np.int64)
    return _parts(order, [round(end * len(table)) for end in _ends(settings)])


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
    place = np.arange(len(order)) - start
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
