"""Ids that go through a constant map before they are looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from headway.core import (
    Bag,
    CaptureError,
    Dense,
    Pooling,
    Schema,
    Scope,
    Sequence,
    Sparse,
    Table,
)
from headway.graph import Lowered, Partition, capture, lower, partition

IDS, ROWS = 30, 7
ONE = Sparse(name="one", table="t", scope=Scope.CANDIDATE)
USER = Sparse(name="user", table="t", scope=Scope.QUERY)
BAG = Bag(name="bag", table="t", scope=Scope.CANDIDATE, max_length=4, pooling=Pooling.MEAN)
LIST = Sequence(name="list", table="t", scope=Scope.QUERY, max_length=3)
Features = Mapping[str, Any]
Check = Callable[..., Partition]
Compare = Callable[..., Lowered]


def schema(*features: Any) -> Schema:
    return Schema(features=features, tables=(Table(name="t", rows=IDS, dim=4),))


class Mapped(nn.Module):
    def __init__(self, body: Callable[[Any, Features], Tensor], width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.t = nn.Embedding(ROWS, 4)
        self.last = nn.Linear(width, 1)
        self.map: Tensor
        self.register_buffer("map", torch.arange(IDS) * 5 % ROWS)
        self.body = body

    def forward(self, features: Features) -> Tensor:
        out: Tensor = self.last(self.body(self, features))
        return out


WAYS: dict[str, Callable[[Any, Features], Tensor]] = {
    "index": lambda m, f: m.t(m.map[f["one"]]),
    "index_select": lambda m, f: m.t(m.map.index_select(0, f["one"])),
    "take": lambda m, f: m.t(torch.take(m.map, f["one"])),
    "a narrow map": lambda m, f: m.t(m.map.int()[f["one"]].long()),
    "one column": lambda m, f: m.t(m.map[f["one"].unsqueeze(1)]).squeeze(1),
}


@pytest.mark.parametrize("way", WAYS)
def test_ids_may_go_through_a_map_of_their_table(way: str, compare_double: Check) -> None:
    parts = compare_double(Mapped(WAYS[way]), schema(ONE))
    assert parts.tables["t"].shape == (ROWS, 4)
    assert torch.equal(parts.places["t"].long(), torch.arange(IDS) * 5 % ROWS)


def test_ids_may_come_packed_with_numbers(compare_double: Check) -> None:
    def body(m: Any, f: Features) -> Tensor:
        packed = torch.cat([f["x"], f["one"].unsqueeze(1).to(f["x"].dtype)], 1)
        out: Tensor = m.t(m.map[packed[:, 2].long()]) * packed[:, :1]
        return out

    numbers = Dense(name="x", scope=Scope.CANDIDATE, width=2)
    parts = compare_double(Mapped(body), schema(ONE, numbers))
    assert set(parts.places) == {"t"}


def test_users_bags_and_histories_share_the_map(compare_double: Check) -> None:
    def body(m: Any, f: Features) -> Tensor:
        values, offsets = f["bag"]
        ids, mask = f["list"]
        bag = F.embedding_bag(
            m.map[values], m.t.weight, offsets, mode="mean", include_last_offset=True
        )
        history = (m.t(m.map[ids]) * mask.unsqueeze(2)).sum(1)
        return torch.cat([m.t(m.map[f["user"]]), history, bag, m.t(m.map[f["one"]])], dim=1)

    parts = compare_double(Mapped(body, 16), schema(USER, LIST, BAG, ONE))
    assert set(parts.places) == {"t"}
    assert parts.query is not None


def test_a_table_without_a_map_has_none(compare_double: Check) -> None:
    model = Mapped(lambda m, f: m.t(f["one"]))
    model.t = nn.Embedding(IDS, 4)
    assert compare_double(model, schema(ONE)).places == {}


def refused(model: nn.Module, *features: Any) -> str:
    with pytest.raises(CaptureError) as caught:
        partition(capture(model, schema(*features)))
    return str(caught.value)


def test_a_map_of_another_length_is_refused() -> None:
    model = Mapped(WAYS["index"])
    model.map = torch.arange(IDS + 1) % ROWS
    assert "goes through a map of 31 ids" in refused(model, ONE)
    assert "has 30 rows; make the two agree" in refused(model, ONE)


def test_a_map_that_leads_out_of_its_table_is_refused() -> None:
    model = Mapped(lambda m, f: m.t(m.map[f["one"]]))
    model.map = torch.where(torch.arange(IDS) == IDS - 2, -1, model.map)
    assert "leads to row -1, but 't.weight' has rows 0 to 6" in refused(model, ONE)


def test_two_maps_into_one_table_are_refused() -> None:
    model = Mapped(lambda m, f: m.t(m.map[f["one"]]) + m.t(f["user"] % 1 + m.map[f["user"]] * 0))
    assert "can only be looked up" in refused(model, ONE, USER)
    other = Mapped(lambda m, f: m.t(m.map[f["one"]]) + m.t(m.second[f["user"]]))
    other.register_buffer("second", torch.arange(IDS) % ROWS)
    assert "one map" in refused(other, ONE, USER)


def test_a_map_of_a_map_and_numbers_from_ids_are_refused() -> None:
    twice = Mapped(lambda m, f: m.t(m.map[m.map[f["one"]]]))
    assert "can only be looked up" in refused(twice, ONE)
    number = Mapped(lambda m, f: m.t(f["one"] % ROWS) * m.map[f["one"]].float().unsqueeze(1))
    assert "can only be looked up" in refused(number, ONE)


def test_a_table_whose_rows_are_all_the_same_is_stored_as_one(compare: Compare) -> None:
    model = Mapped(lambda m, f: m.t(f["one"]) * f["x"][:, :1])
    model.t = nn.Embedding(IDS, 4)
    with torch.no_grad():
        model.t.weight[:] = model.t.weight[3].clone()
    lowered = compare(model, schema(ONE, Dense(name="x", scope=Scope.CANDIDATE, width=2)))
    assert lowered.tables["t"].shape == (1, 4)
    assert lowered.folds["t"].code_bytes == 0


def test_a_lowered_model_has_the_fold() -> None:
    lowered = lower(partition(capture(Mapped(WAYS["index"]), schema(ONE))))
    fold = lowered.folds["t"]
    assert np.array_equal(fold.records(np.arange(IDS)), np.arange(IDS) * 5 % ROWS)
    assert fold.codes.itemsize == 1
