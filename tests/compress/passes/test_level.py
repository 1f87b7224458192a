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


def test_a_model_that_is_too_bold_and_off_its_level_comes_back_to_the_original() -> None:
    rows, original = make_dataset(200, 0), build_model(WideDeepSettings(), SCHEMA)
    wanted = predict(original, rows)
    bold = build_model(WideDeepSettings(), SCHEMA)
    with torch.no_grad():
        for name in ("wide.weight", "deep.4.weight", "deep.4.bias"):
            bold.get_parameter(name).mul_(1.7)
        bold.get_parameter("deep.4.bias").add_(0.4)
    ((scale, shift),) = level(bold, SCHEMA, rows, wanted)
    assert scale == pytest.approx(1 / 1.7, rel=1e-3)
    assert shift == pytest.approx(-0.4 / 1.7, rel=1e-3)
    assert np.abs(predict(bold, rows) - wanted).max() < 1e-3


def test_the_order_stays_and_the_mean_prediction_is_the_originals() -> None:
    rows, original = make_dataset(200, 0), build_model(WideDeepSettings(), SCHEMA)
    wanted = predict(original, rows) * 3
    student = build_model(WideDeepSettings(), SCHEMA, seed=3)
    with torch.no_grad():  # so that it has something of the original
        student.load_state_dict(original.state_dict())
        weight = student.get_parameter("deep.0.weight")
        weight.add_(0.02 * torch.randn(weight.shape))
    before = predict(student, rows)
    ((scale, _),) = level(student, SCHEMA, rows, wanted)
    after = predict(student, rows)
    assert scale > 0
    assert np.array_equal(np.argsort(before[:, 0]), np.argsort(after[:, 0]))
    assert probabilities(after).mean() == pytest.approx(probabilities(wanted).mean(), abs=1e-5)


def test_every_task_has_a_line_of_its_own() -> None:
    schema = make_schema(tasks=(Task(name="click"), Task(name="buy")))
    rows = make_dataset(200, 0, schema)
    model = build_model(MtWideDeepSettings(), schema)
    wanted = predict(model, rows) * np.array([1.5, 0.5], np.float32) + np.array(
        [1.0, -2.0], np.float32
    )
    lines = level(model, schema, rows, wanted)
    assert lines[0] == pytest.approx((1.5, 1.0), rel=1e-3)
    assert lines[1] == pytest.approx((0.5, -2.0), rel=1e-3)
    assert np.abs(predict(model, rows) - wanted).max() < 1e-2


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
    assert level(model, SCHEMA, rows, before + np.float32(1.0)) == ((1.0, 0.0),)
    assert np.array_equal(predict(model, rows), before)
