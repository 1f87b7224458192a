"""Towers become ONNX bytes that run with any number of rows, also none."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from headway.bundle import Fold, Lookup
from headway.graph.layout import Tower
from headway.graph.onnx_export import export_onnx
from headway.graph.onnx_rules import write_onnx
from headway.graph.partition import Partition


@dataclass(frozen=True, slots=True, eq=False)
class TowerGraph:
    """A tower as ONNX, with what ``bundle.TowerEntry`` says about it."""

    onnx: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    lookups: tuple[Lookup, ...]
    embedded_width: int
    per_query: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """A model without torch.

    Attributes:
        query_tower: None if nothing depends on the query alone.
        candidate_tower: gives the raw outputs.
        tables: float32 ``[records, dim]`` by schema table; views of the model's parameters.
        notes: what was hoisted, what stopped and what the model ignores, as sentences.
        folds: for tables whose ids share records, which one each id has.
    """

    query_tower: TowerGraph | None
    candidate_tower: TowerGraph
    tables: dict[str, NDArray[np.float32]]
    notes: tuple[str, ...]
    folds: dict[str, Fold] = field(default_factory=dict)


def lower(partition: Partition) -> Lowered:
    """Return a partition's towers as float32 ONNX graphs and its tables as arrays.

    A table whose rows are all the same is stored as one.

    Raises:
        CaptureError: if a tower holds an operation that ONNX has not.
    """
    query = None if partition.query is None else _tower(partition.query, "query")
    tables = {
        name: np.ascontiguousarray(table.detach().cpu().float().numpy())
        for name, table in partition.tables.items()
    }
    folds = {name: Fold.of(places.long().numpy()) for name, places in partition.places.items()}
    for name in set(tables) - set(folds):
        values = tables[name]
        if len(values) > 1 and (values == values[0]).all():  # ids make no difference
            tables[name], folds[name] = values[:1], Fold.of(np.zeros(len(values), np.int64))
    candidate = _tower(partition.candidate, "candidate")
    return Lowered(query, candidate, tables, partition.notes, folds)


def _tower(tower: Tower, scope: str) -> TowerGraph:
    tower.module.float()
    model = write_onnx(tower, scope) or export_onnx(tower, scope)
    model.producer_name, model.producer_version = "headway", ""
    onnx.checker.check_model(model)
    return TowerGraph(
        model.SerializeToString(),
        tower.inputs,
        tower.outputs,
        tower.lookups,
        tower.embedded_width,
        tower.per_query,
    )
