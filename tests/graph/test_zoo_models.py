from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

from headway.core import Schema
from headway.graph import Lowered
from headway.models import DinSettings, DlrmSettings, ModelSettings, WideDeepSettings, build_model

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
