"""The records that embedding vectors are stored as: f32, or int8 with a scale and a bias."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headway.bundle.manifest import TableFormat
from headway.core import UsageError

_BLOCK_VALUES = 1 << 21  # values worked on at once: bounds the float64 scratch space
_TAIL_BYTES = 8  # float32 scale, float32 bias


def row_bytes(dim: int, table_format: TableFormat) -> int:
    """Return the length of one record of ``dim`` values."""
    return dim * 4 if table_format == "f32" else dim + _TAIL_BYTES


def pack_table(values: NDArray[np.float32], table_format: TableFormat) -> NDArray[np.uint8]:
    """Turn vectors into records.

    An int8 record covers its row's range in 255 equal steps: ``scale = (max - min) / 255`` and
    ``bias = min``, so no value moves by more than half a step. f32 records are a copy
    of the bytes, little-endian.

    Args:
        values: float32 ``[rows, dim]``, all finite.
        table_format: "f32" or "int8".

    Returns:
        uint8 ``[rows, row_bytes]``.

    Raises:
        UsageError: if the table is not float32 ``[rows, dim]``, holds NaN or infinity, or an
            int8 row spans more than float32 can express.
    """
    if values.ndim != 2 or values.dtype != np.float32 or not values.shape[1]:
        raise UsageError(
            f"a table must be float32 [rows, dim], not {values.dtype} {list(values.shape)}"
        )
    rows, dim = values.shape
    block = max(1, _BLOCK_VALUES // dim)
    out = np.empty((rows, row_bytes(dim, table_format)), np.uint8)
    for start in range(0, rows, block):
        part = np.ascontiguousarray(values[start : start + block], "<f4")
        if not np.isfinite(part).all():
            bad = start + int(np.argmin(np.isfinite(part).all(axis=1)))
            raise UsageError(
                f"row {bad} of a table holds NaN or infinity; a diverged model cannot be stored"
            )
        target = out[start : start + len(part)]
        if table_format == "f32":
            target[:] = part.view(np.uint8)
        else:
            _pack_int8(part, target)
    return out


def unpack_rows(records: NDArray[np.uint8], table_format: TableFormat) -> NDArray[np.float32]:
    """Turn records back into vectors, float32 ``[rows, dim]``.

    Args:
        records: uint8 ``[rows, row_bytes]``, as ``pack_table`` makes them.
        table_format: how they were packed.
    """
    length = records.shape[1]
    if table_format == "f32":
        return np.ascontiguousarray(records).view("<f4").astype(np.float32)
    dim = length - _TAIL_BYTES
    out = np.empty((len(records), dim), np.float32)
    block = max(1, _BLOCK_VALUES // max(dim, 1))
    for start in range(0, len(records), block):
        part = records[start : start + block]
        tail = np.ascontiguousarray(part[:, dim:]).view("<f4")
        out[start : start + block] = part[:, :dim] * tail[:, :1] + tail[:, 1:]
    return out


def _pack_int8(values: NDArray[np.float32], target: NDArray[np.uint8]) -> None:
    wide = values.astype(np.float64)
    low = wide.min(axis=1, keepdims=True)
    span = wide.max(axis=1, keepdims=True) - low
    if span.size and span.max() > np.finfo(np.float32).max:
        raise UsageError(
            f"a row of a table spans {span.max():.3g}, more than float32 can express; "
            "a diverged model cannot be stored"
        )
    tail = np.concatenate([span / 255.0, low], axis=1).astype("<f4")
    scale = tail[:, :1].astype(np.float64)
    # A constant row, or one whose step is too small for float32, is its bias alone.
    codes = np.divide(wide - low, scale, out=np.zeros_like(wide), where=scale > 0)
    dim = values.shape[1]
    target[:, :dim] = np.clip(np.rint(codes), 0, 255)
    target[:, dim:] = tail.view(np.uint8)
