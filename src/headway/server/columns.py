"""From the bytes of tensors to checked columns, with few array operations in all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from headway.core import Column, Dense, Feature, QueryError, Ragged, Schema, Scope, Sparse

PAD = -1
"""Fills up rows of bags and sequences; dropped wherever it stands."""
_UNSIGNED = np.dtype(np.uint64)
_SIGNED = np.dtype(np.int64)
_FLOAT = np.dtype(np.float32)


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
    """The bytes of the tensors read so far, by name; ``rows`` is -1 until an input told it.

    ``places`` tells where those lie that did not come as JSON.
    """

    __slots__ = ("data", "places", "rows", "told_by", "widths")

    def __init__(self) -> None:
        self.data: dict[str, bytes | memoryview] = {}
        self.places: dict[str, tuple[int, int]] = {}
        self.widths: dict[str, int] = {}
        self.rows = -1
        self.told_by = ""


class Frame:
    """All features of a model, in the order in which their tensors are put into memory.

    First what is checked together: the ids of all candidates as one matrix, then the single ids
    of the query; then bags and sequences, and at last all numbers.
    """

    def __init__(self, slots: Iterable[Slot]) -> None:
        slots = list(slots)
        sparse = [slot for slot in slots if slot.rank == 1]
        self.columns = [slot for slot in sparse if not slot.per_query]
        self.singles = [slot for slot in sparse if slot.per_query]
        self.ragged = [slot for slot in slots if slot.ragged]
        self.dense = [slot for slot in slots if slot.type == "FP32"]
        self.order = [*self.columns, *self.singles, *self.ragged, *self.dense]
        self.limits = np.array([[slot.limit] for slot in self.columns], _UNSIGNED)
        self.single_limits = np.array([slot.limit for slot in self.singles], _UNSIGNED)


class Cut:
    """Where in memory the columns of a request with these rows and widths lie."""

    __slots__ = ("_dense", "_floats", "_frame", "_grid", "_ids", "_ragged", "_rows", "_singles")

    def __init__(self, frame: Frame, rows: int, widths: Mapping[str, int]) -> None:
        self._frame = frame
        self._rows = rows
        self._grid = len(frame.columns) * rows
        place = self._grid
        self._singles: list[tuple[str, slice]] = []
        for slot in frame.singles:
            self._singles.append((slot.name, slice(place, place + 1)))
            place += 1
        self._ragged: list[tuple[Slot, slice, tuple[int, int]]] = []
        for slot in frame.ragged:
            shape = (1 if slot.per_query else rows, widths[slot.name])
            self._ragged.append((slot, slice(place, place + shape[0] * shape[1]), shape))
            place += shape[0] * shape[1]
        self._ids = place
        place = 0
        self._dense: list[tuple[Slot, slice, tuple[int, int]]] = []
        for slot in frame.dense:
            shape = (1 if slot.per_query else rows, slot.width)
            self._dense.append((slot, slice(place, place + shape[0] * shape[1]), shape))
            place += shape[0] * shape[1]
        self._floats = place

    def columns(
        self, tensors: Iterable[bytes | memoryview]
    ) -> tuple[dict[str, Column], dict[str, Column]]:
        """Return the checked columns of the query and of its candidates.

        Args:
            tensors: all their bytes in the frame's order, split anyhow.

        Returns:
            aligned, writable and contiguous arrays.

        Raises:
            QueryError: for an id out of range, or a number that is not finite.
        """
        # A copy into memory of our own: views of the request would be read-only and lie at odd
        # addresses, which engines need not cope with.
        memory = bytearray().join(tensors)
        context: dict[str, Column] = {}
        candidates: dict[str, Column] = {}
        if self._dense:
            self._read_dense(memory, context, candidates)
        ids = np.ndarray((self._ids,), _SIGNED, memory)
        if self._frame.columns:
            self._check_columns(memory)
            grid = ids[: self._grid].reshape(len(self._frame.columns), self._rows)
            for slot, column in zip(self._frame.columns, grid, strict=True):
                candidates[slot.name] = column
        if self._singles:
            self._check_singles(memory)
            for name, place in self._singles:
                context[name] = ids[place]
        for slot, place, shape in self._ragged:
            columns = context if slot.per_query else candidates
            columns[slot.name] = _ragged(slot, ids[place].reshape(shape))
        return context, candidates

    def _read_dense(
        self, memory: bytearray, context: dict[str, Column], candidates: dict[str, Column]
    ) -> None:
        values = np.ndarray((self._floats,), _FLOAT, memory, self._ids * 8)
        if np.count_nonzero(np.isfinite(values)) != self._floats:
            self._blame_number(values)
        for slot, place, shape in self._dense:
            columns = context if slot.per_query else candidates
            columns[slot.name] = values[place].reshape(shape)

    # Seen as unsigned, a negative id is huge: one comparison finds both ends.

    def _check_columns(self, memory: bytearray) -> None:
        slots, shape = self._frame.columns, (len(self._frame.columns), self._rows)
        outside = np.ndarray(shape, _UNSIGNED, memory) >= self._frame.limits
        if np.count_nonzero(outside):
            first = int(outside.any(axis=1).argmax())
            raise slots[first].bad_id(np.ndarray(shape, _SIGNED, memory)[first])

    def _check_singles(self, memory: bytearray) -> None:
        shape, start = (len(self._singles),), self._grid * 8
        outside = np.ndarray(shape, _UNSIGNED, memory, start) >= self._frame.single_limits
        if np.count_nonzero(outside):
            first = int(outside.argmax())
            ids = np.ndarray(shape, _SIGNED, memory, start)
            raise self._frame.singles[first].bad_id(ids[first : first + 1])

    def _blame_number(self, values: NDArray[np.float32]) -> None:
        for slot, place, _ in self._dense:
            if not np.isfinite(values[place]).all():
                raise QueryError(f"input {slot.name!r} holds NaN or infinity; send finite values")


def _ragged(slot: Slot, padded: NDArray[np.int64]) -> Ragged:
    if len(padded) == 1:
        values = padded[0]
        kept = values != PAD
        if np.count_nonzero(kept) != len(values):
            values = values[kept]
        ragged = Ragged(values, np.array((0, len(values)), _SIGNED))
    else:
        ragged = Ragged.from_padded(padded, PAD)
    if np.count_nonzero(ragged.values.view(_UNSIGNED) >= slot.limit):
        raise slot.bad_id(ragged.values)
    return ragged
