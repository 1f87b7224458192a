"""The least that reading memory takes, in compiled code: what the lookups are held against."""

from __future__ import annotations

from typing import Any

import numpy as np

from headway.engine.vectors import SOURCES, ask_lines, entry, read_lines


def _entries_of(sources: int) -> Any:
    @entry
    def read_all(values):
        """Return the sum of an int64 array, read once from start to end."""
        total = np.int64(0)
        for index in range(len(values)):
            total += values[index]
        return total + (sources < 0)

    @entry
    def read_rows(table, row_bytes, ids, ahead):
        """Return the sum of one word of every line that some rows lie in.

        Args:
            table: address of row 0.
            row_bytes: bytes of a row.
            ids: int64 array of row numbers.
            ahead: how many rows ahead the cache is asked; 0: not.
        """
        total = np.int64(0)
        count = len(ids)
        for index in range(count):
            if ahead > 0:
                ask_lines(table + ids[min(index + ahead, count - 1)] * row_bytes, row_bytes)
            total += read_lines(table + ids[index] * row_bytes, row_bytes)
        return total + (sources < 0)

    return read_all, read_rows


read_all, read_rows = _entries_of(SOURCES)
