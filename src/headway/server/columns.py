"""From the bytes of tensors to checked columns, with few array operations in all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.core import Column, Dense, Feature, QueryError, Ragged, Schema, Scope, Sparse

PAD = -1
"""Fills up rows of bags and sequences; dropped wherever it stands."""
_UNSIGNED = np.dtype(np.uint64)


class Slot:
    """What the tensor of one feature must look like."""

    __slots__ = ("limit", "name", "per_query", "ragged", "rank", "size", "table", "type", "width")

    def __init__(self, feature: Feature, schema: Schema) -> None:
        self.name = feature.name
        self.per_query = feature.scope is Scope.QUERY
        self.ragged = not isinstance(feature, Dense | Sparse)
        self.type, self.size = ("FP32", 4) if isinstance(feature, Dense) else ("INT64", 8)
        self.rank = 1 if isinstance(feature, Sparse) else 2
        self.width = 1
        self.table = ""
        self.limit = 0
        if isinstance(feature, Dense):
            self.width = feature.width
        else:
            self.table = feature.table
            self.limit = schema.table(feature.table).rows
        if not isinstance(feature, Dense | Sparse):
            self.width = feature.max_length

    def misfit(self, datatype: str, shape: list[int]) -> QueryError:
        """Say what the tensor should have been."""
        if datatype != self.type:
            return QueryError(
                f"input {self.name!r} must have datatype {self.type}, not {datatype[:16]!r}"
            )
        wanted = "1" if self.per_query else "candidates"
        if self.rank == 2:
            wanted += f", 0 to {self.width}" if self.ragged else f", {self.width}"
        return QueryError(
            f"input {self.name!r} must have shape [{wanted}], not {str(shape[:8])[:256]}"
        )

    def bad_id(self, ids: NDArray[np.int64]) -> QueryError:
        """Say which id is out of range; one is."""
        low = int(ids.min())
        return QueryError(
            f"input {self.name!r}: id {low if low < 0 else int(ids.max())} is outside its table "
            f"{self.table!r}, which has rows 0 to {self.limit - 1}"
        )


class Parts:
    """The bytes of the tensors read so far, by name; ``rows`` is -1 until an input told it."""

    __slots__ = ("data", "rows", "told_by", "widths")

    def __init__(self) -> None:
        self.data: dict[str, bytes | memoryview] = {}
        self.widths: dict[str, int] = {}
        self.rows = -1
        self.told_by = ""


class Group:
    """All features of one scope; reads their tensors with a few array operations in all."""

    def __init__(self, slots: list[Slot]) -> None:
        self._dense = [s for s in slots if s.type == "FP32"]
        self._sparse = [s for s in slots if s.rank == 1]
        self._ragged = [s for s in slots if s.ragged]

    def columns(self, parts: Parts, rows: int) -> dict[str, Column]:
        """Return the checked columns: aligned, writable and contiguous arrays.

        Raises:
            QueryError: for an id out of range, or a number that is not finite.
        """
        out: dict[str, Column] = {}
        if self._dense:
            self._read_dense(parts, rows, out)
        if self._sparse:
            self._read_sparse(parts, rows, out)
        for slot in self._ragged:
            out[slot.name] = _ragged(slot, parts, rows)
        return out

    def _read_dense(self, parts: Parts, rows: int, out: dict[str, Column]) -> None:
        values = _joined(self._dense, parts, np.dtype(np.float32))
        finite = np.count_nonzero(np.isfinite(values)) == len(values)
        start = 0
        for slot in self._dense:
            stop = start + rows * slot.width
            column = values[start:stop].reshape(rows, slot.width)
            if not finite and not np.isfinite(column).all():
                raise QueryError(f"input {slot.name!r} holds NaN or infinity; send finite values")
            out[slot.name] = column
            start = stop

    def _read_sparse(self, parts: Parts, rows: int, out: dict[str, Column]) -> None:
        ids = _joined(self._sparse, parts, np.dtype(np.int64)).reshape(len(self._sparse), rows)
        for slot, column in zip(self._sparse, ids, strict=True):
            # A query-level column holds a single number; as such it is compared sooner.
            if rows != 1:
                _check_ids(slot, column)
            elif not 0 <= column.item() < slot.limit:
                raise slot.bad_id(column)
            out[slot.name] = column


def _joined(slots: list[Slot], parts: Parts, dtype: np.dtype[Any]) -> NDArray[Any]:
    # A copy into memory of our own: views of the request would be read-only and lie at odd
    # addresses, which engines need not cope with.
    data = bytearray().join([parts.data[slot.name] for slot in slots])
    return np.frombuffer(data, dtype) if data else np.empty(0, dtype)


def _ragged(slot: Slot, parts: Parts, rows: int) -> Ragged:
    padded = _joined([slot], parts, np.dtype(np.int64))
    if rows == 1:
        values = padded[padded != PAD]
        ragged = Ragged(values, np.array([0, len(values)], np.int64))
    else:
        ragged = Ragged.from_padded(padded.reshape(rows, parts.widths[slot.name]), PAD)
    _check_ids(slot, ragged.values)
    return ragged


def _check_ids(slot: Slot, ids: NDArray[np.int64]) -> None:
    # Seen as unsigned, a negative id is huge: one pass finds both ends. And argmax takes a third
    # of the time of max on arrays this short.
    if len(ids):
        unsigned = ids.view(_UNSIGNED)
        if unsigned.item(unsigned.argmax()) >= slot.limit:
            raise slot.bad_id(ids)
