"""A float32 model whose parts are exchanged for rounded ones, to see how outputs change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from headway.compress.rows import score_dataset
from headway.core import Schema, Scope
from headway.data import Dataset
from headway.engine import CompiledModel, OnnxEngine, TableRecords, Tower
from headway.graph import Lowered, TowerGraph

_MOST_ROWS = 4096


def graphs_of(lowered: Lowered) -> dict[Scope, TowerGraph]:
    """Return the dense graphs of a model by scope."""
    graphs = {Scope.CANDIDATE: lowered.candidate_tower}
    if lowered.query_tower is not None:
        graphs[Scope.QUERY] = lowered.query_tower
    return graphs


def exact_model(
    lowered: Lowered, schema: Schema, tables: Mapping[str, TableRecords]
) -> CompiledModel:
    """Return the model in float32, run by ONNX Runtime."""
    towers = {scope: Tower(graph, graph.onnx) for scope, graph in graphs_of(lowered).items()}
    return CompiledModel(schema, tables, towers.get(Scope.QUERY), towers[Scope.CANDIDATE])


def change(found: Sequence[NDArray[np.float32]], exact: Sequence[NDArray[np.float32]]) -> float:
    """Return the largest root mean square change of an output, as a share of its spread."""
    shares = [
        float(np.sqrt(np.square(array - wanted).mean()) / (wanted.std() or 1.0))
        for array, wanted in zip(found, exact, strict=True)
    ]
    return max(shares)


class Swap:
    """Scores rows with some parts exchanged, all others in float32.

    Attributes:
        tables: all, in float32.
        rows: what is scored.
    """

    def __init__(self, lowered: Lowered, tables: Mapping[str, TableRecords], rows: Dataset) -> None:
        """Score the rows in float32.

        Args:
            lowered: the model without torch.
            tables: in float32.
            rows: what is scored; some thousands spread over them if there are more.
        """
        if len(rows) > _MOST_ROWS:
            rows = rows.take(np.linspace(0, len(rows) - 1, _MOST_ROWS).astype(np.int64))
        self.rows = rows
        self.tables = dict(tables)
        self._model = exact_model(lowered, rows.schema, tables)
        self._towers = dict(self._model.towers)
        self._exact = self._outputs()

    def change(
        self,
        tables: Mapping[str, TableRecords] | None = None,
        towers: Mapping[Scope, bytes] | None = None,
    ) -> float:
        """Return how much outputs change, as ``change``; the worst task counts.

        Args:
            tables: that stand in for those of float32.
            towers: ONNX graphs that do so.
        """
        self._model.tables = self.tables | dict(tables or {})
        self._model.towers = dict(self._towers)
        for scope, graph in (towers or {}).items():
            self._model.towers[scope] = (self._towers[scope][0], OnnxEngine(graph))
        return change(self._outputs(), self._exact)

    def _outputs(self) -> list[NDArray[np.float32]]:
        """Return the raw outputs, an array for each task."""
        return list(score_dataset(self._model.runner(), self.rows).T)
