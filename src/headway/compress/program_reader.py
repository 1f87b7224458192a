"""Reads a tower in ONNX as the steps of a program, keeping track of what a row of a value is."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import msgspec
import numpy as np
import onnx

from headway.bundle import (
    Concat,
    Map,
    Product,
    Program,
    Slice,
    Softmax,
    Steps,
    Weave,
)
from headway.compress.program_recurrent import Recurrent
from headway.compress.program_values import ROW_TO_QUERY, SUMMING, UncoveredError, given, per_piece

_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}
_COMBINATIONS = {"Add": "add", "Mul": "multiply", "Sub": "subtract"}


class Reader(Recurrent):
    """Goes through a graph once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
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
            "GRU": self._gru,
            "Squeeze": self._squeeze,
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
            if value.name == ROW_TO_QUERY:
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

    # Products.

    def _matmul(self, node: onnx.NodeProto) -> None:
        self._multiply(node, node.input[1], turned=False)

    def _gemm(self, node: onnx.NodeProto) -> None:
        told = given(node)
        plain = told.get("alpha", 1.0) == told.get("beta", 1.0) == 1.0
        if told.get("transA", 0) or not plain:
            raise UncoveredError
        third = node.input[2] if len(node.input) > 2 else ""
        self._multiply(node, node.input[1], turned=bool(told.get("transB", 0)))
        if third and not self._add_constant(node.output[0], third):
            last = self._steps[-1]
            if not isinstance(last, SUMMING):
                raise UncoveredError
            self._fit(third, last.result)
            self._steps[-1] = msgspec.structs.replace(last, other=self._value(third))

    def _multiply(self, node: onnx.NodeProto, right: str, *, turned: bool) -> None:
        weight = self._constants.get(right)
        if weight is None:
            if turned or not self._multiply_matrix(node):
                raise UncoveredError
            return
        if weight.ndim != 2 or weight.dtype != np.float32:
            raise UncoveredError
        weight = np.ascontiguousarray(weight.T if turned else weight)
        if self._multiply_history(node, weight):
            return
        (result,), dims = node.output, self._dims[node.input[0]]
        source, groups = self._value(node.input[0]), prod(dims[:-1])
        self._tensors[f"{result}.weight"] = weight
        product = Product(result=result, source=source, weight=f"{result}.weight", groups=groups)
        self._make(product, (*dims[:-1], weight.shape[1]))

    # Columns.

    def _concat(self, node: onnx.NodeProto) -> None:
        if self._pass_around(node):
            return
        dims = [self._dims.get(name, ()) for name in node.input]
        if self._join(node, given(node)["axis"]):
            return
        if given(node)["axis"] not in {1, -1} or any(len(d) != 1 for d in dims):
            raise UncoveredError
        sources = tuple(self._value(name) for name in node.input)
        self._make(Concat(result=node.output[0], sources=sources), (sum(d[0] for d in dims),))

    def _slice(self, node: onnx.NodeProto) -> None:
        parts = [self._constants.get(name) for name in node.input[1:]]
        if len(parts) < 3 or any(part is None or part.shape != (1,) for part in parts):
            raise UncoveredError
        bounds = tuple(int(part[0]) for part in parts if part is not None)
        if self._drop_row(node, bounds) or self._cut_pieces(node, bounds):
            return
        source = self._value(node.input[0])
        start, stop, axis, *step = bounds
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
        if slope is None:
            raise UncoveredError
        last = self._absorbing(node.input[0])
        pieces = last.groups if isinstance(last, Product) and not last.activation else 1
        name = f"{node.output[0]}.slope"
        self._tensors[name] = per_piece(slope, dims, pieces)
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
        self._times(node, node.input[0], -1.0)

    def _squeeze(self, node: onnx.NodeProto) -> None:
        if not self._pass_around(node):
            raise UncoveredError

    def _times(self, node: onnx.NodeProto, value: str, factor: float) -> None:
        source, dims = self._value(value), self._dims[value]
        name = f"{node.output[0]}.weight"
        self._tensors[name] = np.full((1, 1), factor, np.float32)
        step = Product(result=node.output[0], source=source, weight=name, groups=prod(dims))
        self._make(step, dims)

    def _softmax(self, node: onnx.NodeProto) -> None:
        source, dims = node.input[0], self._dims.get(node.input[0], ())
        if len(dims) != 1 or given(node).get("axis", -1) not in {1, -1}:
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
        if kind == "multiply" and self._scale(node):
            return
        wide, narrow = self._by_width(left, right)
        sides = ((left, right), (right, left)) if narrow is None else ((wide, narrow),)
        for source, other in sides:
            last = self._absorbing(source)
            if last is not None and not last.other and not last.activation:
                how, dims = self._how(kind, source is right), self._dims[source]
                self._replace(last, node.output[0], dims, other=self._value(other), combine=how)
                return
        source, other = sides[0]
        if self._width(other) not in {1, self._width(source)}:
            raise UncoveredError  # a piece for all pieces can only follow their product
        how = self._how(kind, source is right)
        step = Map(
            result=node.output[0], source=self._value(source), other=self._value(other), combine=how
        )
        self._make(step, self._dims[source])

    @staticmethod
    def _how(kind: str, turned: bool) -> Any:  # noqa: FBT001
        return "subtract-from" if turned and kind == "subtract" else kind

    def _by_width(self, left: str, right: str) -> tuple[str, str | None]:
        """Return the value with more columns, and the other if it has one, or one piece."""
        sizes = [self._width(self._value(name)) for name in (left, right)]
        wide, narrow = (left, right) if sizes[0] > sizes[1] else (right, left)
        pieces = self._dims[wide][-1:] == self._dims[narrow][-1:]
        if sizes[0] != sizes[1] and (
            min(sizes) == 1 or (pieces and min(sizes) == self._dims[wide][-1])
        ):
            return wide, narrow
        self._fit(left, right)
        return left, None

    def _with_constant(self, node: onnx.NodeProto, value: str, constant: str) -> bool:
        """Add a constant to each row, or weave a history; False if it is none that fits."""
        if value in self._turned:
            return node.op_type == "Mul" and self._weave(node, value, self._constants[constant])
        number = self._constants[constant]
        if number.size == 1 and node.op_type == "Mul" and number.dtype == np.float32:
            self._times(node, value, float(number.reshape(())))
            return True
        if number.size == 1 and node.op_type == "Sub" and node.input[0] == value:
            self._constants[constant + ".negative"] = -number
            return self._shift(node, value, constant + ".negative")
        return node.op_type == "Add" and self._shift(node, value, constant)

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

    def _add_constant(self, result: str, name: str) -> bool:
        constant, last = self._constants.get(name), self._steps[-1]
        if constant is None or not isinstance(last, SUMMING):
            return False
        pieces = last.groups if isinstance(last, Product) else 1
        bias = f"{result}.bias"
        self._tensors[bias] = per_piece(constant, self._dims[result], pieces)
        self._steps[-1] = msgspec.structs.replace(last, bias=bias)
        return True
