from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from tests.graph.conftest import eager, run_towers, torch_run
from tests.graph.random_programs import PROGRAM_SCHEMA, Program, Step, programs
from torch import Tensor, nn

from headway.core import CaptureError, Dense, Schema, Scope, Sequence, Sparse, Table
from headway.graph import (
    ALL,
    Captured,
    Partition,
    Rewrite,
    capture,
    explain,
    golden_queries,
    partition,
)
from headway.graph.interpret import Interpreter

QUERY, CANDIDATE = Scope.QUERY, Scope.CANDIDATE
Features = dict[str, Any]
LENGTH, DIM = 20, 8
FIELDS = ("u1", "u2", "i1", "i2")
SCHEMA = Schema(
    features=(
        *(Sparse(name=n, table="ids", scope=QUERY if n[0] == "u" else CANDIDATE) for n in FIELDS),
        Dense(name="x", scope=QUERY, width=6),
        Dense(name="y", scope=CANDIDATE, width=2),
        Sequence(name="s", table="ids", scope=QUERY, max_length=LENGTH),
    ),
    tables=(Table(name="ids", rows=30, dim=DIM),),
)


class Model(nn.Module):
    """A table, some layers and a forward given as a function."""

    def __init__(self, body: Callable[[Any, Features], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.ids = nn.Embedding(30, DIM)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.body = body

    def forward(self, features: Features) -> Tensor:
        return self.body(self, features)

    def fields(self, features: Features) -> list[Tensor]:
        return [self.ids(features[n]) for n in FIELDS]


def wide(m: Any, f: Features) -> Tensor:
    profile = torch.relu(m.profile(f["x"]))
    everything = torch.cat([profile, f["y"], *m.fields(f)], 1)
    result: Tensor = m.head(torch.relu(m.first(everything)))
    return result


def factors(m: Any, f: Features) -> Tensor:
    """Rendle, "Factorization Machines", 2010, equation 5."""
    stacked = torch.stack(m.fields(f), 1)
    square_of_sum, sum_of_squares = stacked.sum(1) ** 2, (stacked**2).sum(1)
    return 0.5 * (square_of_sum - sum_of_squares).sum(1, keepdim=True)


def crosses(m: Any, f: Features) -> Tensor:
    """Wang et al., "Deep & Cross Network", 2017, section 2.3."""
    first = torch.cat(m.fields(f), 1)
    x = first
    for layer in (m.a, m.b):
        x = first * layer(x) + x
    result: Tensor = m.head(x)
    return result


def dots(m: Any, f: Features) -> Tensor:
    stacked = torch.stack(m.fields(f), 1)
    products = torch.bmm(stacked, stacked.transpose(1, 2))
    rows, columns = torch.tril_indices(4, 4, offset=-1)
    result: Tensor = m.head(products[:, rows, columns])
    return result


def attention(m: Any, f: Features) -> Tensor:
    history, item = m.ids(f["s"][0]), m.ids(f["i1"]).unsqueeze(1).expand(-1, LENGTH, -1)
    pairs = torch.cat([item, history, history - item, item * history], 2)
    weights = m.score(torch.relu(m.unit(pairs))).squeeze(2) * f["s"][1]
    interest = (weights.unsqueeze(2) * history).sum(1)
    result: Tensor = m.head(interest)
    return result


def two_maps(m: Any, f: Features) -> Tensor:
    result: Tensor = m.head(m.first(f["y"]))
    return result


def _wide() -> Model:
    layers = {"profile": nn.Linear(6, 6), "first": nn.Linear(40, 16), "head": nn.Linear(16, 1)}
    return Model(wide, **layers)


CASES: dict[Rewrite, Callable[[], Model]] = {
    Rewrite.HOIST: _wide,
    Rewrite.SPLIT_LINEAR: _wide,
    Rewrite.BLOCKS: lambda: Model(factors),
    Rewrite.PRODUCTS: lambda: Model(
        crosses, a=nn.Linear(32, 1), b=nn.Linear(32, 1), head=nn.Linear(32, 1)
    ),
    Rewrite.DOTS: lambda: Model(dots, head=nn.Linear(6, 1)),
    Rewrite.ATTENTION: lambda: Model(
        attention, unit=nn.Linear(4 * DIM, 16), score=nn.Linear(16, 1), head=nn.Linear(DIM, 1)
    ),
    Rewrite.MERGE_LINEAR: lambda: Model(two_maps, first=nn.Linear(2, 9), head=nn.Linear(9, 1)),
}
NEEDS = {
    Rewrite.PRODUCTS: {Rewrite.SPLIT_LINEAR},
    Rewrite.ATTENTION: {Rewrite.SPLIT_LINEAR, Rewrite.PRODUCTS},
}
"""What a rewrite gives work to: without it the first has nothing to save."""


def schema_of(rewrite: Rewrite) -> Schema:
    used = {
        Rewrite.BLOCKS: FIELDS,
        Rewrite.PRODUCTS: FIELDS,
        Rewrite.DOTS: FIELDS,
        Rewrite.ATTENTION: ("s", "i1"),
        Rewrite.MERGE_LINEAR: ("y",),
    }.get(rewrite, (*FIELDS, "x", "y"))
    features = tuple(f for f in SCHEMA.features if f.name in used)
    return Schema(features=features, tables=SCHEMA.tables if used != ("y",) else ())


def assert_equal(model: nn.Module, captured: Captured, parts: Partition) -> None:
    queries = golden_queries(captured.schema, np.random.default_rng(3), (2, 5))
    wanted = np.concatenate([eager(model, captured.schema, q) for q in queries])
    runs = (torch_run(parts.query) if parts.query else None, torch_run(parts.candidate))
    got = run_towers(parts, runs, captured.schema, queries, np.float64)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10 * (wanted.std() + 1e-12))


@pytest.mark.parametrize("rewrite", CASES)
def test_each_rewrite_alone_saves_work_and_changes_no_score(rewrite: Rewrite) -> None:
    torch.manual_seed(1)
    model, schema = CASES[rewrite]().double(), schema_of(rewrite)
    captured = capture(model, schema)
    base = frozenset({Rewrite.HOIST}) | NEEDS.get(rewrite, set())
    sets = [base - {rewrite}, base | {rewrite}, ALL - {rewrite}, ALL]
    found = [partition(captured, rewrites) for rewrites in sets]
    for parts in found:
        assert_equal(model, captured, parts)
    costs = [explain(captured, parts, rows=256).after for parts in found]
    assert costs[1] < costs[0]
    assert costs[3] < costs[2]
    said = {d.rewrite for d in found[1].decisions.values()}
    assert rewrite in said or rewrite is Rewrite.MERGE_LINEAR
    assert found[0].rewrites == sets[0]


def test_without_hoisting_everything_runs_per_candidate() -> None:
    model = CASES[Rewrite.HOIST]().double()
    captured = capture(model, schema_of(Rewrite.HOIST))
    parts = partition(captured, ALL - {Rewrite.HOIST})
    assert_equal(model, captured, parts)
    assert parts.query is not None
    assert not [n for n in explain(captured, parts).query if n.after]


def test_an_attention_unit_is_one_product_with_a_matrix_of_the_query() -> None:
    captured = capture(CASES[Rewrite.ATTENTION](), schema_of(Rewrite.ATTENTION))
    parts = partition(captured)
    assert parts.candidate.per_query
    assert "row_to_query" not in parts.candidate.inputs
    ops = [n.op for n in explain(captured, parts).candidate]
    assert ops.count("aten.addmm") == 1
    assert "aten.index_select" not in ops
    assert "aten.cat" not in ops
    for node in parts.candidate.module.graph.find_nodes(op="placeholder")[:-1]:
        assert node.meta["val"].shape[0] == 1


def test_a_short_history_is_not_worth_a_tower_of_its_own_query() -> None:
    def body(m: Any, f: Features) -> Tensor:
        result: Tensor = m.head(torch.cat([m.ids(f["s"][0]).flatten(1), m.ids(f["i1"])], 1))
        return result

    model = Model(body, head=nn.Linear((LENGTH + 1) * DIM, 1))
    assert not partition(capture(model, schema_of(Rewrite.ATTENTION))).candidate.per_query


def test_dots_of_the_querys_vectors_are_made_once() -> None:
    captured = capture(CASES[Rewrite.DOTS](), schema_of(Rewrite.DOTS))
    found = explain(captured, partition(captured))
    once = [n.shape for n in found.query if n.op == "aten.bmm"]
    each = [n.shape for n in found.candidate if n.op in {"aten.bmm", "aten.matmul"}]
    assert once == [("rows", 2, 2)]
    assert each == [("rows", 2, 2), ("rows", 2, 2)]


def test_a_column_that_saves_nothing_is_not_split_off() -> None:
    one = Dense(name="x", scope=QUERY, width=1)
    schema = Schema(features=(one, SCHEMA.feature("y")), tables=())
    model = Model(
        lambda m, f: m.head(torch.relu(m.first(torch.cat([f["x"], f["y"]], 1)))),
        first=nn.Linear(3, 64),
        head=nn.Linear(64, 1),
    )
    parts = partition(capture(model, schema))
    assert any("splitting would save nothing at 16 candidates" in n for n in parts.notes)


def test_a_chain_of_maps_becomes_one_and_overwrites_no_other() -> None:
    def body(m: Any, f: Features) -> Tensor:
        branch = torch.relu(m.c(m.norm(f["y"])))
        result: Tensor = m.e(m.d(m.a(f["y"]))) + branch
        return result

    layers = {"a": nn.Linear(2, 7), "d": nn.Linear(7, 5), "e": nn.Linear(5, 1)}
    model = Model(body, norm=nn.BatchNorm1d(2), c=nn.Linear(2, 1), **layers).double()
    captured = capture(model, schema_of(Rewrite.MERGE_LINEAR))
    parts = partition(captured)
    assert_equal(model, captured, parts)
    ops = [n.op for n in explain(captured, parts).candidate]
    assert ops.count("aten.linear") == 2


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(steps=programs())
def test_any_program_scores_as_its_towers_do_batched_or_query_by_query(steps: list[Step]) -> None:
    model = Program(steps).double()
    try:
        captured = capture(model, PROGRAM_SCHEMA)
        results = [Interpreter(captured, ALL, per_query=p).run() for p in (False, True)]
    except CaptureError as error:
        assert "NaN" in str(error)  # noqa: PT017
        return
    for r in results:
        parts = Partition(r.query, r.candidate, r.tables, captured.schema, r.notes)
        assert_equal(model, captured, parts)
