"""From a trained model to a bundle: make smaller, compose, measure, choose, and be judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec

import numpy as np

from headway.bundle import BundleParts, Choice, Golden, GuardEntry
from headway.compress.built import build, one_thread, prove_equal, scored
from headway.compress.checks import data_warnings, score_warnings
from headway.compress.choose import measure, rank, try_compositions
from headway.compress.composition import Composition
from headway.compress.job import Job, OptimizeResult, Progress, teller
from headway.compress.passes import Material, Stage, first_stage, run_pass
from headway.compress.passes.recipe import Told
from headway.compress.proof import record_golden
from headway.compress.rows import sample_rows
from headway.compress.settings import OptimizeSettings
from headway.compress.verdict import Judge, explained, steps, take
from headway.core import Clock, MissingDependencyError

if find_spec("torch") is None:
    raise MissingDependencyError("torch", "optimize", "optimising a model")


from headway.engine.torch_eager import TorchRunner
from headway.models import TrainProgress, predict

PASSES_STAGE = "making the model smaller"
STAGES = (
    "scoring the original",
    PASSES_STAGE,
    "capturing the model",
    "composing",
    "proving the f32 towers equal to the model",
    "measuring compositions",
    "judging",
    "recording golden queries",
)


def optimize_model(
    job: Job,
    settings: OptimizeSettings,
    chance_and_time: tuple[np.random.Generator, Clock],
    progress: Progress | None = None,
    *,
    allow_unproven: bool = False,
    smaller: Mapping[str, Sequence[Stage]] | None = None,
) -> OptimizeResult:
    """Make a model small and fast, and say how sure it is that nothing was lost.

    Passes over the module, where the settings name any, leave a smaller model. It and the
    original are captured, split into tables and towers, and put together in several ways. The
    choosing rows sort out compositions that change outputs too much; measured latency orders
    the rest. The first is judged against the original on the test rows. If it does not pass, the
    next is judged, up to ``settings.attempts`` in all, which share the guard's error
    (Bonferroni, declared before a test row is scored). After them comes the original in f32
    throughout, which was proven equal to the model output by output and so needs no luck.

    Args:
        job: the model and its data.
        settings: what to try and how to choose.
        chance_and_time: source of golden queries, drawn rows and the bootstrap; and what
            latency is measured with.
        progress: called before each stage, and again for each pass and batch of its training.
        allow_unproven: take the fastest composition that was not proven to lose, even if a
            slower one would pass.
        smaller: models made before, by name, each as what its passes left in order; they stand
            beside the one that the settings' passes make.

    Returns:
        The result, whose verdict may be other than pass; see ``OptimizeResult.check``.

    Raises:
        CaptureError: if the model cannot be captured, or its towers do not equal it.
        DataError: if the data cannot judge: one class only, no rows, constant scores.
    """
    rng, _ = chance_and_time
    tell = teller(STAGES, progress)
    data = job.data
    tell()
    choose = scored(job.model, sample_rows(data.choose, settings.choose_rows, rng))
    test = scored(job.model, data.test)
    warnings = data_warnings(data.train, data.choose, data.test, data.valid)
    warnings += score_warnings(test.rows, test.raw)
    tell()
    passes = _run_passes(job, settings, chance_and_time, _pass_teller(progress))
    stages = {"": first_stage(job.model, data.schema)}
    made = dict(smaller or {})
    if passes:
        made["+".join(settings.passes.passes)] = passes
    stages |= {name: each[-1] for name, each in made.items()}
    own = {name: predict(stage.model, choose.rows) for name, stage in stages.items()}
    built = build(stages, data.train, settings, rng, tell)
    tell()
    equality = max(prove_equal(b, choose, own, settings) for b in built)
    tell()
    compositions = [c for b in built for c in b.compositions]
    with one_thread():
        original = TorchRunner(job.model, data.schema)
        latency = measure(compositions, original, choose.rows, settings, chance_and_time)
    trials = try_compositions(compositions, choose, own, settings, rng, latency)
    tell()
    order = rank(trials, settings)
    looks = max(1, sum(not t.composition.exact for t in order))
    court = Judge(test, settings.guard, looks, rng, data.train)
    taken, judged = take(order, court, allow_unproven=allow_unproven)
    choices = explained(trials, judged, court)
    shown = steps(trials, judged, court)
    tell()
    source = next(b for b in built if taken.composition in b.compositions)
    golden, tolerance = record_golden(taken.composition, source.questions, float(choose.raw.std()))
    return OptimizeResult(
        parts=replace(
            _parts(job, taken.composition, golden, tolerance, (shown[-1].guard, choices)),
            profiles=source.profiles,
        ),
        guard=shown[-1].guard,
        steps=shown,
        choices=choices,
        latency_us=latency,
        original_bytes=sum(t.numel() * t.element_size() for t in job.model.state_dict().values()),
        size_bytes=taken.composition.size_bytes,
        equality=equality,
        notes=source.notes,
        warnings=tuple(warnings),
        passes=tuple(passes or made.get(taken.composition.variant, ())),
    )


def _pass_teller(progress: Progress | None) -> Told | None:
    """Return what names the pass that runs, and where its training stands."""
    if progress is None:
        return None
    done = STAGES.index(PASSES_STAGE)

    def told(name: str, at: TrainProgress | None) -> None:
        text = f"{PASSES_STAGE}: {name}"
        if at is not None:
            text += f", epoch {at.epoch} of {at.epochs}, batch {at.batch} of {at.batches}"
        progress(text, done, len(STAGES))

    return told


def _run_passes(
    job: Job,
    settings: OptimizeSettings,
    chance_and_time: tuple[np.random.Generator, Clock],
    told: Told | None,
) -> list[Stage]:
    """Return what each pass leaves, in order."""
    recipe = settings.passes
    if not recipe.passes:
        return []
    material = Material.of(job.model, job.data.train, job.data.valid)
    stages = [first_stage(job.model, job.data.schema)]
    for name in recipe.passes:
        stages.append(run_pass(stages[-1], name, recipe, material, chance_and_time, told))
    return stages[1:]


def _parts(
    job: Job,
    composition: Composition,
    golden: tuple[Golden, ...],
    tolerance: float,
    said: tuple[GuardEntry, tuple[Choice, ...]],
) -> BundleParts:
    guard, choices = said
    transforms = job.data.transforms
    return BundleParts(
        name=job.name,
        schema=composition.model.schema,
        tables=composition.table_parts,
        query_tower=composition.query_tower,
        candidate_tower=composition.candidate_tower,
        golden=golden,
        golden_tolerance=tolerance,
        provenance=job.provenance,
        transforms_json=None if transforms is None else transforms.to_json(),
        guard=guard,
        choices=choices,
        engines=composition.engines,
    )
