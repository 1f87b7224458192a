"""Doubts about data and model that a guard cannot see: shared rows, constant scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headway.core import Column, DataError, Ragged
from headway.data import Dataset
from headway.measure import auc

Hashes = NDArray[np.uint64]
_ODD = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)
_SUSPECT_SHARE = 0.01


def data_warnings(
    train: Dataset, choose: Dataset, test: Dataset, valid: Dataset | None = None
) -> list[str]:
    """Return what the caller should know about the parts, as sentences.

    Two impressions count as the same if all their features and labels are.

    Raises:
        DataError: if a part has another schema than the test part.
    """
    parts = {"training": train, "choosing": choose}
    if valid is not None:
        parts["validation"] = valid
    for name, part in parts.items():
        if part.schema != test.schema:
            raise DataError(
                f"the {name} part has another schema than the test part; encode all parts "
                "with the same transforms"
            )
    found = []
    for name, part in parts.items():
        share = shared_rows(test, part)
        if share > _SUSPECT_SHARE:
            found.append(
                f"{share:.1%} of the test rows stand among the {name} rows too, feature for "
                "feature; if they were copied, the test tells too little"
            )
    return found


def shared_rows(test: Dataset, other: Dataset) -> float:
    """Return the share of the test rows that stand in another part, feature for feature.

    Two impressions count as the same if all their features and labels are.

    Args:
        test: the judging rows.
        other: a part with the same schema.
    """
    if not len(test):
        return 0.0
    return float(np.isin(_row_hashes(test), _row_hashes(other)).mean())


def score_warnings(dataset: Dataset, raw: NDArray[np.float32]) -> list[str]:
    """Return what is odd about the original model's outputs on a part, as sentences.

    Args:
        dataset: the part.
        raw: outputs ``[rows, tasks]``.

    Raises:
        DataError: if an output is not finite, or all outputs of a task are the same.
    """
    found = []
    for index, task in enumerate(dataset.schema.tasks):
        column = raw[:, index]
        if not np.isfinite(column).all():
            raise DataError(
                f"the model's outputs for task {task.name!r} hold NaN or infinity; train it again"
            )
        if len(column) and column.min() == column.max():
            raise DataError(
                f"the model gives every row the same output for task {task.name!r}; "
                "there is nothing to rank by, train it again"
            )
        reached = auc(dataset.labels[:, index], column)
        if reached < 0.5:
            found.append(
                f"the model's AUC for task {task.name!r} is {reached:.3f}, worse than chance; "
                "is the label the right way round?"
            )
    return found


def _row_hashes(dataset: Dataset) -> Hashes:
    total = np.zeros(len(dataset), np.uint64)
    for name in sorted(dataset.context):
        total = _mixed(total, _hashes(dataset.context[name])[dataset.row_to_query])
    for name in sorted(dataset.candidates):
        total = _mixed(total, _hashes(dataset.candidates[name]))
    return _mixed(total, _hashes(dataset.labels))


def _hashes(column: Column) -> Hashes:
    """Return one hash per row; the order of a row's values counts."""
    if isinstance(column, Ragged):
        lengths = column.lengths()
        place = np.arange(len(column.values)) - np.repeat(column.offsets[:-1], lengths)
        values = _mixed(place.astype(np.uint64), column.values.astype(np.uint64))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
        total: Hashes = sums[column.offsets[1:]] - sums[column.offsets[:-1]]
        return _mixed(total, lengths.astype(np.uint64))
    if column.ndim == 1:
        return column.astype(np.uint64)
    bits = np.ascontiguousarray(column, np.float32).view(np.uint32).astype(np.uint64)
    total = np.zeros(len(bits), np.uint64)
    for index in range(bits.shape[1]):
        total = _mixed(total, bits[:, index])
    return total


def _mixed(total: Hashes, more: Hashes) -> Hashes:
    mixed: Hashes = (total ^ (more + _ODD)) * _ODD
    mixed ^= mixed >> _SHIFT
    return mixed * _ODD
