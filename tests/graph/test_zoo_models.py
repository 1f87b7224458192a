from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from tests.graph.conftest import assert_lowers
from torch import Tensor

from headway.core import Schema
from headway.graph import ALL, Lowered, Rewrite, capture, explain, partition
from headway.graph.interpret import Interpreter
from headway.models import (
    DienSettings,
    DinSettings,
    DlrmSettings,
    ModelSettings,
    WideDeepSettings,
    build_model,
)

ZOO: dict[str, ModelSettings] = {
    "dlrm": DlrmSettings(bottom_mlp=(16, 8), predict_mlp=(32, 16)),
    "dlrm_dot": DlrmSettings(bottom_mlp=(16, 8), predict_mlp=(32,), interaction="dot"),
    "wide_deep": WideDeepSettings(deep_mlp=(32, 16), dropout=0.2),
    "din": DinSettings(attention_mlp=(16,), predict_mlp=(32,), activation="prelu"),
}


@pytest.mark.parametrize("name", ZOO)
def test_lowered_zoo_models_equal_the_eager_model_on_all_golden_queries(
    name: str, rich_schema: Schema, compare: Callable[..., Lowered]
) -> None:
    # The operations of the others are among those of these two.
    double = name in {"dlrm_dot", "din"}
    lowered = compare(build_model(ZOO[name], rich_schema, seed=3), rich_schema, double=double)
    assert lowered.query_tower is not None
    assert any("hoisted" in note for note in lowered.notes)
    for tower in (lowered.query_tower, lowered.candidate_tower):
        types = [n.op_type for n in onnx.load_from_string(tower.onnx).graph.node]
        assert "Loop" not in types
        assert "Shape" not in types


ATTENDING: dict[str, ModelSettings] = {
    "din": DinSettings(attention_mlp=(16,), predict_mlp=(8,)),
    "dien": DienSettings(hidden=6, predict_mlp=(8,)),
}


@pytest.mark.parametrize("name", ATTENDING)
def test_models_of_a_history_lower_and_score_the_same_without_any_one_rewrite(
    name: str, rich_schema: Schema
) -> None:
    model = build_model(ATTENDING[name], rich_schema, seed=3).eval()
    captured = capture(model, rich_schema)
    for left_out in Rewrite:
        assert_lowers(model, captured, ALL - {left_out})


@pytest.mark.parametrize("name", ATTENDING)
def test_without_hoisting_a_history_has_a_row_per_candidate(name: str, rich_schema: Schema) -> None:
    captured = capture(build_model(ATTENDING[name], rich_schema).eval(), rich_schema)
    some = ALL - {Rewrite.HOIST}
    parts = partition(captured, some)
    assert not parts.candidate.per_query
    assert not [n for n in explain(captured, parts).query if n.after]
    tower = Interpreter(captured, some, per_query=True).run().candidate
    nodes = [n for n in tower.module.graph.nodes if n.op == "call_function"]
    shapes = [list(n.meta["val"].shape) for n in nodes if isinstance(n.meta["val"], Tensor)]
    assert not [s for s in shapes if str(s[0]) == "1"]
