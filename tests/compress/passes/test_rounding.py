from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from typing import get_args

import msgspec
import numpy as np
import pytest
import torch
from tests.compress import rounded_model
from tests.models.conftest import make_dataset, make_schema
from torch import nn
from torch.nn.utils import parametrize

from headway.bundle import DensePrecision, TableFormat, pack_table, unpack_rows
from headway.compress import OptimizeSettings
from headway.compress.composition import build_compositions
from headway.compress.lowering import lower_explained
from headway.compress.passes import DistilSettings, Recipe, RoundingSettings, Teacher
from headway.compress.passes.recipe import Material, first_stage, run_pass
from headway.compress.passes.rounding import (
    input_ranges,
    learn_rounded,
    round_tables,
    rounded_layers,
)
from headway.compress.proof import record_golden
from headway.compress.quantize import Range, quantize_weight
from headway.compress.rows import score_dataset
from headway.core import MonotonicClock, UsageError
from headway.data import Dataset
from headway.graph import capture, golden_queries
from headway.measure import log_loss
from headway.models import (
    RankingModel,
    TrainSettings,
    WideDeepSettings,
    build_model,
    predict,
    train,
)

SCHEMA = make_schema()
CHANCE = np.random.default_rng
LEARN = DistilSettings(epochs=2, batch_size=256, learning_rate=3e-3, teacher=1.0)


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return make_dataset(800, 0)


@pytest.fixture(scope="module")
def valid() -> Dataset:
    return make_dataset(300, 1)


@pytest.fixture(scope="module")
def sensitive(rows: Dataset, valid: Dataset) -> RankingModel:
    """Return a trained model of which eight neurons are so large that others share few codes."""
    torch.set_num_threads(1)
    model = build_model(WideDeepSettings(deep_mlp=(64, 32)), SCHEMA)
    train(model, rows, valid, TrainSettings(epochs=3, batch_size=256, learning_rate=5e-3))
    layers = [model.get_submodule(name) for name in ("deep.0", "deep.2", "deep.4")]
    with torch.no_grad():
        for layer, reader in pairwise(layers):
            for parameter in layer.parameters():
                parameter[:8] *= 100
            reader.get_parameter("weight")[:, :8] /= 100
    return model


def loss_of(raw: np.ndarray, rows: Dataset) -> float:
    return log_loss(rows.labels[:, 0], raw[:, 0])


def test_the_loss_through_the_rounding_falls(
    rows: Dataset, valid: Dataset, sensitive: RankingModel
) -> None:
    held = copy.deepcopy(sensitive.state_dict())
    teacher = Teacher(sensitive, predict(sensitive, rows))
    settings = RoundingSettings(tables="int4", learn=LEARN)
    found = learn_rounded(sensitive, teacher, rows, valid, settings)
    before, after = found.loss
    exact = loss_of(predict(sensitive, valid), valid)
    assert before > exact + 0.003, "the rounding is to hurt"
    assert after < before - 0.3 * (before - exact)
    assert set(found.layers) == {"deep.0", "deep.2"}
    assert all(torch.equal(held[n], v) for n, v in sensitive.state_dict().items())


def test_what_is_quantized_afterwards_keeps_what_was_won(
    rows: Dataset, valid: Dataset, sensitive: RankingModel
) -> None:
    teacher = Teacher(sensitive, predict(sensitive, rows))
    settings = RoundingSettings(tables="int4", learn=LEARN)
    found = learn_rounded(sensitive, teacher, rows, valid, settings)
    rounding = OptimizeSettings(tables=("int4",), dense=("int8",), error_limit=100.0)

    def rounded_loss(model: nn.Module) -> float:
        _, last = build_compositions(lower_explained(model, SCHEMA)[0], SCHEMA, rounding, rows)
        assert (last.tables, last.dense) == ("int4", "int8")
        return loss_of(score_dataset(last.model.runner(), valid), valid)

    assert rounded_loss(found.model) < rounded_loss(sensitive)
    assert rounded_loss(found.model) == pytest.approx(found.loss[1], abs=0.003)


def test_the_module_is_an_ordinary_one_afterwards(
    rows: Dataset, valid: Dataset, sensitive: RankingModel
) -> None:
    teacher = Teacher(sensitive, predict(sensitive, rows))
    settings = RoundingSettings(tables="int8", learn=DistilSettings(batch_size=512))
    model = learn_rounded(sensitive, teacher, rows, valid, settings).model
    assert [type(m) for m in model.modules()] == [type(m) for m in sensitive.modules()]
    assert list(model.state_dict()) == list(sensitive.state_dict())
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())
    capture(model, SCHEMA)


def test_layers_are_plain_again_after_an_error(sensitive: RankingModel, rows: Dataset) -> None:
    model = copy.deepcopy(sensitive)
    weight = model.get_parameter("deep.0.weight")

    def fail() -> None:
        with rounded_layers(model, {"deep.0": Range(-1.0, 1.0)}):
            assert not np.array_equal(predict(model, rows), predict(sensitive, rows))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.get_parameter("deep.0.weight") is weight
    assert np.array_equal(predict(model, rows), predict(sensitive, rows))


def test_weights_are_rounded_as_they_are_stored_and_gradients_pass() -> None:
    layer = nn.Linear(16, 16)
    model = nn.Sequential(layer)
    weight = layer.weight
    codes, scales = quantize_weight(np.ascontiguousarray(weight.detach().numpy().T))
    with rounded_layers(model, {"0": Range(-4.0, 4.0)}):
        assert np.allclose(layer.weight.detach().numpy(), (codes * scales).T, atol=1e-6)
        inputs = torch.linspace(-8.0, 8.0, 16).requires_grad_()
        model(inputs).sum().backward()
    assert weight.grad is not None
    assert (weight.grad != 0).any()
    assert inputs.grad is not None
    assert (inputs.grad[[0, -1]] == 0).all(), "clipped, so nothing passes"
    assert (inputs.grad[7:9] != 0).all()


def test_layers_too_narrow_to_gain_stay_exact(rows: Dataset) -> None:
    model = build_model(WideDeepSettings(deep_mlp=(32, 8)), SCHEMA)
    assert set(input_ranges(model, rows.take(np.arange(200)))) == {"deep.0"}


@pytest.mark.parametrize("form", ["int8", "int4"])
@pytest.mark.parametrize("far", [0.0, 3.0])
def test_tables_on_disk_give_the_frozen_ones_again(form: TableFormat, far: float) -> None:
    torch.manual_seed(0)
    tables = nn.Embedding(500, 16), nn.EmbeddingBag(300, 9), nn.Embedding(20, 1)
    with torch.no_grad():
        for table in tables:
            table.weight.add_(far)
    narrow = tables[2].weight.detach().clone()
    round_tables(nn.ModuleList(tables), form)
    for table in tables[:2]:
        frozen = table.weight.detach().numpy()
        stored = unpack_rows(pack_table(frozen, form), form, frozen.shape[1])
        assert np.allclose(stored, frozen, rtol=0, atol=0 if form == "int4" else 1e-6)
    assert torch.equal(tables[2].weight, narrow), "one column is no smaller in codes"


def test_tables_stay_frozen_while_the_layers_learn(
    rows: Dataset, valid: Dataset, sensitive: RankingModel
) -> None:
    teacher = Teacher(sensitive, predict(sensitive, rows))
    wanted = copy.deepcopy(sensitive)
    round_tables(wanted, "int4")
    learn = msgspec.structs.replace(LEARN, tables=True, epochs=1)
    settings = RoundingSettings(tables="int4", learn=learn)
    found = learn_rounded(sensitive, teacher, rows, valid, settings)
    assert isinstance(found.model, RankingModel)
    for table in SCHEMA.tables:
        assert torch.equal(found.model.table(table.name).weight, wanted.table(table.name).weight)


def test_the_recipe_runs_it_last_and_only_when_asked(
    rows: Dataset, valid: Dataset, sensitive: RankingModel
) -> None:
    assert Recipe().passes == ()
    recipe = msgspec.convert({"rounding": {"tables": "int4"}, "distil": {}}, Recipe)
    assert recipe.passes == ("distil", "rounding")
    material = Material.of(sensitive, rows, valid)
    stage = run_pass(
        first_stage(sensitive, SCHEMA), "rounding", recipe, material, (CHANCE(0), MonotonicClock())
    )
    assert stage.name == "rounding"
    assert stage.schema == SCHEMA
    assert {"layers", "loss through rounding"} <= set(stage.facts)
    with pytest.raises(UsageError, match="rows"):
        RoundingSettings(rows=0)


@pytest.mark.parametrize("precision", get_args(DensePrecision))
def test_golden_rows_of_every_precision_have_a_tolerance(precision: DensePrecision) -> None:
    settings = OptimizeSettings(tables=("f32",), dense=("f32",))
    schema = rounded_model.SCHEMA
    (exact,) = build_compositions(rounded_model.lowered(), schema, settings, rounded_model.rows())
    exact = replace(exact, dense=precision)
    golden, tolerance = record_golden(exact, golden_queries(schema, CHANCE(0), (3,)), 1.0)
    assert golden
    assert 1e-5 < tolerance < 10
