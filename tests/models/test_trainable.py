"""The zoo at trainable sizes: what is shorter, what is not, and data whose truth can be learnt."""

from __future__ import annotations

import numpy as np
import pytest

from headway.core import Bag, Sequence
from headway.data import PlantedSettings, plant
from headway.models import (
    STYLES,
    TRAINABLE_LENGTHS,
    TRAINABLE_ROWS,
    ZOO,
    Style,
    build_model,
    train,
    trainable,
    trainable_recipe,
    zoo,
)

NAMES = tuple(ZOO)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", NAMES)
def test_only_tables_and_bags_are_smaller(name: str, style: Style) -> None:
    whole, small = zoo(name, style), trainable(name, style)
    assert small.settings == whole.settings
    assert small.schema.tasks == whole.schema.tasks
    assert small.schema.dense_features() == whole.schema.dense_features()
    for mine, its in zip(small.schema.tables, whole.schema.tables, strict=True):
        assert (mine.name, mine.dim) == (its.name, its.dim)
        assert mine.rows == min(its.rows, TRAINABLE_ROWS)
    for short, long in zip(small.schema.id_features(), whole.schema.id_features(), strict=True):
        assert (short.name, short.table, short.scope) == (long.name, long.table, long.scope)
        if isinstance(short, Bag | Sequence):
            assert isinstance(long, Bag | Sequence)
            assert short.max_length == min(long.max_length, TRAINABLE_LENGTHS[name])


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_of_each_schema_is_as_sharp_as_asked(name: str) -> None:
    sizes = PlantedSettings(train=10_000, valid=20, choose=20, test=20, candidates=4)
    world = plant(trainable(name).schema, sizes, np.random.default_rng(0))
    assert 0.79 < world.best_auc("train") < 0.84
    assert np.all(np.abs(world.train.labels.mean(axis=0) - 0.2) < 0.03)


@pytest.mark.parametrize("name", NAMES)
def test_each_model_has_a_recipe_of_few_epochs(name: str) -> None:
    assert 1 <= trainable_recipe(name).epochs <= 2


def test_a_trainable_model_learns_from_its_planted_world() -> None:
    model = trainable("rmc1")
    sizes = PlantedSettings(train=30_000, valid=4_000, choose=20, test=20)
    world = plant(model.schema, sizes, np.random.default_rng(0))
    fresh = build_model(model.settings, model.schema)
    assert train(fresh, world.train, world.valid, trainable_recipe("rmc1")).valid_auc > 0.65
