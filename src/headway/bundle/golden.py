"""Golden queries as safetensors: what was asked and what came out, replayed at every load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from headway.core import (
    BundleError,
    Column,
    Columns,
    Query,
    QueryError,
    Ragged,
    Schema,
    Scope,
    UsageError,
    check_query,
    concat_columns,
    slice_columns,
)

Golden = tuple[Query, NDArray[np.float32]]
"""A query and its raw outputs, float32 ``[size, tasks]``."""
_Tensors = dict[str, NDArray[np.generic]]


def encode_golden(golden: Sequence[Golden], schema: Schema) -> bytes:
    """Return the queries and outputs as one safetensors file.

    Tensors: ``sizes`` int64 ``[queries]``, ``outputs`` float32 ``[candidates, tasks]`` and one
    per feature, ``query.F`` or ``candidate.F``, stacked over queries; a bag or sequence is
    ``...F.values`` and ``...F.offsets``.

    Raises:
        UsageError: if there is no query, or outputs of the wrong shape or not finite.
        QueryError: if a query does not fit the schema.
    """
    if not golden:
        raise UsageError("a bundle needs at least one golden query to prove itself at load")
    for query, outputs in golden:
        check_query(query, schema)
        _check_outputs(outputs, query.size, schema)
    tensors: _Tensors = {
        "sizes": np.array([query.size for query, _ in golden], np.int64),
        "outputs": np.concatenate([outputs for _, outputs in golden]),
    }
    _put(tensors, Scope.QUERY, concat_columns([query.context for query, _ in golden]))
    _put(tensors, Scope.CANDIDATE, concat_columns([query.candidates for query, _ in golden]))
    return save(tensors)


def decode_golden(data: bytes, schema: Schema) -> tuple[Golden, ...]:
    """Return the queries and outputs of a safetensors file, checked against the schema.

    Raises:
        BundleError: if the file is damaged or does not fit the schema.
    """
    try:
        return _decode(load(data), schema)
    except (SafetensorError, KeyError, ValueError, TypeError, IndexError) as error:
        raise BundleError(f"the golden queries cannot be read: {error}; {REWRITE}") from error
    except (UsageError, QueryError) as error:
        raise BundleError(f"the golden queries do not fit the schema: {error}") from error


REWRITE = "write the bundle again from its source"


def _decode(tensors: _Tensors, schema: Schema) -> tuple[Golden, ...]:
    sizes, outputs = tensors.pop("sizes"), tensors.pop("outputs")
    if sizes.ndim != 1 or sizes.dtype != np.int64 or not len(sizes) or sizes.min() < 0:
        raise UsageError("sizes must be int64 and not negative")
    context = _take(tensors, schema, Scope.QUERY)
    candidates = _take(tensors, schema, Scope.CANDIDATE)
    if tensors:
        raise UsageError(f"unknown tensors {sorted(tensors)[:3]}")
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    _check_outputs(outputs, int(bounds[-1]), schema)
    _check_rows(context, len(sizes))
    _check_rows(candidates, int(bounds[-1]))
    golden = []
    for index, size in enumerate(sizes):
        start, stop = int(bounds[index]), int(bounds[index + 1])
        query = Query(
            id=f"golden-{index}",
            context=slice_columns(context, index, index + 1),
            candidates=slice_columns(candidates, start, stop),
            size=int(size),
        )
        check_query(query, schema)
        golden.append((query, outputs[start:stop].astype(np.float32)))
    return tuple(golden)


def _put(tensors: _Tensors, scope: Scope, columns: Columns) -> None:
    for name, column in columns.items():
        key = f"{scope}.{name}"
        if isinstance(column, Ragged):
            tensors[f"{key}.values"] = np.ascontiguousarray(column.values)
            tensors[f"{key}.offsets"] = np.ascontiguousarray(column.offsets)
        else:
            tensors[key] = np.ascontiguousarray(column)


def _take(tensors: _Tensors, schema: Schema, scope: Scope) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for feature in schema.of_scope(scope):
        key = f"{scope}.{feature.name}"
        if key in tensors:
            columns[feature.name] = tensors.pop(key)
        else:
            values = tensors.pop(f"{key}.values").astype(np.int64, casting="safe")
            offsets = tensors.pop(f"{key}.offsets").astype(np.int64, casting="safe")
            _check_offsets(feature.name, values, offsets)
            columns[feature.name] = Ragged(values, offsets)
    return columns


def _check_offsets(name: str, values: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
    if values.ndim != 1 or offsets.ndim != 1 or not len(offsets):
        raise UsageError(f"feature {name!r} must be two vectors, values and offsets")
    if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
        raise UsageError(f"feature {name!r}: offsets must rise from 0 to {len(values)}")


def _check_rows(columns: Columns, rows: int) -> None:
    for name, column in columns.items():
        if not isinstance(column, Ragged) and column.ndim == 0:
            raise UsageError(f"feature {name!r} must have rows, not be a scalar")
        if len(column) != rows:
            raise UsageError(f"feature {name!r} has {len(column)} rows, not {rows}")


def _check_outputs(outputs: NDArray[np.generic], rows: int, schema: Schema) -> None:
    shape = (rows, len(schema.tasks))
    if outputs.shape != shape or outputs.dtype != np.float32:
        raise UsageError(
            f"golden outputs must be float32 {list(shape)}, "
            f"not {outputs.dtype} {list(outputs.shape)}"
        )
    if not np.isfinite(outputs).all():
        raise UsageError("golden outputs hold NaN or infinity; the model has diverged")
