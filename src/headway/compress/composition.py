"""The ways in which one lowered model can be put together, each ready to run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from headway.bundle import DensePrecision, TableFormat, TablePart, TowerPart
from headway.compress.quantize import (
    Range,
    activations,
    fit_range,
    quantize_dense,
    quantize_dense_dynamic,
    quantize_tables,
    with_outputs,
)
from headway.compress.rows import score_dataset
from headway.compress.settings import OptimizeSettings
from headway.core import Schema
from headway.data import Dataset
from headway.engine import CompiledModel, TableRecords, Tower
from headway.graph import Lowered, TowerGraph

_KEPT_VALUES = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class Composition:
    """Tables in one format with towers of one precision.

    Attributes:
        tables: format of the tables.
        dense: precision of the towers.
        model: built, as a server would build it.
        table_parts: what goes into a bundle, likewise the towers.
    """

    tables: TableFormat
    dense: DensePrecision
    model: CompiledModel
    table_parts: Mapping[str, TablePart]
    query_tower: TowerPart | None
    candidate_tower: TowerPart

    @property
    def name(self) -> str:
        """What people call it."""
        return f"tables {self.tables}, dense {self.dense}"

    @property
    def exact(self) -> bool:
        """Whether nothing was rounded, so that it equals the model but for float32 noise."""
        return self.tables == "f32" and self.dense == "f32"

    @property
    def steady(self) -> bool:
        """Whether a row's output is the same whatever rows share its batch."""
        return self.dense != "int8-dynamic"

    @property
    def size_bytes(self) -> int:
        """Bytes of tables and towers."""
        towers = [t.onnx for t in (self.query_tower, self.candidate_tower) if t is not None]
        tables = sum(part.records.nbytes for part in self.table_parts.values())
        return tables + sum(len(onnx) for onnx in towers)


@dataclass(frozen=True, slots=True, eq=False)
class _Towers:
    query: TowerPart | None
    candidate: TowerPart


def build_compositions(
    lowered: Lowered, schema: Schema, settings: OptimizeSettings, calibration: Dataset
) -> list[Composition]:
    """Return all compositions of the settings, f32 throughout first.

    int8 towers are left out where no product of the model is wide enough to gain by them.

    Args:
        lowered: the model without torch.
        schema: of the model.
        settings: which formats and precisions.
        calibration: rows that activations take their ranges from; none that judge.
    """
    formats: Sequence[TableFormat] = [f for f in ("f32", "int8") if f in {"f32", *settings.tables}]
    parts = {f: quantize_tables(lowered.tables, f) for f in formats if lowered.tables or f == "f32"}
    records = {f: _records(tables, schema) for f, tables in parts.items()}
    towers: dict[DensePrecision, _Towers] = {
        "f32": _Towers(
            None if lowered.query_tower is None else _part(lowered.query_tower),
            _part(lowered.candidate_tower),
        )
    }
    if "int8" in settings.dense:
        narrow = _narrow_towers(lowered, schema, records["f32"], calibration)
        if narrow is not None:
            towers["int8"] = narrow
    if "int8-dynamic" in settings.dense and _has_wide_products(lowered):
        towers["int8-dynamic"] = _dynamic_towers(lowered)
    return [
        Composition(
            tables=table_format,
            dense=precision,
            model=CompiledModel(
                schema,
                records[table_format],
                None if both.query is None else Tower(both.query, both.query.onnx),
                Tower(both.candidate, both.candidate.onnx),
            ),
            table_parts=parts[table_format],
            query_tower=both.query,
            candidate_tower=both.candidate,
        )
        for table_format in parts
        for precision, both in towers.items()
        if _wanted(table_format, precision, settings)
    ]


def calibrate(
    model: CompiledModel, graphs: Mapping[str, bytes], rows: Dataset
) -> dict[str, dict[str, Range]]:
    """Return the ranges of the activations that ``quantize_dense`` wants, by scope.

    Args:
        model: in float32; consumed, its towers are put under watch.
        graphs: ONNX bytes of its towers by scope.
        rows: what is scored to see the activations.
    """
    watched: dict[str, _Watch] = {}
    for scope, (layout, _) in list(model.towers.items()):
        names = activations(graphs[scope])
        watched[scope] = _Watch(graphs[scope], names)
        model.towers[scope] = (layout, watched[scope])
    score_dataset(model.runner(), rows)
    return {scope: watch.ranges() for scope, watch in watched.items()}


class _Watch:
    """Stands in for a tower's session and keeps a sample of the values on the way."""

    def __init__(self, graph: bytes, names: tuple[str, ...]) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(
            with_outputs(graph, names), options, providers=["CPUExecutionProvider"]
        )
        made = {output.name for output in self._session.get_outputs()}
        self._names = {name: name if name in made else f"seen.{name}" for name in names}
        self._kept: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
        self._rng = np.random.default_rng(0)

    def run(self, outputs: Sequence[str], feed: Mapping[str, Any]) -> list[NDArray[np.float32]]:
        """Run the graph as a session does."""
        found: list[NDArray[np.float32]] = self._session.run(
            [*outputs, *self._names.values()], feed
        )
        for name, values in zip(self._names, found[len(outputs) :], strict=True):
            self._kept[name].append(self._some(values.reshape(-1)))
        return found[: len(outputs)]

    def ranges(self) -> dict[str, Range]:
        """Return the range of each watched activation."""
        return {
            name: fit_range(self._some(np.concatenate(kept))) for name, kept in self._kept.items()
        }

    def _some(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return at most so many values; the largest and smallest are always among them."""
        if len(values) <= _KEPT_VALUES:
            return values
        ends = values[[values.argmin(), values.argmax()]]
        drawn = values[self._rng.integers(len(values), size=_KEPT_VALUES)]
        return np.concatenate([ends, drawn])


def _wanted(tables: TableFormat, dense: DensePrecision, settings: OptimizeSettings) -> bool:
    if tables == dense == "f32":
        return True
    return tables in settings.tables and dense in settings.dense


def _narrow_towers(
    lowered: Lowered, schema: Schema, tables: Mapping[str, TableRecords], rows: Dataset
) -> _Towers | None:
    query, candidate = lowered.query_tower, lowered.candidate_tower
    graphs = {"candidate": candidate.onnx} | ({} if query is None else {"query": query.onnx})
    if not _has_wide_products(lowered):
        return None
    model = CompiledModel(
        schema,
        tables,
        None if query is None else Tower(query, query.onnx),
        Tower(candidate, candidate.onnx),
    )
    ranges = calibrate(model, graphs, rows)
    narrow = {scope: quantize_dense(graph, ranges[scope]) for scope, graph in graphs.items()}
    return _Towers(
        None if query is None else _part(query, narrow["query"]),
        _part(candidate, narrow["candidate"]),
    )


def _dynamic_towers(lowered: Lowered) -> _Towers:
    query, candidate = lowered.query_tower, lowered.candidate_tower
    return _Towers(
        None if query is None else _part(query, quantize_dense_dynamic(query.onnx), "int8-dynamic"),
        _part(candidate, quantize_dense_dynamic(candidate.onnx), "int8-dynamic"),
    )


def _has_wide_products(lowered: Lowered) -> bool:
    towers = [t for t in (lowered.query_tower, lowered.candidate_tower) if t is not None]
    return any(activations(tower.onnx) for tower in towers)


def _part(
    tower: TowerGraph, narrow: bytes | None = None, precision: DensePrecision = "int8"
) -> TowerPart:
    changed = narrow is not None and narrow != tower.onnx
    return TowerPart(
        onnx=tower.onnx if narrow is None else narrow,
        precision=precision if changed else "f32",
        inputs=tower.inputs,
        outputs=tower.outputs,
        lookups=tower.lookups,
        embedded_width=tower.embedded_width,
        per_query=tower.per_query,
    )


def _records(parts: Mapping[str, TablePart], schema: Schema) -> dict[str, TableRecords]:
    return {
        name: TableRecords(part.format, schema.table(name).dim, part.records).resident()
        for name, part in parts.items()
    }
