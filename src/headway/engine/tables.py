"""The lookups of one tower: table records, descriptors, and the buffers they are written to."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from headway.bundle import Fold, TableFormat, row_bytes
from headway.core import (
    Bag,
    BundleError,
    Column,
    Columns,
    IdFeature,
    Pooling,
    QueryError,
    Ragged,
    Schema,
    Scope,
    Sparse,
    UsageError,
)
from headway.core import Sequence as SequenceFeature
from headway.engine import kernels, vectors
from headway.engine.memory import huge_copy

_FORMATS: dict[TableFormat, int] = {
    "f32": vectors.F32,
    "bf16": vectors.BF16,
    "int8": vectors.INT8,
    "int4": vectors.INT4,
}
_SEQUENTIAL = ("sequence.", "mask.")


@dataclass(frozen=True, slots=True, eq=False)
class TableRecords:
    """A table as it is stored.

    Attributes:
        format: of the records; ``bundle.TableEntry`` says how they look.
        dim: values in a row.
        records: uint8 ``[records, row_bytes]``, C-contiguous.
        fold: which record each id has; None if its own.
    """

    format: TableFormat
    dim: int
    records: NDArray[np.uint8]
    fold: Fold | None = None

    @classmethod
    def from_f32(cls, values: NDArray[np.float32]) -> TableRecords:
        """Wrap float32 ``[rows, dim]`` without copying it."""
        values = np.ascontiguousarray(values, np.float32)
        return cls("f32", values.shape[1], values.view(np.uint8))

    def resident(self) -> TableRecords:
        """Return a copy in this process's memory, in large pages where the system has them.

        Random reads then miss the cache of addresses less often, which makes pooling 1.15 to 1.5
        times as fast; and records that fill whole lines start at one.
        """
        fold = self.fold
        if fold is not None:
            held = huge_copy(np.ascontiguousarray(fold.codes).view(np.uint8))
            fold = Fold(fold.ids, fold.hot, held.view(fold.codes.dtype))
        return TableRecords(self.format, self.dim, huge_copy(self.records), fold)

    def places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the record of each of some ids, all of them known."""
        return ids if self.fold is None else self.fold.records(ids)


class LookupLayout(Protocol):
    """One vector's place in a tower's input ``embedded``; see ``bundle.Lookup``."""

    @property
    def feature(self) -> str: ...  # noqa: D102
    @property
    def table(self) -> str: ...  # noqa: D102
    @property
    def start(self) -> int: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102


class TowerLayout(Protocol):
    """What goes into a dense graph and comes out; see ``bundle.TowerEntry``."""

    @property
    def inputs(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def outputs(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def lookups(self) -> Sequence[LookupLayout]: ...  # noqa: D102
    @property
    def embedded_width(self) -> int: ...  # noqa: D102
    @property
    def per_query(self) -> bool: ...  # noqa: D102


class Gather:
    """Looks all vectors of a tower up in one call; owns buffers that only grow."""

    def __init__(
        self, schema: Schema, scope: Scope, tables: Mapping[str, TableRecords], layout: TowerLayout
    ) -> None:
        """Check the layout against the schema and prepare the descriptors.

        Raises:
            BundleError: naming the lookup or table that does not fit.
        """
        self._width = layout.embedded_width
        self._declared = frozenset(layout.inputs)
        sequences = sorted(n.partition(".")[2] for n in layout.inputs if n.startswith(_SEQUENTIAL))
        self._sequences = [_sequence(schema, name) for name in dict.fromkeys(sequences)]
        self._pooled = [_pooled(schema, entry, self._width) for entry in layout.lookups]
        self._starts = [entry.start for entry in layout.lookups]
        features = [*self._pooled, *self._sequences]
        for feature in features:
            if feature.scope != scope:
                raise BundleError(f"the {scope} tower cannot look up {feature.name!r}")
        self._names = [f.name for f in features]
        self._single = [f.name for f in features if isinstance(f, Sparse)]
        self._ragged = [f.name for f in features if not isinstance(f, Sparse)]
        self._tables = [_checked(schema, f, tables) for f in features]
        self._lookups = np.zeros(len(features), kernels.LOOKUP)
        self._fills = np.zeros(len(features), np.int64)
        for index, (feature, table) in enumerate(zip(features, self._tables, strict=True)):
            self._lookups[index] = _describe(feature, table)
            self._lookups[index]["slot"] = self._slot(feature.name)
            if table.fold is not None:
                self._fold(index, table.fold)
        self._buffers: dict[str, NDArray[np.float32]] = {}
        self._capacity = 0

    def run(
        self,
        parts: Sequence[tuple[Columns, int, int]],
        rows: int,
        feed: dict[str, NDArray[Any]],
    ) -> None:
        """Put the tower's looked-up inputs into ``feed``; they hold until the next call.

        Args:
            parts: columns with the first row and one past the last row to take of each.
            rows: number of rows of all parts together.
            feed: name to array; entries are added.

        Raises:
            QueryError: naming the feature whose ids, offsets or length do not fit.
        """
        if not self._names:
            return
        if rows > self._capacity or not self._buffers:
            self._grow(max(rows, 2 * self._capacity))
        result = self._look_up(parts)
        if result == kernels.NOT_PLAIN:
            result = self._look_up([(self._plain(c), start, stop) for c, start, stop in parts])
        if result >= 0:
            self._refuse(self._names[result], parts)
        for name, buffer in self._buffers.items():
            feed[name] = buffer[:rows]

    def _fold(self, index: int, fold: Fold) -> None:
        """Have a lookup find its records by a fold."""
        record = self._lookups[index]
        record["codes"] = fold.codes.ctypes.data
        record["code_bytes"], record["hot"] = fold.code_bytes, fold.hot
        record["ids"] = fold.ids
        self._fills[index] = fold.records(np.zeros(1, np.int64))[0]
        record["fill"] = self._fills.ctypes.data + 8 * index

    def _slot(self, name: str) -> int:
        """Return where a column's first array stands among those handed to the kernel."""
        if name in self._single:
            return self._single.index(name)
        return len(self._single) + 2 * self._ragged.index(name)

    def _look_up(self, parts: Sequence[tuple[Columns, int, int]]) -> int:
        """Hand the arrays to the kernel, which reads in their own headers where they lie."""
        held: list[Any] = []
        spans: list[int] = []
        row = 0
        for columns, start, stop in parts:
            spans += (start, stop, row)
            row += stop - start
            held += [columns[name] for name in self._single]
            for name in self._ragged:
                column = columns[name]
                if not isinstance(column, Ragged):
                    return kernels.NOT_PLAIN
                held += (column.values, column.offsets)
        if not parts:
            return kernels.DONE
        arrays = tuple(held)
        numbers = array("q", [*kernels.TYPES, len(arrays) // len(parts), *spans])
        address, _ = numbers.buffer_info()
        return int(kernels.look_up(self._lookups, id(arrays), address, len(parts)))

    def _plain(self, columns: Columns) -> dict[str, Column]:
        """Return the columns as plain arrays: strided ones and other integer types are copied."""
        single = {name: _plain_column(name, columns[name]) for name in self._single}
        return single | {name: _plain_list(name, columns[name]) for name in self._ragged}

    def _refuse(self, name: str, parts: Sequence[tuple[Columns, int, int]]) -> NoReturn:
        for columns, _, stop in parts:
            if stop > len(columns[name]):
                raise QueryError(
                    f"feature {name!r} has {len(columns[name])} rows, {stop} were asked for"
                )
        raise QueryError(f"feature {name!r}: an id or an offset is out of range")

    def _grow(self, capacity: int) -> None:
        self._capacity = capacity
        self._written: list[NDArray[np.float32]] = []
        if self._pooled:
            embedded = np.zeros((capacity, self._width), np.float32)
            self._buffers["embedded"] = embedded
            address = embedded.ctypes.data
            for record, start in zip(self._lookups, self._starts, strict=False):
                record["out"] = address + 4 * start
                record["out_stride"] = 4 * self._width
        for record, feature in zip(
            self._lookups[len(self._pooled) :], self._sequences, strict=True
        ):
            shape = (capacity, feature.max_length)
            vectors = np.zeros((*shape, int(record["dim"])), np.float32)
            mask = np.zeros(shape, np.float32)
            for name, values in (("sequence", vectors), ("mask", mask)):
                key = f"{name}.{feature.name}"
                self._buffers |= {key: values} if key in self._declared else {}
            self._written += [vectors, mask]  # also those that the graph does not want
            record["out"] = vectors.ctypes.data
            record["out_stride"] = vectors.strides[0]
            record["mask"] = mask.ctypes.data


def _plain_column(name: str, column: Column) -> Column:
    if not isinstance(column, np.ndarray) or column.ndim != 1:
        raise QueryError(f"feature {name!r} needs one id a row; check the query first")
    return np.ascontiguousarray(column, np.int64)


def _plain_list(name: str, column: Column) -> Column:
    if not isinstance(column, Ragged):
        raise QueryError(f"feature {name!r} needs ragged ids; check the query first")
    return Ragged(
        np.ascontiguousarray(column.values, np.int64),
        np.ascontiguousarray(column.offsets, np.int64),
    )


def _pooled(schema: Schema, entry: LookupLayout, width: int) -> IdFeature:
    feature = schema.feature(entry.feature)
    if not isinstance(feature, Sparse | Bag) or feature.table != entry.table:
        raise BundleError(f"{entry.feature!r} is not a pooled or plain lookup in {entry.table!r}")
    dim = schema.table(entry.table).dim
    if entry.width != dim or entry.start < 0 or entry.start + dim > width:
        raise BundleError(
            f"the lookup of {entry.feature!r} at columns {entry.start} to "
            f"{entry.start + entry.width} does not fit dim {dim} and width {width}"
        )
    return feature


def _sequence(schema: Schema, name: str) -> SequenceFeature:
    feature = schema.feature(name)
    if not isinstance(feature, SequenceFeature):
        raise BundleError(f"feature {name!r} is not a sequence")
    return feature


def _checked(
    schema: Schema, feature: IdFeature, tables: Mapping[str, TableRecords]
) -> TableRecords:
    wanted, table = schema.table(feature.table), tables.get(feature.table)
    if table is None:
        raise BundleError(f"there is no table {feature.table!r}; there are {sorted(tables)}")
    rows = wanted.rows if table.fold is None else len(table.records)
    shape = (rows, row_bytes(wanted.dim, table.format))
    if table.fold is not None:
        _check_fold(wanted.name, table.fold, wanted.rows, rows)
    if (
        table.dim != wanted.dim
        or table.records.shape != shape
        or not table.records.flags.c_contiguous
    ):
        raise BundleError(
            f"table {wanted.name!r} must hold {rows} {table.format} records of {shape[1]} "
            f"bytes, not an array of shape {list(table.records.shape)} for dim {table.dim}"
        )
    return table


def _check_fold(name: str, fold: Fold, ids: int, records: int) -> None:
    try:
        fold.check(ids, records)
    except UsageError as error:
        raise BundleError(f"table {name!r}: {error}; write the bundle again") from error
    if not fold.codes.flags.c_contiguous:
        raise BundleError(f"the fold of table {name!r} must be C-contiguous")


def _describe(feature: IdFeature, table: TableRecords) -> tuple[int, ...]:
    """Return a ``kernels.LOOKUP`` record without the addresses of its outputs."""
    op, length = kernels.SINGLE, 0
    if not isinstance(feature, Sparse):
        length = feature.max_length
        op = kernels.SEQUENCE if isinstance(feature, SequenceFeature) else kernels.BAG_SUM
    if isinstance(feature, Bag) and feature.pooling is Pooling.MEAN:
        op = kernels.BAG_MEAN
    rows, size = table.records.shape
    form, address = _FORMATS[table.format], table.records.ctypes.data
    block, ahead = kernels.block_of(form, table.dim), kernels.ahead_of(size)
    return (op, form, address, rows, size, table.dim, block, 0, 0, length, 0, ahead, *[0] * 6)
