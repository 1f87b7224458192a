"""Every zoo model, captured, shared out and lowered to ONNX, scores like the module itself."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from headway.core import (
    Columns,
    Dense,
    Query,
    Ragged,
    Schema,
    Scope,
    Sequence,
    concat_columns,
    model_inputs,
    pad_sequence,
)
from headway.graph import (
    Tower,
    TowerGraph,
    capture,
    example_columns,
    golden_queries,
    lower,
    partition,
)
from headway.models import ZOO, RankingModel, Scopes, Style, build_model, zoo

Array = NDArray[Any]
Run = Callable[[dict[str, Array]], list[Array]]
SIZES = (0, 1, 2, 17)
SHORT_HISTORY = 3
"""Each position is a dozen operations in DIEN; capturing 50 of them takes half a minute."""
MOST_ALIKE = 5
"""Features of one kind and scope; the 43 tables of MT-WnD are alike, and each takes time."""

IN_ONNX: list[tuple[str, Style, Scopes]] = [
    *((name, "paper", "default") for name in ("ncf", "mt-wnd", "rmc1", "din", "dcn-v2")),
    ("dien", "repo", "default"),
    ("dien", "repo", "all-candidate"),
]
IN_TORCH: list[tuple[str, Style, Scopes]] = [
    *((name, "repo", "default") for name in ("wnd", "rmc2", "rmc3")),
    *((name, "repo", "all-candidate") for name in ZOO if name != "dien"),
]


@pytest.mark.parametrize(("name", "style", "scopes"), IN_ONNX)
def test_a_lowered_zoo_model_equals_the_module(name: str, style: Style, scopes: Scopes) -> None:
    model, schema = tiny(name, style, scopes)
    lowered = lower(partition(capture(model, schema)))
    assert (lowered.query_tower is not None) == (scopes == "default")
    query = None if lowered.query_tower is None else onnx_run(lowered.query_tower)
    score = Scorer(lowered.query_tower, lowered.candidate_tower, schema, lowered.tables)
    check(score.with_runs(query, onnx_run(lowered.candidate_tower)), model, schema, 5e-5)


@pytest.mark.parametrize(("name", "style", "scopes"), IN_TORCH)
def test_towers_of_a_zoo_model_equal_the_module_in_float64(
    name: str, style: Style, scopes: Scopes
) -> None:
    model, schema = tiny(name, style, scopes)
    parts = partition(capture(model.double(), schema))
    assert (parts.query is not None) == (scopes == "default")
    tables = {name: table.numpy() for name, table in parts.tables.items()}
    score = Scorer(parts.query, parts.candidate, schema, tables)
    query = None if parts.query is None else torch_run(parts.query)
    check(score.with_runs(query, torch_run(parts.candidate)), model, schema, 1e-10)


def tiny(name: str, style: Style, scopes: Scopes) -> tuple[RankingModel, Schema]:
    """Return a zoo model of full dense layers over few tables and histories of a few rows."""
    entry = zoo(name, style, scopes=scopes, max_rows=30)
    schema = small(entry.schema)
    model = build_model(entry.settings, schema, seed=1).eval()
    with torch.no_grad():
        for table in model.tables.parameters():
            table.mul_(10)  # as far apart as training puts them
    return model, schema


def check(
    score: Callable[[Many[Query]], Array], model: RankingModel, schema: Schema, tolerance: float
) -> None:
    """Assert equality for each golden query alone and for all in one batch."""
    queries = golden_queries(schema, np.random.default_rng(0), SIZES)
    wanted = [eager(model, schema, query) for query in queries]
    limit = tolerance * np.concatenate(wanted).std(axis=0).min()
    for query, expected in zip(queries, wanted, strict=True):
        np.testing.assert_allclose(score([query]), expected, rtol=0, atol=limit)
    np.testing.assert_allclose(score(queries), np.concatenate(wanted), rtol=0, atol=limit)


def small(schema: Schema) -> Schema:
    """Return the schema with few features of each kind and with histories of a few positions."""
    kinds: dict[tuple[Scope, type], list[str]] = {}
    for feature in schema.features:
        kinds.setdefault((feature.scope, type(feature)), []).append(feature.name)
    # The last ones, for a history is attended to by the last item.
    kept = {name for names in kinds.values() for name in names[-MOST_ALIKE:]}
    features = tuple(
        msgspec.structs.replace(f, max_length=SHORT_HISTORY) if isinstance(f, Sequence) else f
        for f in schema.features
        if f.name in kept
    )
    used = {f.table for f in features if not isinstance(f, Dense)}
    tables = tuple(t for t in schema.tables if t.name in used)
    return msgspec.structs.replace(schema, features=features, tables=tables)


def eager(model: RankingModel, schema: Schema, query: Query) -> Array:
    """Return the module's own raw outputs, the context repeated for each candidate."""
    if not query.size:
        return np.zeros((0, len(schema.tasks)), np.float32)
    columns = example_columns(schema, np.random.default_rng(0), [query])
    dtype = next(model.parameters()).dtype
    features: dict[str, Any] = {}
    for name, value in model_inputs(columns, schema).items():
        arrays = value if isinstance(value, tuple) else (value,)
        found = [torch.from_numpy(a) for a in arrays]
        found = [t.to(dtype) if t.is_floating_point() else t for t in found]
        features[name] = tuple(found) if isinstance(value, tuple) else found[0]
    with torch.no_grad():
        return np.asarray(model(features).numpy())


@dataclass
class Scorer:
    """Runs two towers with plain lookups."""

    query: TowerGraph | Tower | None
    candidate: TowerGraph | Tower
    schema: Schema
    tables: dict[str, Array]

    def with_runs(self, query: Run | None, candidate: Run) -> Callable[[Many[Query]], Array]:
        """Return a function that gives the raw outputs of queries scored as one batch."""

        def score(queries: Many[Query]) -> Array:
            if not sum(q.size for q in queries):
                # Like the engine: ONNX Runtime 1.31 ends the process in a GRU over no rows.
                return np.zeros((0, len(self.schema.tasks)), np.float32)
            if self.candidate.per_query and len(queries) > 1:
                return np.concatenate([score([q]) for q in queries])
            feed: dict[str, Array] = {
                "row_to_query": np.repeat(np.arange(len(queries)), [q.size for q in queries])
            }
            if self.query is not None and query is not None:
                context = concat_columns([q.context for q in queries])
                outputs = query(self.inputs(self.query, context, {}))
                feed |= dict(zip(self.query.outputs, outputs, strict=True))
            columns = concat_columns([q.candidates for q in queries])
            return candidate(self.inputs(self.candidate, columns, feed))[0]

        return score

    def inputs(
        self, tower: TowerGraph | Tower, columns: Columns, known: dict[str, Array]
    ) -> dict[str, Array]:
        """Return what a tower takes, by name, in its order."""
        return {
            name: known[name] if name in known else self.input(tower, name, columns)
            for name in tower.inputs
        }

    def input(self, tower: TowerGraph | Tower, name: str, columns: Columns) -> Array:
        """Return one input: dense values, vectors side by side, or a padded history."""
        kind, _, feature = name.partition(".")
        if kind == "embedded":
            return np.concatenate([self.vectors(lk.feature, columns) for lk in tower.lookups], 1)
        column, declared = columns[feature], self.schema.feature(feature)
        if not isinstance(column, Ragged):
            return column
        assert isinstance(declared, Sequence)
        ids, mask = pad_sequence(column, declared.max_length)
        return mask if kind == "mask" else self.tables[declared.table][ids]

    def vectors(self, name: str, columns: Columns) -> Array:
        """Return one vector a row; bags are summed."""
        (feature,) = (f for f in self.schema.id_features() if f.name == name)
        table, column = self.tables[feature.table], columns[name]
        if not isinstance(column, Ragged):
            return table[column]
        ends = zip(column.offsets, column.offsets[1:], strict=False)
        return np.stack([table[column.values[start:stop]].sum(0) for start, stop in ends])


def onnx_run(tower: TowerGraph) -> Run:
    """Return a function that runs a tower in ONNX Runtime, on one core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tower.onnx, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)


def torch_run(tower: Tower) -> Run:
    """Return a function that runs a tower in torch, in float64."""

    def run(inputs: dict[str, Array]) -> list[Array]:
        tensors = (torch.from_numpy(a) for a in inputs.values())
        wide = [t.double() if t.is_floating_point() else t for t in tensors]
        with torch.no_grad():
            return [t.numpy() for t in tower.module(*wide)]

    return run
