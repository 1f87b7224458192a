"""The compiled runner: towers of any shape, shared between threads, refused when they misfit."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest
from onnx import helper
from tests.contracts import tiny_ranker
from tests.contracts.tiny_ranker import graph

from headway.bundle import Lookup
from headway.core import (
    BundleError,
    Dense,
    Hidden,
    Piece,
    Query,
    QueryError,
    Ragged,
    Schema,
    Scope,
    Sparse,
    Table,
    Task,
)
from headway.engine import CompiledModel, TableRecords, Tower, raw_outputs

Q, C = Scope.QUERY, Scope.CANDIDATE


@dataclass(frozen=True)
class Layout:
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = ("output",)
    lookups: tuple[Lookup, ...] = ()
    embedded_width: int = 0
    per_query: bool = False


def sum_of(layout: Layout, *names: str, shapes: dict[str, list[object]]) -> Tower:
    """A tower whose output is the sum of inputs that all are one wide."""
    nodes = [helper.make_node("Sum", list(names), [layout.outputs[0]])]
    return Tower(layout, graph(nodes, shapes, {layout.outputs[0]: ["rows", 1]}))


def test_model_without_query_tower_or_lookups_is_run() -> None:
    schema = Schema(
        features=(Dense(name="a", scope=C), Dense(name="b", scope=C)), tables=(), tasks=(Task(),)
    )
    shapes: dict[str, list[object]] = {"dense.a": ["rows", 1], "dense.b": ["rows", 1]}
    tower = sum_of(Layout(("dense.a", "dense.b")), "dense.a", "dense.b", shapes=shapes)
    runner = CompiledModel(schema, {}, None, tower).runner()
    a, b = (np.random.default_rng(i).standard_normal((9, 1), np.float32) for i in (0, 1))
    (found,) = raw_outputs(runner, [Query("", {}, {"a": a, "b": b}, 9)], 1)
    np.testing.assert_array_equal(found, a + b)


def test_dense_columns_that_are_strided_are_taken() -> None:
    schema = Schema(features=(Dense(name="a", scope=C),), tables=())
    tower = sum_of(Layout(("dense.a",)), "dense.a", shapes={"dense.a": ["rows", 1]})
    runner = CompiledModel(schema, {}, None, tower).runner()
    wide = np.random.default_rng(0).standard_normal((12, 4), np.float32)
    (found,) = raw_outputs(runner, [Query("", {}, {"a": wide[:, 2:3]}, 12)], 1)
    np.testing.assert_array_equal(found, wide[:, 2:3])


def test_query_tower_that_passes_its_input_on_keeps_each_query_apart() -> None:
    schema = Schema(
        features=(Sparse(name="user", table="t", scope=Q), Dense(name="a", scope=C)),
        tables=(Table(name="t", rows=5, dim=1),),
    )
    values = np.arange(5, dtype=np.float32)[:, None]
    lookups = (Lookup(feature="user", table="t", start=0, width=1),)
    same = Tower(
        Layout(("embedded",), ("hidden.0",), lookups, 1),
        graph(
            [helper.make_node("Identity", ["embedded"], ["hidden.0"])],
            {"embedded": ["rows", 1]},
            {"hidden.0": ["rows", 1]},
        ),
    )
    add = Tower(
        Layout(("dense.a", "hidden.0", "row_to_query")),
        graph(
            [
                helper.make_node("Gather", ["hidden.0", "row_to_query"], ["user"], axis=0),
                helper.make_node("Add", ["dense.a", "user"], ["output"]),
            ],
            {"dense.a": ["rows", 1], "hidden.0": ["queries", 1], "row_to_query": ["rows"]},
            {"output": ["rows", 1]},
        ),
    )
    runner = CompiledModel(schema, {"t": TableRecords.from_f32(values)}, same, add).runner()
    queries = [
        Query("", {"user": np.array([user])}, {"a": np.zeros((3, 1), np.float32)}, 3)
        for user in range(5)
    ]
    for user, found in enumerate(raw_outputs(runner, queries, 1)):
        np.testing.assert_array_equal(found, np.full((3, 1), user))


def test_threads_share_one_hidden_and_one_output_without_disturbing_each_other() -> None:
    model = tiny_ranker.compiled()
    query = tiny_ranker.draw(np.random.default_rng(8), 400)
    hidden: Hidden = model.runner().query(query.context)
    out = np.full((400, tiny_ranker.TASKS), np.nan, np.float32)
    gate = threading.Barrier(4)

    def work(number: int) -> None:
        runner = model.runner()
        gate.wait()
        for start in range(number * 10, 400, 40):
            runner.candidates([Piece(hidden, query.candidates, start, start + 10, out)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(out, tiny_ranker.expected(query), rtol=1e-4, atol=1e-5)


def test_ragged_column_for_a_dense_feature_is_refused() -> None:
    runner = tiny_ranker.make_compiled("")
    query = tiny_ranker.draw(np.random.default_rng(8), 2)
    columns = {**query.candidates, "price": Ragged.from_rows([[1], [2]])}
    with pytest.raises(QueryError, match="dense feature came as a ragged"):
        raw_outputs(runner, [Query("", query.context, columns, 2)], tiny_ranker.TASKS)


def test_tower_that_looks_up_the_other_scope_is_refused() -> None:
    with pytest.raises(BundleError, match="candidate tower cannot look up"):
        CompiledModel(
            tiny_ranker.SCHEMA, tiny_ranker.tables(), None, with_layout(lookup="user", width=8)
        )


def test_lookup_that_does_not_fit_its_place_is_refused() -> None:
    with pytest.raises(BundleError, match="does not fit dim 12"):
        CompiledModel(
            tiny_ranker.SCHEMA, tiny_ranker.tables(), None, with_layout(lookup="item", width=11)
        )


def with_layout(*, lookup: str, width: int) -> Tower:
    tower = tiny_ranker.candidate_tower()
    table = "users" if lookup == "user" else "items"
    lookups = (Lookup(feature=lookup, table=table, start=0, width=width),)
    return Tower(Layout(tower.layout.inputs, ("output",), lookups, 24), tower.content)


def test_output_of_the_wrong_width_is_refused() -> None:
    schema = Schema(
        features=(Dense(name="a", scope=C),), tables=(), tasks=(Task(name="x"), Task(name="y"))
    )
    tower = sum_of(Layout(("dense.a",)), "dense.a", shapes={"dense.a": ["rows", 1]})
    runner = CompiledModel(schema, {}, None, tower).runner()
    with pytest.raises(BundleError, match=r"\(4, 1\) for 4 rows"):
        raw_outputs(runner, [Query("", {}, {"a": np.zeros((4, 1), np.float32)}, 4)], 2)


def test_tower_for_one_query_at_a_time_never_sees_two() -> None:
    schema = Schema(
        features=(Dense(name="a", scope=Q), Dense(name="b", scope=C)), tables=(), tasks=(Task(),)
    )
    query = sum_of(Layout(("dense.a",), ("hidden.0",)), "dense.a", shapes={"dense.a": ["rows", 1]})
    candidate = sum_of(
        Layout(("hidden.0", "dense.b"), per_query=True),
        *("hidden.0", "dense.b"),
        shapes={"hidden.0": [1, 1], "dense.b": ["rows", 1]},
    )
    runner = CompiledModel(schema, {}, query, candidate).runner()
    rng = np.random.default_rng(0)
    queries = [
        Query("", {"a": rng.random((1, 1), np.float32)}, {"b": rng.random((n, 1), np.float32)}, n)
        for n in (3, 0, 5)
    ]
    for one, found in zip(queries, raw_outputs(runner, queries, 1), strict=True):
        wanted = np.asarray(one.context["a"]) + np.asarray(one.candidates["b"])
        np.testing.assert_array_equal(found, wanted)
