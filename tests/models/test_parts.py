"""The parts that make a model what its paper says it is."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import torch
from torch import nn

from headway.core import Schema, Scope, Sparse, Table, Task, UsageError
from headway.data import Dataset
from headway.models import (
    DienSettings,
    MtWideDeepSettings,
    NcfSettings,
    batch_features,
    build_model,
)
from headway.models.attention import InterestAttention
from headway.models.dcn_v2 import Cross
from headway.models.recurrent import Augru

MakeLog = Callable[[int, int], Dataset]


def test_full_attention_makes_an_augru_a_gru() -> None:
    torch.manual_seed(0)
    evolution, gru = Augru(5, 4).double(), nn.GRU(5, 4, batch_first=True).double()
    with torch.no_grad():
        # torch's update gate says how much stays, the paper's how much changes.
        sign = torch.cat([-torch.ones(4), torch.ones(8)]).double()
        hidden = torch.cat([evolution.gates.weight, evolution.state.weight])
        weights = {
            "weight_ih_l0": evolution.inputs.weight * sign[:, None],
            "weight_hh_l0": hidden * sign[:, None],
            "bias_ih_l0": evolution.inputs.bias * sign,
            "bias_hh_l0": torch.zeros(12),
        }
        gru.load_state_dict({name: _reordered(value) for name, value in weights.items()})
        inputs = torch.randn(3, 6, 5).double()
        _, last = gru(inputs)
        torch.testing.assert_close(evolution(inputs, torch.ones(3, 6).double()), last[0])


def _reordered(gates: torch.Tensor) -> torch.Tensor:
    """Put update, reset, new into torch's order reset, update, new."""
    update, reset, new = gates.chunk(3)
    return torch.cat([reset, update, new])


def test_positions_without_attention_leave_the_state_alone() -> None:
    evolution = Augru(5, 4)
    inputs = torch.randn(2, 3, 5)
    weights = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    longer = evolution(inputs, weights)
    torch.testing.assert_close(longer, evolution(inputs[:, :1], weights[:, :1]))
    assert torch.equal(longer[1], torch.zeros(4))


def test_interest_attention_sums_to_one_and_to_none_for_an_empty_history() -> None:
    attention = InterestAttention(4, 3)
    mask = torch.tensor([[1.0, 1, 0], [0, 0, 0]])
    weights = attention(torch.randn(2, 3, 4), torch.randn(2, 3), mask)
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 0.0]))
    assert weights[0, 2] == 0


def test_padding_of_a_history_does_not_change_dien(schema: Schema, click_log: MakeLog) -> None:
    model = build_model(DienSettings(hidden=6, predict_mlp=(8,)), schema).eval()
    features = batch_features(click_log(20, 3), slice(None))
    ids, mask = features["history"]
    other = {**features, "history": (torch.where(mask > 0, ids, 7), mask)}
    with torch.no_grad():
        torch.testing.assert_close(model(features), model(other))


def test_dien_knows_the_order_of_a_history(schema: Schema, click_log: MakeLog) -> None:
    model = build_model(DienSettings(), schema).eval()
    features = batch_features(click_log(6, 3), slice(None))
    ids = torch.arange(30 * 5).reshape(30, 5) % 40
    full = torch.ones(30, 5)
    with torch.no_grad():
        forwards = model({**features, "history": (ids, full)})
        backwards = model({**features, "history": (ids.flip(1), full)})
    assert not torch.allclose(forwards, backwards)


def test_a_cross_layer_multiplies_by_the_first_vector() -> None:
    cross = Cross(4, 2)
    first, current = torch.randn(3, 4), torch.randn(3, 4)
    matrix = cross.up.weight @ cross.down.weight
    wanted = first * (current @ matrix.T + cross.up.bias) + current
    torch.testing.assert_close(cross(first, current), wanted)


def test_ncf_sees_the_factors_only_as_their_product() -> None:
    features = tuple(
        Sparse(name=n, table=n, scope=Scope.CANDIDATE) for n in ("user", "item", "other")
    )
    tables = tuple(Table(name=f.name, rows=2, dim=4) for f in features)
    settings = NcfSettings(factors=("user", "item"), mlp=(8,))
    model = build_model(settings, Schema(features=features, tables=tables))
    with torch.no_grad():
        for name, row in (("user", [1.0, 2, 3, 4]), ("item", [5.0, 6, 7, 8])):
            model.table(name).weight.copy_(torch.tensor([row, row]) * torch.tensor([[1.0], [2.0]]))
    ids = {
        "user": torch.tensor([0, 1]),
        "item": torch.tensor([1, 0]),
        "other": torch.tensor([0, 0]),
    }
    once, twice = model(ids)
    torch.testing.assert_close(once, twice)


def test_a_task_has_layers_of_its_own(schema: Schema, click_log: MakeLog) -> None:
    two = msgspec.structs.replace(schema, tasks=(Task(name="click"), Task(name="buy")))
    model = build_model(MtWideDeepSettings(shared_mlp=(8,), task_mlp=(4,)), two)
    model(batch_features(click_log(3, 0), slice(None)))[:, 0].sum().backward()
    grads = {name: p.grad is not None for name, p in model.named_parameters()}
    moved = {n: model.get_parameter(n).grad for n, seen in grads.items() if seen}
    assert any(n.startswith("heads.0") for n in moved)
    assert any(n.startswith("shared") for n in moved)
    for name, grad in moved.items():
        assert not name.startswith("heads.1") or grad is None or not grad.any()


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (("user", "user"), "both factors are 'user'"),
        (("user", "age"), "factor 'age' of ncf is dense"),
        (("user", "film"), "no feature 'film'"),
    ],
)
def test_factors_that_cannot_be_multiplied_are_refused(
    schema: Schema, factors: tuple[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build_model(NcfSettings(factors=factors), schema)


def test_ncf_needs_something_beside_its_factors_and_one_dim() -> None:
    pair = tuple(Sparse(name=n, table=n, scope=Scope.CANDIDATE) for n in ("user", "item"))
    tables = (Table(name="user", rows=2, dim=4), Table(name="item", rows=2, dim=8))
    with pytest.raises(UsageError, match="must have one dim"):
        build_model(NcfSettings(factors=("user", "item")), Schema(features=pair, tables=tables))
    tables = (tables[0], Table(name="item", rows=2, dim=4))
    with pytest.raises(UsageError, match="beside the factors"):
        build_model(NcfSettings(factors=("user", "item")), Schema(features=pair, tables=tables))
