from __future__ import annotations

import copy
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from tests.models.conftest import make_dataset, make_schema
from torch import nn

from headway.compress.passes.allocate import Budget, allocate
from headway.compress.passes.compensate import compensated
from headway.compress.passes.cut import cut
from headway.compress.passes.distil import DistilSettings, Teacher, distil
from headway.compress.passes.lightweight import LightweightSettings, lighten
from headway.compress.passes.low_rank import low_rank
from headway.compress.passes.narrow_tables import narrow_tables
from headway.compress.passes.observe import observe
from headway.compress.passes.prune import Criterion, PruneSettings, prune
from headway.compress.passes.recipe import Material, Recipe, first_stage, run_pass
from headway.compress.passes.units import Units, find_units
from headway.core import DataError, MonotonicClock, UsageError
from headway.data import Dataset
from headway.graph import capture
from headway.measure import log_loss
from headway.models import (
    DcnV2Settings,
    DlrmSettings,
    RankingModel,
    TrainSettings,
    WideDeepSettings,
    batch_features,
    build_model,
    count_cost,
    predict,
    train,
)

SCHEMA = make_schema()
CHANCE = np.random.default_rng


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return make_dataset(800, 0)


@pytest.fixture(scope="module")
def valid() -> Dataset:
    return make_dataset(300, 1)


@pytest.fixture(scope="module")
def trained(rows: Dataset, valid: Dataset) -> RankingModel:
    torch.set_num_threads(1)
    model = build_model(WideDeepSettings(deep_mlp=(64, 32)), SCHEMA)
    train(model, rows, valid, TrainSettings(epochs=3, batch_size=256, learning_rate=5e-3))
    return model


def layer(model: nn.Module, name: str) -> nn.Linear:
    found = model.get_submodule(name)
    assert isinstance(found, nn.Linear)
    return found


def loss_of(model: nn.Module, rows: Dataset) -> float:
    return log_loss(rows.labels[:, 0], predict(model, rows)[:, 0])


def units_of(model: nn.Module) -> Units:
    return find_units(model, SCHEMA)


def test_the_first_order_term_is_the_change_of_the_loss_for_units_that_do_little(
    rows: Dataset, trained: RankingModel
) -> None:
    units, site = units_of(trained), units_of(trained).site("deep.2")
    one_batch = rows.take(np.arange(256))
    seen = observe(trained, one_batch, units)
    weight = layer(trained, "deep.4").weight
    found = []
    for unit in range(len(site)):
        held = weight.data[:, unit].clone()
        ends = []
        for factor in (0.99, 1.01):  # around where it stands, so that the second order cancels
            weight.data[:, unit] = held * factor
            ends.append(loss_of(trained, one_batch))
        weight.data[:, unit] = held
        found.append((ends[1] - ends[0]) / 0.02)
    expected = np.sqrt(seen.taylor[site.ids])
    assert np.allclose(np.abs(found), expected, rtol=0.05, atol=2e-4)


def test_observing_leaves_a_model_as_it_was(rows: Dataset, trained: RankingModel) -> None:
    before = {name: p.clone() for name, p in trained.named_parameters()}
    observe(trained, rows.take(np.arange(300)), units_of(trained))
    for name, parameter in trained.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.requires_grad
        assert parameter.grad is None
    assert not any(module._forward_hooks for module in trained.modules())


@pytest.mark.parametrize("share", [0.7, 0.4, 0.2])
def test_what_is_left_is_within_the_budget_by_both_counts(
    trained: RankingModel, share: float
) -> None:
    units = units_of(trained)
    sites = [site for site in units.sites if not site.table]
    scores = CHANCE(0).random(units.count)
    kept = allocate(units, scores, sites, Budget(share, 100.0, multiple=4, least=0.05))
    assert units.flops(kept) <= share * units.flops()
    assert units.flops(kept, query_rows=100.0) <= share * units.flops(query_rows=100.0)
    # Not much more than asked for, either: the last block alone may go too far.
    assert units.flops(kept) > 0.5 * share * units.flops()


def test_the_units_worth_least_go_and_widths_are_multiples(trained: RankingModel) -> None:
    units = units_of(trained)
    sites = [site for site in units.sites if not site.table]
    scores = CHANCE(1).random(units.count)
    kept = allocate(units, scores, sites, Budget(0.5, multiple=8, least=0.1))
    for site in sites:
        stay = kept[site.ids]
        assert stay.sum() % 8 == 0
        if not stay.all():
            assert scores[site.ids][~stay].max() <= scores[site.ids][stay].min()


def test_a_layer_keeps_its_least_share_whatever_is_asked(trained: RankingModel) -> None:
    units = units_of(trained)
    sites = [site for site in units.sites if not site.table]
    kept = allocate(units, np.zeros(units.count), sites, Budget(1e-9, multiple=4, least=0.25))
    assert {site.name: int(kept[site.ids].sum()) for site in sites} == {"deep.0": 16, "deep.2": 8}


def test_weights_that_stay_make_up_for_an_input_that_is_a_sum_of_others(rows: Dataset) -> None:
    model = build_model(WideDeepSettings(deep_mlp=(8, 8)), SCHEMA)
    first, second = layer(model, "deep.0"), layer(model, "deep.2")
    with torch.no_grad():  # all neurons on, and the last is half the sum of the first two
        first.bias[:] = 5.0
        first.weight[7] = (first.weight[0] + first.weight[1]) / 2
    units = units_of(model)
    seen = observe(model, rows, units)
    new = compensated(model, {("deep.2.weight", 1): np.arange(7)}, seen.moments)
    inputs = torch.relu(first(torch.cat(model.parts(batch_features(rows, slice(0, 64))), dim=1)))
    before = second(inputs)
    after = inputs @ new["deep.2.weight"].T + new["deep.2.bias"]
    assert (new["deep.2.weight"][:, 7] == 0).all()
    assert float((after - before).abs().max().detach()) < 0.02 * float(before.std().detach())


def test_refitted_weights_lose_less_than_the_old_ones(
    rows: Dataset, valid: Dataset, trained: RankingModel
) -> None:
    settings = PruneSettings(flops=0.3, criterion="taylor", multiple=4)
    found = prune(trained, SCHEMA, rows, settings, CHANCE(0))
    units = units_of(trained)
    kept = np.ones(units.count, np.bool_)
    for site in units.sites:
        if site.name in found.widths:
            kept[site.ids] = np.isin(np.arange(len(site)), found.kept[site.name])

    bare, _, _ = cut(trained, SCHEMA, units, kept)
    assert loss_of(found.model, valid) < loss_of(bare, valid)
    assert loss_of(found.model, valid) < loss_of(trained, valid) + 0.03


@pytest.mark.parametrize("criterion", get_args(Criterion))
def test_a_pruned_model_is_an_ordinary_smaller_module(
    rows: Dataset, trained: RankingModel, criterion: Criterion
) -> None:
    settings = PruneSettings(flops=0.5, criterion=criterion, multiple=4)
    found = prune(trained, SCHEMA, rows, settings, CHANCE(0))
    assert type(found.model) is type(trained)
    before, after = count_cost(trained, SCHEMA).flops, count_cost(found.model, found.schema).flops
    assert after <= 0.5 * before
    assert found.flops == pytest.approx(after / before)
    capture(found.model, found.schema)
    assert found.criteria[0] in {"taylor", "l1"}


def test_the_criterion_with_the_smaller_loss_is_taken(
    rows: Dataset, valid: Dataset, trained: RankingModel
) -> None:
    losses = {}
    for criterion in get_args(Criterion):
        settings = PruneSettings(flops=0.2, criterion=criterion, multiple=4)
        losses[criterion] = loss_of(prune(trained, SCHEMA, rows, settings, CHANCE(0)).model, rows)
    assert losses["measured"] <= max(losses["taylor"], losses["l1"])


def test_rounds_train_in_between_and_remember_which_units_are_left(
    rows: Dataset, trained: RankingModel
) -> None:
    shares: list[float] = []
    settings = PruneSettings(flops=0.2, rounds=3, multiple=4)
    found = prune(trained, SCHEMA, rows, settings, CHANCE(0), lambda _, s: shares.append(s))
    assert shares == [pytest.approx(1 / 3)] * 2
    assert found.flops <= 0.2
    assert len(found.criteria) == 3
    for name, kept in found.kept.items():
        assert len(kept) == layer(found.model, name).out_features
        assert kept.max() < {"deep.0": 64, "deep.2": 32}[name]


def test_tables_turned_and_kept_whole_change_nothing(rows: Dataset, trained: RankingModel) -> None:
    units = units_of(trained)
    seen = observe(trained, rows, units)
    model, schema, dims = narrow_tables(trained, SCHEMA, units, seen, 1.0)
    assert dims == {}
    assert schema == SCHEMA
    before, after = predict(trained, rows), predict(model, rows)
    assert np.abs(after - before).max() < 1e-3 * before.std()
    turned = model.get_parameter("tables.items-table.weight")
    assert not torch.equal(turned, trained.table("items").weight)


def test_columns_of_no_use_go_first(rows: Dataset, trained: RankingModel) -> None:
    units = units_of(trained)
    seen = observe(trained, rows, units)
    model, schema, dims = narrow_tables(trained, SCHEMA, units, seen, 0.99)
    assert dims, "some table has less than eight useful columns"
    assert all(after % 4 == 0 and after < before for before, after in dims.values())
    assert {t.name: t.dim for t in schema.tables} == {
        t.name: dims.get(t.name, (0, t.dim))[1] for t in SCHEMA.tables
    }
    assert loss_of(model, rows) < loss_of(trained, rows) + 0.01
    capture(model, schema)


def test_a_table_that_meets_more_than_linear_layers_keeps_its_columns(rows: Dataset) -> None:
    model = build_model(DlrmSettings(bottom_mlp=(8,), predict_mlp=(8,), interaction="dot"), SCHEMA)
    units = units_of(model)
    _, schema, dims = narrow_tables(model, SCHEMA, units, observe(model, rows, units), 0.5)
    assert dims == {}
    assert schema == SCHEMA


def test_a_layer_of_low_rank_becomes_two_thin_ones_with_the_same_outputs(rows: Dataset) -> None:
    model = build_model(WideDeepSettings(deep_mlp=(64, 64)), SCHEMA)
    with torch.no_grad():
        layer(model, "deep.2").weight.copy_(torch.randn(64, 4) @ torch.randn(4, 64) / 8)
    seen = observe(model, rows, units_of(model))
    thin, ranks = low_rank(model, seen, 0.9999, multiple=2)
    assert ranks["deep.2"] == (64, 4)
    before, after = predict(model, rows), predict(thin, rows)
    assert np.abs(after - before).max() < 0.02 * before.std()
    assert count_cost(thin, SCHEMA).flops < count_cost(model, SCHEMA).flops


def test_thin_layers_stay_thin_in_the_captured_graph(rows: Dataset) -> None:
    model = build_model(WideDeepSettings(deep_mlp=(64, 64)), SCHEMA)
    with torch.no_grad():
        layer(model, "deep.2").weight.copy_(torch.randn(64, 4) @ torch.randn(4, 64) / 8)
    thin, _ = low_rank(model, observe(model, rows, units_of(model)), 0.9999, multiple=2)
    shapes = [list(t.shape) for t in capture(thin, SCHEMA).module.state_dict().values()]
    assert [4, 64] in shapes
    assert [64, 4] in shapes
    assert [64, 64] not in shapes


def test_distilling_brings_a_pruned_model_closer_to_the_original(
    rows: Dataset, valid: Dataset, trained: RankingModel
) -> None:
    found = prune(
        trained, SCHEMA, rows, PruneSettings(flops=0.1, multiple=4, least=0.05), CHANCE(0)
    )
    raw = predict(trained, rows)
    before = np.square(predict(found.model, rows) - raw).mean()
    settings = DistilSettings(epochs=3, batch_size=256, learning_rate=5e-3, teacher=1.0)
    distil(found.model, Teacher(trained, raw), rows, valid, settings)
    assert np.square(predict(found.model, rows) - raw).mean() < before


def test_a_student_is_never_left_with_a_worse_loss_on_the_valid_rows(
    rows: Dataset, valid: Dataset, trained: RankingModel
) -> None:
    student = copy.deepcopy(trained)
    start = loss_of(student, valid)
    wild = DistilSettings(learning_rate=5.0, batch_size=64)
    result = distil(student, Teacher(trained, predict(trained, rows)), rows, valid, wild)
    assert loss_of(student, valid) <= start + 1e-9
    assert result.best_epoch in {0, 1}


def test_tables_stay_unless_they_are_to_learn(
    rows: Dataset, valid: Dataset, trained: RankingModel
) -> None:

    raw = predict(trained, rows)
    for learns in (False, True):
        student = copy.deepcopy(trained)
        with torch.no_grad():  # so that an epoch is better than none
            for parameter in student.get_submodule("deep").parameters():
                parameter.mul_(0.5)
        settings = DistilSettings(tables=learns, epochs=2, batch_size=256, learning_rate=5e-3)
        distil(student, Teacher(trained, raw), rows, valid, settings)
        same = torch.equal(student.table("items").weight, trained.table("items").weight)
        assert same is not learns


def test_hidden_layers_can_be_compared(
    rows: Dataset, valid: Dataset, trained: RankingModel
) -> None:
    found = prune(trained, SCHEMA, rows, PruneSettings(flops=0.2, multiple=4), CHANCE(0))
    teacher = Teacher(trained, predict(trained, rows), found.kept)
    settings = DistilSettings(hidden=1.0, batch_size=256, epochs=2)
    result = distil(found.model, teacher, rows, valid, settings)
    plain = distil(found.model, teacher, rows, valid, DistilSettings(batch_size=256))
    assert result.history[0].loss > plain.history[0].loss
    assert not any(m._forward_hooks for m in [*trained.modules(), *found.model.modules()])


def test_a_teacher_of_other_rows_is_refused(
    rows: Dataset, valid: Dataset, trained: RankingModel
) -> None:
    teacher = Teacher(trained, predict(trained, valid))
    with pytest.raises(UsageError, match="score the same rows"):
        distil(trained, teacher, rows, valid, DistilSettings())


def test_a_loss_that_is_not_a_number_is_an_error(
    rows: Dataset, valid: Dataset, trained: RankingModel
) -> None:
    raw = predict(trained, rows)
    raw[3] = np.nan
    with pytest.raises(DataError, match="loss became nan"):
        distil(
            build_model(WideDeepSettings(), SCHEMA),
            Teacher(trained, raw),
            rows,
            valid,
            DistilSettings(),
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda: PruneSettings(flops=0.0),
        lambda: PruneSettings(multiple=0),
        lambda: LightweightSettings(table_energy=1.2),
        lambda: DistilSettings(teacher=-0.1),
        lambda: DistilSettings(epochs=0),
    ],
)
def test_settings_out_of_range_are_named(make: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match="Settings: "):
        make()


def test_a_lighter_model_is_close_without_training(
    rows: Dataset, valid: Dataset, trained: RankingModel
) -> None:
    settings = LightweightSettings(
        table_energy=0.99, layer_energy=0.99, width=0.75, multiple=4, table_multiple=4
    )
    found = lighten(trained, SCHEMA, rows, settings, CHANCE(0))
    assert found.dims
    assert {name: after for name, (_, after) in found.widths.items()} == {
        "deep.0": 48,
        "deep.2": 24,
    }
    assert loss_of(found.model, valid) < loss_of(trained, valid) + 0.03
    capture(found.model, found.schema)


def test_nothing_asked_of_a_lightweight_pass_changes_nothing(
    rows: Dataset, trained: RankingModel
) -> None:
    nothing = LightweightSettings(table_energy=1.0, layer_energy=1.0)
    found = lighten(trained, SCHEMA, rows, nothing, CHANCE(0))
    assert np.array_equal(predict(found.model, rows), predict(trained, rows))


def test_passes_run_one_after_another_and_leave_each_stage_as_it_was(
    rows: Dataset, valid: Dataset
) -> None:
    settings = DcnV2Settings(bottom_mlp=(16, 8), cross_layers=2, cross_rank=16, predict_mlp=(32,))
    original = build_model(settings, SCHEMA)
    train(original, rows, valid, TrainSettings(epochs=1, batch_size=256))
    recipe = Recipe(
        lightweight=LightweightSettings(multiple=4),
        prune=PruneSettings(flops=0.5, multiple=4),
        distil=DistilSettings(batch_size=256),
    )
    material = Material.of(original, rows, valid)
    stages = [first_stage(original, SCHEMA)]
    for name in recipe.passes:
        stages.append(run_pass(stages[-1], name, recipe, material, (CHANCE(0), MonotonicClock())))
    assert [s.name for s in stages] == ["original", "lightweight", "prune", "distil"]
    costs = [count_cost(s.model, s.schema).flops for s in stages]
    assert costs[0] >= costs[1] > costs[2] == costs[3]
    assert costs[2] <= 0.5 * costs[1]
    assert np.array_equal(predict(original, rows), material.teacher_raw)
