"""The lookups of one tower: table records, descriptors, and the buffers they are written to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

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
)
from headway.core import Sequence as SequenceFeature
from headway.engine import kernels

_FORMATS = {"f32": kernels.F32, "int8": kernels.INT8}
_BYTES_PER_VALUE = {"f32": 4, "int8": 1}
_BYTES_PER_RECORD = {"f32": 0, "int8": 8}
_LINE = 64
_SEQUENTIAL = ("sequence.", "mask.")


@dataclass(frozen=True, slots=True, eq=False)
class TableRecords:
    """A table as it is stored.

    Attributes:
        format: ``f32``, or ``int8``: ``dim`` bytes u, float32 scale, float32 bias.
        dim: values in a row.
        records: uint8 ``[rows, row_bytes]``, C-contiguous.
    """

    format: Literal["f32", "int8"]
    dim: int
    records: NDArray[np.uint8]

    @classmethod
    def from_f32(cls, values: NDArray[np.float32]) -> TableRecords:
        """Wrap float32 ``[rows, dim]`` without copying it."""
        values = np.ascontiguousarray(values, np.float32)
        return cls("f32", values.shape[1], values.view(np.uint8))

    def resident(self) -> TableRecords:
        """Return a copy in this process's memory that starts on a cache line.

        A 128-byte record then lies in two lines and not in three, which makes pooling a quarter
        faster; NumPy alone would start it 16 bytes behind a line.
        """
        room = np.empty(self.records.nbytes + _LINE, np.uint8)
        start = -room.ctypes.data % _LINE
        copied = room[start : start + self.records.nbytes].reshape(self.records.shape)
        copied[:] = self.records
        return TableRecords(self.format, self.dim, copied)


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
        self._plain = [_plain(schema, entry, self._width) for entry in layout.lookups]
        self._starts = [entry.start for entry in layout.lookups]
        features = [*self._plain, *self._sequences]
        for feature in features:
            if feature.scope != scope:
                raise BundleError(f"the {scope} tower cannot look up {feature.name!r}")
        self._names = [f.name for f in features]
        self._tables = [_checked(schema, f, tables) for f in features]
        self._lookups = np.zeros(len(features), kernels.LOOKUP)
        for index, (feature, table) in enumerate(zip(features, self._tables, strict=True)):
            self._lookups[index] = _describe(feature, table)
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
        kept: list[NDArray[np.int64]] = []
        sources: list[tuple[int, int, int]] = []
        pieces: list[tuple[int, int, int]] = []
        row = 0
        for columns, start, stop in parts:
            sources += [_source(name, columns[name], stop, kept) for name in self._names]
            pieces.append((start, stop, row))
            row += stop - start
        failed = kernels.look_up(
            self._lookups, np.array(sources, np.int64), np.array(pieces, np.int64)
        )
        if failed >= 0:
            raise QueryError(f"feature {self._names[failed]!r}: an id or an offset is out of range")
        for name, buffer in self._buffers.items():
            feed[name] = buffer[:rows]

    def _grow(self, capacity: int) -> None:
        self._capacity = capacity
        self._written: list[NDArray[np.float32]] = []
        if self._plain:
            embedded = np.zeros((capacity, self._width), np.float32)
            self._buffers["embedded"] = embedded
            address = embedded.ctypes.data
            for record, start in zip(self._lookups, self._starts, strict=False):
                record["out"] = address + 4 * start
                record["out_stride"] = 4 * self._width
        for record, feature in zip(self._lookups[len(self._plain) :], self._sequences, strict=True):
            shape = (capacity, feature.max_length)
            vectors = np.zeros((*shape, int(record["dim"])), np.float32)
            mask = np.zeros(shape, np.float32)
            for name, array in (("sequence", vectors), ("mask", mask)):
                key = f"{name}.{feature.name}"
                self._buffers |= {key: array} if key in self._declared else {}
            self._written += [vectors, mask]  # also those that the graph does not want
            record["out"] = vectors.ctypes.data
            record["out_stride"] = vectors.strides[0]
            record["mask"] = mask.ctypes.data


def _source(
    name: str, column: Column, stop: int, kept: list[NDArray[np.int64]]
) -> tuple[int, int, int]:
    """Return a column's addresses; arrays that had to be copied are put into ``kept``."""
    if isinstance(column, Ragged):
        length = len(column.offsets) - 1
        values, offsets = column.values, _address(column.offsets, kept)
    else:
        values, offsets = column, 0
        length = len(column)
    if stop > length:
        raise QueryError(f"feature {name!r} has {length} rows, {stop} were asked for")
    return _address(values, kept), offsets, len(values)


def _address(array: NDArray[np.int64], kept: list[NDArray[np.int64]]) -> int:
    try:
        return kernels.address_of(array)
    except TypeError:  # strided, unaligned, or of another integer type
        plain = np.array(array, np.int64, order="C")
        kept.append(plain)
        return kernels.address_of(plain)


def _plain(schema: Schema, entry: LookupLayout, width: int) -> IdFeature:
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
    records = table.records
    least = wanted.dim * _BYTES_PER_VALUE[table.format] + _BYTES_PER_RECORD[table.format]
    fits = table.dim == wanted.dim and records.ndim == 2 and records.shape[0] == wanted.rows
    if not fits or records.shape[1] < least or not records.flags.c_contiguous:
        raise BundleError(
            f"table {wanted.name!r} must hold {wanted.rows} {table.format} records of at least "
            f"{least} bytes, not an array of shape {list(records.shape)}"
        )
    return table


def _describe(feature: IdFeature, table: TableRecords) -> tuple[int, ...]:
    """Return a ``kernels.LOOKUP`` record without the addresses of its outputs."""
    length = 0
    if isinstance(feature, Sparse):
        op = kernels.SINGLE
    elif isinstance(feature, SequenceFeature):
        op, length = kernels.SEQUENCE, feature.max_length
    else:
        op = kernels.BAG_MEAN if feature.pooling is Pooling.MEAN else kernels.BAG_SUM
    rows, row_bytes = table.records.shape
    address = table.records.ctypes.data
    form, block = _FORMATS[table.format], kernels.block_of(table.dim)
    return (op, form, address, rows, row_bytes, table.dim, block, 0, 0, length, 0)
