"""Scores of whole data sets through a runner, and queries with the data's own ids."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from headway.core import DataError, Piece, Query, Runner, slice_columns, take_rows
from headway.data import Dataset

_BATCH_ROWS = 2048


def score_dataset(runner: Runner, dataset: Dataset) -> NDArray[np.float32]:
    """Return the raw outputs of every impression, float32 ``[rows, tasks]``.

    Queries go through the runner as they do in a server: the query-level work once for each,
    candidates of several queries in one batch.
    """
    out = np.empty((len(dataset), len(dataset.schema.tasks)), np.float32)
    bounds = np.searchsorted(dataset.row_to_query, np.arange(dataset.queries + 1))
    waiting: list[Piece] = []
    rows = 0
    for index, (start, stop) in enumerate(pairwise(bounds)):
        hidden = runner.query(slice_columns(dataset.context, index, index + 1))
        waiting.append(Piece(hidden, dataset.candidates, int(start), int(stop), out))
        rows += int(stop - start)
        if rows >= _BATCH_ROWS:
            runner.candidates(waiting)
            waiting, rows = [], 0
    runner.candidates(waiting)
    return out


def sample_rows(dataset: Dataset, rows: int, rng: np.random.Generator) -> Dataset:
    """Return up to ``rows`` impressions drawn without repetition, or all."""
    if len(dataset) <= rows:
        return dataset
    return dataset.take(rng.choice(len(dataset), rows, replace=False))


def sample_queries(
    dataset: Dataset, size: int, count: int, rng: np.random.Generator
) -> list[Query]:
    """Return queries with users of the data set, and ``size`` candidates drawn from its own.

    Recorded impressions are what was shown, not all that was scored; drawing candidates from
    them keeps the popularity of ids at any query size.

    Raises:
        DataError: if the data set is empty.
    """
    if not len(dataset):
        raise DataError("queries cannot be drawn from an empty part of the data")
    users = rng.integers(dataset.queries, size=count)
    return [
        Query(
            id=str(number),
            context=take_rows(dataset.context, np.array([user], np.int64)),
            candidates=take_rows(dataset.candidates, rng.integers(len(dataset), size=size)),
            size=size,
        )
        for number, user in enumerate(users)
    ]
