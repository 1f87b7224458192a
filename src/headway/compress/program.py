"""From a tower in ONNX to a program of Headway's own dense engine, where its steps suffice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.bundle import Codes, Concat, Map, Product, Program, Slice, Step, Steps
from headway.compress.quantize import LEAST_WIDTH, Range, codes_of, quantize_weight
from headway.core import MissingDependencyError

if find_spec("onnx") is None:
    raise MissingDependencyError("onnx", "optimize", "turning a dense tower into a program")

import onnx
from onnx import helper, numpy_helper

_ROW_TO_QUERY = "row_to_query"
_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}
_COMBINATIONS = {"Add": "add", "Mul": "multiply", "Sub": "subtract"}


class _UncoveredError(Exception):
    """The tower does something that no step does."""


def to_program(graph: bytes) -> Program | None:
    """Return the steps of a float32 tower, or None if it holds an operation that no step does.

    Steps are products with constant weights, sums, differences and products of values, ReLU,
    sigmoid and tanh, concatenations and slices of columns; what follows a product goes into it.
    Values keep the names they have in the graph.

    Args:
        graph: ONNX bytes of a float32 tower.
    """
    try:
        return _Reader(onnx.load_from_string(graph)).read()
    except _UncoveredError:
        return None


def quantize_program(program: Program, ranges: Mapping[str, Range]) -> Program:
    """Return the program with its wide products in int8, weights with one scale per output.

    Activations have one fixed scale per value, as in ``quantize_dense``, and for its reason.

    Args:
        program: in float32.
        ranges: range of every value that a wide product takes.
    """
    tensors: dict[str, NDArray[Any]] = dict(program.tensors)
    steps: list[Step] = []
    for step in program.steps.steps:
        if isinstance(step, Product) and min(tensors[step.weight].shape) >= LEAST_WIDTH:
            name = f"{step.result}.codes"
            codes, scales = quantize_weight(np.asarray(program.tensors[step.weight], np.float32))
            tensors[name], tensors[f"{name}.scale"] = codes, scales
            scale, zero = codes_of(ranges[step.source])
            rounding = Codes(scale=float(scale), zero=int(zero))
            steps.append(msgspec.structs.replace(step, weight=name, codes=rounding))
        else:
            steps.append(step)
    used = {s.weight for s in steps if isinstance(s, Product)}
    used |= {f"{s.weight}.scale" for s in steps if isinstance(s, Product) and s.codes}
    used |= {s.bias for s in steps if isinstance(s, Product | Map)}
    kept = {name: tensor for name, tensor in tensors.items() if name in used}
    return Program(msgspec.structs.replace(program.steps, steps=tuple(steps)), kept)


class _Reader:
    """Goes through a graph once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
        self._uses = Counter(name for node in model.graph.node for name in node.input)
        self._uses.update(value.name for value in model.graph.output)
        self._names: dict[str, str] = {}
        self._widths: dict[str, int] = {}
        self._steps: list[Step] = []
        self._tensors: dict[str, NDArray[np.float32]] = {}
        self._readers: dict[str, Callable[[onnx.NodeProto], None]] = {
            "Gather": self._gather,
            "MatMul": self._matmul,
            "Gemm": self._gemm,
            "Concat": self._concat,
            "Slice": self._slice,
            "Identity": self._identity,
            "Constant": self._constant,
            **dict.fromkeys(_ACTIVATIONS, self._activate),
            **dict.fromkeys(_COMBINATIONS, self._combine),
        }

    def read(self) -> Program:
        inputs = {}
        for value in self._graph.input:
            if value.name == _ROW_TO_QUERY:
                continue
            dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            if len(dims) != 2 or value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
                raise _UncoveredError
            inputs[value.name] = self._widths[value.name] = dims[1]
        for node in self._graph.node:
            reader = self._readers.get(node.op_type)
            if reader is None or len(node.output) != 1:
                raise _UncoveredError
            reader(node)
        outputs = {value.name: self._value(value.name) for value in self._graph.output}
        if all(name.startswith("hidden.") for name in inputs):
            raise _UncoveredError  # nothing would tell the number of rows
        return Program(
            Steps(inputs=inputs, outputs=outputs, steps=tuple(self._steps)), self._tensors
        )

    def _value(self, name: str) -> str:
        """Return the name of the value in the program that a value of the graph is."""
        name = self._names.get(name, name)
        if name not in self._widths:
            raise _UncoveredError
        return name

    def _make(self, step: Step, width: int) -> None:
        self._steps.append(step)
        self._widths[step.result] = width

    def _gather(self, node: onnx.NodeProto) -> None:
        hidden, index = node.input
        if index != _ROW_TO_QUERY or not hidden.startswith("hidden.") or _given(node).get("axis"):
            raise _UncoveredError
        self._names[node.output[0]] = self._value(hidden)

    def _identity(self, node: onnx.NodeProto) -> None:
        self._names[node.output[0]] = self._value(node.input[0])

    def _constant(self, node: onnx.NodeProto) -> None:
        value = _given(node).get("value")
        if value is None:
            raise _UncoveredError
        self._constants[node.output[0]] = numpy_helper.to_array(value)

    def _matmul(self, node: onnx.NodeProto) -> None:
        self._multiply(node, self._constants.get(node.input[1]))

    def _gemm(self, node: onnx.NodeProto) -> None:
        given = _given(node)
        plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0
        if given.get("transA", 0) or not plain:
            raise _UncoveredError
        weight = self._constants.get(node.input[1])
        if weight is not None and given.get("transB", 0):
            weight = weight.T
        third = node.input[2] if len(node.input) > 2 else ""
        self._multiply(node, weight)
        if third and not self._add_constant(node.output[0], third):
            last = self._steps[-1]
            assert isinstance(last, Product)
            self._fit(third, self._widths[last.result])
            self._steps[-1] = msgspec.structs.replace(last, other=self._value(third))

    def _multiply(self, node: onnx.NodeProto, weight: NDArray[Any] | None) -> None:
        source, result = self._value(node.input[0]), node.output[0]
        if weight is None or weight.ndim != 2 or weight.dtype != np.float32:
            raise _UncoveredError
        name = f"{result}.weight"
        self._tensors[name] = np.ascontiguousarray(weight)
        self._make(Product(result=result, source=source, weight=name), weight.shape[1])

    def _concat(self, node: onnx.NodeProto) -> None:
        if _given(node)["axis"] not in {1, -1}:
            raise _UncoveredError
        sources = tuple(self._value(name) for name in node.input)
        width = sum(self._widths[name] for name in sources)
        self._make(Concat(result=node.output[0], sources=sources), width)

    def _slice(self, node: onnx.NodeProto) -> None:
        source = self._value(node.input[0])
        parts = [self._constants.get(name) for name in node.input[1:]]
        if len(parts) < 3 or any(part is None or part.shape != (1,) for part in parts):
            raise _UncoveredError
        start, stop, axis, *step = (int(part[0]) for part in parts if part is not None)
        width = self._widths[source]
        if axis not in {1, -1} or step not in ([], [1]) or start < 0 or stop < 0:
            raise _UncoveredError
        stop = min(stop, width)
        sliced = Slice(result=node.output[0], source=source, start=start, stop=stop)
        self._make(sliced, stop - start)

    def _activate(self, node: onnx.NodeProto) -> None:
        name = _ACTIVATIONS[node.op_type]
        last = self._absorbing(node.input[0])
        if last is not None and not last.activation:
            self._replace(last, node.output[0], activation=name)
            return
        source = self._value(node.input[0])
        step = Map(result=node.output[0], source=source, activation=name)  # type: ignore[arg-type]
        self._make(step, self._widths[source])

    def _combine(self, node: onnx.NodeProto) -> None:
        left, right = node.input
        constant = next((name for name in (left, right) if name in self._constants), None)
        if constant is not None:
            value = right if constant == left else left
            if node.op_type != "Add" or not self._shift(node, value, constant):
                raise _UncoveredError
            return
        self._fit(left, self._widths[self._value(right)])
        kind = _COMBINATIONS[node.op_type]
        for source, other in ((left, right), (right, left)):
            last = self._absorbing(source)
            if last is not None and not last.other and not last.activation:
                turned = kind == "subtract" and source == right
                how = "subtract-from" if turned else kind
                self._replace(last, node.output[0], other=self._value(other), combine=how)
                return
        source, other = self._value(left), self._value(right)
        step = Map(result=node.output[0], source=source, other=other, combine=kind)  # type: ignore[arg-type]
        self._make(step, self._widths[source])

    def _shift(self, node: onnx.NodeProto, value: str, constant: str) -> bool:
        """Add a constant to each row; False if it is none that fits."""
        last = self._absorbing(value)
        free = last is not None and not (last.bias or last.other or last.activation)
        if not free:
            source = self._value(value)
            self._make(Map(result=node.output[0], source=source), self._widths[source])
        elif last is not None:
            self._replace(last, node.output[0])
        return self._add_constant(node.output[0], constant)

    def _add_constant(self, result: str, name: str) -> bool:
        constant, last = self._constants.get(name), self._steps[-1]
        width = self._widths[result]
        if constant is None or not isinstance(last, Product | Map):
            return False
        if constant.dtype != np.float32 or constant.size not in {1, width} or constant.ndim > 2:
            raise _UncoveredError
        bias = f"{result}.bias"
        self._tensors[bias] = np.broadcast_to(constant.reshape(-1), (width,)).copy()
        self._steps[-1] = msgspec.structs.replace(last, bias=bias)
        return True

    def _fit(self, name: str, width: int) -> None:
        if self._widths[self._value(name)] != width:
            raise _UncoveredError  # a broadcast over columns

    def _absorbing(self, name: str) -> Product | Map | None:
        """Return the last step if it makes this value and nothing else reads that."""
        last = self._steps[-1] if self._steps else None
        if not isinstance(last, Product | Map) or self._names.get(name, name) != last.result:
            return None
        return last if self._uses[name] == 1 and name == last.result else None

    def _replace(self, last: Product | Map, result: str, **changes: Any) -> None:
        width = self._widths.pop(last.result)
        self._steps.pop()
        self._make(msgspec.structs.replace(last, result=result, **changes), width)


def _given(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
