"""The values of a tower in ONNX while it is read as a program: names, axes, and who makes them."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from headway.bundle import Map, Product, QueryProduct, Step

ROW_TO_QUERY = "row_to_query"
SUMMING = Product | QueryProduct | Map
Dims = tuple[int, ...]


class UncoveredError(Exception):
    """The tower does something that no step does."""


class Values:
    """Keeps track of values and steps.

    A value is a name in the program and the axes of one of its rows; reshaped, it stays the same
    value. A matrix is a query's value without the axis of queries.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
        self._uses = Counter(name for node in model.graph.node for name in node.input)
        self._uses.update(value.name for value in model.graph.output)
        self._inputs = {value.name for value in model.graph.input}
        self._per_query = ROW_TO_QUERY not in {value.name for value in model.graph.input}
        self._names: dict[str, str] = {}
        self._dims: dict[str, Dims] = {}
        self._matrices: dict[str, tuple[str, Dims]] = {}
        self._turned: dict[str, str] = {}
        self._steps: list[Step] = []
        self._tensors: dict[str, NDArray[np.float32]] = {}

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
        value = given(node).get("value")
        if value is None:
            raise UncoveredError
        self._constants[node.output[0]] = numpy_helper.to_array(value)

    def _gather(self, node: onnx.NodeProto) -> None:
        if self._take_place(node):
            return
        hidden, index = node.input
        if index != ROW_TO_QUERY or not hidden.startswith("hidden.") or given(node).get("axis"):
            raise UncoveredError
        self._rename(node, hidden, self._dims[hidden])

    def _take_place(self, node: onnx.NodeProto) -> bool:
        raise NotImplementedError

    def _pass_around(self, node: onnx.NodeProto) -> bool:
        raise NotImplementedError

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
        if self._pass_around(node):
            return
        dims = self._dims.get(source, ())
        if len(dims) != 2 or list(given(node)["perm"]) != [0, 2, 1]:
            raise UncoveredError
        self._turned[node.output[0]] = self._value(source)
        self._dims[node.output[0]] = dims[::-1]

    def _fit(self, name: str, other: str) -> None:
        """Refuse two values that would be spread along each other."""
        sides = [self._dims.get(value, ()) for value in (name, other)]
        try:
            whole = prod(np.broadcast_shapes(*sides))
        except ValueError as error:
            raise UncoveredError from error
        if {prod(side) for side in sides} != {whole}:
            raise UncoveredError

    def _absorbing(self, name: str) -> Product | QueryProduct | Map | None:
        """Return the step that makes this value if nothing else reads that; it comes last then."""
        value = self._names.get(name, name)
        found = next((step for step in self._steps if step.result == value), None)
        if not isinstance(found, SUMMING) or self._uses[value] != 1:
            return None
        self._steps.remove(found)
        self._steps.append(found)
        return found

    def _replace(
        self, last: Product | QueryProduct | Map, result: str, dims: Dims, **changes: Any
    ) -> None:
        self._steps.pop()
        self._make(msgspec.structs.replace(last, result=result, **changes), dims)


def given(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def per_piece(constant: NDArray[Any], dims: Dims, pieces: int) -> NDArray[np.float32]:
    """Return what a constant is for one piece of a row, float32 ``[columns]``.

    Raises:
        UncoveredError: if it does not fit, or is not the same for all pieces.
    """
    if constant.ndim == len(dims) + 1 and constant.shape[0] == 1:
        constant = constant[0]
    try:
        full = np.broadcast_to(constant, dims).reshape(pieces, -1)
    except ValueError as error:
        raise UncoveredError from error
    if constant.dtype != np.float32 or (full != full[:1]).any():
        raise UncoveredError
    return np.ascontiguousarray(full[0])
