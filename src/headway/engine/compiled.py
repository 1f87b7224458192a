"""The product's runner: compiled table lookups, then a dense engine for each tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.core import (
    BundleError,
    Column,
    Columns,
    Dense,
    Hidden,
    Piece,
    QueryError,
    Ragged,
    Schema,
    Scope,
)
from headway.engine import kernels
from headway.engine.dense import Tower, open_tower
from headway.engine.seam import DenseEngine
from headway.engine.tables import Gather, TableRecords, TowerLayout

Feed = dict[str, NDArray[Any]]
_ROW_TO_QUERY = "row_to_query"


class CompiledModel:
    """What all runners of one model share: tables and dense engines."""

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, TableRecords],
        query_tower: Tower | None,
        candidate_tower: Tower,
        *,
        threads: int = 1,
    ) -> None:
        """Build the engines and check that everything fits together.

        Args:
            schema: of the model.
            tables: by name, all that the towers look up.
            query_tower: None if nothing depends on the query alone.
            candidate_tower: its output is named ``output``.
            threads: threads inside one run of a tower.

        Raises:
            BundleError: naming what does not fit or cannot be loaded.
        """
        self.schema = schema
        self.tables = dict(tables)
        self.towers: dict[Scope, tuple[TowerLayout, DenseEngine]] = {}
        for scope, tower in ((Scope.QUERY, query_tower), (Scope.CANDIDATE, candidate_tower)):
            if tower is not None:
                self.towers[scope] = (tower.layout, open_tower(scope, tower, threads))
        self.runner()
        kernels.warm_up()

    def runner(self) -> CompiledRunner:
        """Return a new runner with buffers of its own."""
        return CompiledRunner(self)


class CompiledRunner:
    """Implements ``core.Runner``; the GIL is released in lookups and towers."""

    def __init__(self, model: CompiledModel) -> None:
        self._tasks = len(model.schema.tasks)
        self._stages = {
            scope: _Stage(model, scope, layout, engine)
            for scope, (layout, engine) in model.towers.items()
        }

    def query(self, context: Columns) -> Hidden:
        """Run the query tower for one query; returns its outputs, each with one row."""
        stage = self._stages.get(Scope.QUERY)
        return tuple(stage.run([(context, 0, 1)], 1, {})) if stage else ()

    def candidates(self, pieces: Sequence[Piece]) -> None:
        """Score the pieces in one run of the candidate tower, into their slots."""
        pieces = [piece for piece in pieces if piece.stop > piece.start]
        if len(pieces) == 1:
            self._score_one(pieces[0])
            return
        for batch in self._batches(pieces):
            self._score(batch)

    def _score_one(self, piece: Piece) -> None:
        """Do as ``_score`` does, without the bookkeeping of several: a third of a small call."""
        start, stop = piece.start, piece.stop
        stage = self._stages[Scope.CANDIDATE]
        parts = [(piece.candidates, start, stop)]
        raw = stage.run(parts, stop - start, stage.shared.single(piece))[0]
        self._check(raw, stop - start)
        piece.out[start:stop] = raw

    def _check(self, raw: NDArray[np.float32], rows: int) -> None:
        if raw.shape != (rows, self._tasks):
            raise BundleError(f"the candidate tower gave {raw.shape} for {rows} rows")

    def _batches(self, pieces: Sequence[Piece]) -> list[Sequence[Piece]]:
        """Return what may be scored together: all, or in a tower for one query only each query."""
        if not pieces or not self._stages[Scope.CANDIDATE].per_query:
            return [pieces] if pieces else []
        batches: dict[int, list[Piece]] = {}
        for piece in pieces:
            batches.setdefault(id(piece.hidden), []).append(piece)
        return list(batches.values())

    def _score(self, pieces: Sequence[Piece]) -> None:
        parts = [(piece.candidates, piece.start, piece.stop) for piece in pieces]
        bounds = [0, *accumulate(piece.stop - piece.start for piece in pieces)]
        stage = self._stages[Scope.CANDIDATE]
        raw = stage.run(parts, bounds[-1], stage.shared.feed(pieces))[0]
        self._check(raw, bounds[-1])
        for piece, row in zip(pieces, bounds, strict=False):
            count = piece.stop - piece.start
            piece.out[piece.start : piece.stop] = raw[row : row + count]

    def close(self) -> None:
        """Let the buffers go."""
        self._stages.clear()


class _Stage:
    """One tower as one runner runs it."""

    def __init__(
        self, model: CompiledModel, scope: Scope, layout: TowerLayout, engine: DenseEngine
    ) -> None:
        self.shared = _Shared(layout.inputs, told=_ROW_TO_QUERY in engine.inputs)
        self.per_query = layout.per_query
        self._outputs = list(layout.outputs)
        self._run = engine.caller()
        self._gather = Gather(model.schema, scope, model.tables, layout)
        self._dense = [
            (name, _dense_name(model.schema, scope, name.partition(".")[2]))
            for name in layout.inputs
            if name.startswith("dense.")
        ]

    def run(
        self, parts: Sequence[tuple[Columns, int, int]], rows: int, feed: Feed
    ) -> list[NDArray[np.float32]]:
        """Look up, put the dense columns beside it, and run the graph."""
        self._gather.run(parts, rows, feed)
        for name, column in self._dense:
            feed[name] = _stack([_rows(c[column], start, stop) for c, start, stop in parts])
        return self._run(self._outputs, feed)


class _Shared:
    """The candidate tower's inputs that come from queries."""

    def __init__(self, inputs: tuple[str, ...], *, told: bool) -> None:
        """Prepare.

        Args:
            inputs: of the tower.
            told: whether rows of a single query must be told to be of it.
        """
        self._told = told
        self._zeros = np.zeros(0, np.int64)
        self._hidden = [
            (name, int(name.partition(".")[2])) for name in inputs if name.startswith("hidden.")
        ]
        self._mapped = _ROW_TO_QUERY in inputs

    def feed(self, pieces: Sequence[Piece]) -> Feed:
        """Return the hidden values of the distinct queries, and each row's query."""
        order: dict[int, int] = {}
        distinct: list[Any] = []
        index: list[int] = []
        for piece in pieces:
            place = order.setdefault(id(piece.hidden), len(distinct))
            if place == len(distinct):
                distinct.append(piece.hidden)
            index.append(place)
        feed: Feed = {
            name: _stack([hidden[at] for hidden in distinct]) for name, at in self._hidden
        }
        if self._mapped:
            counts = [piece.stop - piece.start for piece in pieces]
            feed[_ROW_TO_QUERY] = np.repeat(np.array(index, np.int64), counts)
        return feed

    def single(self, piece: Piece) -> Feed:
        """Return the hidden values of one query; its rows are told of it only where they must be."""
        hidden: Any = piece.hidden
        feed: Feed = {name: hidden[at] for name, at in self._hidden}
        if self._mapped and self._told:
            rows = piece.stop - piece.start
            if rows > len(self._zeros):
                self._zeros = np.zeros(2 * rows, np.int64)
            feed[_ROW_TO_QUERY] = self._zeros[:rows]
        return feed


def _stack(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _rows(column: Column, start: int, stop: int) -> NDArray[Any]:
    if isinstance(column, Ragged):
        raise QueryError("a dense feature came as a ragged column; check the query first")
    if start == 0 and stop == len(column) and column.flags.c_contiguous:
        return column
    return np.ascontiguousarray(column[start:stop])


def _dense_name(schema: Schema, scope: Scope, name: str) -> str:
    feature = schema.feature(name)
    if not isinstance(feature, Dense) or feature.scope != scope:
        raise BundleError(f"{name!r} is not a dense feature of the {scope} tower")
    return name
