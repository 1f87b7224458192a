"""int8 products: right, bounded, and blind to batch mates."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from headway.compress.quantize import (
    Range,
    activations,
    fit_range,
    quantize_dense,
    quantize_dense_dynamic,
    with_outputs,
)
from headway.core import UsageError

Array = NDArray[np.float32]


def graph(nodes: list[onnx.NodeProto], constants: dict[str, Array], width: int) -> bytes:
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "tower",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", None])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    return bytes(model.SerializeToString())


def mlp(rng: np.random.Generator, widths: tuple[int, ...] = (40, 32, 24, 1)) -> bytes:
    """Layers in each of the forms that exporters write."""
    nodes, constants = [], {}
    value = "x"
    for i, (before, after) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        weight = (rng.normal(size=(before, after)) / np.sqrt(before)).astype(np.float32)
        constants[f"b{i}"] = rng.normal(size=after).astype(np.float32)
        out = "y" if last else f"h{i}"
        if i % 2:
            constants[f"w{i}"] = weight
            nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"p{i}"]))
            nodes.append(helper.make_node("Add", [f"b{i}", f"p{i}"], [out]))
        else:
            constants[f"w{i}"] = np.ascontiguousarray(weight.T)
            node = helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [out], transB=1)
            nodes.append(node)
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"r{i}"]))
            value = f"r{i}"
    return graph(nodes, constants, widths[0])


def run(onnx_bytes: bytes, x: Array, outputs: list[str] | None = None) -> list[Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(outputs, {"x": x})
    return found


def calibrated(tower: bytes, x: Array) -> dict[str, Range]:
    names = activations(tower)
    watched = with_outputs(tower, names)
    found = run(watched, x, [f"seen.{n}" if n == "x" else n for n in names])
    return {name: fit_range(values) for name, values in zip(names, found, strict=True)}


def op_types(tower: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(tower).graph.node]


def test_an_int8_tower_stays_close_to_its_float_self() -> None:
    rng = np.random.default_rng(0)
    tower, x = mlp(rng), rng.normal(size=(4000, 40)).astype(np.float32)
    narrow = quantize_dense(tower, calibrated(tower, x[:2000]))
    (wide,), (rounded,) = run(tower, x), run(narrow, x)
    assert np.sqrt(np.square(rounded - wide).mean()) < 0.03 * wide.std()
    assert op_types(narrow).count("MatMulIntegerToFloat") == 2
    onnx.checker.check_model(onnx.load_from_string(narrow))


def test_a_row_is_scored_alike_whatever_its_batch_mates() -> None:
    rng = np.random.default_rng(1)
    tower, x = mlp(rng), rng.normal(size=(300, 40)).astype(np.float32)
    narrow = quantize_dense(tower, calibrated(tower, x))
    (whole,) = run(narrow, x)
    x[1:] *= 50  # would spoil a scale taken from the batch
    (spoilt,) = run(narrow, x)
    np.testing.assert_allclose(spoilt[0], whole[0], rtol=0, atol=1e-6)
    for rows in (1, 2, 7, 64):
        np.testing.assert_allclose(run(narrow, x[:rows])[0], spoilt[:rows], rtol=0, atol=1e-5)


def test_the_dynamic_pass_gives_int8_products_without_calibration() -> None:
    rng = np.random.default_rng(0)
    tower, x = mlp(rng), rng.normal(size=(4000, 40)).astype(np.float32)
    narrow = quantize_dense_dynamic(tower)
    (wide,), (rounded,) = run(tower, x), run(narrow, x)
    assert np.sqrt(np.square(rounded - wide).mean()) < 0.05 * wide.std()
    assert op_types(narrow).count("MatMulInteger") >= 2
    assert len(narrow) < len(tower)


def test_no_rows_give_no_scores() -> None:
    rng = np.random.default_rng(2)
    tower = mlp(rng)
    ranges = calibrated(tower, rng.normal(size=(50, 40)).astype(np.float32))
    (found,) = run(quantize_dense(tower, ranges), np.empty((0, 40), np.float32))
    assert found.shape == (0, 1)


def test_integer_products_are_what_the_rounded_numbers_say() -> None:
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(16, 20)).astype(np.float32)
    tower = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, 16)
    x = rng.uniform(-1, 3, size=(9, 16)).astype(np.float32)
    (found,) = run(quantize_dense(tower, {"x": Range(-1.0, 3.0)}), x)
    scale, weight_scale = 4 / 255, np.abs(weight).max(axis=0) / 127
    zero = round(1 / scale)
    codes = np.clip(np.rint(x / np.float32(scale)) + zero, 0, 255) - zero
    expected = codes @ np.rint(weight / weight_scale) * scale * weight_scale
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_narrow_products_stay_float_and_a_tower_of_them_as_it_is() -> None:
    tower = mlp(np.random.default_rng(4), (13, 8, 1))
    assert activations(tower) == ()
    assert quantize_dense(tower, {}) == tower


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Gemm", ["x", "w"], ["y"], alpha=0.5),
        helper.make_node("Gemm", ["x", "w", "x"], ["y"]),
        helper.make_node("MatMul", ["w", "x"], ["y"]),
    ],
)
def test_products_of_another_form_are_left_alone(node: onnx.NodeProto) -> None:
    weight = np.ones((16, 16), np.float32)
    assert activations(graph([node], {"w": weight}, 16)) == ()


def test_an_added_value_that_is_no_bias_is_kept() -> None:
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(16, 16)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "x"], ["q"]),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    tower = graph(nodes, {"w": weight}, 16)
    x = rng.normal(size=(500, 16)).astype(np.float32)
    (wide,), (rounded,) = run(tower, x), run(quantize_dense(tower, calibrated(tower, x)), x)
    assert np.abs(rounded - wide).max() < 0.2 * wide.std()


def test_a_weight_shared_by_two_products_serves_both() -> None:
    rng = np.random.default_rng(6)
    weight = (rng.normal(size=(16, 16)) / 4).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Tanh", ["p"], ["t"]),
        helper.make_node("MatMul", ["t", "w"], ["y"]),
    ]
    tower = graph(nodes, {"w": weight}, 16)
    x = rng.normal(size=(500, 16)).astype(np.float32)
    (wide,), (rounded,) = run(tower, x), run(quantize_dense(tower, calibrated(tower, x)), x)
    assert np.abs(rounded - wide).max() < 0.1 * wide.std() * 4


def test_a_missing_range_is_named() -> None:
    with pytest.raises(UsageError, match="'x'"):
        quantize_dense(mlp(np.random.default_rng(7)), {})


def test_a_layer_of_zeros_gives_its_bias() -> None:
    constants = {"w": np.zeros((16, 16), np.float32), "b": np.arange(16, dtype=np.float32)}
    tower = graph([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], constants, 16)
    (found,) = run(quantize_dense(tower, {"x": Range(0, 1)}), np.ones((2, 16), np.float32))
    np.testing.assert_array_equal(found, [constants["b"]] * 2)


@settings(max_examples=60)
@example(np.array([1e-45], np.float32))
@given(arrays(np.float32, st.integers(1, 200), elements=st.floats(-1024, 1024, width=32)))
def test_a_range_is_finite_and_holds_zero(values: Array) -> None:
    found = fit_range(values)
    assert found.low <= 0 <= found.high
    assert found.low < found.high


def test_rare_large_values_are_clipped_for_finer_steps() -> None:
    values = np.concatenate([np.random.default_rng(8).random(100_000), [8.0]]).astype(np.float32)
    assert 1.0 < fit_range(values).high < 8.0
    assert fit_range(values[:-1]).high == pytest.approx(1.0, abs=0.05)
