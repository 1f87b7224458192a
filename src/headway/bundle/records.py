"""The records that embedding vectors are stored as: floats, or codes with a scale and a bias."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headway.bundle.manifest import TableFormat
from headway.core import UsageError

_BLOCK_VALUES = 1 << 21  # values worked on at once: bounds the float64 scratch space
_FLOAT_BYTES = {"f32": 4, "bf16": 2}
_TAIL_BYTES = {"int8": 8, "int4": 3}
_LARGEST_INT4 = 2.0**126
"""Beyond it, what a row spans might not fit into float32."""


def row_bytes(dim: int, table_format: TableFormat) -> int:
    """Return the length of one record of ``dim`` values."""
    if table_format in _FLOAT_BYTES:
        return dim * _FLOAT_BYTES[table_format]
    codes = dim if table_format == "int8" else (dim + 1) // 2
    return codes + _TAIL_BYTES[table_format]


def pack_table(values: NDArray[np.float32], table_format: TableFormat) -> NDArray[np.uint8]:
    """Turn vectors into records.

    An int8 record covers its row's range in 255 equal steps: ``scale = (max - min) / 255`` and
    ``bias = min``, so no value moves by more than half a step. An int4 record has 16 codes, whose
    range is searched for the least squared error, and a tail of 3 bytes instead of 8: at 32
    values it takes 0.148 of float32. Rows that lie far from zero for their span lose by that:
    a step is never less than 1/25 of the value nearest to zero. A row of one value comes back to
    within 1/5000 of it, zeros exactly; and what is smaller than 2**-115 may vanish. bf16 is the
    upper half of float32, rounded to nearest, ties to even. f32 records are a copy of the bytes,
    little-endian. ``bundle.TableEntry`` says how records look.

    Args:
        values: float32 ``[rows, dim]``, all finite.
        table_format: how to store them.

    Returns:
        uint8 ``[rows, row_bytes]``.

    Raises:
        UsageError: if the table is not float32 ``[rows, dim]``, holds NaN or infinity, or a row
            spans more than float32, or a value is more than bf16 or int4, can express.
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
        elif table_format == "bf16":
            target[:] = _bf16(part).view(np.uint8)
        elif table_format == "int8":
            _pack_int8(part, target)
        else:
            _pack_int4(part, target)
    return out


def unpack_rows(
    records: NDArray[np.uint8], table_format: TableFormat, dim: int | None = None
) -> NDArray[np.float32]:
    """Turn records back into vectors, float32 ``[rows, dim]``.

    Args:
        records: uint8 ``[rows, row_bytes]``, as ``pack_table`` makes them.
        table_format: how they were packed.
        dim: values in a row; needed where the length does not tell: int4 of an odd ``dim``.
    """
    length = records.shape[1]
    if table_format == "f32":
        return np.ascontiguousarray(records).view("<f4").astype(np.float32)
    if table_format == "bf16":
        upper = np.ascontiguousarray(records).view("<u2").astype(np.uint32)
        return (upper << 16).view(np.float32)
    codes = length - _TAIL_BYTES[table_format]
    dim = dim or codes * (2 if table_format == "int4" else 1)
    out = np.empty((len(records), dim), np.float32)
    block = max(1, _BLOCK_VALUES // max(dim, 1))
    for start in range(0, len(records), block):
        part = records[start : start + block]
        raw, tail = part[:, :codes], part[:, codes:]
        if table_format == "int4":
            raw = np.stack([raw & 15, raw >> 4], axis=2).reshape(len(part), -1)[:, :dim]
            scale, bias = _int4_tail(tail)
        else:
            scale, bias = np.split(np.ascontiguousarray(tail).view("<f4"), 2, axis=1)
        out[start : start + block] = raw * scale + bias
    return out


def _int4_tail(tail: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return scale and bias, float32 ``[rows, 1]``."""
    words = tail.astype(np.uint32) @ np.array([[1], [1 << 8], [1 << 16]], np.uint32)
    scale = (words >> 10 << 17).view(np.float32)
    zero = (words & 1023).astype(np.float32) / np.float32(16) - np.float32(24.5)
    return scale, -scale * zero


def _bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(values).view("<u4")
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    if (rounded & 0x7F80 == 0x7F80).any():
        raise UsageError(
            f"a value of a table, {np.abs(values).max():.3g}, is more than bf16 can express; "
            "a diverged model cannot be stored"
        )
    return np.asarray(rounded, "<u2")


def _pack_int8(values: NDArray[np.float32], target: NDArray[np.uint8]) -> None:
    wide = values.astype(np.float64)
    low = wide.min(axis=1, keepdims=True)
    span = wide.max(axis=1, keepdims=True) - low
    if span.size and span.max() > np.finfo(np.float32).max:
        raise UsageError(
            f"a row of a table spans {span.max():.3g}, more than float32 can express; "
            "a diverged model cannot be stored"
        )
    tail = np.concatenate([span / 255, low], axis=1).astype("<f4")
    scale = tail[:, :1].astype(np.float64)
    # A constant row, or one whose step is too small for float32, is its bias alone.
    exact = np.divide(wide - low, scale, out=np.zeros_like(wide), where=scale > 0)
    codes = values.shape[1]
    target[:, :codes] = np.clip(np.rint(exact), 0, 255)
    target[:, codes:] = tail.view(np.uint8)


def _pack_int4(values: NDArray[np.float32], target: NDArray[np.uint8]) -> None:
    from headway.bundle.int4 import pack_int4  # noqa: PLC0415 - only who packs needs a compiler

    largest = np.abs(values).max(initial=0.0)
    if largest > _LARGEST_INT4:
        raise UsageError(
            f"a value of a table, {largest:.3g}, is more than int4 can express; "
            "a diverged model cannot be stored"
        )
    target[:] = 0
    pack_int4(values, target)
