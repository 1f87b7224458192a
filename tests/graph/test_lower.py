from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from headway.core import Dense, Schema, Scope, Sequence, Sparse, Table, Task
from headway.graph import Lowered, capture, lower, partition

Compare = Callable[..., Lowered]


class Attention(nn.Module):
    """Weighs a history by the candidate, behind several kinds of norms and reductions."""

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(schema.tables[0].rows, schema.tables[0].dim)
        self.score = nn.Linear(8, 1)
        self.norm = nn.LayerNorm(9)
        self.out = nn.Sequential(
            nn.Linear(9, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, len(schema.tasks))
        )

    def forward(self, features: dict[str, Tensor | tuple[Tensor, Tensor]]) -> Tensor:
        (ids, mask), item, price = features["seen"], features["item"], features["price"]
        assert isinstance(item, Tensor)
        assert isinstance(price, Tensor)
        history, vector = self.table(ids), self.table(item)
        spread = vector.unsqueeze(1).expand(-1, ids.shape[1], -1)
        score = self.score(torch.cat([history, spread], -1)).squeeze(-1)
        weight = torch.softmax(score.masked_fill(mask == 0, -1e9), dim=-1)
        interest = (weight.unsqueeze(-1) * history).sum(dim=-2)
        both = self.norm(torch.cat([interest, vector, price], dim=1))
        result: Tensor = self.out(both) + both.mean(-1, keepdim=True) + interest.amax(-1)[:, None]
        return result


class TwoVectors(nn.Module):
    """A layer over one vector of the query and one of the candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(40, 4), nn.Linear(13, 1)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        both = torch.cat([features["q"], self.table(features["item"])], 1)
        return torch.relu(self.out(both))


@pytest.fixture(scope="module")
def schema() -> Schema:
    return Schema(
        features=(
            Sequence(name="seen", table="items", scope=Scope.QUERY, max_length=5),
            Sparse(name="item", table="items", scope=Scope.CANDIDATE),
            Dense(name="price", scope=Scope.CANDIDATE, width=1),
        ),
        tables=(Table(name="items", rows=40, dim=4),),
        tasks=(Task(), Task(name="buy"), Task(name="stay")),
    )


@pytest.fixture(scope="module")
def lowered(schema: Schema) -> Lowered:
    return lower(partition(capture(Attention(schema), schema)))


def test_attention_with_norms_and_reductions_equals_its_model_for_any_row_count(
    schema: Schema, compare: Compare
) -> None:
    found = compare(Attention(schema), schema)
    assert list(found.tables) == ["items"]
    assert found.tables["items"].shape == (40, 4)


def test_graphs_say_nothing_of_where_they_were_made(lowered: Lowered) -> None:
    for tower in (lowered.query_tower, lowered.candidate_tower):
        assert tower is not None
        model = onnx.load_from_string(tower.onnx)
        del model.graph.initializer[:]
        assert "/" not in str(model)
        assert ".py" not in str(model)


def test_axes_carry_the_names_rows_and_queries(schema: Schema) -> None:
    # Attention takes one query at a time; where a vector crosses, queries may share a batch.
    features = (Dense(name="q", scope=Scope.QUERY, width=9), *schema.features[1:])
    plain = Schema(features=features, tables=schema.tables)
    lowered = lower(partition(capture(TwoVectors(), plain)))
    graph = onnx.load_from_string(lowered.candidate_tower.onnx).graph
    first = {v.name: v.type.tensor_type.shape.dim[0].dim_param for v in graph.input}
    assert first["row_to_query"] == first["embedded"] == "rows"
    assert first["hidden.0"] == "queries"
    assert graph.output[0].type.tensor_type.shape.dim[0].dim_param == "rows"


def test_lowering_prints_and_logs_nothing(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    price = Dense(name="price", scope=Scope.CANDIDATE, width=1)
    schema = Schema(features=(price,), tables=(), tasks=(Task(), Task(name="a"), Task(name="b")))
    model = nn.Sequential()
    model.forward = lambda f: f["price"].repeat(1, 3)  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        lower(partition(capture(model, schema)))
    assert capsys.readouterr().out == ""
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_every_linear_can_be_quantized_and_fused(
    lowered: Lowered, tmp_path: Path, schema: Schema
) -> None:
    source, target, fused = (tmp_path / f"{n}.onnx" for n in ("f32", "int8", "fused"))
    source.write_bytes(lowered.candidate_tower.onnx)
    logging.disable(logging.WARNING)
    quantize_dynamic(
        source,
        target,
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        extra_options={"MatMulConstBOnly": True},
    )
    logging.disable(logging.NOTSET)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(fused)
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(target, options, providers=["CPUExecutionProvider"])
    types = Counter(n.op_type for n in onnx.load(fused).graph.node)
    # The two maps of the head have nothing between them, so they are one.
    assert types["DynamicQuantizeMatMul"] + types["MatMulIntegerToFloat"] == 2
    assert not {"Gemm", "MatMulInteger"} & set(types)
    for rows in (1, 3):
        feeds = {}
        for value in session.get_inputs():
            shape = [d if isinstance(d, int) else rows for d in value.shape]
            kind = np.int64 if "int64" in value.type else np.float32
            feeds[value.name] = np.zeros(shape, kind)
        assert session.run(None, feeds)[0].shape == (rows, 3)
