"""A model's dense towers in each precision, each in the form that runs fastest here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headway.bundle import DensePrecision, EngineTrial, Program, TowerPart
from headway.compress.calibrate import calibrate
from headway.compress.program import quantize_program, to_program
from headway.compress.quantize import (
    Range,
    activations,
    quantize_dense,
    quantize_dense_dynamic,
)
from headway.core import Clock, MonotonicClock, Schema, Scope
from headway.data import Dataset
from headway.engine import CompiledModel, TableRecords, Tower, compare_dense
from headway.graph import Lowered, TowerGraph

_ROWS = {Scope.QUERY: (1,), Scope.CANDIDATE: (256, 64)}
"""Row counts at which the forms of a tower are compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Towers:
    """Both towers in one precision.

    Attributes:
        query: None if nothing depends on the query alone.
        candidate: gives the outputs.
        engines: the forms that were tried of both, and how long they took.
    """

    query: TowerPart | None
    candidate: TowerPart
    engines: tuple[EngineTrial, ...]


def build_towers(
    lowered: Lowered,
    schema: Schema,
    tables: Mapping[str, TableRecords],
    precisions: Sequence[DensePrecision],
    calibration: Dataset,
    clock: Clock | None = None,
) -> dict[DensePrecision, Towers]:
    """Return the towers in f32 and the precisions asked for.

    Narrow ones are left out where no product of the model is wide enough to gain by them.

    Args:
        lowered: the model without torch.
        schema: of the model.
        tables: float32 tables, to score the calibrating rows with.
        precisions: which to make.
        calibration: rows that activations take their ranges from.
        clock: what the forms of a tower are compared with; the machine's by default.
    """
    graphs = {Scope.CANDIDATE: lowered.candidate_tower}
    if lowered.query_tower is not None:
        graphs[Scope.QUERY] = lowered.query_tower
    clock = clock or MonotonicClock()
    built: dict[DensePrecision, Towers] = {"f32": _chosen(graphs, "f32", None, clock)}
    if not any(activations(graph.onnx) for graph in graphs.values()):
        return built
    if "int8" in precisions:
        towers = {scope: Tower(graph, graph.onnx) for scope, graph in graphs.items()}
        model = CompiledModel(schema, tables, towers.get(Scope.QUERY), towers[Scope.CANDIDATE])
        ranges = calibrate(model, {s: g.onnx for s, g in graphs.items()}, calibration)
        built["int8"] = _chosen(graphs, "int8", ranges, clock)
    if "int8-dynamic" in precisions:
        parts = {
            scope: _part(graph, quantize_dense_dynamic(graph.onnx), "int8-dynamic")
            for scope, graph in graphs.items()
        }
        built["int8-dynamic"] = Towers(parts.get(Scope.QUERY), parts[Scope.CANDIDATE], ())
    return built


def as_tower(part: TowerPart) -> Tower:
    """Return a part of a bundle as an engine takes it."""
    return Tower(part, part.content, part.form)


def _chosen(
    graphs: Mapping[Scope, TowerGraph],
    precision: DensePrecision,
    ranges: Mapping[str, Mapping[str, Range]] | None,
    clock: Clock,
) -> Towers:
    """Return the towers, each in its faster form."""
    parts: dict[Scope, TowerPart] = {}
    trials: list[EngineTrial] = []
    for scope, graph in graphs.items():
        forms = _forms(graph, precision, None if ranges is None else ranges[scope])
        found = compare_dense([as_tower(form) for form in forms], scope, _ROWS[scope], clock)
        best = min(range(len(forms)), key=lambda i: sum(found[i].values()))
        parts[scope] = forms[best]
        trials += [
            EngineTrial(
                tower=scope.value,
                precision=precision,
                form=form.form,
                latency_us={str(rows): round(us, 1) for rows, us in found[place].items()},
                chosen=place == best,
            )
            for place, form in enumerate(forms)
        ]
    return Towers(parts.get(Scope.QUERY), parts[Scope.CANDIDATE], tuple(trials))


def _forms(
    graph: TowerGraph, precision: DensePrecision, ranges: Mapping[str, Range] | None
) -> list[TowerPart]:
    """Return the tower as ONNX and, where its steps suffice, as a program."""
    onnx = graph.onnx if ranges is None else quantize_dense(graph.onnx, ranges)
    narrow = onnx != graph.onnx
    forms = [_part(graph, onnx, precision if narrow else "f32")]
    program = to_program(graph.onnx)
    if program is not None:
        if narrow and ranges is not None:
            program = quantize_program(program, ranges)
        forms.append(_program_part(graph, program, forms[0].precision))
    return forms


def _part(graph: TowerGraph, content: bytes, precision: DensePrecision) -> TowerPart:
    return TowerPart(
        content=content,
        precision=precision,
        inputs=graph.inputs,
        outputs=graph.outputs,
        lookups=graph.lookups,
        embedded_width=graph.embedded_width,
        per_query=graph.per_query,
    )


def _program_part(graph: TowerGraph, program: Program, precision: DensePrecision) -> TowerPart:
    return TowerPart(
        content=program.to_bytes(),
        precision=precision,
        inputs=graph.inputs,
        outputs=graph.outputs,
        lookups=graph.lookups,
        embedded_width=graph.embedded_width,
        per_query=graph.per_query,
        form="program",
    )
