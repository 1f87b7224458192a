from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from headway.core import Dense, Schema, Scope
from headway.graph import Captured, Explanation, capture, explain, partition


class WideModel(nn.Module):
    """One layer over a query's and a candidate's columns, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(10, 6), nn.Linear(6, 1)

    def forward(self, features: dict[str, Any]) -> Tensor:
        both = torch.cat([features["q"], features["c"]], 1)
        result: Tensor = self.head(torch.relu(self.first(both)))
        return result


@pytest.fixture(scope="module")
def captured() -> Captured:
    q, c = (
        Dense(name="q", scope=Scope.QUERY, width=7),
        Dense(name="c", scope=Scope.CANDIDATE, width=3),
    )
    return capture(WideModel(), Schema(features=(q, c), tables=()))


def test_costs_are_multiply_adds_per_query_before_and_after(captured: Captured) -> None:
    found = explain(captured, partition(captured), rows=256)
    costs = {n.op: n for n in found.nodes if n.op in {"aten.linear", "aten.relu", "aten.cat"}}
    first = next(n for n in found.nodes if n.op == "aten.linear")
    assert first.before == 256 * 10 * 6
    # The query's columns once, the candidates' per row; their sum is made where it is needed.
    assert first.after == 7 * 6 + 256 * 3 * 6
    assert costs["aten.cat"].before == costs["aten.cat"].after == 0
    assert costs["aten.cat"].scope == "mixed"
    assert costs["aten.relu"].before == 256 * 6
    assert costs["aten.relu"].after == 2 * 256 * 6
    assert costs["aten.relu"].stopped == "aten.relu.default joins query and candidates"
    assert found.before == sum(n.before for n in found.nodes)
    assert found.after == sum(n.after for n in (*found.query, *found.candidate))


def test_tower_nodes_name_the_captured_node_they_were_made_for(captured: Captured) -> None:
    found = explain(captured, partition(captured))
    known = {n.name for n in found.nodes}
    work = [n for n in (*found.query, *found.candidate) if n.after]
    assert work
    assert all(n.origin in known for n in work)
    assert {i for n in found.candidate for i in n.inputs} <= {n.name for n in found.candidate}


def test_an_explanation_survives_json(captured: Captured) -> None:
    found = explain(captured, partition(captured))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Explanation) == found
