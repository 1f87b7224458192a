"""Training finds what is there, stops in time, and does the same thing twice."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
import torch

from headway.core import DataError, Link, Task, UsageError
from headway.data import Dataset
from headway.measure import auc
from headway.models import (
    DlrmSettings,
    ModelSettings,
    TrainProgress,
    TrainSettings,
    build_model,
    predict,
    train,
)

MakeLog = Callable[[int, int], Dataset]
FAST = TrainSettings(
    epochs=8, batch_size=128, learning_rate=5e-3, table_learning_rate=0.1, patience=3
)


def with_labels(log: Dataset, labels: np.ndarray) -> Dataset:
    return Dataset(log.schema, log.context, log.candidates, log.row_to_query, labels)


def test_every_model_learns_a_known_relation(settings: ModelSettings, click_log: MakeLog) -> None:
    fit, valid, test = click_log(800, 1), click_log(200, 2), click_log(200, 3)
    model = build_model(settings, fit.schema)
    before = auc(test.labels[:, 0], predict(model, test)[:, 0])
    result = train(model, fit, valid, FAST)
    after = auc(test.labels[:, 0], predict(model, test)[:, 0])
    assert before < 0.7
    assert after > 0.85
    assert result.valid_auc > 0.85


def test_training_twice_gives_equal_weights(settings: ModelSettings, click_log: MakeLog) -> None:
    weights, histories = [], []
    for noise in (1, 2):
        torch.manual_seed(noise)
        model = build_model(settings, click_log(2, 0).schema, seed=4)
        brief = msgspec.structs.replace(FAST, epochs=2, seed=9)
        histories.append(train(model, click_log(100, 1), click_log(50, 2), brief))
        weights.append(model.state_dict())
    assert histories[0] == histories[1]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_seed_changes_the_order_of_rows(click_log: MakeLog) -> None:
    losses = set()
    for seed in (0, 1):
        model = build_model(DlrmSettings(), click_log(2, 0).schema)
        brief = msgspec.structs.replace(FAST, epochs=1, seed=seed)
        losses.add(train(model, click_log(100, 1), click_log(50, 2), brief).history[0].loss)
    assert len(losses) == 2


def test_the_model_keeps_the_weights_of_its_best_epoch(click_log: MakeLog) -> None:
    fit, valid = click_log(60, 1), click_log(200, 2)
    model = build_model(DlrmSettings(predict_mlp=(64, 64)), fit.schema)
    wild = TrainSettings(
        epochs=60, batch_size=32, learning_rate=2e-2, table_learning_rate=0.5, patience=4
    )
    result = train(model, fit, valid, wild)
    scores = [epoch.valid_auc for epoch in result.history]
    assert result.best_epoch == int(np.argmax(scores)) + 1
    assert len(scores) == result.best_epoch + wild.patience
    assert auc(valid.labels[:, 0], predict(model, valid)[:, 0]) == result.valid_auc == max(scores)


def test_rates_fall_by_the_decay_after_each_epoch(click_log: MakeLog) -> None:
    # A rate that is almost nothing from the second epoch on leaves the first epoch's weights.
    fit, valid = click_log(100, 1), click_log(50, 2)
    settings = msgspec.structs.replace(FAST, epochs=2, decay=1e-12)
    result = train(build_model(DlrmSettings(), fit.schema), fit, valid, settings)
    assert result.history[1].valid_auc == pytest.approx(result.history[0].valid_auc, abs=1e-9)


def test_rows_that_no_batch_touched_stay_as_they_were(click_log: MakeLog) -> None:
    fit, valid = click_log(3, 1), click_log(50, 2)
    model = build_model(DlrmSettings(), fit.schema)
    before = model.table("users").weight.detach().clone()
    train(model, fit, valid, msgspec.structs.replace(FAST, table_weight_decay=0.1))
    touched = np.unique(np.asarray(fit.context["user"]))
    changed = (model.table("users").weight != before).any(dim=1).numpy()
    np.testing.assert_array_equal(np.flatnonzero(changed), touched)


def test_table_weight_decay_shrinks_rows(click_log: MakeLog) -> None:
    norms = []
    for decay in (0.0, 1.0):
        fit, valid = click_log(200, 1), click_log(50, 2)
        model = build_model(DlrmSettings(), fit.schema)
        train(model, fit, valid, msgspec.structs.replace(FAST, table_weight_decay=decay))
        norms.append(float(model.table("items").weight.detach().norm()))
    assert norms[1] < 0.7 * norms[0]


def test_progress_is_told_after_each_batch(click_log: MakeLog) -> None:
    told: list[TrainProgress] = []
    fit = click_log(60, 1)
    brief = msgspec.structs.replace(FAST, epochs=2)
    train(build_model(DlrmSettings(), fit.schema), fit, click_log(50, 2), brief, told.append)
    places = [(p.epoch, p.batch) for p in told]
    assert places == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    assert {(p.epochs, p.batches) for p in told} == {(2, 3)}


def test_one_class_only_is_refused(click_log: MakeLog) -> None:
    log = click_log(20, 1)
    model = build_model(DlrmSettings(), log.schema)
    flat = with_labels(log, np.zeros_like(log.labels))
    with pytest.raises(DataError, match="training labels of task 'click'"):
        train(model, flat, log, FAST)
    with pytest.raises(DataError, match="valid labels"):
        train(model, log, flat, FAST)
    with pytest.raises(DataError, match=r"0 and 1 with both present; found \[1.0, 2.0\]"):
        train(model, with_labels(log, log.labels + 1), log, FAST)


def test_a_loss_that_is_not_finite_names_the_batch(click_log: MakeLog) -> None:
    log = click_log(20, 1)
    np.asarray(log.candidates["price"])[3] = np.inf
    with pytest.raises(DataError, match="batch 1 of epoch 1"):
        train(build_model(DlrmSettings(), log.schema), log, click_log(20, 2), FAST)


def test_tasks_without_a_sigmoid_are_refused(click_log: MakeLog) -> None:
    log = click_log(20, 1)
    schema = msgspec.structs.replace(log.schema, tasks=(Task(name="stars", link=Link.IDENTITY),))
    log = Dataset(schema, log.context, log.candidates, log.row_to_query, log.labels)
    with pytest.raises(UsageError, match="'stars' has the link identity"):
        train(build_model(DlrmSettings(), schema), log, log, FAST)


def test_sparse_and_dense_gradients_of_tables_give_the_same_weights(
    click_log: MakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    for limit in (1, 1_000_000):
        monkeypatch.setattr("headway.models.optimizers.SPARSE_FROM", limit)
        fit, valid = click_log(100, 1), click_log(50, 2)
        model = build_model(DlrmSettings(), fit.schema)
        brief = msgspec.structs.replace(FAST, epochs=2, table_weight_decay=0.1)
        train(model, fit, valid, brief)
        assert model.table("items").sparse is (limit == 1)
        weights.append(model.state_dict())
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=1e-4, rtol=1e-3)
