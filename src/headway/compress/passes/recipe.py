"""The passes over a module in their order, and what each of them leaves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from torch import nn

from headway.compress.passes.distil import DistilSettings, Teacher, distil
from headway.compress.passes.level import level
from headway.compress.passes.lightweight import LightweightSettings, lighten
from headway.compress.passes.prune import PruneSettings, prune
from headway.compress.passes.rounding import RoundingSettings, learn_rounded
from headway.compress.passes.tail import TailSettings, fold_tables
from headway.compress.passes.units import shapes_of
from headway.core import Clock, Schema, UsageError, to_seconds
from headway.data import Dataset
from headway.models import TrainProgress, TrainResult, predict

Told = Callable[[str, TrainProgress | None], None]
"""Called as a pass begins, with its name, and after each batch of training."""
ORDER = ("lightweight", "prune", "tail", "distil", "rounding")


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which passes run over the module, in this order; a pass left out does not run.

    Attributes:
        lightweight: thinner tables and layers, by what rows make use of.
        prune: whole units out.
        tail: rare ids share rows of their tables.
        distil: what is left learns from the original.
        rounding: layers learn to bear rounding, where storing the model in narrower numbers
            costs too much; tables are rounded for good.
    """

    lightweight: LightweightSettings | None = None
    prune: PruneSettings | None = None
    tail: TailSettings | None = None
    distil: DistilSettings | None = None
    rounding: RoundingSettings | None = None

    @property
    def passes(self) -> tuple[str, ...]:
        """Names of the passes that run, in order."""
        return tuple(name for name in ORDER if getattr(self, name) is not None)

    def before(self, name: str) -> Recipe:
        """Return the recipe up to and with one of its passes."""
        last = ORDER.index(name)
        return Recipe(**{n: getattr(self, n) for n in ORDER[: last + 1]})

    def without(self, name: str) -> Recipe:
        """Return the recipe with one of its passes left out."""
        return msgspec.structs.replace(self, **{name: None})


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """What a pass left.

    Attributes:
        name: of the pass.
        model: an ordinary module in evaluation mode.
        schema: of the model.
        seconds: that the pass took.
        facts: what it did; plain values for people.
        kept: for linear layers that lost outputs, which of the original's are left.
    """

    name: str
    model: nn.Module
    schema: Schema
    seconds: float
    facts: Mapping[str, Any]
    kept: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What passes work with.

    Attributes:
        original: the trained model, which is also the teacher.
        train: rows to observe and to learn from.
        valid: rows that choose an epoch.
        teacher_raw: the original's outputs on the training rows.
        valid_raw: likewise on the validation rows.
    """

    original: nn.Module
    train: Dataset
    valid: Dataset
    teacher_raw: Any
    valid_raw: Any

    @classmethod
    def of(cls, original: nn.Module, train: Dataset, valid: Dataset) -> Material:
        """Score the training rows with the original.

        Raises:
            UsageError: if there is nothing to learn from.
        """
        if not len(train) or not len(valid):
            raise UsageError("passes need training rows and validation rows; both parts hold some")
        return cls(original, train, valid, predict(original, train), predict(original, valid))


def run_pass(
    before: Stage,
    name: str,
    recipe: Recipe,
    material: Material,
    chance_and_time: tuple[np.random.Generator, Clock],
    told: Told | None = None,
) -> Stage:
    """Return what one pass makes of a stage, which is left as it was.

    Its outputs are then fitted back to the original's predictions on the validation rows.

    Raises:
        CaptureError: if the model cannot be captured.
        DataError: if training fails.
    """
    rng, clock = chance_and_time
    start = clock.now()
    if told is not None:
        told(name, None)
    made = _PASSES[name](before, recipe, material, rng, told)
    aside = material.valid.narrowed(made.schema)
    same = shapes_of(made.model) == shapes_of(before.model)
    like = before.model if same else None
    level(made.model, made.schema, aside, material.valid_raw, like)
    seconds = to_seconds(clock.now() - start)
    return Stage(name, made.model.eval(), made.schema, seconds, made.facts, made.kept)


def first_stage(model: nn.Module, schema: Schema) -> Stage:
    """Return the model as it came."""
    return Stage("original", model, schema, 0.0, {}, {})


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    model: nn.Module
    schema: Schema
    facts: Mapping[str, Any]
    kept: Mapping[str, Any]


def _lightweight(
    before: Stage, recipe: Recipe, material: Material, rng: np.random.Generator, _: Told | None
) -> _Made:
    settings = recipe.lightweight or LightweightSettings()
    rows = material.train.narrowed(before.schema)
    found = lighten(before.model, before.schema, rows, settings, rng)
    facts = {
        "table dims": dict(found.dims),
        "ranks": dict(found.ranks),
        "widths": dict(found.widths),
        "notes": list(found.notes),
    }
    return _Made(found.model, found.schema, facts, before.kept)


def _prune(
    before: Stage, recipe: Recipe, material: Material, rng: np.random.Generator, told: Told | None
) -> _Made:
    settings = recipe.prune or PruneSettings()
    rows = material.train.narrowed(before.schema)

    def tune(model: nn.Module, share: float) -> None:
        learning = recipe.distil or DistilSettings()
        most = learning.rows or len(rows)
        short = msgspec.structs.replace(learning, epochs=1, rows=max(1, int(most * share)))
        _learn(model, before, material, short, told)

    found = prune(before.model, before.schema, rows, settings, rng, tune)
    facts = {
        "widths": dict(found.widths),
        "criteria": list(found.criteria),
        "operations left": found.flops,
        "notes": list(found.notes),
    }
    return _Made(found.model, found.schema, facts, found.kept)


def _tail(
    before: Stage, recipe: Recipe, material: Material, rng: np.random.Generator, _: Told | None
) -> _Made:
    settings = recipe.tail or TailSettings()
    rows = material.train.narrowed(before.schema)
    found = fold_tables(before.model, before.schema, rows, settings, rng)
    facts = {"table rows": dict(found.rows), "notes": list(found.notes)}
    return _Made(found.model, before.schema, facts, before.kept)


def _distil(
    before: Stage, recipe: Recipe, material: Material, _: np.random.Generator, told: Told | None
) -> _Made:
    student = copy.deepcopy(before.model)
    settings = recipe.distil or DistilSettings()
    result = _learn(student, before, material, settings, told)
    facts = {"valid AUC": result.valid_auc, "epoch": result.best_epoch}
    return _Made(student, before.schema, facts, before.kept)


def _rounding(
    before: Stage, recipe: Recipe, material: Material, _: np.random.Generator, told: Told | None
) -> _Made:
    found = learn_rounded(
        before.model,
        Teacher(material.original, material.teacher_raw, before.kept),
        material.train.narrowed(before.schema),
        material.valid.narrowed(before.schema),
        recipe.rounding or RoundingSettings(),
        None if told is None else lambda progress: told("rounding", progress),
    )
    facts = {
        "layers": list(found.layers),
        "loss through rounding": found.loss,
        "valid AUC": found.training.valid_auc,
        "epoch": found.training.best_epoch,
    }
    return _Made(found.model, before.schema, facts, before.kept)


def _learn(
    student: nn.Module,
    before: Stage,
    material: Material,
    settings: DistilSettings,
    told: Told | None,
) -> TrainResult:
    teacher = Teacher(material.original, material.teacher_raw, before.kept)
    return distil(
        student,
        teacher,
        material.train,
        material.valid,
        settings,
        None if told is None else lambda progress: told("distil", progress),
    )


_PASSES = {
    "lightweight": _lightweight,
    "prune": _prune,
    "tail": _tail,
    "distil": _distil,
    "rounding": _rounding,
}
