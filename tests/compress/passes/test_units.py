from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from tests.graph.library_models import LIBRARY
from tests.models.conftest import SETTINGS, make_schema
from torch import Tensor, nn

from headway.compress.passes import units
from headway.compress.passes.cut import cut, difference, removable, take_out
from headway.compress.passes.units import Units, find_units
from headway.core import CaptureError, Dense, Schema, Scope, Sparse, Table
from headway.graph import Captured, trace
from headway.models import (
    ZOO,
    DienSettings,
    ModelSettings,
    build_model,
    count_cost,
    zoo,
)

Features = Mapping[str, Any]
USER, ITEM = 8, 4
SCHEMA = Schema(
    features=(
        Dense(name="age", scope=Scope.QUERY, width=3),
        Sparse(name="user", table="users", scope=Scope.QUERY),
        Sparse(name="item", table="items", scope=Scope.CANDIDATE),
    ),
    tables=(Table(name="users", rows=30, dim=USER), Table(name="items", rows=40, dim=ITEM)),
)


class Own(nn.Module):
    """A user's model: vectors and numbers side by side, then whatever a test gives it."""

    def __init__(self, over: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.users, self.items = nn.Embedding(30, USER), nn.Embedding(40, ITEM)
        self.over = over

    def forward(self, features: Features) -> Tensor:
        vectors = [features["age"], self.users(features["user"]), self.items(features["item"])]
        output: Tensor = self.over(torch.cat(vectors, dim=1))
        return output


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner = nn.Linear(15, 10), nn.Linear(10, 10)
        self.leave = nn.Linear(10, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.enter(x))
        output: Tensor = self.leave(first + torch.relu(self.inner(first)))
        return output


class Halves(nn.Module):
    """Writes its width into its code where ``fixed``, else takes it from what it is given."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.enter, self.leave, self.fixed = nn.Linear(15, 12), nn.Linear(6, 1), fixed

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        left, right = (y[:, :6], y[:, 6:12]) if self.fixed else y.chunk(2, dim=1)
        output: Tensor = self.leave(left * torch.sigmoid(right))
        return output


def half(units: Units, seed: int = 0) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Keep a drawn half of each site's units, and at least one."""
    rng = np.random.default_rng(seed)
    kept = np.ones(units.count, np.bool_)
    for site in units.sites:
        kept[rng.permutation(site.ids)[: len(site) // 2]] = False
    return kept


def test_hidden_neurons_are_units_and_outputs_and_raw_numbers_are_not() -> None:
    over = nn.Sequential(nn.Linear(15, 6), nn.ReLU(), nn.Linear(6, 1))
    units = find_units(Own(over), SCHEMA)
    assert {site.name: len(site) for site in units.sites} == {
        "users": USER,
        "items": ITEM,
        "over.0": 6,
    }
    assert set(units.site("over.0").places) == {
        ("over.0.weight", 0),
        ("over.0.bias", 0),
        ("over.2.weight", 1),
    }
    columns = units.site("items").places["over.0.weight", 1]
    assert columns[:, 0].tolist() == [11, 12, 13, 14], (
        "columns behind numbers and the user's vector"
    )


def test_a_residual_connection_joins_both_layers_neuron_by_neuron() -> None:
    units = find_units(Own(Residual()), SCHEMA)
    site = units.site("over.enter")
    assert {name for name, _ in site.places} >= {
        "over.enter.weight",
        "over.inner.weight",
        "over.leave.weight",
    }
    assert len(site) == 10


def test_gated_halves_go_in_pairs() -> None:
    units = find_units(Own(Halves(fixed=False)), SCHEMA)
    rows = units.site("over.enter").places["over.enter.weight", 0]
    assert rows.tolist() == [[i, i + 6] for i in range(6)]


def test_code_that_names_a_width_keeps_it_and_is_told_apart() -> None:
    model = Own(Halves(fixed=True))
    units, notes = removable(model, SCHEMA, find_units(model, SCHEMA))
    assert "over.enter" not in {site.name for site in units.sites}
    assert len(notes) == 1
    assert "'over.enter' stays as wide" in notes[0]
    free = Own(Halves(fixed=False))
    assert removable(free, SCHEMA, find_units(free, SCHEMA))[1] == []
    with pytest.raises(CaptureError, match="take widths from its parameters"):
        cut(model, SCHEMA, find_units(model, SCHEMA), half(find_units(model, SCHEMA)))


def test_units_that_a_norm_mixes_stay() -> None:
    over = nn.Sequential(nn.Linear(15, 6), nn.LayerNorm(6), nn.Linear(6, 1))
    assert {site.name for site in find_units(Own(over), SCHEMA).sites} == {"users", "items"}


def test_a_batch_norm_and_a_slope_per_neuron_go_with_their_neuron() -> None:
    over = nn.Sequential(nn.Linear(15, 6), nn.BatchNorm1d(6), nn.PReLU(6), nn.Linear(6, 1))
    model = Own(over)
    units = find_units(model, SCHEMA)
    assert ("over.1.running_var", 0) in units.site("over.0").places
    assert ("over.2.weight", 0) in units.site("over.0").places
    smaller, _, _ = cut(model, SCHEMA, units, half(units))
    norm = smaller.over.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.num_features == 3


def test_tied_layers_stay_tied() -> None:
    shared = nn.Linear(6, 6)
    over = nn.Sequential(nn.Linear(15, 6), nn.ReLU(), shared, nn.ReLU(), shared, nn.Linear(6, 1))
    model = Own(over)
    units = find_units(model, SCHEMA)
    smaller, _, _ = cut(model, SCHEMA, units, half(units))
    assert smaller.over.get_submodule("2").weight is smaller.over.get_submodule("4").weight


@pytest.mark.parametrize("name", SETTINGS)
def test_a_zoo_model_without_units_equals_itself_with_their_weights_at_zero(name: str) -> None:
    schema = make_schema()
    model = build_model(SETTINGS[name], schema)
    units, notes = removable(model, schema, find_units(model, schema))
    assert notes == []
    kept = half(units)
    smaller, small_schema, _ = take_out(model, schema, units, kept)
    assert difference(model, schema, smaller, units, kept) < 1e-4
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    assert small_schema.table("items").dim == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LIBRARY)[::5])
def test_a_library_model_loses_units_where_its_code_lets_it(name: str) -> None:
    model, schema = LIBRARY[name]()
    units, _ = removable(model, schema, find_units(model, schema))
    kept = half(units)
    cut(model, schema, units, kept)  # checks that both compute the same
    # Torch-RecHub's DIN norms every neuron of a row by the others.
    assert name == "rechub DIN" or any(not site.table for site in units.sites)


@pytest.mark.parametrize("name", [n for n in ZOO if n != "dien"])
def test_operations_are_counted_as_torch_counts_them(name: str) -> None:
    made = zoo(name, "paper" if name.startswith("rmc") else "repo", max_rows=50)
    model = build_model(made.settings, made.schema)
    units = find_units(model, made.schema)
    assert units.flops() == count_cost(model, made.schema).flops
    smaller, schema, _ = cut(model, made.schema, units, half(units))
    assert units.flops(half(units)) == count_cost(smaller, schema).flops


def test_the_query_s_work_counts_once_for_its_candidates() -> None:
    model = Own(nn.Sequential(nn.Linear(15, 6), nn.ReLU(), nn.Linear(6, 1)))
    units = find_units(model, SCHEMA)
    assert units.flops(query_rows=10) == pytest.approx(2 * 6 * (4 + 11 / 10) + 2 * 6)


def test_a_recurrence_s_state_is_one_unit_over_all_gates() -> None:
    schema = make_schema()
    settings: ModelSettings = DienSettings(hidden=6, predict_mlp=(8,))
    units = find_units(build_model(settings, schema), schema)
    places = units.site("extraction.of_history").places
    assert places["extraction.of_history.weight_hh_l0", 0].tolist() == [
        [i, i + 6, i + 12] for i in range(6)
    ]


def test_a_model_is_traced_once_until_its_shapes_change(monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[nn.Module] = []

    def counted(model: nn.Module, schema: Schema) -> Captured:
        traced.append(model)
        return trace(model, schema)

    monkeypatch.setattr(units, "trace", counted)
    model = Own(nn.Sequential(nn.Linear(15, 6), nn.ReLU(), nn.Linear(6, 1)))
    first = find_units(model, SCHEMA)
    places = units.output_places(model, SCHEMA)
    assert places == [[("over.2.weight", (6,), 0), ("over.2.bias", (), 0)]]
    assert len(traced) == 1
    smaller, schema, _ = cut(model, SCHEMA, first, half(first))
    assert len(find_units(smaller, schema).site("over.0")) == 3
    model.over = nn.Sequential(nn.Linear(15, 8), nn.ReLU(), nn.Linear(8, 1))
    assert len(find_units(model, SCHEMA).site("over.0")) == 8
    assert len(traced) == 3
