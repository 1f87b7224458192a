"""Scores from plain arrays or raw features, in one process, without a server."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.core import Link, Piece, Query, QueryError, Runner, Schema, Scope, Task, UsageError
from headway.data import Transforms
from headway.engine.asked import Asker, Values

_ID = "id"
_REQUEST = ("query", "candidates", "top_k", _ID)


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Candidates, best first by the first task; ties stay in the order they were given.

    Attributes:
        ids: each candidate's ``id``, or its place in the request where it had none.
        scores: float32 ``[returned]``, or ``[returned, tasks]`` for a model of several tasks.
    """

    ids: list[str | int]
    scores: NDArray[np.float32]


def apply_link(raw: NDArray[np.float32], tasks: Sequence[Task]) -> NDArray[np.float32]:
    """Return scores: each task's raw outputs through its link, float32 ``[rows, tasks]``.

    Args:
        raw: float32 ``[rows, tasks]``.
        tasks: one per column.
    """
    scores = _sigmoid(np.asarray(raw, np.float32))
    for i, task in enumerate(tasks):
        if task.link is Link.IDENTITY:
            scores[:, i] = raw[:, i]
    return scores


def _sigmoid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = np.negative(values)
    with np.errstate(over="ignore"):  # infinity gives 0, as it should
        np.exp(scores, out=scores)
    scores += 1
    return np.reciprocal(scores, out=scores)


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

    def __init__(
        self, schema: Schema, runner: Runner, transforms: Transforms | None = None
    ) -> None:
        """Take over a runner.

        Args:
            schema: of the model.
            runner: computes raw outputs; used under a lock.
            transforms: raw features to columns, for ``rank``.
        """
        self.schema = schema
        self._runner = runner
        self._transforms = transforms
        self._asker = Asker(schema)
        self._lock = threading.Lock()

    def score(self, columns: Mapping[str, Values]) -> NDArray[np.float32]:
        """Return the scores of one query's candidates.

        Args:
            columns: one entry per feature. A query-level feature has one row, which may stand
                without its row axis, a single number included; a candidate-level feature has one
                row per candidate. Dense: numbers ``[rows, width]``, or ``[rows]`` for width 1.
                Sparse: integers ``[rows]``. Bags and sequences: ``Ragged``, a tuple (values,
                offsets) with ``rows + 1`` offsets, or integers ``[rows, length]`` filled up with
                -1, which is dropped wherever it stands. float32 and int64 arrays are not copied;
                other numbers are rounded to float32, other integers become int64.

        Returns:
            float32 ``[N]``, or ``[N, tasks]`` for a model of several tasks.

        Raises:
            QueryError: naming the feature that is missing, unknown or does not fit.
        """
        return self._scores([self._asker.query(columns)])[0]

    def score_query(self, query: Query) -> NDArray[np.float32]:
        """Return the scores of a query's candidates, as ``score``.

        Raises:
            QueryError: if the query does not fit the schema.
        """
        return self.score_many([query])[0]

    def score_many(
        self, queries: Sequence[Mapping[str, Values] | Query]
    ) -> list[NDArray[np.float32]]:
        """Return the scores of several queries, computed in one batch.

        Args:
            queries: each as ``score`` takes it, or as a ``Query``.

        Raises:
            QueryError: naming the query and the feature that does not fit; then none is scored.
        """
        checked = []
        for place, query in enumerate(queries):
            try:
                checked.append(self._checked(query))
            except QueryError as error:
                where = f"queries[{place}]: " if len(queries) > 1 else ""
                raise QueryError(f"{where}{error}") from error
        return self._scores(checked)

    def rank(self, query: Mapping[str, Any], *, top_k: int | None = None) -> Ranking:
        """Return the candidates of a query with raw features, best first.

        Args:
            query: as the body of ``POST /v1/rank``: ``query``, an object of every query-level
                raw field; ``candidates``, a list of objects of every candidate-level raw field,
                each with an ``id`` if it shall go by a name; and ``top_k`` if not given here.
            top_k: how many to return; None returns all.

        Raises:
            UsageError: if the bundle has no transforms.
            QueryError: naming what is missing, unknown or does not fit.
        """
        if self._transforms is None:
            raise UsageError(
                "this bundle has no transforms, so it knows no raw features; give encoded columns "
                "to score(), or make the bundle with headway optimize, which stores transforms"
            )
        context, candidates, most = _parts(query, top_k)
        named = _ID in self._transforms.fields(self.schema, Scope.CANDIDATE)
        ids = [_name(i, c.get(_ID, i)) for i, c in enumerate(candidates)]
        if not named:  # then it is a name and no feature
            candidates = [{k: v for k, v in c.items() if k != _ID} for c in candidates]
        encoded = self._transforms.encode_query(context, candidates, self.schema)
        scores = self.score_query(encoded)
        first = scores if scores.ndim == 1 else scores[:, 0]
        best = np.argsort(-first, kind="stable")[:most]
        return Ranking([ids[i] for i in best.tolist()], scores[best])

    def _checked(self, query: Mapping[str, Values] | Query) -> Query:
        if not isinstance(query, Query):
            return self._asker.query(query)
        self._asker.check(query)
        return query

    def _scores(self, queries: Sequence[Query]) -> list[NDArray[np.float32]]:
        tasks = self.schema.tasks
        with self._lock:
            outputs = raw_outputs(self._runner, queries, len(tasks))
        scores = [apply_link(raw, tasks) for raw in outputs]
        return [s[:, 0] for s in scores] if len(tasks) == 1 else scores


def _parts(
    request: Mapping[str, Any], top_k: int | None
) -> tuple[Mapping[str, Any], list[Mapping[str, Any]], int | None]:
    if unknown := sorted(set(request) - set(_REQUEST)):
        raise QueryError(f"unknown key {unknown[0]!r}; a query to rank has {list(_REQUEST)}")
    for key in ("query", "candidates"):
        if key not in request:
            raise QueryError(f"a query to rank needs the key {key!r}")
    context, candidates = request["query"], request["candidates"]
    if not isinstance(context, Mapping):
        raise QueryError(f"'query' must be an object of fields, not {type(context).__name__}")
    candidates = list(candidates) if isinstance(candidates, list | tuple) else [candidates]
    for place, candidate in enumerate(candidates):
        if not isinstance(candidate, Mapping):
            found = type(candidate).__name__
            raise QueryError(f"candidates[{place}] must be an object of fields, not {found}")
    most = request.get("top_k") if top_k is None else top_k
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise QueryError(f"top_k is {most!r}; it must be a whole number from 1")
    return dict(context), candidates, most


def _name(place: int, given: object) -> str | int:
    if isinstance(given, str) or (isinstance(given, int) and not isinstance(given, bool)):
        return given
    raise QueryError(
        f"candidates[{place}].id must be an integer or a string, not {type(given).__name__}"
    )
