"""A model, original or smaller, in all the ways it can be put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from headway.compress.choose import Raw, Scored, errors
from headway.compress.composition import Composition, build_compositions
from headway.compress.lowering import lower_explained
from headway.compress.passes import Stage
from headway.compress.proof import change_on, check_equal
from headway.compress.rows import sample_rows, score_dataset
from headway.compress.settings import OptimizeSettings
from headway.core import Query
from headway.data import Dataset
from headway.engine.torch_eager import TorchRunner
from headway.graph import golden_queries
from headway.models import predict


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A model, original or smaller, in all its compositions.

    Attributes:
        stage: the module.
        compositions: f32 throughout first.
        questions: golden queries.
        profiles: what explains the graph, for the bundle.
        notes: what was hoisted, and what stopped it.
    """

    stage: Stage
    compositions: list[Composition]
    questions: Sequence[Query]
    profiles: Mapping[str, bytes]
    notes: tuple[str, ...]


def build(
    stages: Mapping[str, Stage],
    train: Dataset,
    settings: OptimizeSettings,
    rng: np.random.Generator,
    tell: Callable[[], None],
) -> list[Built]:
    """Return each stage in the compositions of the settings.

    Args:
        stages: by the name of the variant, which is empty for the original.
        train: rows to calibrate with; some are drawn.
        settings: which compositions.
        rng: source of drawn rows and golden queries.
        tell: called before models are captured, and before they are composed.
    """
    tell()
    lowered = [lower_explained(stage.model, stage.schema) for stage in stages.values()]
    tell()
    calibration = sample_rows(train, settings.calibration_rows, rng)
    built = []
    for (variant, stage), (towers, profiles) in zip(stages.items(), lowered, strict=True):
        rows = calibration.narrowed(stage.schema)
        found = build_compositions(towers, stage.schema, settings, rows)
        named = [replace(composition, variant=variant) for composition in found]
        questions = golden_queries(stage.schema, rng)
        built.append(Built(stage, named, questions, profiles, towers.notes))
    return built


def prove_equal(
    built: Built, choose: Scored, own: Mapping[str, Raw], settings: OptimizeSettings
) -> float:
    """Return the largest change of any output in f32, as a share of the outputs' spread."""
    stage, unrounded = built.stage, built.compositions[0]
    runner, eager = unrounded.model.runner(), TorchRunner(stage.model, stage.schema)
    on_golden, _ = change_on(runner, eager, built.questions, len(stage.schema.tasks))
    rows = choose.rows.narrowed(stage.schema)
    on_rows, _ = errors(score_dataset(runner, rows), own[unrounded.variant])
    equality = max(on_golden, on_rows)
    remedy = (
        "raise optimize.equality_limit if the model is known to be sensitive to float32 rounding, "
        "else report this as a bug"
    )
    check_equal(equality, settings.equality_limit, remedy)
    return equality


def scored(model: torch.nn.Module, rows: Dataset) -> Scored:
    """Return a part of the data with a model's outputs on it."""
    return Scored(rows, predict(model, rows))


@contextmanager
def one_thread() -> Iterator[None]:
    """Give torch one thread, as many as each composition has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
