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

    First what is checked together: the ids of all candidates as one matrix, then all ids of the
    query; then the bags and sequences of candidates, and at last all numbers.
    """

    def __init__(self, slots: Iterable[Slot]) -> None:
        slots = list(slots)
        sparse = [slot for slot in slots if slot.rank == 1]
        self.columns = [slot for slot in sparse if not slot.per_query]
        self.singles = [slot for slot in sparse if slot.per_query]
        ragged = [slot for slot in slots if slot.ragged]
        self.lists = [slot for slot in ragged if slot.per_query]
        self.ragged = [slot for slot in ragged if not slot.per_query]
        self.dense = [slot for slot in slots if slot.type == "FP32"]
        self.order = [*self.columns, *self.singles, *self.lists, *self.ragged, *self.dense]
        self.limits = np.array([[slot.limit] for slot in self.columns], _UNSIGNED)


class Cut:
    """Where in memory the columns of a request with these rows and widths lie."""

    __slots__ = (
        *("_dense", "_floats", "_floats_at", "_frame", "_grid", "_ids", "_limits", "_lists"),
        *("_offsets", "_ragged", "_singles", "_stop"),
    )

    def __init__(self, frame: Frame, rows: int, widths: Mapping[str, int]) -> None:
        self._frame = frame
        self._grid = (len(frame.columns), rows)
        start = place = len(frame.columns) * rows
        limits: list[int] = []
        self._singles: list[tuple[Slot, slice]] = []
        for slot in frame.singles:
            self._singles.append((slot, slice(place, place + 1)))
            limits.append(slot.limit)
            place += 1
        self._lists: list[tuple[Slot, slice]] = []
        for slot in frame.lists:
            self._lists.append((slot, slice(place, place + widths[slot.name])))
            limits += [slot.limit] * widths[slot.name]
            place += widths[slot.name]
        self._limits = np.array(limits, _UNSIGNED)
        self._ids = slice(start, place)
        self._ragged: list[tuple[Slot, slice, tuple[int, int]]] = []
        for slot in frame.ragged:
            shape = (rows, widths[slot.name])
            self._ragged.append((slot, slice(place, place + shape[0] * shape[1]), shape))
            place += shape[0] * shape[1]
        self._floats_at = 8 * place
        self._dense: list[tuple[Slot, int, tuple[int, int]]] = []
        self._floats = 0
        for slot in frame.dense:
            shape = (1 if slot.per_query else rows, slot.width)
            self._dense.append((slot, self._floats_at + 4 * self._floats, shape))
            self._floats += shape[0] * shape[1]
        self._stop = place

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
        if self._floats:
            values = np.ndarray((self._floats,), _FLOAT, memory, self._floats_at)
            if np.count_nonzero(np.isfinite(values)) != self._floats:
                self._blame_number(memory)
        for slot, start, shape in self._dense:
            columns = context if slot.per_query else candidates
            columns[slot.name] = np.ndarray(shape, _FLOAT, memory, start)
        ids = np.ndarray((self._stop,), _SIGNED, memory)
        self._read_query(ids, context)
        if self._frame.columns:
            self._read_grid(memory, candidates)
        for slot, place, shape in self._ragged:
            candidates[slot.name] = _ragged(slot, ids[place].reshape(shape))
        return context, candidates

    # Seen as unsigned, a negative id is huge: one comparison finds both ends.

    def _read_grid(self, memory: bytearray, candidates: dict[str, Column]) -> None:
        slots = self._frame.columns
        outside = np.ndarray(self._grid, _UNSIGNED, memory) >= self._frame.limits
        grid = np.ndarray(self._grid, _SIGNED, memory)
        if np.count_nonzero(outside):
            first = int(outside.any(axis=1).argmax())
            raise slots[first].bad_id(grid[first])
        for slot, column in zip(slots, grid, strict=True):
            candidates[slot.name] = column

    def _read_query(self, ids: NDArray[np.int64], context: dict[str, Column]) -> None:
        own = ids[self._ids]
        good = np.count_nonzero(own.view(_UNSIGNED) < self._limits) == len(own)
        for slot, place in self._singles:
            if not good:
                _check_ids(slot, ids[place])
            context[slot.name] = ids[place]
        for slot, place in self._lists:
            values = ids[place]
            if not good:  # there may be padding in it, too
                values = values[values != PAD]
                _check_ids(slot, values)
            context[slot.name] = Ragged(values, np.array((0, len(values)), _SIGNED))

    def _blame_number(self, memory: bytearray) -> None:
        for slot, start, shape in self._dense:
            if not np.isfinite(np.ndarray(shape, _FLOAT, memory, start)).all():
                raise QueryError(f"input {slot.name!r} holds NaN or infinity; send finite values")


def _ragged(slot: Slot, padded: NDArray[np.int64]) -> Ragged:
    ragged = Ragged.from_padded(padded, PAD)
    _check_ids(slot, ragged.values)
    return ragged


def _check_ids(slot: Slot, ids: NDArray[np.int64]) -> None:
    if np.count_nonzero(ids.view(_UNSIGNED) >= slot.limit):
        raise slot.bad_id(ids)
