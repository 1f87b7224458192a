"""Reads a tower in ONNX as the steps of a program, keeping track of what a row of a value is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from headway.bundle import (
    Concat,
    Map,
    Product,
    Program,
    QueryDots,
    QueryProduct,
    Slice,
    Softmax,
    Step,
    Steps,
    Weave,
)

_ROW_TO_QUERY = "row_to_query"
_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}
_COMBINATIONS = {"Add": "add", "Mul": "multiply", "Sub": "subtract"}
_SUMMING = Product | QueryProduct | Map
Dims = tuple[int, ...]


class UncoveredError(Exception):
    """The tower does something that no step does."""


class Reader:
    """Goes through a graph once.

    A value is a name in the program and the axes of one of its rows; reshaped, it stays the same
    value. A matrix is a query's value without the axis of queries.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
        self._uses = Counter(name for node in model.graph.node for name in node.input)
        self._uses.update(value.name for value in model.graph.output)
        self._per_query = _ROW_TO_QUERY not in {value.name for value in model.graph.input}
        self._names: dict[str, str] = {}
        self._dims: dict[str, Dims] = {}
        self._matrices: dict[str, tuple[str, Dims]] = {}
        self._turned: dict[str, str] = {}
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
            "Reshape": self._reshape,
            "Expand": self._expand,
            "Transpose": self._transpose,
            "PRelu": self._prelu,
            "Softmax": self._softmax,
            "Neg": self._negate,
            **dict.fromkeys(_ACTIVATIONS, self._activate),
            **dict.fromkeys(_COMBINATIONS, self._combine),
        }

    def read(self) -> Program:
        """Return the program.

        Raises:
            UncoveredError: if an operation is none that a step does.
        """
        inputs = {}
        for value in self._graph.input:
            if value.name == _ROW_TO_QUERY:
                continue
            dims = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)[1:]
            if not prod(dims) or value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
                raise UncoveredError
            self._dims[value.name], inputs[value.name] = dims, prod(dims)
        for node in self._graph.node:
            reader = self._readers.get(node.op_type)
            if reader is None or len(node.output) != 1:
                raise UncoveredError
            reader(node)
        outputs = {value.name: self._value(value.name) for value in self._graph.output}
        if all(name.startswith("hidden.") for name in inputs):
            raise UncoveredError  # nothing would tell the number of rows
        shapes = {name: self._dims[name] for name in outputs if len(self._dims[name]) != 1}
        steps = Steps(inputs=inputs, outputs=outputs, steps=tuple(self._steps), shapes=shapes)
        return Program(steps, self._tensors)

    # Values.

    def _value(self, name: str) -> str:
        """Return the name of the value in the program that a value of the graph is."""
        name = self._names.get(name, name)
        if name not in self._dims or (name.startswith("hidden.") and not self._may_read(name)):
            raise UncoveredError
        return name

    def _may_read(self, name: str) -> bool:
        """Tell whether a query's value may be read by rows without being gathered."""
        return self._per_query or name in self._names.values() or name in self._made()

    def _made(self) -> set[str]:
        return {step.result for step in self._steps}

    def _width(self, name: str) -> int:
        return prod(self._dims[name])

    def _make(self, step: Step, dims: Dims) -> None:
        self._steps.append(step)
        self._dims[step.result] = dims

    def _rename(self, node: onnx.NodeProto, value: str, dims: Dims) -> None:
        """Let a node's output be a value seen otherwise; it counts as one use with its own."""
        (name,) = node.output
        self._names[name], self._dims[name] = value, dims
        self._uses[value] += self._uses[name] - 1

    def _identity(self, node: onnx.NodeProto) -> None:
        self._rename(node, self._value(node.input[0]), self._dims[node.input[0]])

    def _constant(self, node: onnx.NodeProto) -> None:
        value = _given(node).get("value")
        if value is None:
            raise UncoveredError
        self._constants[node.output[0]] = numpy_helper.to_array(value)

    def _gather(self, node: onnx.NodeProto) -> None:
        hidden, index = node.input
        if index != _ROW_TO_QUERY or not hidden.startswith("hidden.") or _given(node).get("axis"):
            raise UncoveredError
        self._rename(node, hidden, self._dims[hidden])

    def _shape_of(self, node: onnx.NodeProto) -> Dims:
        shape = self._constants.get(node.input[1])
        if shape is None:
            raise UncoveredError
        return tuple(int(n) for n in shape)

    def _reshape(self, node: onnx.NodeProto) -> None:
        source, target = node.input[0], self._shape_of(node)
        if source in self._turned:  # an axis of one at the end does not matter
            dims = self._dims[source]
            if target[1:] not in {dims, (*dims, 1)}:
                raise UncoveredError
            self._turned[node.output[0]], self._dims[node.output[0]] = self._turned[source], dims
            return
        name, width = self._names.get(source, source), prod(self._dims.get(source, ()))
        if self._per_query and name.startswith("hidden.") and prod(target) == width > 1:
            self._matrices[node.output[0]] = name, target
            return
        if target[0] == -1 and prod(target[1:]) == width:
            self._rename(node, self._value(source), target[1:])
            return
        raise UncoveredError

    def _expand(self, node: onnx.NodeProto) -> None:
        source, dims = node.input[0], self._shape_of(node)[1:]
        if dims != self._dims.get(source):
            raise UncoveredError
        self._rename(node, self._value(source), dims)

    def _transpose(self, node: onnx.NodeProto) -> None:
        (source,) = node.input
        dims = self._dims.get(source, ())
        if len(dims) != 2 or list(_given(node)["perm"]) != [0, 2, 1]:
            raise UncoveredError
        self._turned[node.output[0]] = self._value(source)
        self._dims[node.output[0]] = dims[::-1]

    # Products.

    def _matmul(self, node: onnx.NodeProto) -> None:
        self._multiply(node, node.input[1], turned=False)

    def _gemm(self, node: onnx.NodeProto) -> None:
        given = _given(node)
        plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0
        if given.get("transA", 0) or not plain:
            raise UncoveredError
        third = node.input[2] if len(node.input) > 2 else ""
        self._multiply(node, node.input[1], turned=bool(given.get("transB", 0)))
        if third and not self._add_constant(node.output[0], third):
            last = self._steps[-1]
            assert isinstance(last, _SUMMING)
            self._fit(third, last.result)
            self._steps[-1] = msgspec.structs.replace(last, other=self._value(third))

    def _multiply(self, node: onnx.NodeProto, right: str, *, turned: bool) -> None:
        source, result, dims = self._value(node.input[0]), node.output[0], self._dims[node.input[0]]
        if source.startswith("hidden.") and self._dims.get(right) == (dims[-1], 1):
            dots = QueryDots(result=result, source=self._value(right), matrix=source)
            self._make(dots, (*dims[:-1], 1))
            return
        if right in self._matrices and not turned:
            matrix, (inner, columns) = self._matrices[right]
            if prod(dims) != inner:
                raise UncoveredError
            step = QueryProduct(result=result, source=source, matrix=matrix)
            self._make(step, (*dims[:-1], columns))
            return
        weight = self._constants.get(right)
        if weight is None or weight.ndim != 2 or weight.dtype != np.float32:
            raise UncoveredError
        weight = np.ascontiguousarray(weight.T if turned else weight)
        groups = prod(dims[:-1])
        self._tensors[f"{result}.weight"] = weight
        product = Product(result=result, source=source, weight=f"{result}.weight", groups=groups)
        self._make(product, (*dims[:-1], weight.shape[1]))

    # Columns.

    def _concat(self, node: onnx.NodeProto) -> None:
        dims = [self._dims.get(name, ()) for name in node.input]
        if _given(node)["axis"] not in {1, -1} or any(len(d) != 1 for d in dims):
            raise UncoveredError
        sources = tuple(self._value(name) for name in node.input)
        self._make(Concat(result=node.output[0], sources=sources), (sum(d[0] for d in dims),))

    def _slice(self, node: onnx.NodeProto) -> None:
        source = self._value(node.input[0])
        parts = [self._constants.get(name) for name in node.input[1:]]
        if len(parts) < 3 or any(part is None or part.shape != (1,) for part in parts):
            raise UncoveredError
        start, stop, axis, *step = (int(part[0]) for part in parts if part is not None)
        dims = self._dims[node.input[0]]
        plain = axis in {1, -1} and step in ([], [1]) and start >= 0 and stop >= 0
        if not plain or len(dims) != 1:
            raise UncoveredError
        stop = min(stop, dims[0])
        sliced = Slice(result=node.output[0], source=source, start=start, stop=stop)
        self._make(sliced, (stop - start,))

    # What is done to values.

    def _activate(self, node: onnx.NodeProto) -> None:
        self._then(node, activation=_ACTIVATIONS[node.op_type])

    def _prelu(self, node: onnx.NodeProto) -> None:
        slope = self._constants.get(node.input[1])
        dims = self._dims.get(node.input[0], ())
        if slope is None or slope.dtype != np.float32 or slope.ndim > len(dims):
            raise UncoveredError
        last = self._absorbing(node.input[0])
        pieces = last.groups if isinstance(last, Product) else 1
        if slope.size not in {1, dims[-1]}:
            raise UncoveredError
        full = np.broadcast_to(slope, dims).reshape(pieces, -1)[0]
        name = f"{node.output[0]}.slope"
        self._tensors[name] = np.ascontiguousarray(full)
        self._then(node, activation="prelu", slope=name)

    def _then(self, node: onnx.NodeProto, **changes: Any) -> None:
        """Let the step that made the first input do more, or a new one do it."""
        source, dims = node.input[0], self._dims.get(node.input[0], ())
        last = self._absorbing(source)
        if last is not None and not last.activation:
            self._replace(last, node.output[0], dims, **changes)
            return
        self._make(Map(result=node.output[0], source=self._value(source), **changes), dims)

    def _negate(self, node: onnx.NodeProto) -> None:
        source, dims = self._value(node.input[0]), self._dims[node.input[0]]
        name = f"{node.output[0]}.weight"
        self._tensors[name] = np.full((1, 1), -1, np.float32)
        step = Product(result=node.output[0], source=source, weight=name, groups=prod(dims))
        self._make(step, dims)

    def _softmax(self, node: onnx.NodeProto) -> None:
        source, dims = node.input[0], self._dims.get(node.input[0], ())
        if len(dims) != 1 or _given(node).get("axis", -1) not in {1, -1}:
            raise UncoveredError
        self._make(Softmax(result=node.output[0], source=self._value(source)), dims)

    def _combine(self, node: onnx.NodeProto) -> None:
        left, right = node.input
        constant = next((name for name in (left, right) if name in self._constants), None)
        if constant is not None:
            value = right if constant == left else left
            if not self._with_constant(node, value, constant):
                raise UncoveredError
            return
        kind = _COMBINATIONS[node.op_type]
        wide, narrow = self._by_width(left, right)
        sides = ((left, right), (right, left)) if narrow is None else ((wide, narrow),)
        for source, other in sides:
            last = self._absorbing(source)
            if last is not None and not last.other and not last.activation:
                how, dims = self._how(kind, source is right), self._dims[source]
                self._replace(last, node.output[0], dims, other=self._value(other), combine=how)
                return
        source, other = sides[0]
        how = self._how(kind, source is right)
        step = Map(
            result=node.output[0], source=self._value(source), other=self._value(other), combine=how
        )
        self._make(step, self._dims[source])

    @staticmethod
    def _how(kind: str, turned: bool) -> Any:  # noqa: FBT001
        return "subtract-from" if turned and kind == "subtract" else kind

    def _by_width(self, left: str, right: str) -> tuple[str, str | None]:
        """Return the value with more columns, and the other if that has a single one."""
        sizes = [self._width(self._value(name)) for name in (left, right)]
        if 1 in sizes and sizes[0] != sizes[1]:
            return (left, right) if sizes[1] == 1 else (right, left)
        self._fit(left, right)
        return left, None

    def _with_constant(self, node: onnx.NodeProto, value: str, constant: str) -> bool:
        """Add a constant to each row, or weave a history; False if it is none that fits."""
        if value in self._turned:
            return node.op_type == "Mul" and self._weave(node, value, self._constants[constant])
        return node.op_type == "Add" and self._shift(node, value, constant)

    def _weave(self, node: onnx.NodeProto, value: str, weight: NDArray[Any]) -> bool:
        inner, places = self._dims[value]
        if weight.ndim != 3 or weight.shape[:2] != (inner, 1) or weight.dtype != np.float32:
            return False
        name, columns = f"{node.output[0]}.weight", weight.shape[2]
        self._tensors[name] = np.ascontiguousarray(weight[:, 0])
        step = Weave(result=node.output[0], source=self._turned[value], weight=name)
        self._make(step, (inner, places, columns))
        return True

    def _shift(self, node: onnx.NodeProto, value: str, constant: str) -> bool:
        """Add a constant to each row; False if it is none that fits."""
        dims, last = self._dims.get(value, ()), self._steps[-1] if self._steps else None
        if isinstance(last, Weave) and last.result == value and self._uses[value] == 1:
            return self._shift_woven(node, last, self._constants[constant])
        made = self._absorbing(value)
        if made is None or made.bias or made.other or made.activation:
            self._make(Map(result=node.output[0], source=self._value(value)), dims)
        else:
            self._replace(made, node.output[0], dims)
        return self._add_constant(node.output[0], constant)

    def _shift_woven(self, node: onnx.NodeProto, last: Weave, shift: NDArray[Any]) -> bool:
        dims, name = self._dims[last.result], f"{node.output[0]}.shift"
        if last.shift or shift.shape != (dims[0], 1, dims[2]) or shift.dtype != np.float32:
            return False
        self._tensors[name] = np.ascontiguousarray(shift[:, 0])
        self._steps.pop()
        self._make(msgspec.structs.replace(last, result=node.output[0], shift=name), dims)
        return True

    def _add_constant(self, result: str, name: str) -> bool:
        constant, last = self._constants.get(name), self._steps[-1]
        if constant is None or not isinstance(last, _SUMMING):
            return False
        pieces = last.groups if isinstance(last, Product) else 1
        dims = self._dims[result]
        fits = constant.size in {1, dims[-1]} or (pieces == 1 and constant.size == prod(dims))
        if constant.dtype != np.float32 or not fits or constant.ndim > len(dims) + 1:
            raise UncoveredError
        bias = f"{result}.bias"
        if constant.size == prod(dims):
            full = constant.reshape(-1)
        else:
            full = np.broadcast_to(constant.reshape(-1), dims).reshape(pieces, -1)[0]
        self._tensors[bias] = full.copy()
        self._steps[-1] = msgspec.structs.replace(last, bias=bias)
        return True

    def _fit(self, name: str, other: str) -> None:
        """Refuse two values that would be spread along each other."""
        long = [[n for n in self._dims.get(value, ()) if n > 1] for value in (name, other)]
        if long[0] != long[1]:
            raise UncoveredError

    def _absorbing(self, name: str) -> Product | QueryProduct | Map | None:
        """Return the last step if it makes this value and nothing else reads that."""
        last = self._steps[-1] if self._steps else None
        if not isinstance(last, _SUMMING) or self._names.get(name, name) != last.result:
            return None
        return last if self._uses[last.result] == 1 else None

    def _replace(
        self, last: Product | QueryProduct | Map, result: str, dims: Dims, **changes: Any
    ) -> None:
        self._steps.pop()
        self._make(msgspec.structs.replace(last, result=result, **changes), dims)


def _given(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
