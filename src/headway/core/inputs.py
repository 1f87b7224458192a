"""What a model's ``forward`` is given: plain arrays made from columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.core.columns import Columns, Ragged
from headway.core.schema import Schema, Sequence

ModelInput = NDArray[Any] | tuple[NDArray[np.int64], NDArray[Any]]


def model_inputs(columns: Columns, schema: Schema) -> dict[str, ModelInput]:
    """Return one entry per given column, in the form ranking modules take.

    Dense and sparse columns stay as they are. A bag becomes ``(values, offsets)`` with
    ``rows + 1`` offsets, as ``embedding_bag(include_last_offset=True)`` wants it. A sequence
    becomes ``(ids, mask)``: int64 ``[rows, max_length]`` filled up with id 0, and float32
    ``[rows, max_length]`` with 1 where there is an id.

    Args:
        columns: checked columns, all with the same number of rows.
        schema: the schema they were checked against.
    """
    out: dict[str, ModelInput] = {}
    for name, column in columns.items():
        feature = schema.feature(name)
        if not isinstance(column, Ragged):
            out[name] = column
        elif isinstance(feature, Sequence):
            out[name] = pad_sequence(column, feature.max_length)
        else:
            out[name] = (column.values, column.offsets)
    return out


def pad_sequence(column: Ragged, width: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return ids ``[rows, width]`` filled up with 0, and a mask that is 1 where there is an id."""
    kept = column.last(width)
    mask = (np.arange(width) < kept.lengths()[:, None]).astype(np.float32)
    return kept.padded(width, 0), mask
