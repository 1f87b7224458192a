"""The product's runner: compiled table lookups and ONNX Runtime for the dense towers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import onnxruntime as ort
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
from headway.engine.machine import saturates_int8
from headway.engine.tables import Gather, TableRecords, TowerLayout

Feed = dict[str, NDArray[Any]]
_OUTPUT = "output"
_ERRORS_ONLY = 3
ort.set_default_logger_severity(_ERRORS_ONLY)  # it warns of absent GPUs where none is wanted


@dataclass(frozen=True, slots=True, eq=False)
class Tower:
    """A dense graph and what goes into it.

    Attributes:
        layout: names of inputs and outputs and the places of the lookups.
        onnx: the serialised graph.
    """

    layout: TowerLayout
    onnx: bytes


class CompiledModel:
    """What all runners of one model share: tables, and sessions that threads may run at once."""

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, TableRecords],
        query_tower: Tower | None,
        candidate_tower: Tower,
        *,
        threads: int = 1,
    ) -> None:
        """Build the sessions and check that everything fits together.

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
        self.towers: dict[Scope, tuple[TowerLayout, ort.InferenceSession]] = {}
        for scope, tower in ((Scope.QUERY, query_tower), (Scope.CANDIDATE, candidate_tower)):
            if tower is not None:
                session = _open_session(scope, tower, threads)
                self.towers[scope] = (tower.layout, session)
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
            scope: _Stage(model, scope, layout, session)
            for scope, (layout, session) in model.towers.items()
        }

    def query(self, context: Columns) -> Hidden:
        """Run the query tower for one query; returns its outputs, each with one row."""
        stage = self._stages.get(Scope.QUERY)
        return tuple(stage.run([(context, 0, 1)], 1, {})) if stage else ()

    def candidates(self, pieces: Sequence[Piece]) -> None:
        """Score the pieces in one run of the candidate tower, into their slots."""
        pieces = [piece for piece in pieces if piece.stop > piece.start]
        for batch in self._batches(pieces):
            self._score(batch)

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
        if raw.shape != (bounds[-1], self._tasks):
            raise BundleError(f"the candidate tower gave {raw.shape} for {bounds[-1]} rows")
        for piece, row in zip(pieces, bounds, strict=False):
            count = piece.stop - piece.start
            piece.out[piece.start : piece.stop] = raw[row : row + count]

    def close(self) -> None:
        """Let the buffers go."""
        self._stages.clear()


class _Stage:
    """One tower as one runner runs it."""

    def __init__(
        self, model: CompiledModel, scope: Scope, layout: TowerLayout, session: ort.InferenceSession
    ) -> None:
        self.shared = _Shared(layout.inputs)
        self.per_query = layout.per_query
        self._outputs = list(layout.outputs)
        self._run = session.run
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
        return self._run(self._outputs, feed)  # type: ignore[no-any-return]


class _Shared:
    """The candidate tower's inputs that come from queries."""

    def __init__(self, inputs: tuple[str, ...]) -> None:
        self._hidden = [
            (name, int(name.partition(".")[2])) for name in inputs if name.startswith("hidden.")
        ]
        self._mapped = "row_to_query" in inputs

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
            feed["row_to_query"] = np.repeat(np.array(index, np.int64), counts)
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


def _open_session(scope: Scope, tower: Tower, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # A pattern is kept for every row count met, which on a server is without bound.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if saturates_int8():
        # Exact instead of fast. With the right instructions it would only be slow: twice the time.
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    try:
        session = ort.InferenceSession(tower.onnx, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common parent of their own
        raise BundleError(f"ONNX Runtime cannot load the {scope} tower: {error}") from error
    for kind, wanted, found in (
        ("inputs", tower.layout.inputs, [n.name for n in session.get_inputs()]),
        ("outputs", tower.layout.outputs, [n.name for n in session.get_outputs()]),
    ):
        if sorted(wanted) != sorted(found):
            raise BundleError(f"the {scope} tower has {kind} {found}, declared are {list(wanted)}")
    if scope is Scope.CANDIDATE and tower.layout.outputs != (_OUTPUT,):
        raise BundleError(f"the candidate tower's output must be {_OUTPUT!r}")
    return session
