"""Stages come back from the store as they went in, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tests.models.conftest import make_dataset, make_schema
from torch import nn

from headway.compress import (
    DistilSettings,
    LightweightSettings,
    Material,
    PruneSettings,
    Recipe,
    Stage,
    first_stage,
    run_pass,
)
from headway.compress.store import (
    Store,
    hash_of_model,
    hash_of_rows,
    key_of,
    prefix_parts,
)
from headway.core import ManualClock
from headway.data import Dataset
from headway.models import (
    DcnV2Settings,
    ModelSettings,
    RankingModel,
    TrainSettings,
    WideDeepSettings,
    build_model,
    predict,
    train,
)

SCHEMA = make_schema()
RECIPES = {
    "pruned": Recipe(prune=PruneSettings(flops=0.5, multiple=4, rows=500)),
    "thin": Recipe(
        lightweight=LightweightSettings(table_energy=1.0, layer_energy=0.7, multiple=4, rows=500)
    ),
    "narrowed": Recipe(
        lightweight=LightweightSettings(
            table_energy=0.8, layer_energy=1.0, table_multiple=2, rows=500
        )
    ),
    "all": Recipe(
        lightweight=LightweightSettings(
            table_energy=0.9, layer_energy=0.8, table_multiple=2, multiple=4, rows=500
        ),
        prune=PruneSettings(flops=0.6, multiple=4, rows=500),
        distil=DistilSettings(batch_size=256),
    ),
}


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return make_dataset(300, 0)


@pytest.fixture(scope="module")
def original(rows: Dataset) -> RankingModel:
    torch.set_num_threads(1)
    model = build_model(WideDeepSettings(deep_mlp=(64, 32)), SCHEMA)
    train(model, rows, rows, TrainSettings(epochs=1, batch_size=256))
    return model


def staged(model: nn.Module, recipe: Recipe, rows: Dataset) -> Stage:
    material = Material.of(model, rows, rows)
    stage = first_stage(model, SCHEMA)
    for name in recipe.passes:
        chance_and_time = np.random.default_rng(0), ManualClock()
        stage = run_pass(stage, name, recipe, material, chance_and_time)
    return stage


@pytest.fixture(scope="module")
def pruned(original: RankingModel, rows: Dataset) -> Stage:
    return staged(original, RECIPES["pruned"], rows)


def never() -> Stage:
    raise AssertionError("made again")


@pytest.mark.parametrize("name", RECIPES)
def test_a_stored_stage_computes_exactly_what_it_did(
    name: str, original: RankingModel, rows: Dataset, tmp_path: Path
) -> None:
    made = staged(original, RECIPES[name], rows)
    assert sum(p.numel() for p in made.model.parameters()) < sum(
        p.numel() for p in original.parameters()
    )
    Store(tmp_path, original).stage("k", lambda: made)
    found = Store(tmp_path, original).stage("k", never)
    assert found.schema == made.schema
    assert isinstance(found.model, RankingModel)
    assert found.model.schema == made.schema
    before, after = (predict(s.model, rows.narrowed(s.schema)) for s in (made, found))
    assert np.array_equal(before, after)
    assert {n: k.tolist() for n, k in found.kept.items()} == {
        n: k.tolist() for n, k in made.kept.items()
    }
    assert found.name == made.name


def test_a_pass_over_a_stored_stage_gives_what_it_gives_over_the_stage(
    original: RankingModel, rows: Dataset, tmp_path: Path
) -> None:
    recipe = RECIPES["all"]
    thin = staged(original, recipe.before("lightweight"), rows)
    Store(tmp_path, original).stage("k", lambda: thin)
    stored = Store(tmp_path, original).stage("k", never)
    material = Material.of(original, rows, rows)
    after = [
        run_pass(stage, "prune", recipe, material, (np.random.default_rng(0), ManualClock()))
        for stage in (thin, stored)
    ]
    outputs = [predict(stage.model, rows.narrowed(stage.schema)) for stage in after]
    assert np.array_equal(outputs[0], outputs[1])


def test_buffers_and_tied_layers_come_back(rows: Dataset, tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first
            self.norm = nn.BatchNorm1d(4)

    model = Own()
    changed = Own()
    changed.norm(torch.randn(8, 4))
    stage = Stage("x", changed.eval(), SCHEMA, 1.5, {"dims": {"a": (4, 2)}, "n": np.int64(3)}, {})
    Store(tmp_path, model).stage("k", lambda: stage)
    found = Store(tmp_path, model).stage("k", never)
    assert isinstance(found.model, Own)
    assert found.model.first.weight is found.model.second.weight
    for name, tensor in changed.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor), name
    assert found.facts == {"dims": {"a": [4, 2]}, "n": 3}
    assert found.seconds == 1.5


def test_what_equals_the_original_is_not_stored_twice(
    original: RankingModel, pruned: Stage, tmp_path: Path
) -> None:
    store = Store(tmp_path, original)
    store.stage("same", lambda: first_stage(original, SCHEMA))
    store.stage("pruned", lambda: pruned)
    sizes = {key: (tmp_path / f"{key}.safetensors").stat().st_size for key in ("same", "pruned")}
    assert sizes["same"] < 100 < sizes["pruned"]
    tables = sum(p.numel() * 4 for name, p in original.named_parameters() if "tables" in name)
    whole = sum(p.numel() * 4 for p in pruned.model.parameters())
    assert sizes["pruned"] < whole - tables + 4000
    found = Store(tmp_path, original).stage("same", never).model
    own = dict(original.named_parameters())
    assert all(own[name] is not p for name, p in found.named_parameters())


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(bytes(content))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_short, flipped, emptied, Path.unlink])
@pytest.mark.parametrize("file", ["k.safetensors", "k.json"])
def test_a_damaged_stage_is_made_again(
    file: str,
    damage: Callable[[Path], None],
    original: RankingModel,
    rows: Dataset,
    pruned: Stage,
    tmp_path: Path,
) -> None:
    calls = []

    def make() -> Stage:
        calls.append(1)
        return pruned

    Store(tmp_path, original).stage("k", make)
    damage(tmp_path / file)
    found = Store(tmp_path, original).stage("k", make)
    assert len(calls) == 2
    assert np.array_equal(predict(found.model, rows), predict(pruned.model, rows))
    Store(tmp_path, original).stage("k", never)


class Figure(msgspec.Struct, frozen=True):
    value: float


@pytest.mark.parametrize("damage", [cut_short, flipped, emptied])
def test_a_damaged_record_is_made_again(
    damage: Callable[[Path], None], original: RankingModel, tmp_path: Path
) -> None:
    store = Store(tmp_path, original)
    assert store.record("k", Figure, lambda: Figure(0.123456789)) == Figure(0.123456789)
    assert store.record("k", Figure, lambda: Figure(2.0)) == Figure(0.123456789)
    damage(tmp_path / "k.json")
    assert store.record("k", Figure, lambda: Figure(2.0)) == Figure(2.0)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_key_is_that_of_all_passes_so_far_and_of_none_after() -> None:
    recipe = RECIPES["all"]
    other = msgspec.structs.replace(recipe, distil=DistilSettings(epochs=5))
    assert key_of(p=prefix_parts(recipe, "prune")) == key_of(p=prefix_parts(other, "prune"))
    assert key_of(p=prefix_parts(recipe, "distil")) != key_of(p=prefix_parts(other, "distil"))
    harder = msgspec.structs.replace(recipe, lightweight=None)
    assert key_of(p=prefix_parts(recipe, "prune")) != key_of(p=prefix_parts(harder, "prune"))


def test_training_between_rounds_of_pruning_is_part_of_its_key() -> None:
    twice = Recipe(prune=PruneSettings(rounds=2), distil=DistilSettings())
    other = msgspec.structs.replace(twice, distil=DistilSettings(epochs=5))
    assert key_of(p=prefix_parts(twice, "prune")) != key_of(p=prefix_parts(other, "prune"))


@pytest.mark.parametrize("settings", [WideDeepSettings(deep_mlp=(8,)), DcnV2Settings()])
def test_one_weight_makes_another_model(settings: ModelSettings) -> None:
    model = build_model(settings, SCHEMA)
    before = hash_of_model(model)
    assert before == hash_of_model(build_model(settings, SCHEMA))
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0] += 1e-3
    assert hash_of_model(model) != before


def test_one_label_or_one_order_makes_other_rows() -> None:
    rows = make_dataset(20, 0)
    assert hash_of_rows(rows) == hash_of_rows(make_dataset(20, 0))
    assert hash_of_rows(rows) != hash_of_rows(make_dataset(20, 1))
    labels = rows.labels.copy()
    labels[3] = 1 - labels[3]
    other = Dataset(rows.schema, rows.context, rows.candidates, rows.row_to_query, labels)
    assert hash_of_rows(rows) != hash_of_rows(other)
