"""Passes that make dense towers narrower: int8 products."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headway.core import MissingDependencyError, UsageError

if find_spec("onnx") is None:
    raise MissingDependencyError("onnx", "optimize", "quantizing a dense tower")

import onnx
from onnx import helper, numpy_helper

_MICROSOFT = "com.microsoft"
LEAST_WIDTH = 16
"""Products narrower than this cost less than rounding their input does."""
_CODES = 255
_SMALLEST_RANGE = 1e-30
"""Below it a step between codes would vanish in float32; such an activation counts as zero."""
MOST_CLIP = 0.3
"""The least share of the values' range that codes may cover."""
_TRIED_CLIPS = np.linspace(MOST_CLIP, 1.0, 29)


@dataclass(frozen=True, slots=True)
class Range:
    """The values that an activation's 256 codes cover; others are clipped."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A product of an activation with constant weights.

    Attributes:
        node: the ``MatMul`` or ``Gemm``.
        weight: float32 ``[in, out]``.
        bias: float32 ``[out]`` or None.
        absorbed: the ``Add`` that brought the bias, or None.
    """

    node: onnx.NodeProto
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    absorbed: onnx.NodeProto | None

    @property
    def source(self) -> str:
        """Name of the activation."""
        return str(self.node.input[0])

    @property
    def result(self) -> str:
        """Name of what later nodes read."""
        return str((self.absorbed or self.node).output[0])


def activations(graph: bytes) -> tuple[str, ...]:
    """Return the names of the values that ``quantize_dense`` needs the ranges of.

    None means that the tower has no product wide enough to gain, and stays as it is.
    """
    found = (layer.source for layer in _layers(onnx.load_from_string(graph)))
    return tuple(dict.fromkeys(found))


def products_of(graph: bytes) -> dict[str, int]:
    """Return the weights of the wide products of each activation that ``activations`` names."""
    found: Counter[str] = Counter()
    for layer in _layers(onnx.load_from_string(graph)):
        found[layer.source] += layer.weight.size
    return dict(found)


def with_outputs(graph: bytes, names: tuple[str, ...]) -> bytes:
    """Return the graph with more of its values as outputs, so that they can be watched."""
    model = onnx.load_from_string(graph)
    fed = {value.name for value in model.graph.input}
    for name in names:
        if name in fed:  # an input cannot be an output at once
            seen = f"seen.{name}"
            model.graph.node.append(helper.make_node("Identity", [name], [seen]))
            model.graph.output.append(helper.make_tensor_value_info(seen, 1, None))
        elif name not in {value.name for value in model.graph.output}:
            model.graph.output.append(helper.make_tensor_value_info(name, 1, None))
    return bytes(model.SerializeToString())


def fit_range(values: NDArray[np.float32]) -> Range:
    """Return the range whose 256 codes give values back with the least squared error.

    Clipping rare large values buys finer steps for all others. Zero is always inside and, by
    ``quantize_dense``, exactly a code, so that what is off stays off.

    Args:
        values: a sample of the activation.
    """
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if high - low < _SMALLEST_RANGE:
        return Range(0.0, 1.0)
    sample = values.reshape(-1).astype(np.float64)
    tried = [Range(low * clip, high * clip) for clip in _TRIED_CLIPS]
    return min(tried, key=lambda r: float(np.square(_rounded(sample, r) - sample).mean()))


def quantize_dense(
    graph: bytes, ranges: Mapping[str, Range], only: Container[str] | None = None
) -> bytes:
    """Return a tower whose wide products are int8, with float inputs and outputs as before.

    Weights: symmetric int8, one scale per output. Activations: uint8 with one fixed scale per
    value, so that a row's result does not depend on which rows share its batch, as it would if
    scales were taken from each batch. Products of fewer than 16 inputs or outputs stay float;
    a tower without others comes back as it was.

    Args:
        graph: ONNX bytes of a float32 tower.
        ranges: range of each of ``activations(graph)``.
        only: activations whose products become int8; by default all.

    Raises:
        UsageError: if a range is missing.
    """
    model = onnx.load_from_string(graph)
    layers = [layer for layer in _layers(model) if only is None or layer.source in only]
    if not layers:
        return graph
    rounded: dict[str, tuple[str, str, str]] = {}
    for layer in layers:
        if layer.source not in ranges:
            raise UsageError(f"no range for {layer.source!r}; calibrate all of activations()")
        before: list[onnx.NodeProto] = []
        if layer.source not in rounded:
            before, rounded[layer.source] = _round(model, layer.source, ranges[layer.source])
        product = _product(model, layer, rounded[layer.source])
        place = list(model.graph.node).index(layer.node)
        model.graph.node.remove(layer.node)
        for node in reversed([*before, product]):
            model.graph.node.insert(place, node)
        if layer.absorbed is not None:
            model.graph.node.remove(layer.absorbed)
    _drop_unused_constants(model)
    model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
    return bytes(model.SerializeToString())


def quantize_dense_dynamic(graph: bytes) -> bytes:
    """Return a tower whose products are int8 with activation scales taken from each batch.

    ONNX Runtime's own pass, weights per output. It needs no calibration rows, but a row's
    result then depends on the rows that share its batch.

    Args:
        graph: ONNX bytes of a float32 tower.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    log = logging.getLogger()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "f32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(graph)
        level = log.level
        log.setLevel(logging.ERROR)  # it advises, for every tower, to run a pass that changes none
        try:
            quantize_dynamic(
                source,
                target,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        finally:
            log.setLevel(level)
        return target.read_bytes()


def _layers(model: onnx.ModelProto) -> list[_Layer]:
    constants = {c.name: c for c in model.graph.initializer}
    users = Counter(name for node in model.graph.node for name in node.input)
    users.update(value.name for value in model.graph.output)
    layers = []
    for node in model.graph.node:
        if node.op_type not in {"MatMul", "Gemm"} or node.input[1] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])
        if weight.ndim != 2 or weight.dtype != np.float32 or min(weight.shape) < LEAST_WIDTH:
            continue
        if node.op_type == "MatMul":
            layers.append(_with_bias(model, node, weight, users))
        elif (layer := _from_gemm(node, weight, constants)) is not None:
            layers.append(layer)
    return layers


def _from_gemm(
    node: onnx.NodeProto, weight: NDArray[np.float32], constants: Mapping[str, onnx.TensorProto]
) -> _Layer | None:
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if given.get("transA", 0) or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
        return None
    weight = weight.T if given.get("transB", 0) else weight
    bias = None
    if len(node.input) > 2 and node.input[2]:
        if node.input[2] not in constants:
            return None
        bias = numpy_helper.to_array(constants[node.input[2]]).reshape(-1)
        if bias.shape != weight.shape[1:]:
            return None
    return _Layer(node, weight, bias, None)


def _with_bias(
    model: onnx.ModelProto, node: onnx.NodeProto, weight: NDArray[np.float32], users: Counter[str]
) -> _Layer:
    """Return a ``MatMul`` together with the ``Add`` of a constant that follows it, if one does."""
    constants = {c.name: c for c in model.graph.initializer}
    for other in model.graph.node:
        if other.op_type != "Add" or node.output[0] not in other.input:
            continue
        (name,) = [n for n in other.input if n != node.output[0]] or [""]
        if users[node.output[0]] == 1 and name in constants:
            bias = numpy_helper.to_array(constants[name])
            if bias.shape == weight.shape[1:]:
                return _Layer(node, weight, bias, other)
    return _Layer(node, weight, None, None)


def codes_of(covered: Range) -> tuple[np.float32, np.uint8]:
    """Return the step between a range's codes, and the code of zero."""
    scale = np.float32((covered.high - covered.low) / _CODES)
    return scale, np.uint8(np.clip(round(-covered.low / float(scale)), 0, _CODES))


def _rounded(values: NDArray[np.float64], covered: Range) -> NDArray[np.float64]:
    scale, zero = codes_of(covered)
    codes = np.clip(np.rint(values / scale) + zero, 0, _CODES)
    return np.asarray((codes - zero) * scale, np.float64)


def _round(
    model: onnx.ModelProto, source: str, covered: Range
) -> tuple[list[onnx.NodeProto], tuple[str, str, str]]:
    """Return the node that rounds an activation, and the names of codes, scale and zero."""
    scale, zero = codes_of(covered)
    names = f"{source}.codes", f"{source}.scale", f"{source}.zero"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(scale), names[1]))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(zero), names[2]))
    node = helper.make_node("QuantizeLinear", [source, names[1], names[2]], [names[0]])
    return [node], names


def _product(
    model: onnx.ModelProto, layer: _Layer, rounded: tuple[str, str, str]
) -> onnx.NodeProto:
    codes, scales = quantize_weight(layer.weight)
    stem = layer.result
    names = [f"{stem}.weight", f"{stem}.weight_scale", f"{stem}.weight_zero", ""]
    constants = [codes, scales, np.zeros(len(scales), np.int8)]
    if layer.bias is not None:
        names[3] = f"{stem}.bias"
        constants.append(layer.bias)
    for name, value in zip(names, constants, strict=False):
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    weight, weight_scale, weight_zero, bias = names
    activation, scale, zero = rounded
    return helper.make_node(
        "MatMulIntegerToFloat",
        [activation, weight, scale, weight_scale, zero, weight_zero, bias],
        [layer.result],
        domain=_MICROSOFT,
    )


def quantize_weight(
    weight: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 codes ``[in, out]`` and float32 scales ``[out]``, symmetric for each output."""
    largest = np.abs(weight).max(axis=0)
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.clip(np.rint(weight / scales), -127, 127).astype(np.int8), scales


def _drop_unused_constants(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    for constant in [c for c in model.graph.initializer if c.name not in used]:
        model.graph.initializer.remove(constant)
