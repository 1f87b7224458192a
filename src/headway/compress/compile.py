"""From a model and a schema to a bundle, without a row of data and so without a verdict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from headway import __version__
from headway.bundle import BundleParts, Provenance, write_bundle
from headway.compress.composition import Composition, build_compositions
from headway.compress.job import Progress
from headway.compress.lowering import lower_explained
from headway.compress.proof import change_on, check_equal, record_golden
from headway.compress.settings import OptimizeSettings
from headway.core import CaptureError, Plan, Query, Schema, UsageError, concat_columns, unix_seconds
from headway.data import Dataset
from headway.engine import raw_outputs, usable_cores
from headway.engine.torch_eager import TorchRunner
from headway.graph import Lowered, golden_queries

Precision = Literal["f32", "reduced"]
COMPILE_STAGES = (
    "capturing the model",
    "composing",
    "proving the f32 towers equal to the model",
    "writing the bundle",
)
_BATCH_CANDIDATES = 512
_EQUALITY_LIMIT = 5e-5
# Many users; the shorter with bags to their full length.
_CALIBRATION_SIZES = (17,) * 192 + (64,) * 64
_JUDGING_SIZES = (17,) * 96 + (64,) * 32
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_SETTINGS: dict[Precision, OptimizeSettings] = {
    "f32": OptimizeSettings(tables=("f32",), dense=("f32",)),
    "reduced": OptimizeSettings(tables=("int8",), dense=("f32", "int8")),
}


@dataclass(frozen=True, slots=True)
class CompileReport:
    """What was written.

    Attributes:
        bundle: where it lies.
        name: of the bundle, and of the model in a server.
        composition: formats of tables and towers.
        equality: largest change of the f32 towers against the model on generated rows, as a
            share of the outputs' spread.
        max_error: largest change of an output against f32 on generated rows, likewise; 0 in f32.
        mean_error: root mean square change, likewise.
        original_bytes: of the model's parameters and buffers.
        size_bytes: of the tables and towers.
        notes: what was hoisted, what stopped and what the model ignores, as sentences.
    """

    bundle: str
    name: str
    composition: str
    equality: float
    max_error: float
    mean_error: float
    original_bytes: int
    size_bytes: int
    notes: tuple[str, ...]


def compile_model(
    model: torch.nn.Module,
    schema: Schema,
    out: str | Path,
    precision: Precision = "f32",
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> CompileReport:
    """Write a bundle that scores as the model does, with what is per query computed once.

    No data is needed: golden rows are generated from the schema. Engines are timed, but no guard
    judges; where rows with labels are at hand, ``optimize_model`` chooses better. ``reduced``
    makes tables int8 by rows and wide products int8, with ranges taken from generated rows; where
    int8 products are not faster here, or outputs change by more than 0.1 of their spread (root
    mean square), the tables alone, or nothing. The change against f32 is reported, and stands in the manifest.

    Args:
        model: ``forward(features)`` as made by ``core.model_inputs``, giving raw outputs float32
            ``[rows, tasks]``; float32, on the CPU, and left as it was.
        schema: the features, tables and tasks of the model.
        out: the bundle's folder, whose name becomes the bundle's.
        precision: ``f32``, proven equal to the model within 5e-5 of the outputs' spread; or
            ``reduced``.
        overwrite: replace a bundle that stands there.
        progress: called before each stage.

    Raises:
        UsageError: if an argument is of the wrong kind, or the folder holds something.
        CaptureError: if the model cannot be captured, or its towers do not equal it.
    """
    target = Path(out)
    _check(model, schema, precision, target, overwrite=overwrite)
    rng = np.random.default_rng(0)
    _tell(progress, 0)
    lowered, profiles = lower_explained(model, schema)
    _tell(progress, 1)
    exact, taken, (largest, mean) = _compose(lowered, schema, precision, rng)
    _tell(progress, 2)
    questions = golden_queries(schema, rng)
    equality = _prove(model, exact, questions)
    _tell(progress, 3)
    report = CompileReport(
        bundle=str(target),
        name=_UNSAFE.sub("_", target.absolute().name).lstrip(".-")[:128] or "model",
        composition=taken.name,
        equality=equality,
        max_error=largest,
        mean_error=mean,
        original_bytes=sum(t.numel() * t.element_size() for t in model.state_dict().values()),
        size_bytes=taken.size_bytes,
        notes=lowered.notes,
    )
    golden, tolerance = record_golden(taken, questions, 0.0)
    parts = BundleParts(
        name=report.name,
        schema=schema,
        tables=taken.table_parts,
        query_tower=taken.query_tower,
        candidate_tower=taken.candidate_tower,
        engines=taken.engines,
        golden=golden,
        golden_tolerance=tolerance,
        provenance=_provenance(report, model),
        plan=Plan(workers=usable_cores(), batch_candidates=_BATCH_CANDIDATES),
        profiles=profiles,
    )
    write_bundle(target, parts, overwrite=overwrite)
    return report


def _tell(progress: Progress | None, stage: int) -> None:
    if progress is not None:
        progress(COMPILE_STAGES[stage], stage, len(COMPILE_STAGES))


def _check(
    model: object, schema: object, precision: object, target: Path, *, overwrite: bool
) -> None:
    """Refuse what would fail only after minutes of work."""
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"the model must be a torch.nn.Module, not {type(model).__name__}")
    if not isinstance(schema, Schema):
        raise UsageError(f"the schema must be a headway.core.Schema, not {type(schema).__name__}")
    if precision not in get_args(Precision):
        raise UsageError(f"precision is {precision!r}; it must be one of {get_args(Precision)}")
    for name, value in model.state_dict().items():
        if value.device.type != "cpu" or (value.is_floating_point() and value.element_size() != 4):
            kind = str(value.dtype).removeprefix("torch.")
            raise UsageError(
                f"{name!r} is {kind} on {value.device}; compile model.float().cpu(), whose "
                "outputs the bundle is compared with"
            )
    if not overwrite and target.is_dir() and any(target.iterdir()):
        raise UsageError(f"{str(target)!r} exists; choose another path or give overwrite=True")


def _compose(
    lowered: Lowered, schema: Schema, precision: Precision, rng: np.random.Generator
) -> tuple[Composition, Composition, tuple[float, float]]:
    """Return f32 throughout, what is taken, and its largest and mean change against f32.

    Taken is the smallest composition whose towers are no slower than in f32 and whose outputs
    change little enough on rows that did not calibrate it; f32 changes nothing.
    """
    rows = _unlabelled(golden_queries(schema, rng, _CALIBRATION_SIZES), schema)
    settings = _SETTINGS[precision]
    exact, *narrower = build_compositions(lowered, schema, settings, rows)
    judging = golden_queries(schema, rng, _JUDGING_SIZES)
    tasks = len(schema.tasks)
    worth = [c for c in narrower if c.dense == "f32" or c.dense_us < exact.dense_us]
    for tried in sorted(worth, key=lambda c: (c.size_bytes, c.dense == "f32")):
        change = change_on(tried.model.runner(), exact.model.runner(), judging, tasks)
        if change[1] <= settings.error_limit:
            return exact, tried, change
    return exact, exact, (0.0, 0.0)


def _unlabelled(queries: Sequence[Query], schema: Schema) -> Dataset:
    used = [query for query in queries if query.size]
    sizes = [query.size for query in used]
    return Dataset(
        schema=schema,
        context=concat_columns([query.context for query in used]),
        candidates=concat_columns([query.candidates for query in used]),
        row_to_query=np.repeat(np.arange(len(used), dtype=np.int64), sizes),
        labels=np.zeros((sum(sizes), len(schema.tasks)), np.float32),
    )


def _prove(model: torch.nn.Module, exact: Composition, questions: Sequence[Query]) -> float:
    """Return how much f32 changes the model's own outputs; the model is left as it was."""
    schema, modes = exact.model.schema, {module: module.training for module in model.modules()}
    try:
        eager = TorchRunner(model, schema)
        _check_spread(eager, questions, schema)
        equality, _ = change_on(exact.model.runner(), eager, questions, len(schema.tasks))
    finally:
        for module, mode in modes.items():
            module.training = mode
    check_equal(equality, _EQUALITY_LIMIT, "report this as a bug")
    return equality


def _check_spread(eager: TorchRunner, questions: Sequence[Query], schema: Schema) -> None:
    tasks = len(schema.tasks)
    raw = np.concatenate([raw_outputs(eager, [q], tasks)[0] for q in questions])
    flat = [t.name for t, s in zip(schema.tasks, np.ptp(raw, axis=0), strict=True) if not s > 0]
    if flat:
        raise CaptureError(
            f"the task {flat[0]!r} gives the same output for all {len(raw)} generated rows, so "
            "nothing can be proven of it; train the model, or check that it uses its features"
        )


def _provenance(report: CompileReport, model: torch.nn.Module) -> Provenance:
    details = {
        "made by": "compile, without data: generated rows, no guard",
        "composition": report.composition,
        "f32 towers against the model": f"{report.equality:.2g} of the outputs' spread",
    }
    if report.max_error:
        details["largest error against f32"] = f"{report.max_error:.3g} of the outputs' spread"
        details["mean error against f32"] = f"{report.mean_error:.3g} of the outputs' spread"
        details["calibrated on"] = "generated rows"
    return Provenance(
        created_unix=unix_seconds(),
        headway=__version__,
        model=type(model).__name__,
        details=details,
    )
