from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from headway.core import Schema, Scope, Sequence, Sparse, Table
from headway.graph import Lowered, Partition, capture
from headway.graph.recurrent import GRU

LENGTH, DIM, HIDDEN = 6, 4, 5
Compare = Callable[..., Lowered]
Check = Callable[..., Partition]


def schema_of(scope: Scope) -> Schema:
    return Schema(
        features=(
            Sequence(name="s", table="ids", scope=scope, max_length=LENGTH),
            Sparse(name="i", table="ids", scope=Scope.CANDIDATE),
        ),
        tables=(Table(name="ids", rows=20, dim=DIM),),
    )


class Recurrent(nn.Module):
    """A GRU over a history, its last state beside the candidate."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.ids, self.gru = nn.Embedding(20, DIM), nn.GRU(DIM, HIDDEN, **settings)
        self.head = nn.Linear(HIDDEN + DIM, 1)

    def forward(self, features: dict[str, Any]) -> Tensor:
        history = self.ids(features["s"][0])
        states, last = self.gru(history if self.gru.batch_first else history.transpose(0, 1))
        mean = states.mean(1 if self.gru.batch_first else 0)
        both = torch.cat([mean + last[-1], self.ids(features["i"])], 1)
        result: Tensor = self.head(torch.relu(both))
        return result


class Evolving(nn.Module):
    """A recurrence of the model's own whose update depends on the candidate."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.ids = nn.Embedding(20, DIM)
        self.inputs = nn.Linear(DIM, 2 * DIM)
        self.gate, self.new = (nn.Linear(DIM, DIM, bias=False) for _ in range(2))
        self.head = nn.Linear(DIM, 1)

    def forward(self, features: dict[str, Any]) -> Tensor:
        ids, mask = features["s"]
        history, item = self.ids(ids), self.ids(features["i"])
        weights = torch.softmax(torch.bmm(history, item.unsqueeze(2)).squeeze(2), 1) * mask
        given = self.inputs(history)
        state = torch.zeros_like(history[:, 0])
        for step in range(LENGTH):
            for_gate, for_new = given[:, step].chunk(2, dim=1)
            gate = torch.sigmoid(for_gate + self.gate(state))
            new = torch.tanh(for_new + gate * self.new(state))
            state = state + weights[:, step : step + 1] * gate * (new - state)
        result: Tensor = self.head(state)
        return result


@pytest.mark.parametrize("scope", Scope)
def test_a_gru_is_one_operation_in_either_tower_with_any_number_of_rows(
    scope: Scope, compare: Compare
) -> None:
    schema = schema_of(scope)
    lowered = compare(Recurrent(batch_first=True), schema, sizes=(0, 1, 3, 17))
    tower = lowered.query_tower if scope is Scope.QUERY else lowered.candidate_tower
    assert tower is not None
    kinds = [n.op_type for n in onnx.load_from_string(tower.onnx).graph.node]
    assert kinds.count("GRU") == 1
    assert "Tanh" not in kinds


def test_layers_without_biases_or_with_time_first_are_taken_whole_too(compare: Compare) -> None:
    model = Recurrent(num_layers=2, bias=False)
    compare(model, schema_of(Scope.QUERY), double=False, sizes=(1, 3))
    targets = [n.target for n in capture(model, schema_of(Scope.QUERY)).module.graph.nodes]
    assert targets.count(GRU) == 2
    assert "forward" not in vars(model.gru)


def test_what_is_no_plain_gru_stays_as_torch_has_it(compare_double: Check) -> None:
    model = Recurrent(batch_first=True, bidirectional=True)
    model.head = nn.Linear(2 * HIDDEN + DIM, 1)

    def forward(features: dict[str, Any]) -> Tensor:
        states, _ = model.gru(model.ids(features["s"][0]))
        result: Tensor = model.head(torch.cat([states[:, -1], model.ids(features["i"])], 1))
        return result

    model.forward = forward  # type: ignore[method-assign]
    compare_double(model, schema_of(Scope.QUERY))


def test_a_step_of_a_recurrence_is_two_products_and_no_sum_is_made_twice(compare: Compare) -> None:
    lowered = compare(Evolving(), schema_of(Scope.QUERY), sizes=(0, 1, 3))
    kinds = Counter(
        n.op_type for n in onnx.load_from_string(lowered.candidate_tower.onnx).graph.node
    )
    # Before the first step there are zeros, and the query's share of each step is made once.
    assert kinds["MatMul"] <= 2 * (LENGTH - 1) + 1
    assert kinds["Add"] <= 3 * LENGTH
    assert kinds["Tanh"] == LENGTH - 1
    assert kinds["Mul"] <= 3 * LENGTH + 2
