"""The pass that stores tables in narrower numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from headway.bundle import Fold, TableFormat, TablePart, pack_table, row_bytes
from headway.core import Schema, UsageError
from headway.engine import TableRecords


def quantize_tables(
    tables: Mapping[str, NDArray[np.float32]],
    table_format: TableFormat,
    folds: Mapping[str, Fold] | None = None,
) -> dict[str, TablePart]:
    """Return the tables as records of the format, by name.

    A table so narrow that its records would be no smaller than float32 stays float32.

    Args:
        tables: float32 ``[records, dim]``.
        table_format: of their records.
        folds: for tables whose ids share records, which one each id has.

    Raises:
        UsageError: naming the table that holds NaN or infinity.
    """
    parts = {}
    for name, values in tables.items():
        try:
            form = table_format if _is_smaller(values, table_format) else "f32"
            parts[name] = TablePart(form, pack_table(values, form), (folds or {}).get(name))
        except UsageError as error:
            raise UsageError(f"table {name!r}: {error}") from error
    return parts


def as_records(parts: Mapping[str, TablePart], schema: Schema) -> dict[str, TableRecords]:
    """Return the tables of a bundle as an engine takes them, without a copy."""
    return {
        name: TableRecords(part.format, schema.table(name).dim, part.records, part.fold)
        for name, part in parts.items()
    }


def _is_smaller(values: NDArray[np.float32], table_format: TableFormat) -> bool:
    # What is no table has no width; pack_table says so.
    dim = values.shape[1] if values.ndim == 2 else 0
    return not dim or row_bytes(dim, table_format) < row_bytes(dim, "f32")
