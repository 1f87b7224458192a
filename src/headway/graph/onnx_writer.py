"""A tower's graph is written as ONNX operation by operation, each as few nodes as can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx

from headway.graph.layout import Tower
from headway.graph.nodes import value_of

OPSET = 20
IR_VERSION = 10
KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}


class NotWrittenError(Exception):
    """The graph holds something that no rule writes."""


class Writer:
    """Collects the nodes and constants of one graph."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.names: dict[fx.Node, str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._known: dict[object, str] = {}

    def name(self, node: object) -> str:
        """Return the name of a tensor's value, which is a constant or was written before.

        Raises:
            NotWrittenError: if the node is no tensor.
        """
        if not isinstance(node, fx.Node):
            raise NotWrittenError(f"{node} is no tensor")
        if node not in self.names:
            value = value_of(self.module, node)
            if value is None:
                raise NotWrittenError(f"{node} has no one value")
            self.names[node] = self.constant(array_of(value))
        return self.names[node]

    def constant(self, array: NDArray[Any]) -> str:
        """Return the name of a constant; equal ones are stored once."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"constant.{len(self._constants)}"
            self._constants[self._known[key]] = array
        return self._known[key]

    def integers(self, *values: int) -> str:
        """Return the name of a constant list of sizes or axes."""
        return self.constant(np.array(values, np.int64))

    def call(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Append a node and return the name of its one result; the same node for the same."""
        key = (operation, inputs, repr(sorted(attributes.items())))
        if key not in self._known:
            self._known[key] = f"value.{len(self._nodes)}"
            made = helper.make_node(operation, inputs, [self._known[key]], **attributes)
            self._nodes.append(made)
        return self._known[key]

    def close(self, tower: Tower, inputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """Return the model, its outputs named and shaped as the tower's are."""
        results = next(iter(self.module.graph.find_nodes(op="output"))).args[0]
        outputs, renamed = [], dict[str, str]()
        made = {name for node in self._nodes for name in node.output}
        for name, node in zip(tower.outputs, results, strict=True):
            source = self.name(node)
            if source in made and source not in renamed:
                renamed[source] = name
            else:
                self._nodes.append(helper.make_node("Identity", [source], [name]))
            shape = ["rows", *list(node.meta["val"].shape)[1:]]
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        for node in self._nodes:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        used = {name for node in self._nodes for name in node.input}
        constants = [numpy_helper.from_array(a, n) for n, a in self._constants.items() if n in used]
        graph = helper.make_graph(self._nodes, "tower", inputs, outputs, constants)
        versions = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=versions, ir_version=IR_VERSION)


Rule = Callable[[Writer, fx.Node], str]
"""Writes a node and returns the name of its value."""


def kind_of(node: fx.Node) -> str:
    """Return the type of a value's elements, float64 taken as float32."""
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        raise NotWrittenError(f"{node} is no tensor")
    kind = "float32" if value.is_floating_point() else str(value.dtype).removeprefix("torch.")
    if kind not in KINDS:
        raise NotWrittenError(f"{node} is {kind}")
    return kind


def array_of(value: Tensor) -> NDArray[Any]:
    """Return a constant as an array, floats as float32."""
    value = value.detach().cpu()
    return np.ascontiguousarray((value.float() if value.is_floating_point() else value).numpy())
