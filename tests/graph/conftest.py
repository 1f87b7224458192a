"""A plain executor of lowered models, and the comparison with the eager model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from headway.core import (
    Bag,
    Columns,
    Pooling,
    Query,
    Ragged,
    Schema,
    Scope,
    concat_columns,
    model_inputs,
    pad_sequence,
    take_rows,
)
from headway.core import Sequence as SequenceFeature
from headway.graph import (
    ALL,
    Captured,
    Lowered,
    Partition,
    Rewrite,
    Tower,
    TowerGraph,
    capture,
    golden_queries,
    lower,
    partition,
)

Array = NDArray[Any]
GOLDEN_SIZES = (0, 1, 2, 3, 7, 16, 17, 64, 256)
Run = Callable[[Sequence[Array]], Sequence[Array]]
Compare = Callable[..., Lowered]


def tower_inputs(
    tower: Tower | TowerGraph,
    columns: Columns,
    tables: dict[str, Array],
    schema: Schema,
    extra: dict[str, Array],
) -> list[Array]:
    """Return what a tower takes, looked up the slow and plain way."""
    arrays: list[Array] = []
    for name in tower.inputs:
        kind, _, feature = name.partition(".")
        if name in extra:
            arrays.append(extra[name])
        elif name == "embedded":
            kinds = [look_up(schema, lk.feature, columns, tables[lk.table]) for lk in tower.lookups]
            arrays.append(np.concatenate(kinds, axis=1))
            assert arrays[-1].shape[1] == tower.embedded_width
            assert [lk.start for lk in tower.lookups] == [
                int(x) for x in np.cumsum([0] + [lk.width for lk in tower.lookups])[:-1]
            ]
        elif kind == "dense":
            column = columns[feature]
            assert not isinstance(column, Ragged)
            arrays.append(column)
        else:
            column, declared = columns[feature], schema.feature(feature)
            assert isinstance(column, Ragged)
            assert isinstance(declared, SequenceFeature)
            ids, mask = pad_sequence(column, declared.max_length)
            arrays.append(mask if kind == "mask" else tables[declared.table][ids])
    return arrays


def look_up(schema: Schema, name: str, columns: Columns, table: Array) -> Array:
    """Return one vector a row."""
    column, feature = columns[name], schema.feature(name)
    if not isinstance(column, Ragged):
        return table[column]
    assert isinstance(feature, Bag)
    out = np.zeros((len(column), table.shape[1]), table.dtype)
    for row in range(len(column)):
        vectors = table[column.values[column.offsets[row] : column.offsets[row + 1]]]
        if len(vectors):
            total = vectors.sum(0)
            out[row] = total / len(vectors) if feature.pooling is Pooling.MEAN else total
    return out


def run_towers(
    parts: Partition | Lowered,
    runs: tuple[Run | None, Run],
    schema: Schema,
    queries: Sequence[Query],
    dtype: type,
) -> Array:
    """Return raw outputs of all candidates of the queries, scored as one batch if that may be."""
    query, candidate = (
        (parts.query, parts.candidate)
        if isinstance(parts, Partition)
        else (parts.query_tower, parts.candidate_tower)
    )
    if candidate.per_query and len(queries) > 1:
        return np.concatenate([run_towers(parts, runs, schema, [q], dtype) for q in queries])
    tables = {
        n: np.asarray(t.numpy() if isinstance(t, torch.Tensor) else t)
        for n, t in parts.tables.items()
    }
    if isinstance(parts, Partition):
        tables |= {n: tables[n][places.numpy()] for n, places in parts.places.items()}
    else:
        tables |= {n: tables[n][f.records(np.arange(f.ids))] for n, f in parts.folds.items()}
    extra: dict[str, Array] = {
        "row_to_query": np.repeat(np.arange(len(queries)), [q.size for q in queries])
    }
    if query is not None and runs[0] is not None:
        context = concat_columns([q.context for q in queries])
        arrays = tower_inputs(query, context, tables, schema, {})
        extra |= dict(zip(query.outputs, runs[0](cast(arrays, dtype)), strict=True))
    columns = concat_columns([q.candidates for q in queries])
    arrays = tower_inputs(candidate, columns, tables, schema, extra)
    assert candidate.outputs == ("output",)
    return runs[1](cast(arrays, dtype))[0]


def cast(arrays: list[Array], dtype: type) -> list[Array]:
    """Return floating arrays in another type."""
    return [a.astype(dtype) if a.dtype.kind == "f" else a for a in arrays]


def onnx_run(tower: TowerGraph) -> Run:
    """Return a function that runs a tower in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tower.onnx, options, providers=["CPUExecutionProvider"])
    assert tuple(i.name for i in session.get_inputs()) == tower.inputs
    assert tuple(o.name for o in session.get_outputs()) == tower.outputs
    return lambda arrays: session.run(None, dict(zip(tower.inputs, arrays, strict=True)))


def torch_run(tower: Tower) -> Run:
    """Return a function that runs a tower in torch."""

    def run(arrays: Sequence[Array]) -> Sequence[Array]:
        with torch.no_grad():
            return [t.numpy() for t in tower.module(*map(torch.from_numpy, arrays))]

    return run


def eager(model: nn.Module, schema: Schema, query: Query) -> Array:
    """Return the model's own raw outputs, its context repeated for each candidate."""
    if not query.size:
        return np.zeros((0, len(schema.tasks)), np.float32)
    # Some libraries squeeze away the axis of rows if there is one; rows do not see each other.
    rows = np.zeros(2, np.int64) if query.size == 1 else np.arange(query.size)
    context = take_rows(query.context, np.zeros(len(rows), np.int64))
    candidates = take_rows(query.candidates, rows)
    features: dict[str, Any] = {}
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    for name, value in model_inputs({**context, **candidates}, schema).items():
        tensors = [torch.from_numpy(v) for v in (value if isinstance(value, tuple) else (value,))]
        tensors = [t.to(dtype) if t.is_floating_point() else t for t in tensors]
        features[name] = tuple(tensors) if isinstance(value, tuple) else tensors[0]
    with torch.no_grad():
        return np.asarray(model.eval()(features).numpy())[: query.size]


def batches(queries: list[Query]) -> list[list[Query]]:
    """Return each query alone, and all together in one candidate batch."""
    return [*([q] for q in queries), queries]


def check_double(model: nn.Module, schema: Schema, queries: list[Query]) -> Partition:
    """Assert that the partition in float64 gives what the model gives to 1e-10."""
    parts = partition(capture(model.double(), schema))
    runs = (torch_run(parts.query) if parts.query else None, torch_run(parts.candidate))
    wanted = [eager(model, schema, q) for q in queries if q.size]
    scale = np.concatenate(wanted).std() + 1e-12
    used = [q for q in queries if q.size]
    got = run_towers(parts, runs, schema, used, np.float64)
    np.testing.assert_allclose(got, np.concatenate(wanted), rtol=0, atol=1e-10 * scale)
    model.float()
    return parts


def assert_lowers(
    model: nn.Module,
    captured: Captured,
    rewrites: frozenset[Rewrite] = ALL,
    sizes: Sequence[int] = (1, 2, 7),
) -> Lowered:
    """Assert that a model's towers in ONNX Runtime give what the model gives to float32."""
    schema = captured.schema
    queries = golden_queries(schema, np.random.default_rng(7), sizes)
    lowered = lower(partition(captured, rewrites))
    tower = lowered.query_tower
    runs = (onnx_run(tower) if tower else None, onnx_run(lowered.candidate_tower))
    wanted = [eager(model, schema, q) for q in queries]
    scale = np.concatenate(wanted).std() + 1e-12
    for batch in batches(queries):
        got = run_towers(lowered, runs, schema, batch, np.float32)
        expected = np.concatenate([wanted[queries.index(q)] for q in batch])
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=5e-5 * scale)
    return lowered


@pytest.fixture
def compare() -> Compare:
    """Return a check that a lowered model equals its eager model on golden queries."""

    def check(
        model: nn.Module,
        schema: Schema,
        *,
        double: bool = True,
        sizes: Sequence[int] = GOLDEN_SIZES,
    ) -> Lowered:
        if double:
            check_double(model, schema, golden_queries(schema, np.random.default_rng(7), sizes))
        return assert_lowers(model, capture(model, schema), sizes=sizes)

    return check


@pytest.fixture
def compare_double() -> Callable[..., Partition]:
    """Return the check in float64 alone, which needs no ONNX."""

    def check(model: nn.Module, schema: Schema, sizes: tuple[int, ...] = (1, 3)) -> Partition:
        queries = golden_queries(schema, np.random.default_rng(3), sizes)
        return check_double(model, schema, queries)

    return check


@pytest.fixture
def rich_schema() -> Schema:
    """Return a schema with every kind of feature in both scopes and a shared table."""
    from headway.core import Dense, Sparse, Table, Task

    query, candidate = Scope.QUERY, Scope.CANDIDATE
    return Schema(
        features=(
            Dense(name="age", scope=query, width=3),
            Sparse(name="user", table="users", scope=query),
            Bag(name="liked", table="items", scope=query, max_length=20, pooling=Pooling.MEAN),
            SequenceFeature(name="seen", table="items", scope=query, max_length=6),
            Dense(name="price", scope=candidate, width=2),
            Sparse(name="item", table="items", scope=candidate),
            Bag(name="genres", table="genres", scope=candidate, max_length=4),
        ),
        tables=(
            Table(name="users", rows=50, dim=8),
            Table(name="items", rows=90, dim=8),
            Table(name="genres", rows=7, dim=8),
        ),
        tasks=(Task(), Task(name="buy")),
    )
