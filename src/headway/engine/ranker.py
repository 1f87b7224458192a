"""Scores from plain arrays, in one process, without a server."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headway.core import (
    Column,
    Dense,
    Feature,
    Link,
    Piece,
    Query,
    QueryError,
    Ragged,
    Runner,
    Schema,
    Scope,
    Sparse,
    Task,
    check_query,
)

Values = ArrayLike | Ragged | tuple[ArrayLike, ArrayLike]


def apply_link(raw: NDArray[np.float32], tasks: Sequence[Task]) -> NDArray[np.float32]:
    """Return scores: each task's raw outputs through its link, float32 ``[rows, tasks]``.

    Args:
        raw: float32 ``[rows, tasks]``.
        tasks: one per column.
    """
    scores = np.array(raw, np.float32)
    columns = [i for i, task in enumerate(tasks) if task.link is Link.SIGMOID]
    if columns:
        values = scores[:, columns]
        small = np.exp(-np.abs(values))  # never overflows
        scores[:, columns] = np.where(values >= 0, np.float32(1), small) / (1 + small)
    return scores


def raw_outputs(runner: Runner, queries: Sequence[Query], tasks: int) -> list[NDArray[np.float32]]:
    """Score whole queries in one batch; returns one float32 ``[size, tasks]`` per query.

    Columns are taken as checked.
    """
    pieces = [
        Piece(
            runner.query(query.context),
            query.candidates,
            0,
            query.size,
            np.empty((query.size, tasks), np.float32),
        )
        for query in queries
    ]
    runner.candidates(pieces)
    return [piece.out for piece in pieces]


class Ranker:
    """A loaded model as a function from features to scores; safe to call from many threads."""

    def __init__(self, schema: Schema, runner: Runner) -> None:
        self.schema = schema
        self._runner = runner
        self._lock = threading.Lock()

    def score(self, columns: Mapping[str, Values]) -> NDArray[np.float32]:
        """Return the scores of one query's candidates.

        Args:
            columns: one entry per feature. A query-level feature has one row, which may stand
                without its row axis; a candidate-level feature has one row per candidate. Dense:
                numbers ``[rows, width]``, or ``[rows]`` for width 1. Sparse: integers ``[rows]``.
                Bags and sequences: ``Ragged``, a tuple (values, offsets), or integers ``[rows,
                length]`` filled up with -1.

        Returns:
            float32 ``[N]``, or ``[N, tasks]`` for a model of several tasks.

        Raises:
            QueryError: naming the feature that is missing, unknown or does not fit.
        """
        for name in columns:
            if name not in {f.name for f in self.schema.features}:
                raise QueryError(f"unknown feature {name!r}")
        context, candidates = (
            {f.name: _column(f, columns[f.name]) for f in features if f.name in columns}
            for features in (
                self.schema.of_scope(Scope.QUERY),
                self.schema.of_scope(Scope.CANDIDATE),
            )
        )
        size = len(next(iter(candidates.values()))) if candidates else 1
        return self.score_query(Query("", context, candidates, size))

    def score_query(self, query: Query) -> NDArray[np.float32]:
        """Return the scores of a query's candidates, as ``score``.

        Raises:
            QueryError: if the query does not fit the schema.
        """
        return self.score_many([query])[0]

    def score_many(self, queries: Sequence[Query]) -> list[NDArray[np.float32]]:
        """Return the scores of several queries, computed in one batch.

        Raises:
            QueryError: if a query does not fit the schema; then none is scored.
        """
        for query in queries:
            check_query(query, self.schema)
        tasks = self.schema.tasks
        with self._lock:
            outputs = raw_outputs(self._runner, queries, len(tasks))
        scores = [apply_link(raw, tasks) for raw in outputs]
        return [s[:, 0] for s in scores] if len(tasks) == 1 else scores


def _column(feature: Feature, values: Values) -> Column:
    single = feature.scope is Scope.QUERY
    if isinstance(feature, Dense):
        dense = _numbers(feature.name, values, "fiu")
        with np.errstate(over="ignore"):  # what does not fit becomes infinite and is refused
            dense = dense.astype(np.float32)
        if dense.ndim == 1:
            dense = dense[None] if single else dense[:, None]
        return dense
    if isinstance(values, Ragged):
        return values
    if isinstance(values, tuple) and len(values) == 2 and not isinstance(feature, Sparse):
        ids, offsets = (_numbers(feature.name, part, "iu").astype(np.int64) for part in values)
        return Ragged(ids, offsets)
    ids = _numbers(feature.name, values, "iu").astype(np.int64)
    if isinstance(feature, Sparse):
        return ids
    if single and ids.ndim == 1:
        ids = ids[None]
    if ids.ndim != 2:
        raise QueryError(f"feature {feature.name!r} must be ids of shape [rows, length]")
    return Ragged.from_padded(ids)


def _numbers(name: str, values: Values, kinds: str) -> NDArray[np.generic]:
    wanted = "numbers" if "f" in kinds else "integers"
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise QueryError(f"feature {name!r} has rows of different length: {error}") from error
    if array.size and array.dtype.kind not in kinds:
        raise QueryError(f"feature {name!r} must hold {wanted}, not {array.dtype}")
    return np.atleast_1d(array)
