"""What a user did before each row, without looking ahead in time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headway.core import Ragged
from headway.data.raw import RawTable
from headway.data.settings import HistorySettings
from headway.data.splits import codes_of, complete_numbers


def earlier_rows(
    users: NDArray[np.int64],
    times: NDArray[np.float64],
    kept: NDArray[np.bool_],
    max_length: int,
) -> Ragged:
    """Return for each row the rows of the same user with a strictly smaller time.

    Args:
        users: int64 ``[rows]``.
        times: float64 ``[rows]``; rows of equal time never see each other.
        kept: bool ``[rows]``; rows that may stand in a history.
        max_length: longest history; the newest rows are kept.

    Returns:
        Row numbers, oldest first, rows of equal time in the order of the file.
    """
    rows = len(users)
    order = np.lexsort((np.arange(rows), times, users))
    user, time = users[order], times[order]
    new_user = np.ones(rows, np.bool_)
    new_user[1:] = user[1:] != user[:-1]
    new_moment = new_user.copy()
    new_moment[1:] |= time[1:] != time[:-1]
    candidates = order[kept[order]]
    before = np.r_[0, np.cumsum(kept[order])][:-1]
    # Both are counts of kept rows: before the user's first row, and before this moment.
    first = before[_latest(new_user)]
    stop = np.empty(rows, np.int64)
    start = np.empty(rows, np.int64)
    stop[order] = before[_latest(new_moment)]
    start[order] = np.maximum(first, stop[order] - max_length)
    lengths = stop - start
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    position = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], lengths)
    return Ragged(candidates[position].astype(np.int64), offsets)


def history_rows(table: RawTable, settings: HistorySettings, max_length: int) -> Ragged:
    """Return for each row of a table the rows that make up its history.

    Raises:
        DataError: if a column is missing or users or times have gaps.
    """
    kept = np.ones(len(table), np.bool_)
    if settings.where is not None:
        # A comparison with NaN is false: rows without a value are left out.
        kept = table.numbers(settings.where.column) >= settings.where.at_least
    users = codes_of(table.column(settings.user), settings.user)
    return earlier_rows(users, complete_numbers(table, settings.time), kept, max_length)


def _latest(marks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each place the latest marked place up to it."""
    return np.maximum.accumulate(np.where(marks, np.arange(len(marks)), 0))
