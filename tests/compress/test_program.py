"""ONNX towers of the zoo as programs: equal to ONNX Runtime, or left to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from headway.bundle import Product
from headway.compress.program import quantize_program, to_program
from headway.compress.quantize import activations, fit_range, quantize_dense, with_outputs
from headway.engine.program import ProgramEngine
from headway.graph import capture, lower, partition
from headway.models import build_model, zoo

COVERED = (
    ("ncf", "paper"),
    ("wnd", "paper"),
    ("mt-wnd", "paper"),
    ("rmc1", "repo"),
    ("dcn-v2", "paper"),
)


def feed_for(graph: bytes, rows: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(rows)
    feed: dict[str, NDArray[Any]] = {}
    for value in onnx.load_from_string(graph).graph.input:
        if value.name == "row_to_query":
            feed[value.name] = np.sort(rng.integers(0, 2, rows))
            continue
        first, *dims = value.type.tensor_type.shape.dim
        queries = first.dim_value or 2
        count = queries if value.name.startswith("hidden.") else rows
        shape = (count, *(dim.dim_value for dim in dims))
        feed[value.name] = rng.standard_normal(shape, np.float32)
    return feed


def by_onnx(graph: bytes, feed: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(None, feed)
    return found


@pytest.mark.parametrize(("name", "style"), COVERED)
def test_candidate_towers_of_the_zoo_run_as_programs(name: Any, style: Any) -> None:
    made = zoo(name, style=style, max_rows=50)
    model = build_model(made.settings, made.schema)
    graph = lower(partition(capture(model, made.schema))).candidate_tower.onnx
    program = to_program(graph)
    assert program is not None
    feed = feed_for(graph, 33)
    (found,) = ProgramEngine(program).caller()(["output"], feed)
    (wanted,) = by_onnx(graph, feed)
    np.testing.assert_allclose(found, wanted, atol=2e-5 * wanted.std(), rtol=2e-5)


def model_of(
    nodes: list[onnx.NodeProto], width: int, constants: Mapping[str, NDArray[Any]], out: int
) -> bytes:
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tower",
        [
            helper.make_tensor_value_info("embedded", floats, ["rows", width]),
            helper.make_tensor_value_info("hidden.0", floats, ["queries", out]),
            helper.make_tensor_value_info("row_to_query", TensorProto.INT64, ["rows"]),
        ],
        [helper.make_tensor_value_info("output", floats, ["rows", out])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString())


@pytest.mark.parametrize("style", ["paper", "repo"])
@pytest.mark.parametrize("name", ["din", "dien"])
def test_attention_of_candidates_with_histories_of_their_own_runs_as_a_program(
    name: Any, style: Any
) -> None:
    made = zoo(name, style=style, scopes="all-candidate", max_rows=50)
    lowered = lower(partition(capture(build_model(made.settings, made.schema), made.schema)))
    graph = lowered.candidate_tower.onnx
    program = to_program(graph)
    assert program is not None
    for rows in (1, 29):
        feed = feed_for(graph, rows)
        (found,) = ProgramEngine(program).caller()(["output"], feed)
        (wanted,) = by_onnx(graph, feed)
        np.testing.assert_allclose(found, wanted, atol=3e-5 * wanted.std() + 1e-5, rtol=3e-5)
    ranges = {name: fit_range(np.array([-1, 1], np.float32)) for name in activations(graph)}
    narrow = ProgramEngine(quantize_program(program, ranges))
    assert narrow.caller()(["output"], feed_for(graph, 3))[0].shape == (3, 1)


def gather() -> onnx.NodeProto:
    return helper.make_node("Gather", ["hidden.0", "row_to_query"], ["mine"], axis=0)


def test_what_follows_a_product_goes_into_its_step() -> None:
    rng = np.random.default_rng(0)
    constants: dict[str, NDArray[Any]] = {
        "w": rng.random((20, 30), np.float32),
        "b": rng.random(30, np.float32),
    }
    nodes = [
        gather(),
        helper.make_node("MatMul", ["embedded", "w"], ["p"]),
        helper.make_node("Add", ["b", "p"], ["q"]),
        helper.make_node("Sub", ["mine", "q"], ["r"]),
        helper.make_node("Relu", ["r"], ["output"]),
    ]
    graph = model_of(nodes, 20, constants, 30)
    program = to_program(graph)
    assert program is not None
    (step,) = program.steps.steps
    assert isinstance(step, Product)
    assert (step.combine, step.activation) == ("subtract-from", "relu")
    feed = feed_for(graph, 9)
    found = ProgramEngine(program).caller()(["output"], feed)
    np.testing.assert_allclose(found, by_onnx(graph, feed), rtol=1e-5)


def test_value_that_others_read_too_is_kept() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["embedded", "w"], ["p"]),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("Mul", ["p", "r"], ["output"]),
    ]
    graph = model_of(nodes, 20, {"w": rng.standard_normal((20, 30), np.float32)}, 30)
    program = to_program(graph)
    assert program is not None
    feed = feed_for(graph, 9)
    found = ProgramEngine(program).caller()(["output"], feed)
    np.testing.assert_allclose(found, by_onnx(graph, feed), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Erf", ["embedded"], ["output"]),
        helper.make_node("Softmax", ["embedded"], ["output"], axis=0),
        helper.make_node("Mul", ["embedded", "many"], ["output"]),
        helper.make_node("Add", ["embedded", "hidden.0"], ["output"]),
    ],
)
def test_tower_with_another_operation_stays_with_onnx(node: onnx.NodeProto) -> None:
    constants = {"many": np.arange(20, dtype=np.float32)}
    assert to_program(model_of([node], 20, constants, 20)) is None


def test_pieces_with_slopes_of_their_own_stay_with_onnx() -> None:
    nodes = [
        helper.make_node("Reshape", ["embedded", "pieces"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Reshape", ["b", "flat"], ["c"]),
        helper.make_node("PRelu", ["c", "slopes"], ["output"]),
    ]
    constants = {
        "pieces": np.array([-1, 4, 5]),
        "flat": np.array([-1, 12]),
        "w": np.ones((5, 3), np.float32),
        "slopes": np.arange(12, dtype=np.float32),
    }
    assert to_program(model_of(nodes, 20, constants, 12)) is None
    constants["slopes"] = np.tile(np.arange(3, dtype=np.float32), 4)
    graph = model_of(nodes, 20, constants, 12)
    program = to_program(graph)
    assert program is not None
    feed = feed_for(graph, 9)
    (found,) = ProgramEngine(program).caller()(["output"], feed)
    np.testing.assert_allclose(found, by_onnx(graph, feed)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["Mul", "Add", "Sub"])
@pytest.mark.parametrize("turned", [False, True])
def test_one_column_is_spread_over_all(kind: str, *, turned: bool) -> None:
    sides = ["column", "soft"] if turned else ["soft", "column"]
    nodes = [
        helper.make_node("Softmax", ["embedded"], ["soft"]),
        helper.make_node("Slice", ["embedded", "zero", "one", "one"], ["column"]),
        helper.make_node(kind, sides, ["output"]),
    ]
    constants = {"zero": np.zeros(1, np.int64), "one": np.ones(1, np.int64)}
    graph = model_of(nodes, 20, constants, 20)
    program = to_program(graph)
    assert program is not None
    feed = feed_for(graph, 9)
    (found,) = ProgramEngine(program).caller()(["output"], feed)
    np.testing.assert_allclose(found, by_onnx(graph, feed)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("style", ["paper", "repo"])
@pytest.mark.parametrize("name", ["din", "dien"])
def test_attention_runs_as_a_program(name: Any, style: Any) -> None:
    made = zoo(name, style=style, max_rows=50)
    lowered = lower(partition(capture(build_model(made.settings, made.schema), made.schema)))
    assert lowered.query_tower is not None
    for tower, rows in ((lowered.query_tower, 1), (lowered.candidate_tower, 33)):
        program = to_program(tower.onnx)
        assert program is not None
        feed = feed_for(tower.onnx, rows)
        engine = ProgramEngine(program)
        outputs = list(tower.outputs)
        found = engine.caller()(outputs, feed)
        session = ort.InferenceSession(tower.onnx, providers=["CPUExecutionProvider"])
        for array, wanted in zip(found, session.run(outputs, feed), strict=True):
            assert array.shape == wanted.shape
            np.testing.assert_allclose(array, wanted, atol=3e-5 * wanted.std(), rtol=3e-5)


def test_products_in_two_codes_are_nearly_exact() -> None:
    rng = np.random.default_rng(0)
    constants: dict[str, NDArray[Any]] = {"w": rng.standard_normal((40, 64), np.float32)}
    nodes = [
        helper.make_node("MatMul", ["embedded", "w"], ["p"]),
        gather(),
        helper.make_node("Add", ["p", "mine"], ["a"]),
        helper.make_node("Relu", ["a"], ["output"]),
    ]
    graph = model_of(nodes, 40, constants, 64)
    feed = feed_for(graph, 300)
    feed["embedded"][0] *= 3  # more than 8 bits would cover
    program = to_program(graph)
    assert program is not None
    ranges = {"embedded": fit_range(feed["embedded"])}
    (wanted,) = by_onnx(graph, feed)
    errors = {}
    for name, found in (
        ("once", quantize_program(program, ranges)),
        ("twice", quantize_program(program, {}, ranges)),
    ):
        (output,) = ProgramEngine(found).caller()(["output"], feed)
        errors[name] = np.sqrt(np.square(output - wanted).mean()) / wanted.std()
    assert errors["twice"] < 0.008  # that of the weights
    assert errors["once"] > 0.012


def test_narrow_program_rounds_as_the_narrow_graph_does() -> None:
    rng = np.random.default_rng(0)
    constants: dict[str, NDArray[Any]] = {
        "w": rng.standard_normal((40, 64), np.float32),
        "v": rng.standard_normal((64, 17), np.float32) / 8,
        "b": rng.standard_normal(17, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["embedded", "w"], ["p"]),
        helper.make_node("Relu", ["p"], ["r"]),
        gather(),
        helper.make_node("Gemm", ["r", "v", "b"], ["g"]),
        helper.make_node("Add", ["g", "mine"], ["output"]),
    ]
    graph = model_of(nodes, 40, constants, 17)
    feed = feed_for(graph, 200)
    names = activations(graph)
    seen = by_onnx(with_outputs(graph, names), feed)[-len(names) :]
    ranges = {n: fit_range(v) for n, v in zip(names, (feed["embedded"], seen[-1]), strict=True)}
    program = to_program(graph)
    assert program is not None
    narrow = quantize_program(program, ranges)
    assert all(s.codes for s in narrow.steps.steps if isinstance(s, Product))
    (found,) = ProgramEngine(narrow).caller()(["output"], feed)
    (wanted,) = by_onnx(quantize_dense(graph, ranges), feed)
    # Sums on the edge of a code may fall on either side of it.
    assert np.abs(found - wanted).max() < 0.05 * wanted.std()
    assert np.sqrt(np.square(found - wanted).mean()) < 0.005 * wanted.std()
