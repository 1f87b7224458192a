"""From a trained model to a bundle: compose, measure, choose, and be judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from headway.bundle import BundleParts, Choice, Golden, GuardEntry, Provenance
from headway.compress.checks import data_warnings, score_warnings
from headway.compress.choose import Scored, errors, measure, rank, try_compositions
from headway.compress.composition import Composition, build_compositions
from headway.compress.lowering import lower_explained
from headway.compress.proof import change_on, check_equal, record_golden
from headway.compress.rows import sample_rows, score_dataset
from headway.compress.settings import OptimizeSettings
from headway.compress.verdict import Judge, Step, explained, steps, take
from headway.core import Clock, MissingDependencyError, NotProvenError, Query, Schema
from headway.data import Dataset

if find_spec("torch") is None:
    raise MissingDependencyError("torch", "optimize", "optimising a model")

import torch

from headway.engine.torch_eager import TorchRunner
from headway.graph import golden_queries
from headway.models import predict

Progress = Callable[[str, int, int], None]
"""Called before each stage: what begins, how many are done, how many there are."""
STAGES = (
    "scoring the original",
    "capturing the model",
    "composing",
    "proving the f32 towers equal to the model",
    "measuring compositions",
    "judging",
    "recording golden queries",
)


class _ToJson(Protocol):
    def to_json(self) -> bytes: ...


class Splits(Protocol):
    """The encoded parts of a data set, such as ``data.Prepared`` and ``data.Synthetic``."""

    @property
    def schema(self) -> Schema:
        """Of all parts."""
        ...

    @property
    def transforms(self) -> _ToJson:
        """Raw features to encoded ones; they go into the bundle."""
        ...

    @property
    def train(self) -> Dataset:
        """What the model learnt from; activations are calibrated on it."""
        ...

    @property
    def valid(self) -> Dataset:
        """Stopped the training; must share no rows with ``test``."""
        ...

    @property
    def choose(self) -> Dataset:
        """Chooses a composition."""
        ...

    @property
    def test(self) -> Dataset:
        """Judges, and chooses nothing."""
        ...


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Job:
    """What to optimise.

    Attributes:
        name: of the bundle, and of the model in a server.
        model: trained; ``forward(features)`` as made by ``core.model_inputs``.
        data: rows to calibrate, choose and judge with.
        provenance: goes into the bundle.
    """

    name: str
    model: torch.nn.Module
    data: Splits
    provenance: Provenance


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class OptimizeResult:
    """What was done and what it cost, and the parts of the bundle.

    Attributes:
        parts: give them to ``bundle.write_bundle``, with a report if wanted.
        guard: the verdict on the composition taken; on its worst task.
        steps: verdicts on the way, the taken composition's last.
        choices: every composition tried.
        latency_us: median by composition and query size; ``original`` is the eager model.
        original_bytes: of the model's parameters and buffers.
        size_bytes: of the tables and towers taken.
        equality: largest change of the f32 towers against the model, as a share of the spread.
        notes: what was hoisted and what stopped it.
        warnings: doubts about data or model.
    """

    parts: BundleParts
    guard: GuardEntry
    steps: tuple[Step, ...]
    choices: tuple[Choice, ...]
    latency_us: Mapping[str, Mapping[int, float]]
    original_bytes: int
    size_bytes: int
    equality: float
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def check(self, *, allow_unproven: bool = False) -> None:
        """Accept a result that may be published.

        Raises:
            NotProvenError: if the guard did not pass; with ``allow_unproven`` only if it
                failed.
        """
        if self.guard.verdict == "pass" or (allow_unproven and self.guard.verdict != "fail"):
            return
        remedy = "keep the model as it is, or widen the margin if that much loss is acceptable"
        if self.guard.rows_to_decide is not None:
            remedy = f"judge on about {self.guard.rows_to_decide:,} rows, or allow unproven bundles"
        raise NotProvenError(f"the guard says {self.guard.verdict}: {self.guard.reason}; {remedy}")


def optimize_model(
    job: Job,
    settings: OptimizeSettings,
    chance_and_time: tuple[np.random.Generator, Clock],
    progress: Progress | None = None,
    *,
    allow_unproven: bool = False,
) -> OptimizeResult:
    """Make a model small and fast, and say how sure it is that nothing was lost.

    The model is captured, split into tables and towers, and put together in several ways. The
    choosing rows sort out compositions that change outputs too much; measured latency orders
    the rest. The first is judged on the test rows. If it does not pass, the next is judged, up
    to ``settings.attempts`` in all, which share the guard's error (Bonferroni, declared before
    a test row is scored). After them comes f32 throughout, which was proven equal to the model
    output by output and so needs no luck.

    Args:
        job: the model and its data.
        settings: what to try and how to choose.
        chance_and_time: source of golden queries, drawn rows and the bootstrap; and what
            latency is measured with.
        progress: called before each stage.
        allow_unproven: take the fastest composition that was not proven to lose, even if a
            slower one would pass.

    Returns:
        The result, whose verdict may be other than pass; see ``OptimizeResult.check``.

    Raises:
        CaptureError: if the model cannot be captured, or its towers do not equal it.
        DataError: if the data cannot judge: one class only, no rows, constant scores.
    """
    rng, _ = chance_and_time
    tell = _teller(progress)
    schema, data = job.data.schema, job.data
    tell()
    choose = _scored(job.model, sample_rows(data.choose, settings.choose_rows, rng))
    test = _scored(job.model, data.test)
    warnings = data_warnings(data.train, data.choose, data.test, data.valid)
    warnings += score_warnings(test.rows, test.raw)
    tell()
    lowered, profiles = lower_explained(job.model, schema)
    tell()
    calibration = sample_rows(data.train, settings.calibration_rows, rng)
    compositions = build_compositions(lowered, schema, settings, calibration)
    tell()
    questions = golden_queries(schema, rng)
    eager = TorchRunner(job.model, schema)
    equality = _prove_equal(compositions[0], eager, questions, choose, settings)
    tell()
    with _one_thread():
        latency = measure(compositions, eager, choose.rows, settings, chance_and_time)
    trials = try_compositions(compositions, choose, settings, rng, latency)
    tell()
    order = rank(trials, settings)
    looks = max(1, sum(not t.composition.exact for t in order))
    court = Judge(test, settings.guard, looks, rng, data.train)
    taken, judged = take(order, court, allow_unproven=allow_unproven)
    choices = explained(trials, judged, court)
    shown = steps(trials, judged, court)
    tell()
    golden, tolerance = record_golden(taken.composition, questions, float(choose.raw.std()))
    return OptimizeResult(
        parts=replace(
            _parts(job, taken.composition, golden, tolerance, (shown[-1].guard, choices)),
            profiles=profiles,
        ),
        guard=shown[-1].guard,
        steps=shown,
        choices=choices,
        latency_us=latency,
        original_bytes=sum(t.numel() * t.element_size() for t in job.model.state_dict().values()),
        size_bytes=taken.composition.size_bytes,
        equality=equality,
        notes=lowered.notes,
        warnings=tuple(warnings),
    )


def _teller(progress: Progress | None) -> Callable[[], None]:
    stages = iter(enumerate(STAGES))

    def tell() -> None:
        done, stage = next(stages)
        if progress is not None:
            progress(stage, done, len(STAGES))

    return tell


def _scored(model: torch.nn.Module, rows: Dataset) -> Scored:
    return Scored(rows, predict(model, rows))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Give torch one thread, as many as each composition has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prove_equal(
    exact: Composition,
    eager: TorchRunner,
    questions: Sequence[Query],
    choose: Scored,
    settings: OptimizeSettings,
) -> float:
    """Return the largest change of any output in f32, as a share of the outputs' spread."""
    runner = exact.model.runner()
    on_golden, _ = change_on(runner, eager, questions, len(choose.rows.schema.tasks))
    on_rows, _ = errors(score_dataset(runner, choose.rows), choose.raw)
    equality = max(on_golden, on_rows)
    remedy = (
        "raise optimize.equality_limit if the model is known to be sensitive to float32 rounding, "
        "else report this as a bug"
    )
    check_equal(equality, settings.equality_limit, remedy)
    return equality


def _parts(
    job: Job,
    composition: Composition,
    golden: tuple[Golden, ...],
    tolerance: float,
    said: tuple[GuardEntry, tuple[Choice, ...]],
) -> BundleParts:
    guard, choices = said
    return BundleParts(
        name=job.name,
        schema=job.data.schema,
        tables=composition.table_parts,
        query_tower=composition.query_tower,
        candidate_tower=composition.candidate_tower,
        golden=golden,
        golden_tolerance=tolerance,
        provenance=job.provenance,
        transforms_json=job.data.transforms.to_json(),
        guard=guard,
        choices=choices,
        engines=composition.engines,
    )
