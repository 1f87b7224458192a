"""Feature values by name: arrays for dense and sparse features, ragged rows for bags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows of different length: row i is ``values[offsets[i]:offsets[i + 1]]``.

    Attributes:
        values: int64 ``[total]``.
        offsets: int64 ``[rows + 1]``, rising from 0 to ``total``.
    """

    values: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self) -> NDArray[np.int64]:
        """Return the length of each row, int64 ``[rows]``."""
        return np.diff(self.offsets)

    def slice(self, start: int, stop: int) -> Ragged:
        """Return rows ``start:stop``; the values are a view."""
        first, last = self.offsets[start], self.offsets[stop]
        return Ragged(self.values[first:last], self.offsets[start : stop + 1] - first)

    def take(self, rows: NDArray[np.int64]) -> Ragged:
        """Return the given rows in the given order, copied."""
        lengths = self.lengths()[rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        position = np.arange(offsets[-1], dtype=np.int64)
        position += np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return Ragged(self.values[position], offsets)

    def padded(self, width: int, fill: int) -> NDArray[np.int64]:
        """Return int64 ``[rows, width]`` with ``fill`` after each row's end.

        Rows longer than ``width`` keep their last ``width`` values, the newest of a history.
        """
        kept = self.last(width)
        out = np.full((len(self), width), fill, np.int64)
        out[np.arange(width) < kept.lengths()[:, None]] = kept.values
        return out

    def last(self, length: int) -> Ragged:
        """Return the rows cut to their last ``length`` values, the newest of a history."""
        lengths = self.lengths()
        if not len(self) or lengths.max() <= length:
            return self
        keep = np.minimum(lengths, length)
        offsets = np.zeros(len(self) + 1, np.int64)
        np.cumsum(keep, out=offsets[1:])
        position = np.arange(offsets[-1], dtype=np.int64)
        position += np.repeat(self.offsets[1:] - keep - offsets[:-1], keep)
        return Ragged(self.values[position], offsets)

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[int] | NDArray[np.int64]]) -> Ragged:
        """Build from one sequence of ids per row."""
        arrays = [np.asarray(row, np.int64).reshape(-1) for row in rows]
        offsets = np.zeros(len(arrays) + 1, np.int64)
        np.cumsum([len(a) for a in arrays], out=offsets[1:])
        values = np.concatenate(arrays) if arrays else np.empty(0, np.int64)
        return cls(values, offsets)

    @classmethod
    def from_padded(cls, padded: NDArray[np.int64], fill: int = -1) -> Ragged:
        """Build from ``[rows, width]``, dropping every ``fill``."""
        kept = padded != fill
        offsets = np.zeros(len(padded) + 1, np.int64)
        np.cumsum(kept.sum(axis=1), out=offsets[1:])
        return cls(padded[kept], offsets)

    @classmethod
    def concat(cls, parts: Sequence[Ragged]) -> Ragged:
        """Stack the rows of several, in order."""
        values = np.concatenate([p.values for p in parts]) if parts else np.empty(0, np.int64)
        lengths = np.concatenate([p.lengths() for p in parts]) if parts else np.empty(0, np.int64)
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(values, offsets)


Column = NDArray[Any] | Ragged
"""float32 ``[rows, width]``, int64 ``[rows]``, or ragged int64."""
Columns = Mapping[str, Column]
"""Feature name to column; all columns of one scope have the same number of rows."""


def slice_columns(columns: Columns, start: int, stop: int) -> dict[str, Column]:
    """Return rows ``start:stop`` of every column, as views."""
    return {
        name: c.slice(start, stop) if isinstance(c, Ragged) else c[start:stop]
        for name, c in columns.items()
    }


def take_rows(columns: Columns, rows: NDArray[np.int64]) -> dict[str, Column]:
    """Return the given rows of every column, copied, in the given order."""
    return {name: c.take(rows) if isinstance(c, Ragged) else c[rows] for name, c in columns.items()}


def concat_columns(parts: Sequence[Columns]) -> dict[str, Column]:
    """Stack the rows of several column sets that have the same names."""
    if len(parts) == 1:
        return dict(parts[0])
    out: dict[str, Column] = {}
    for name in parts[0]:
        pieces = [part[name] for part in parts]
        ragged = [p for p in pieces if isinstance(p, Ragged)]
        arrays = [p for p in pieces if not isinstance(p, Ragged)]
        out[name] = Ragged.concat(ragged) if ragged else np.concatenate(arrays)
    return out
