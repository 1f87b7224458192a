"""One contract for all that runs a dense tower: ONNX Runtime, OpenVINO, Headway's programs."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from headway.bundle import EngineName
from headway.compress.program import to_program
from headway.core import BundleError, MonotonicClock, Scope
from headway.engine import HAS_OPENVINO, Tower, dense, multiplies_bf16, try_dense
from headway.engine.dense import open_tower

ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino", "headway")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Layout:
    inputs = ("embedded", "hidden.0", "row_to_query")
    outputs = ("output",)
    lookups = ()
    embedded_width = 24
    per_query = False


def graph(seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Gather", ["hidden.0", "row_to_query"], ["mine"]),
        helper.make_node("Gemm", ["embedded", "w", "b"], ["g"]),
        helper.make_node("Add", ["g", "mine"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["output"]),
    ]
    constants = {
        "w": rng.standard_normal((24, 32), np.float32),
        "b": rng.standard_normal(32, np.float32),
        "v": rng.standard_normal((32, 2), np.float32),
    }
    made = helper.make_graph(
        nodes,
        "tower",
        [
            helper.make_tensor_value_info("embedded", TensorProto.FLOAT, ["rows", 24]),
            helper.make_tensor_value_info("hidden.0", TensorProto.FLOAT, ["queries", 32]),
            helper.make_tensor_value_info("row_to_query", TensorProto.INT64, ["rows"]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", 2])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(made, opset_imports=opset, ir_version=10).SerializeToString())


def tower(engine: EngineName, seed: int = 0, **more: Any) -> Tower:
    if engine == "openvino" and not HAS_OPENVINO:
        pytest.skip("OpenVINO is not installed; pip install 'headway[openvino]'")
    content = graph(seed)
    if engine == "headway":
        program = to_program(content)
        assert program is not None
        content = program.to_bytes()
    return Tower(Layout(), content, engine, **more)


def feed(rows: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {
        "embedded": rng.standard_normal((rows, 24), np.float32),
        "hidden.0": rng.standard_normal((3, 32), np.float32),
        "row_to_query": rng.integers(0, 3, rows),
    }


def wanted(fed: dict[str, NDArray[Any]], seed: int = 0) -> NDArray[Any]:
    w, b, v = map(numpy_helper.to_array, onnx.load_from_string(graph(seed)).graph.initializer)
    hidden = fed["embedded"] @ w + b + fed["hidden.0"][fed["row_to_query"]]
    return np.asarray(np.maximum(hidden, 0) @ v)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rows", [1, 2, 3, 17, 100])
def test_engine_gives_what_numpy_gives(engine: EngineName, rows: int) -> None:
    call = open_tower(Scope.CANDIDATE, tower(engine)).caller()
    (found,) = call(["output"], feed(rows))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted(feed(rows)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_result_stays_when_the_engine_runs_again(engine: EngineName) -> None:
    opened = open_tower(Scope.CANDIDATE, tower(engine))
    call, other = opened.caller(), opened.caller()
    (first,) = call(["output"], feed(5))
    call(["output"], feed(5, seed=1))
    other(["output"], feed(5, seed=2))
    np.testing.assert_allclose(first, wanted(feed(5)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_engine_leaves_the_cores_of_its_caller_alone(engine: EngineName) -> None:
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("one core only")
    call = open_tower(Scope.CANDIDATE, tower(engine)).caller()
    try:
        os.sched_setaffinity(0, {max(before)})
        call(["output"], feed(5))
        assert os.sched_getaffinity(0) == {max(before)}
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("few", ENGINES)
def test_few_rows_go_to_the_engine_for_few_rows(few: EngineName) -> None:
    both = tower("onnxruntime", few=tower(few, seed=1), few_rows=16)
    call = open_tower(Scope.CANDIDATE, both).caller()
    for rows, seed in ((16, 1), (17, 0)):
        (found,) = call(["output"], feed(rows))
        np.testing.assert_allclose(found, wanted(feed(rows), seed), rtol=1e-4, atol=1e-4)


def test_without_openvino_its_towers_run_in_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "HAS_OPENVINO", False)
    call = open_tower(Scope.CANDIDATE, Tower(Layout(), graph(), "openvino")).caller()
    np.testing.assert_allclose(call(["output"], feed(9))[0], wanted(feed(9)), rtol=1e-4, atol=1e-4)


def test_bfloat16_is_coarse_where_the_processor_has_it_and_exact_elsewhere() -> None:
    call = open_tower(Scope.CANDIDATE, tower("openvino", precision="bf16")).caller()
    (found,) = call(["output"], feed(300))
    error = np.abs(found - wanted(feed(300))).max() / found.std()
    assert 1e-4 < error < 0.2 if multiplies_bf16() else error < 1e-4


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_bytes_that_are_no_graph_are_refused(engine: EngineName) -> None:
    tower(engine)
    with pytest.raises(BundleError, match="cannot load the candidate tower"):
        open_tower(Scope.CANDIDATE, Tower(Layout(), b"nothing", engine))


def test_trials_tell_times_and_a_difference_for_every_engine() -> None:
    ways = [tower("onnxruntime"), tower("headway"), tower("onnxruntime", seed=1)]
    trials = try_dense(ways, Scope.CANDIDATE, (1, 16), MonotonicClock(), seconds=0.01)
    assert [set(trial.latency_us) for trial in trials] == [{1, 16}] * 3
    assert all(us > 0 for trial in trials for us in trial.latency_us.values())
    assert trials[0].error == 0
    assert trials[1].error < 1e-4 < trials[2].error
