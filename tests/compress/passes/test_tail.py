from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.conftest import make_dataset, make_schema
from torch import Tensor, nn

from headway.bundle import BundleParts, Provenance, TableFormat, write_bundle
from headway.compress import GuardSettings, OptimizeSettings, evidence_of_tasks, judge
from headway.compress.composition import Composition, build_compositions
from headway.compress.lowering import lower_explained
from headway.compress.passes import LightweightSettings, TailSettings, fold_tables, lighten
from headway.compress.passes.cluster import clusters, means, nearest
from headway.compress.passes.distil import DistilSettings
from headway.compress.passes.recipe import Material, Recipe, first_stage, run_pass
from headway.compress.passes.tail import fold_rows, occurrences
from headway.compress.proof import record_golden
from headway.compress.rows import score_dataset
from headway.core import (
    Bag,
    Dense,
    MonotonicClock,
    Schema,
    Scope,
    Sequence,
    Sparse,
    Table,
    UsageError,
)
from headway.data import Dataset, Planted, PlantedSettings, plant
from headway.engine import load_model
from headway.graph import golden_queries
from headway.models import (
    FoldedBag,
    FoldedEmbedding,
    RankingModel,
    TrainSettings,
    WideDeepSettings,
    build_model,
    predict,
    train,
)

CHANCE = np.random.default_rng
FORMATS: tuple[TableFormat, ...] = ("int8", "int4")
LONG = Schema(
    features=(
        Dense(name="age", scope=Scope.QUERY, width=2),
        Sparse(name="user", table="users", scope=Scope.QUERY),
        Sequence(name="history", table="items", scope=Scope.QUERY, max_length=8),
        Sparse(name="item", table="items", scope=Scope.CANDIDATE),
        Bag(name="tags", table="tags", scope=Scope.CANDIDATE, max_length=4),
    ),
    tables=(
        Table(name="users", rows=3000, dim=8),
        Table(name="items", rows=6000, dim=8),
        Table(name="tags", rows=2000, dim=8),
    ),
)


@pytest.fixture(scope="module")
def world() -> Planted:
    sizes = PlantedSettings(train=40_000, valid=4000, choose=1000, test=50_000)
    return plant(LONG, sizes, CHANCE(0))


@pytest.fixture(scope="module")
def trained(world: Planted) -> RankingModel:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(WideDeepSettings(deep_mlp=(32, 16)), LONG)
    recipe = TrainSettings(epochs=1, batch_size=512, learning_rate=3e-3)
    train(model, world.train, world.valid, recipe)
    return model


@pytest.fixture(scope="module")
def smaller(world: Planted, trained: RankingModel) -> RankingModel:
    found = fold_tables(trained, LONG, world.train, TailSettings(rows=0.3), CHANCE(0))
    assert found.notes == ()
    assert found.rows == {"users": (3000, 692), "items": (6000, 1800), "tags": (2000, 600)}
    assert isinstance(found.model, RankingModel)
    return found.model


def composed(model: nn.Module, schema: Schema, rows: Dataset) -> list[Composition]:
    settings = OptimizeSettings(tables=("f32", *FORMATS), dense=("f32",))
    return build_compositions(lower_explained(model, schema)[0], schema, settings, rows)


def test_the_guard_passes_at_half_of_the_rows(world: Planted, trained: RankingModel) -> None:
    found = fold_tables(trained, LONG, world.train, TailSettings(rows=0.5), CHANCE(0))
    assert sum(after for _, after in found.rows.values()) <= 0.5 * 11_000
    test = world.test
    (evidence,) = evidence_of_tasks(
        LONG, test.labels, predict(trained, test), predict(found.model, test), test.row_to_query
    )
    entry = judge(evidence, GuardSettings(), CHANCE(0), looks=1)
    assert entry.verdict == "pass", entry.reason


def test_frequent_ids_keep_their_rows_and_the_model_is_left_as_it_was(
    world: Planted, trained: RankingModel, smaller: RankingModel
) -> None:
    counts = occurrences(world.train, "items")
    most = np.argsort(-counts, kind="stable")[:1000]
    table = smaller.table("items")
    assert isinstance(table, FoldedEmbedding)
    assert len(table.weight) == table.num_embeddings == 1800
    kept = table(torch.from_numpy(most))
    assert torch.equal(kept, trained.table("items").weight[most])
    never = np.flatnonzero(counts == 0)
    assert len(never) > 100
    assert len(set(table.places[never[never > 1800]].tolist())) == 1
    assert type(trained.table("items")) is nn.Embedding
    assert smaller.schema == LONG


def test_compiled_outputs_equal_the_module_in_every_format(
    world: Planted, smaller: RankingModel
) -> None:
    rows = world.choose
    wanted = predict(smaller, rows)
    exact, *rounded = composed(smaller, LONG, rows)
    assert np.abs(score_dataset(exact.model.runner(), rows) - wanted).max() < 1e-4 * wanted.std()
    for composition in rounded:
        error = score_dataset(composition.model.runner(), rows) - wanted
        assert np.sqrt(np.square(error).mean()) < 0.1 * wanted.std(), composition.name


def test_a_bundle_of_folded_tables_is_smaller_and_replays_its_golden_rows(
    tmp_path: Path, world: Planted, trained: RankingModel, smaller: RankingModel
) -> None:
    whole = {c.tables: c.size_bytes for c in composed(trained, LONG, world.choose)}
    for composition in composed(smaller, LONG, world.choose):
        assert composition.size_bytes < 0.6 * whole[composition.tables]
        questions = golden_queries(LONG, CHANCE(0))
        golden, tolerance = record_golden(composition, questions, 1.0)
        parts = BundleParts(
            name="folded",
            schema=LONG,
            tables=composition.table_parts,
            query_tower=composition.query_tower,
            candidate_tower=composition.candidate_tower,
            golden=golden,
            golden_tolerance=tolerance,
            provenance=Provenance(created_unix=1, headway="0", model="none"),
        )
        place = tmp_path / composition.tables
        write_bundle(place, parts)
        wanted = score_dataset(composition.model.runner(), world.choose)
        for way in ("copy", "map"):
            loaded = load_model(place, tables=way)
            found = score_dataset(loaded.runner(), world.choose)
            assert np.array_equal(found, wanted)


def test_a_folded_model_learns_and_goes_on_through_the_recipe(
    world: Planted, trained: RankingModel
) -> None:
    recipe = Recipe(
        tail=TailSettings(rows=0.2),
        distil=DistilSettings(rows=4000, tables=True, batch_size=512, teacher=1.0),
    )
    assert recipe.passes == ("tail", "distil")
    material = Material.of(trained, world.train, world.valid)
    stage = first_stage(trained, LONG)
    for name in recipe.passes:
        stage = run_pass(stage, name, recipe, material, (CHANCE(0), MonotonicClock()))
        if name == "tail":
            assert stage.facts["table rows"]["items"] == (6000, 1200)
    assert isinstance(stage.model, RankingModel)
    assert isinstance(stage.model.table("items"), FoldedEmbedding)


class Own(nn.Module):
    """A user's model, with a table of its own module and one of a bag."""

    def __init__(self, *, raw: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.users, self.items = nn.Embedding(3000, 8), nn.Embedding(6000, 8)
        self.tags = nn.EmbeddingBag(2000, 8, mode="sum", include_last_offset=True)
        self.last, self.raw = nn.Linear(34, 1), raw

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        history, mask = features["history"]
        find = (lambda ids: nn.functional.embedding(ids, self.items.weight)) if self.raw else None
        items = find or self.items
        parts = [
            features["age"],
            self.users(features["user"]),
            items(features["item"]),
            (items(history) * mask.unsqueeze(2)).sum(1),
            self.tags(*features["tags"]),
        ]
        out: Tensor = self.last(torch.cat(parts, dim=1))
        return out


def test_tables_of_any_module_are_folded_embedding_bags_too(world: Planted) -> None:
    found = fold_tables(Own(raw=False), LONG, world.train, TailSettings(rows=0.3), CHANCE(0))
    assert set(found.rows) == {"users", "items", "tags"}
    assert isinstance(found.model.get_submodule("tags"), FoldedBag)
    wanted = predict(found.model, world.choose)
    exact = composed(found.model, LONG, world.choose)[0]
    assert np.abs(score_dataset(exact.model.runner(), world.choose) - wanted).max() < 1e-4


def test_a_table_whose_parameter_is_used_raw_stays_and_is_named(world: Planted) -> None:
    model = Own(raw=True)
    found = fold_tables(model, LONG, world.train, TailSettings(rows=0.3), CHANCE(0))
    assert set(found.rows) == {"users", "tags"}
    assert len(found.notes) == 1
    assert "'items': the model uses its parameter other than" in found.notes[0]
    assert torch.equal(found.model.get_parameter("items.weight"), model.items.weight)


def test_ids_count_as_often_as_their_impressions() -> None:
    rows = make_dataset(50, 0)
    counts = occurrences(rows, "users")
    users = rows.context["user"]
    assert isinstance(users, np.ndarray)
    assert np.array_equal(counts, np.bincount(users[rows.row_to_query], minlength=30))
    flat: Any = rows.flat(slice(0, len(rows)))
    both = np.concatenate([flat["history"].values, flat["item"]])
    assert np.array_equal(occurrences(rows, "items"), np.bincount(both, minlength=40))


def test_small_tables_stay_as_they_are() -> None:
    model = build_model(WideDeepSettings(deep_mlp=(16,)), make_schema())
    found = fold_tables(model, make_schema(), make_dataset(50, 0), TailSettings(), CHANCE(0))
    assert (found.rows, found.notes) == ({}, ())


def test_rows_that_all_fit_lose_nothing_and_need_no_map_in_order() -> None:
    values = CHANCE(0).standard_normal((1000, 4)).astype(np.float32)
    counts = np.zeros(1000, np.int64)
    counts[[3, 7, 200]] = 5
    places, rows = fold_rows(values, counts, TailSettings(rows=0.5), CHANCE(0))
    assert np.array_equal(places[:201], np.arange(201)), "in order up to the last that occurs"
    assert np.array_equal(rows[:201], values[:201])
    counts[900] = 1
    places, rows = fold_rows(values, counts, TailSettings(rows=0.5), CHANCE(0))
    assert len(rows) == 6
    assert np.array_equal(rows[places[[0, 3, 7, 200, 900]]], values[[0, 3, 7, 200, 900]])


def test_rows_that_are_alike_share_one() -> None:
    rng = CHANCE(0)
    kinds = rng.standard_normal((5, 8)).astype(np.float32)
    kind = rng.integers(0, 5, 2000)
    rows = kinds[kind] + 0.01 * rng.standard_normal((2000, 8)).astype(np.float32)
    weights = rng.uniform(0.5, 2, 2000)
    labels = clusters(rows, weights, 60, (20, 512), rng)
    assert len(np.unique(labels)) <= 60
    assert np.abs(means(rows, weights, labels)[labels] - rows).max() < 0.2
    assert np.array_equal(nearest(kinds, kinds.astype(np.float64)), np.arange(5))
    assert np.array_equal(clusters(rows[:9], weights[:9], 9, (1, 1), rng), np.arange(9))


def test_folding_twice_is_refused_by_leaving_what_is_folded(
    world: Planted, smaller: RankingModel
) -> None:
    again = fold_tables(smaller, LONG, world.train, TailSettings(rows=0.1), CHANCE(0))
    assert again.rows == {}
    with pytest.raises(UsageError, match="rows"):
        TailSettings(rows=0.0)


def test_a_table_that_carries_nothing_becomes_one_row_that_takes_every_id(world: Planted) -> None:
    model = Own(raw=False)
    recipe = TrainSettings(epochs=1, batch_size=512, learning_rate=3e-3)
    train(model, world.train, world.valid, recipe)
    with torch.no_grad():
        model.users.weight.mul_(1e-3).add_(1.0)
    before = predict(model, world.choose)
    settings = LightweightSettings(table_energy=0.999, layer_energy=1.0)
    found = lighten(model, LONG, world.train, settings, CHANCE(0))
    assert "table 'users': its ids made no difference, all share a row" in found.notes
    assert np.abs(predict(found.model, world.choose) - before).max() < 0.2 * before.std()
    exact = composed(found.model, found.schema, world.choose.narrowed(found.schema))[0]
    assert exact.table_parts["users"].size_bytes == 16
    assert found.schema.table("users").rows == 3000, "clients send what they always sent"
    wanted = predict(found.model, world.choose)
    assert np.abs(score_dataset(exact.model.runner(), world.choose) - wanted).max() < 1e-4
