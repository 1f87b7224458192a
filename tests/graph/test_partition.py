from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from headway.core import (
    Bag,
    CaptureError,
    Dense,
    Feature,
    Pooling,
    Schema,
    Scope,
    Sequence,
    Sparse,
    Table,
    Task,
)
from headway.graph import Partition, capture, partition

Check = Callable[..., Partition]
Features = dict[str, Any]
QUERY, CANDIDATE = Scope.QUERY, Scope.CANDIDATE


def small_schema(*features: Feature, tasks: int = 1, dim: int = 4) -> Schema:
    """Return a schema over one table "ids" of 9 rows, where a feature uses it."""
    uses = any(not isinstance(f, Dense) for f in features)
    return Schema(
        features=features,
        tables=(Table(name="ids", rows=9, dim=dim),) if uses else (),
        tasks=tuple(Task(name=f"task{i}") for i in range(tasks)),
    )


U = Sparse(name="u", table="ids", scope=QUERY)
I = Sparse(name="i", table="ids", scope=CANDIDATE)  # noqa: E741
X = Dense(name="x", scope=QUERY, width=3)
Y = Dense(name="y", scope=CANDIDATE, width=2)


class Model(nn.Module):
    """A table, some layers and a forward given as a function."""

    def __init__(self, body: Callable[[Any, Features], Any], dim: int = 4, **layers: nn.Module):
        super().__init__()
        torch.manual_seed(5)
        self.ids = nn.Embedding(9, dim)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.body = body

    def forward(self, features: Features) -> Any:
        return self.body(self, features)


def randomise(module: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                draw = torch.rand(tensor.shape, generator=generator) * 0.9 + 0.1
                tensor.copy_(draw if "var" in name else draw - 0.5)
    return module


def note(parts: Partition, word: str) -> bool:
    return any(n.startswith(word) for n in parts.notes)


def test_linear_over_mixed_columns_runs_its_query_part_once_per_query(
    compare_double: Check,
) -> None:
    def body(m: Any, f: Features) -> Any:
        nested = torch.cat([f["x"], m.ids(f["i"])], 1)
        return m.l(torch.cat([m.ids(f["u"]), f["y"], nested], dim=-1))

    model = randomise(Model(body, l=nn.Linear(13, 1)))
    parts = compare_double(model, small_schema(U, I, X, Y))
    assert parts.query is not None
    assert parts.query.inputs == ("dense.x", "embedded")
    assert parts.candidate.inputs == ("dense.y", "row_to_query", "hidden.0", "embedded")
    assert parts.notes[0].startswith("hoisted: 7 of 13 columns of the linear at ")
    assert "module 'l'" in parts.notes[0]


def test_flattened_stacks_are_seen_as_concatenations(compare_double: Check) -> None:
    def body(m: Any, f: Features) -> Any:
        fields = [m.ids(f["u"].unsqueeze(1)), m.ids(f["i"]).unsqueeze(1)]
        together = torch.cat(fields, dim=1).view(f["x"].shape[0], -1)
        return m.l(torch.cat([together, f["x"], f["y"]], dim=1))

    parts = compare_double(randomise(Model(body, l=nn.Linear(13, 1))), small_schema(U, I, X, Y))
    assert parts.notes[0].startswith("hoisted: 7 of 13")
    assert not note(parts, "stopped")


def test_batch_norm_and_relu_of_mixed_columns_stay_split(compare_double: Check) -> None:
    def body(m: Any, f: Features) -> Any:
        return m.l(torch.relu(m.n(torch.cat([f["x"], f["y"]], 1)) * 2.0))

    model = randomise(Model(body, n=nn.BatchNorm1d(5), l=nn.Linear(5, 1)))
    parts = compare_double(model, small_schema(X, Y))
    assert parts.notes[0].startswith("hoisted: 3 of 5")


def test_batch_norm_after_a_linear_vanishes_into_it(compare_double: Check) -> None:
    model = randomise(
        Model(
            lambda m, f: m.o(torch.relu(m.n(m.l(f["y"])))),
            l=nn.Linear(2, 4),
            n=nn.BatchNorm1d(4),
            o=nn.Linear(4, 1),
        )
    )
    parts = compare_double(model, small_schema(X, Y))
    names = [str(n.target) for n in parts.candidate.module.graph.nodes if n.op == "call_function"]
    assert names == ["aten.linear.default", "aten.relu.default", "aten.linear.default"]


def test_a_model_without_query_level_features_has_no_query_tower(compare_double: Check) -> None:
    parts = compare_double(
        randomise(Model(lambda m, f: m.l(m.ids(f["i"])), l=nn.Linear(4, 1))), small_schema(I)
    )
    assert parts.query is None
    assert parts.candidate.inputs == ("embedded",)


def test_a_model_of_dense_features_alone_has_no_lookups(compare_double: Check) -> None:
    def body(m: Any, f: Features) -> Any:
        return m.l(torch.cat([f["x"], f["y"]], 1))

    parts = compare_double(randomise(Model(body, l=nn.Linear(5, 2))), small_schema(X, Y, tasks=2))
    assert parts.tables == {}
    assert parts.candidate.lookups == ()


def test_scores_that_no_candidate_feature_reaches_are_refused() -> None:
    model = Model(lambda m, f: m.l(f["x"]), l=nn.Linear(3, 1))
    with pytest.raises(CaptureError, match="all candidates of a query would score the same"):
        partition(capture(model, small_schema(X, Y)))


def test_a_query_value_is_gathered_as_late_as_possible(compare_double: Check) -> None:
    def body(m: Any, f: Features) -> Any:
        user = torch.tanh(m.q(torch.cat([m.ids(f["u"]), f["x"]], 1)))
        return (user * m.ids(f["i"])).sum(-1, keepdim=True)

    parts = compare_double(randomise(Model(body, q=nn.Linear(7, 4))), small_schema(U, X, I))
    names = [str(n.target) for n in parts.candidate.module.graph.nodes if n.op == "call_function"]
    assert names == ["aten.index_select.default", "aten.mul.Tensor", "aten.sum.dim_IntList"]
    assert note(parts, "stopped: aten.sum.dim_IntList joins query and candidates at ")


def test_flattened_query_rows_are_gathered_before_they_lose_their_rows(
    compare_double: Check,
) -> None:
    def body(m: Any, f: Features) -> Any:
        history = m.ids(f["s"][0]) * f["s"][1].unsqueeze(-1)
        item = m.ids(f["i"]).unsqueeze(1).expand(-1, 5, -1)
        score = (history.reshape(-1, 4) * item.reshape(-1, 4)).sum(1)
        return score.view(-1, 5).sum(1, keepdim=True)

    sequence = Sequence(name="s", table="ids", scope=QUERY, max_length=5)
    parts = compare_double(randomise(Model(body)), small_schema(sequence, I))
    assert parts.query is not None


def test_what_crosses_to_the_candidates_is_always_float(compare_double: Check) -> None:
    def body(m: Any, f: Features) -> Any:
        empty = f["s"][1] == 0
        scores = (m.ids(f["s"][0]) * m.ids(f["i"]).unsqueeze(1)).sum(-1)
        return scores.masked_fill(empty, 0.0).sum(1, keepdim=True)

    sequence = Sequence(name="s", table="ids", scope=QUERY, max_length=5)
    parts = compare_double(randomise(Model(body)), small_schema(sequence, I))
    assert parts.query is not None
    for node in parts.candidate.module.graph.find_nodes(op="placeholder"):
        value = node.meta["val"]
        assert value.is_floating_point() == (value.dim() > 1)


def test_sizes_and_fresh_tensors_follow_the_rows_of_their_tower(compare_double: Check) -> None:
    def body(m: Any, f: Features) -> Any:
        rows = f["x"].shape[0]
        bias = m.b.expand(rows, 2)
        ones = torch.ones(f["y"].size(0), 1, dtype=f["y"].dtype)
        query = m.q(torch.cat([f["x"], bias], 1)) + f["x"].new_zeros(rows, 4)
        return m.l(torch.cat([query, ones, f["y"], bias], 1))

    model = randomise(Model(body, q=nn.Linear(5, 4), l=nn.Linear(9, 1)))
    model.b = nn.Parameter(torch.tensor([0.3, -0.2]))
    compare_double(model, small_schema(X, Y))


def test_slots_lie_in_the_order_in_which_the_graph_joins_them() -> None:
    features = [Sparse(name=f"f{i}", table="ids", scope=CANDIDATE) for i in range(4)]

    def body(m: Any, f: Features) -> Any:
        first = m.a(torch.cat([m.ids(f["f3"]), m.ids(f["f1"])], 1))
        order = ("f2", "f0", "f3")
        return first + m.l(torch.cat([m.ids(f[n]) for n in order] + [f["y"]], 1))

    model = Model(body, a=nn.Linear(8, 1), l=nn.Linear(14, 1))
    parts = partition(capture(model, small_schema(*features, Y)))
    assert [lookup.feature for lookup in parts.candidate.lookups] == ["f2", "f0", "f3", "f1"]
    slices = parts.candidate.module.graph.find_nodes(
        op="call_function", target=torch.ops.aten.slice.Tensor
    )
    assert sorted(n.args[2:] for n in slices) == [(0, 12), (8, 16)]


def test_an_embedding_over_constant_positions_is_a_constant(compare_double: Check) -> None:
    def body(m: Any, f: Features) -> Any:
        history = m.ids(f["s"][0]) + m.p(torch.arange(5))
        pooled = (history * f["s"][1].unsqueeze(-1)).sum(1)
        return m.l(torch.cat([pooled, m.ids(f["i"])], 1))

    sequence = Sequence(name="s", table="ids", scope=QUERY, max_length=5)
    model = randomise(Model(body, p=nn.Embedding(5, 4), l=nn.Linear(8, 1)))
    assert list(compare_double(model, small_schema(sequence, I)).tables) == ["ids"]


def test_recurrent_query_layers_run_once_per_query(compare_double: Check) -> None:
    def body(m: Any, f: Features) -> Any:
        states, _ = m.g(m.ids(f["s"][0]))
        return m.l(torch.cat([states[:, -1], m.ids(f["i"])], 1))

    sequence = Sequence(name="s", table="ids", scope=QUERY, max_length=5)
    model = randomise(Model(body, g=nn.GRU(4, 3, batch_first=True), l=nn.Linear(7, 1)))
    parts = compare_double(model, small_schema(sequence, I))
    assert parts.notes[0].startswith("hoisted: 3 of 7")


@st.composite
def random_cases(draw: st.DrawFn) -> tuple[Schema, int, int, tuple[str, ...]]:
    scopes = st.sampled_from([QUERY, CANDIDATE])
    features: list[Feature] = [I]
    for i in range(draw(st.integers(1, 5))):
        kind, scope = draw(st.integers(0, 3)), draw(scopes)
        if kind == 0:
            features.append(Dense(name=f"f{i}", scope=scope, width=draw(st.integers(1, 4))))
        elif kind == 1:
            table = draw(st.sampled_from(["ids", "more"]))
            features.append(Sparse(name=f"f{i}", table=table, scope=scope))
        elif kind == 2:
            pooling = draw(st.sampled_from(list(Pooling)))
            features.append(
                Bag(name=f"f{i}", table="ids", scope=scope, max_length=3, pooling=pooling)
            )
        else:
            features.append(Sequence(name=f"f{i}", table="more", scope=scope, max_length=3))
    order = draw(st.permutations(features))
    used = {f.table for f in features if not isinstance(f, Dense)}
    known = (Table(name="ids", rows=9, dim=4), Table(name="more", rows=5, dim=4))
    tables = tuple(t for t in known if t.name in used)
    tasks = tuple(Task(name=f"t{i}") for i in range(draw(st.integers(1, 2))))
    steps = draw(st.lists(st.sampled_from(["relu", "norm", "linear", "cross", "self"]), max_size=3))
    schema = Schema(features=tuple(order), tables=tables, tasks=tasks)
    return schema, draw(st.integers(0, 99)), draw(st.integers(0, 2)), tuple(steps)


class RandomModel(nn.Module):
    """Joins all vectors in one of three ways and sends them through some steps."""

    def __init__(self, schema: Schema, join: int, steps: tuple[str, ...]) -> None:
        super().__init__()
        self.schema, self.join, self.steps = schema, join, steps
        self.tables = nn.ModuleDict({t.name: nn.Embedding(t.rows, t.dim) for t in schema.tables})
        width = sum(f.width if isinstance(f, Dense) else 4 for f in schema.features)
        layers: list[nn.Module] = []
        for step in steps:
            after = 6 if step == "linear" else width
            layer: nn.Module = nn.BatchNorm1d(width) if step == "norm" else nn.Linear(width, after)
            layers.append(layer)
            width = after
        self.layers = nn.ModuleList(layers)
        self.out = nn.Linear(width, len(schema.tasks))

    def vector(self, feature: Feature, value: Any) -> Tensor:
        if isinstance(feature, Dense):
            return value  # type: ignore[no-any-return]
        weight = self.tables[feature.table].weight
        assert isinstance(weight, Tensor)
        if isinstance(feature, Bag):
            mode = feature.pooling.value
            return F.embedding_bag(value[0], weight, value[1], mode=mode, include_last_offset=True)
        if isinstance(feature, Sequence):
            weighted: Tensor = F.embedding(value[0], weight) * value[1].unsqueeze(-1)
            return weighted.sum(1)
        return F.embedding(value, weight)

    def forward(self, features: Features) -> Tensor:
        parts = [self.vector(f, features[f.name]) for f in self.schema.features]
        half = len(parts) // 2
        if self.join == 1:
            parts = [torch.cat(parts[:half], 1), *parts[half:]] if half else parts
        elif self.join == 2:
            same = [p for p in parts if p.shape[1] == 4]
            rest = [p for p in parts if p.shape[1] != 4]
            parts = [torch.stack(same, 1).flatten(1), *rest]
        x = torch.cat(parts, 1)
        result: Tensor = self.out(self.run_steps(x))
        return result

    def run_steps(self, x: Tensor) -> Any:
        start = x
        for step, layer in zip(self.steps, self.layers, strict=True):
            if step == "relu":
                x = F.dropout(torch.relu_(x + 0.1), 0.5, self.training)
            elif step == "cross":
                x = start * layer(x) + x if start.shape == x.shape else x
            elif step == "self":
                x = x + layer(x).sigmoid()
            else:
                x = layer(x)
        return x


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=random_cases())
def test_any_partition_gives_what_its_model_gives(
    case: tuple[Schema, int, int, tuple[str, ...]], compare_double: Check
) -> None:
    schema, seed, join, steps = case
    torch.manual_seed(seed)
    parts = compare_double(randomise(RandomModel(schema, join, steps), seed), schema)
    assert (parts.query is None) == (not schema.of_scope(QUERY))


def test_capture_leaves_the_model_as_it_was() -> None:
    layer = nn.Linear(2, 1)
    model = Model(lambda m, f: m.l(f["y"]), l=layer).train()
    layer.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    capture(model, small_schema(X, Y))
    assert model.training
    assert not layer.training
    assert all(np.array_equal(before[k], v) for k, v in model.state_dict().items())
