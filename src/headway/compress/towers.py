"""A model's dense towers in each precision, each run by what runs it fastest here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log

from headway.bundle import DensePrecision, EngineName, EngineTrial, FewPart, TowerPart
from headway.compress.calibrate import Calibration, Feed, calibrate
from headway.compress.mixed import narrow_enough
from headway.compress.program import quantize_program, to_program
from headway.compress.quantize import (
    Range,
    activations,
    quantize_dense,
    quantize_dense_dynamic,
)
from headway.compress.settings import OptimizeSettings
from headway.compress.swap import exact_model, graphs_of
from headway.core import Clock, MonotonicClock, Scope
from headway.data import Dataset
from headway.engine import (
    HAS_OPENVINO,
    DenseTrial,
    TableRecords,
    Tower,
    multiplies_bf16,
    try_dense,
)
from headway.graph import Lowered, TowerGraph

Narrowing = tuple[Mapping[str, Range], frozenset[str]]
"""Ranges of a tower's activations, and those whose products may be int8."""
_ROWS = {Scope.QUERY: (1,), Scope.CANDIDATE: (1, 16, 64, 256)}
"""Row counts at which engines are compared."""
_MOST_ERROR = {"f32": 5e-5, "bf16": 0.2, "int8": 0.2, "int8-dynamic": 0.2}
"""Largest difference between engines, as a share of an output's spread. Where values are rounded,
a sum on the edge of a code may fall on either side."""
_GAIN = 1.1
"""How much faster another engine must be with few rows to be kept beside the first."""


@dataclass(frozen=True, slots=True, eq=False)
class Towers:
    """Both towers in one precision.

    Attributes:
        query: None if nothing depends on the query alone.
        candidate: gives the outputs.
        engines: what was tried for both, and how long it took.
    """

    query: TowerPart | None
    candidate: TowerPart
    engines: tuple[EngineTrial, ...]

    @property
    def cost_us(self) -> float:
        """Geometric mean of the candidate tower's time over row counts."""
        times = [
            us
            for trial in self.engines
            if trial.chosen and trial.tower == "candidate"
            for us in trial.latency_us.values()
        ]
        return exp(sum(map(log, times)) / len(times)) if times else 0.0


def build_towers(
    lowered: Lowered,
    tables: Mapping[str, TableRecords],
    settings: OptimizeSettings,
    calibration: Dataset,
    clock: Clock | None = None,
) -> dict[DensePrecision, Towers]:
    """Return the towers in f32 and the precisions asked for.

    Left out are int8 ones where no product of the model is wide enough to gain by them, and
    bfloat16 ones where the processor does not multiply it.

    Args:
        lowered: the model without torch.
        tables: float32 tables, to score the calibrating rows with.
        settings: which precisions to make; and how much outputs may change: where int8 throughout
            brings more, the products that bring most stay in float32.
        calibration: rows that activations take their ranges from.
        clock: what engines are compared with; the machine's by default.
    """
    graphs = graphs_of(lowered)
    clock = clock or MonotonicClock()
    built: dict[DensePrecision, Towers] = {"f32": _chosen(graphs, "f32", None, clock)}
    if "bf16" in settings.dense and multiplies_bf16():
        built["bf16"] = _chosen(graphs, "bf16", None, clock)
    if any(activations(graph.onnx) for graph in graphs.values()):
        if "int8" in settings.dense:
            model = exact_model(lowered, calibration.schema, tables)
            seen = calibrate(model, {s: g.onnx for s, g in graphs.items()}, calibration)
            built["int8"] = _chosen(graphs, "int8", (seen, settings.error_limit), clock)
        if "int8-dynamic" in settings.dense:
            built["int8-dynamic"] = _chosen(graphs, "int8-dynamic", None, clock)
    return built


def as_tower(part: TowerPart) -> Tower:
    """Return a part of a bundle as an engine takes it."""
    few = part.few
    return Tower(
        part,
        part.content,
        part.engine,
        part.precision,
        None if few is None else Tower(part, few.content, few.engine, part.precision),
        0 if few is None else few.rows,
    )


def _chosen(
    graphs: Mapping[Scope, TowerGraph],
    precision: DensePrecision,
    narrowing: tuple[Calibration, float] | None,
    clock: Clock,
) -> Towers:
    """Return the towers, each with its fastest engine."""
    parts: dict[Scope, TowerPart] = {}
    trials: list[EngineTrial] = []
    for scope, graph in graphs.items():
        narrow: Narrowing | None = None
        samples: Sequence[Feed] = ()
        if narrowing is not None:
            seen, limit = narrowing
            samples, ranges = seen.samples[scope], seen.ranges[scope]
            narrow = ranges, narrow_enough(graph.onnx, ranges, samples, limit)
        ways = _ways(graph, precision, narrow)
        towers = [as_tower(way) for way in ways]
        found = try_dense(towers, scope, _ROWS[scope], clock, samples=samples)
        parts[scope], told = _best(scope, ways, found)
        trials += told
    return Towers(parts.get(Scope.QUERY), parts[Scope.CANDIDATE], tuple(trials))


def _best(
    scope: Scope, ways: Sequence[TowerPart], found: Sequence[DenseTrial]
) -> tuple[TowerPart, list[EngineTrial]]:
    """Return the fastest way to run a tower, with another for few rows where that pays."""
    limit = _MOST_ERROR[ways[0].precision]
    right = [place for place, trial in enumerate(found) if trial.error <= limit]
    best = min(right, key=lambda place: sum(map(log, found[place].latency_us.values())))
    times = found[best].latency_us
    part, few, rows = ways[best], best, 0
    for count in sorted(times)[:-1]:
        other = min(right, key=lambda place: found[place].latency_us[count])
        if found[other].latency_us[count] * _GAIN > times[count] or few not in {best, other}:
            break
        few, rows = other, count
    if few != best:
        part = replace(part, few=FewPart(ways[few].content, ways[few].engine, rows))
    told = []
    for place, (way, trial) in enumerate(zip(ways, found, strict=True)):
        reason = "slower"
        if place == best:
            reason = "fastest" if few == best else f"fastest above {rows} rows"
        elif place == few:
            reason = f"fastest up to {rows} rows"
        elif place not in right:
            reason = f"differs by {trial.error:.2g} of the spread, accepted are {limit:g}"
        told.append(
            EngineTrial(
                tower=scope.value,
                precision=way.precision,
                engine=way.engine,
                latency_us={str(n): round(us, 1) for n, us in trial.latency_us.items()},
                error=trial.error,
                chosen=place in {best, few},
                reason=reason,
            )
        )
    return part, told


def _ways(
    graph: TowerGraph, precision: DensePrecision, narrowing: Narrowing | None
) -> list[TowerPart]:
    """Return all that can run the tower, ONNX Runtime first."""
    if precision == "int8-dynamic":
        return [_part(graph, quantize_dense_dynamic(graph.onnx), precision, "onnxruntime")]
    ranges, kept = narrowing or ({}, frozenset())
    onnx = quantize_dense(graph.onnx, ranges, kept) if narrowing else graph.onnx
    if precision == "int8" and not ranges:
        precision = "f32"
    if precision == "bf16":
        return [_part(graph, onnx, precision, "openvino")]
    ways = [_part(graph, onnx, precision, "onnxruntime")]
    if HAS_OPENVINO:
        ways.append(_part(graph, onnx, precision, "openvino"))
    program = to_program(graph.onnx)
    if program is not None:
        if ranges:
            fine = {name: covered for name, covered in ranges.items() if name not in kept}
            coarse = {name: covered for name, covered in ranges.items() if name in kept}
            program = quantize_program(program, coarse, fine)
        ways.append(_part(graph, program.to_bytes(), precision, "headway"))
    return ways


def _part(
    graph: TowerGraph, content: bytes, precision: DensePrecision, engine: EngineName
) -> TowerPart:
    return TowerPart(
        content=content,
        precision=precision,
        inputs=graph.inputs,
        outputs=graph.outputs,
        lookups=graph.lookups,
        embedded_width=graph.embedded_width,
        per_query=graph.per_query,
        engine=engine,
    )
