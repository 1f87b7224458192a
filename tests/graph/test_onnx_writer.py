from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from headway.core import Dense, Schema, Scope
from headway.graph import Lowered

Compare = Callable[..., Lowered]
SCHEMA = Schema(
    features=(
        Dense(name="x", scope=Scope.QUERY, width=6),
        Dense(name="y", scope=Scope.CANDIDATE, width=6),
    ),
    tables=(),
)
FUNCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.tanh,
    torch.nn.functional.gelu,
    torch.nn.functional.silu,
    torch.nn.functional.elu,
    torch.nn.functional.softplus,
    torch.nn.functional.hardtanh,
    lambda y: torch.nn.functional.leaky_relu(y, 0.3),
    lambda y: torch.rsqrt(torch.abs(y) + 1.0) + torch.reciprocal(y * y + 1.0),
    lambda y: torch.exp(-(y**2)) + torch.log(y.pow(2) + 1.0),
    lambda y: (y.abs() ** 0.5).clamp(min=0.2) - (y * y + 1.0) ** 1.5,
    lambda y: torch.where(y > 0.1, y, 1.0 - y).masked_fill(y <= -1.0, 0.5),
    lambda y: torch.where((y != 0.0) & ~(y < 0.0), torch.maximum(y, -y), torch.minimum(y, y / 2)),
    lambda y: torch.layer_norm(y, (6,)) + torch.softmax(y, -1),
    lambda y: y.view(-1, 2, 3).transpose(1, 2).flatten(1),
    lambda y: (y.view(-1, 2, 3).amax(1, keepdim=True) + y.view(-1, 2, 3).amin(2, True)).flatten(1),
    lambda y: (
        torch.stack([y[:, :3], y[:, 3:]], -1).sum(-1, keepdim=True).expand(-1, -1, 2).flatten(1)
    ),
    lambda y: y.mean(1, keepdim=True).expand(-1, 6) * torch.full((6,), 0.5),
)


class Functions(nn.Module):
    """All functions of a candidate's numbers, side by side; the query shifts them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.slopes, self.slope = nn.PReLU(6, 0.2), nn.PReLU(1, 0.3)
        self.head = nn.Linear(6 * (len(FUNCTIONS) + 2), 1, bias=False)

    def forward(self, features: dict[str, Any]) -> Tensor:
        y = torch.sigmoid(features["x"]) + features["y"]
        made = [function(y) for function in FUNCTIONS]
        result: Tensor = self.head(torch.cat([*made, self.slopes(y), self.slope(y)], 1))
        return result


class Cumulative(nn.Module):
    """Holds an operation that no rule writes."""

    def forward(self, features: dict[str, Any]) -> Tensor:
        result: Tensor = (features["x"] * features["y"]).cumsum(1)[:, -1:]
        return result


def _no_exporter(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have the exporter of torch noted; return the scopes it was called for."""
    module = importlib.import_module("headway.graph.lower")
    export, called = module.export_onnx, list[str]()

    def noted(tower: Any, scope: str) -> Any:
        called.append(scope)
        return export(tower, scope)

    monkeypatch.setattr(module, "export_onnx", noted)
    return called


def test_every_rule_writes_what_torch_computes_with_any_number_of_rows(
    compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = _no_exporter(monkeypatch)
    lowered = compare(Functions(), SCHEMA, double=False, sizes=(0, 1, 2, 17))
    assert called == []
    graph = onnx.load_from_string(lowered.candidate_tower.onnx).graph
    assert graph.output[0].name == "output"
    assert [d.dim_param or d.dim_value for d in graph.output[0].type.tensor_type.shape.dim] == [
        "rows",
        1,
    ]


def test_what_no_rule_writes_goes_through_the_exporter_of_torch(
    compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = _no_exporter(monkeypatch)
    compare(Cumulative(), SCHEMA, double=False, sizes=(0, 1, 3))
    assert called == ["candidate"]
