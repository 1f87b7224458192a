"""What a lowered candidate tower must not hold: copies and sums that nothing needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import onnx

from headway.core import Dense, Schema, Scope, Sequence, Sparse, Table
from headway.graph import Lowered
from headway.models import DcnV2Settings, DinSettings, DlrmSettings, build_model

Compare = Callable[..., Lowered]
DIM = 8


def schema_of(*scopes: Scope) -> Schema:
    """Return a schema with numbers of the first scope and one id per scope, in order."""
    ids = [Sparse(name=f"id{i}", table=f"id{i}", scope=s) for i, s in enumerate(scopes)]
    return Schema(
        features=(Dense(name="x", scope=scopes[0], width=6), *ids),
        tables=tuple(Table(name=f.name, rows=9, dim=DIM) for f in ids),
    )


def kinds(lowered: Lowered) -> Counter[str]:
    graph = onnx.load_from_string(lowered.candidate_tower.onnx).graph
    return Counter(node.op_type for node in graph.node)


def test_cross_layers_join_once_and_cut_nothing(compare: Compare) -> None:
    settings = DcnV2Settings(bottom_mlp=(16, DIM), cross_layers=3, cross_rank=12, predict_mlp=(16,))
    schema = schema_of(Scope.QUERY, Scope.QUERY, Scope.QUERY, Scope.CANDIDATE)
    lowered = compare(build_model(settings, schema, seed=3), schema, sizes=(0, 1, 3, 17))
    found = kinds(lowered)
    # The first layer's query columns and the vector itself, each gathered once.
    assert found["Gather"] == 2
    assert found["Concat"] == 1
    assert found["Slice"] == found["Expand"] == found["Reshape"] == 0
    assert found["MatMul"] + found["Gemm"] == 3 * 2 + 2
    assert found["Mul"] == 3


def test_vectors_side_by_side_in_the_lookups_are_stacked_without_copies(compare: Compare) -> None:
    settings = DlrmSettings(bottom_mlp=(16, DIM), predict_mlp=(16,), interaction="dot")
    schema = schema_of(*[Scope.CANDIDATE] * 5)
    lowered = compare(build_model(settings, schema, seed=3), schema, double=False, sizes=(0, 1, 17))
    found = kinds(lowered)
    assert found["Slice"] == 0
    assert found["Reshape"] == 2
    assert found["Concat"] == 2


def test_differences_in_an_attention_unit_are_not_made_where_their_terms_are_at_hand(
    compare: Compare,
) -> None:
    # Without queries too, h(Wh + Wd) + c(Wc - Wd) needs no h - c.
    candidate = Scope.CANDIDATE
    schema = Schema(
        features=(
            Sequence(name="s", table="ids", scope=candidate, max_length=5),
            Sparse(name="i", table="ids", scope=candidate),
        ),
        tables=(Table(name="ids", rows=20, dim=DIM),),
    )
    settings = DinSettings(attention_mlp=(7,), predict_mlp=(16,))
    lowered = compare(build_model(settings, schema, seed=3), schema, sizes=(0, 1, 17))
    graph = onnx.load_from_string(lowered.candidate_tower.onnx).graph
    assert kinds(lowered)["Sub"] == 0
    shapes = [tuple(c.dims) for c in graph.initializer]
    assert (2 * DIM, 7) in shapes
    assert (3 * DIM, 7) not in shapes
