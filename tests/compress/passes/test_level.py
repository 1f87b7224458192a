from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.models.conftest import make_dataset, make_schema
from torch import Tensor, nn

from headway.compress.passes.level import level
from headway.core import Task
from headway.measure import probabilities
from headway.models import MtWideDeepSettings, WideDeepSettings, build_model, predict

SCHEMA = make_schema()


def test_the_mean_prediction_goes_back_to_the_originals_and_the_order_stays() -> None:
    rows, original = make_dataset(200, 0), build_model(WideDeepSettings(), SCHEMA)
    wanted = predict(original, rows)
    student = build_model(WideDeepSettings(), SCHEMA, seed=3)
    before = predict(student, rows)
    (shift,) = level(student, SCHEMA, rows, wanted)
    after = predict(student, rows)
    assert np.allclose(after - before, shift, atol=1e-5)
    assert probabilities(after).mean() == pytest.approx(probabilities(wanted).mean(), abs=1e-6)


def test_every_task_has_a_level_of_its_own() -> None:
    schema = make_schema(tasks=(Task(name="click"), Task(name="buy")))
    rows = make_dataset(200, 0, schema)
    original = build_model(MtWideDeepSettings(), schema)
    student = build_model(MtWideDeepSettings(), schema, seed=3)
    wanted = predict(original, rows) + np.array([1.0, -2.0], np.float32)
    shifts = level(student, schema, rows, wanted)
    assert shifts[0] > 0 > shifts[1]
    found = probabilities(predict(student, rows)).mean(axis=0)
    assert found == pytest.approx(probabilities(wanted).mean(axis=0), abs=1e-6)


class Scaled(nn.Module):
    """Ends in a product with a parameter, which is no bias although it meets the output."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build_model(WideDeepSettings(), SCHEMA)
        self.scale = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        output: Tensor = self.inner(features).tanh() * self.scale
        return output


def test_a_factor_is_not_taken_for_a_bias() -> None:
    rows, model = make_dataset(100, 0), Scaled()
    before = predict(model, rows)
    assert level(model, SCHEMA, rows, before + np.float32(1.0)) == (0.0,)
    assert np.array_equal(predict(model, rows), before)
