"""What this machine can do at best: products of matrices per second, in every engine at hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import msgspec
import numpy as np

from headway.bundle import Codes, EngineName, Product, Program, Steps
from headway.core import Clock, from_seconds
from headway.engine.onnx_engine import OnnxEngine
from headway.engine.openvino_engine import HAS_OPENVINO, OpenVinoEngine, multiplies_bf16
from headway.engine.probe import BEST
from headway.engine.program import ProgramEngine
from headway.engine.seam import DenseEngine
from headway.engine.turns import take_turns

ProductPrecision = Literal["f32", "bf16", "int8"]
HAS_ONNX = find_spec("onnx") is not None
"""Whether graphs for the engines of others can be written."""
_SHAPES = ((96, 256, 512), (192, 512, 512))
"""Rows, inner, columns: a core's own cache holds the weights, and a run is too short to be
interrupted often. The larger suits int8, which begins with rounding."""
_SCALE, _ZERO = 1 / 32, 128


class ProductRate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A product of ``[rows, inner]`` with ``[inner, columns]`` in one engine, by one thread."""

    precision: ProductPrecision
    engine: EngineName
    rows: int
    inner: int
    columns: int
    multiply_adds_per_s: float


def product_rates(clock: Clock, *, seconds: float = 1.0) -> tuple[ProductRate, ...]:
    """Return what every engine reaches in each precision it has, on one thread.

    The best of a precision is the ceiling. Headway's own engine is always there; others only
    where graphs can be written for them, and bfloat16 only where the processor multiplies it.

    Args:
        clock: what tells the time.
        seconds: for all of them together.
    """
    return tuple(
        rate
        for shape in _SHAPES
        for rate in _rates(shape, clock, from_seconds(seconds / len(_SHAPES)))
    )


def _rates(shape: tuple[int, int, int], clock: Clock, nanoseconds: int) -> list[ProductRate]:
    rows, inner, columns = shape
    ways = _ways(inner, columns)
    feed = {"embedded": np.random.default_rng(0).standard_normal((rows, inner), np.float32)}
    turns: list[Callable[[int], object]] = [
        partial(_once, engine.caller(), feed) for _, _, engine in ways
    ]
    return [
        ProductRate(
            precision=precision,
            engine=name,
            rows=rows,
            inner=inner,
            columns=columns,
            multiply_adds_per_s=rows
            * inner
            * columns
            / max(1.0, float(np.percentile(taken, BEST)))
            * 1e9,
        )
        for (precision, name, _), taken in zip(
            ways, take_turns(turns, clock, nanoseconds), strict=True
        )
    ]


def _once(call: Any, feed: Any, _turn: int) -> object:
    return call(["output"], feed)


def _ways(inner: int, columns: int) -> list[tuple[ProductPrecision, EngineName, DenseEngine]]:
    found: list[tuple[ProductPrecision, EngineName, DenseEngine]] = [
        ("f32", "headway", ProgramEngine(_program(inner, columns, "f32"))),
        ("int8", "headway", ProgramEngine(_program(inner, columns, "int8"))),
    ]
    if HAS_ONNX:
        plain, rounded = (_graph(inner, columns, precision) for precision in ("f32", "int8"))
        found += [
            ("f32", "onnxruntime", OnnxEngine(plain)),
            ("int8", "onnxruntime", OnnxEngine(rounded)),
        ]
        if HAS_OPENVINO:
            found.append(("f32", "openvino", OpenVinoEngine(plain)))
            found.append(("int8", "openvino", OpenVinoEngine(rounded)))
        if multiplies_bf16():
            found.append(("bf16", "openvino", OpenVinoEngine(plain, hint="bf16")))
    return found


def _weight(inner: int, columns: int) -> Any:
    return np.random.default_rng(1).integers(-127, 128, (inner, columns))


def _program(inner: int, columns: int, precision: ProductPrecision) -> Program:
    weight = _weight(inner, columns)
    step = Product(result="y", source="embedded", weight="w")
    tensors: dict[str, Any] = {"w": weight.astype(np.float32) * np.float32(_SCALE)}
    if precision == "int8":
        step = msgspec.structs.replace(step, codes=Codes(scale=_SCALE, zero=_ZERO))
        tensors = {"w": weight.astype(np.int8), "w.scale": np.full(columns, _SCALE, np.float32)}
    return Program(
        Steps(inputs={"embedded": inner}, outputs={"output": "y"}, steps=(step,)), tensors
    )


def _graph(inner: int, columns: int, precision: ProductPrecision) -> bytes:
    """Return the same product as ONNX; in int8 as pairs of rounding that engines know."""
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - serving needs none of this

    weight = _weight(inner, columns)
    tensors = {"w": weight.astype(np.float32) * np.float32(_SCALE)}
    nodes = [helper.make_node("MatMul", ["embedded", "w"], ["output"])]
    if precision == "int8":
        tensors = {
            "codes": weight.astype(np.int8),
            "scale": np.float32(_SCALE),
            "zero": np.uint8(_ZERO),
            "none": np.int8(0),
        }
        nodes = [
            helper.make_node("QuantizeLinear", ["embedded", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
            helper.make_node("DequantizeLinear", ["codes", "scale", "none"], ["w"]),
            helper.make_node("MatMul", ["x", "w"], ["output"]),
        ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("embedded", TensorProto.FLOAT, ["rows", inner])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", columns])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
