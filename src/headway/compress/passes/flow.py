"""Follows every position of every axis through a traced model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx

from headway.compress.passes.labels import Classes, Labels, Value, fixed
from headway.core import Dense, Feature, Scope
from headway.graph import Captured


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A matrix product of the model, done once for each row.

    Attributes:
        times: how often for a row: the length of a history, say.
        inner: labels of the axis that is summed over.
        outer: labels of the other axis of the second factor.
        late: for each inner position, whether it depends on the candidate.
    """

    times: int
    inner: Labels
    outer: Labels
    late: NDArray[np.bool_]


class Flow:
    """The state of a walk over a graph: a value per node, and what was joined on the way.

    Attributes:
        classes: of the labels.
        places: labels of each axis of each parameter, by its name in the model.
        products: all matrix products met.
        tables: table of the schema that a parameter holds, by the parameter's name.
        output: labels of the model's outputs, one a task.
    """

    def __init__(self, traced: Captured, names: dict[str, str]) -> None:
        self.classes = Classes()
        self.places: dict[str, tuple[Labels, ...]] = {}
        self.products: list[Product] = []
        self.tables: dict[str, str] = {}
        self.output = fixed(1)
        self._traced = traced
        self._names = names
        self._values: dict[fx.Node, Value | tuple[Value, ...]] = {}
        (output,) = traced.module.graph.find_nodes(op="output")
        (self._rows, *_) = sizes(cast("fx.Node", output.args[0]).meta["val"])

    def walk(self, rules: dict[Any, Callable[[Flow, fx.Node], Value | tuple[Value, ...]]]) -> None:
        """Follow the graph from its inputs to its output.

        Where no rule says how labels go on, all of what an operation reads must stay.
        """
        for node in self._traced.module.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = self._input(node)
            elif node.op == "get_attr":
                self._values[node] = self._parameter(node)
            elif node.op == "output":
                self.output = self.value(node.args[0]).last
                self.keep(node)
            elif isinstance(node.meta.get("val"), Tensor | tuple | list):
                rule = rules.get(node.target)
                found = None if rule is None else rule(self, node)
                # A call in a form that the rule does not foresee gives axes that do not fit.
                fits = found is not None and _fits(found, node.meta["val"])
                self._values[node] = cast("Any", found) if fits else self.unknown(node)

    def times(self, node: object, leave: int = 1) -> int:
        """Return how many vectors a row of a tensor has: the length of a history, say.

        Args:
            node: gives the tensor ``[rows, ..., width]``.
            leave: how many of the last axes belong to the vector.
        """
        shape = sizes(cast("fx.Node", node).meta["val"])
        return max(1, prod(shape[: len(shape) - leave]) // self._rows)

    def value(self, node: object) -> Value:
        """Return what is known of a tensor a node reads."""
        found = self._values[cast("fx.Node", node)]
        return found if isinstance(found, Value) else found[0]

    def several(self, node: object) -> tuple[Value, ...]:
        """Return what is known of several results."""
        found = self._values[cast("fx.Node", node)]
        return (found,) if isinstance(found, Value) else found

    def keep(self, node: fx.Node) -> None:
        """Freeze all that a node reads."""
        for source in node.all_input_nodes:
            for value in self.several(source) if source in self._values else ():
                self.classes.freeze(*value.axes)
                self.classes.bend(*value.axes)

    def forget(self) -> None:
        """Let go of what was known of each node; what was joined stays."""
        self._values.clear()

    def look_up(self, node: fx.Node) -> tuple[Value, list[Value]]:
        """Return a table and what it is looked up with; what holds no table of the schema stays."""
        table, *lists = (self.value(source) for source in node.args[:3] if _is_node(source))
        name = self._names.get(
            self._traced.names.get(str(cast("fx.Node", node.args[0]).target), "")
        )
        feature = self._looked_up(cast("fx.Node", node.args[1]))
        self.classes.freeze(table.axes[0])
        if name is None or isinstance(feature, Dense | None):
            self.classes.freeze(table.last)
        else:
            self.tables[name] = feature.table
        return table, lists

    def _looked_up(self, ids: fx.Node) -> Feature | None:
        """Return the feature whose ids these are, or None where they come from several."""
        seen: set[fx.Node] = set()
        waiting, found = [ids], set[str]()
        while waiting:
            node = waiting.pop()
            if node.op == "placeholder":
                found.add(node.name)
            waiting += [n for n in node.all_input_nodes if n not in seen]
            seen.update(node.all_input_nodes)
        features = {self._traced.inputs[name].feature for name in found}
        return features.pop() if len(features) == 1 else None

    def unknown(self, node: fx.Node) -> Value | tuple[Value, ...]:
        """Return the result of an operation without a rule; all it reads is frozen."""
        self.keep(node)
        late = any(
            value.late.any()
            for source in node.all_input_nodes
            if source in self._values
            for value in self.several(source)
        )
        result = node.meta["val"]
        if isinstance(result, Tensor):
            return plain(result, late=late)
        return tuple(plain(part, late=late) for part in result if isinstance(part, Tensor))

    def _input(self, node: fx.Node) -> Value:
        late = self._traced.inputs[node.name].scope is Scope.CANDIDATE
        return plain(node.meta["val"], late=late)

    def _parameter(self, node: fx.Node) -> Value:
        name = self._names.get(self._traced.names[str(node.target)])
        held = node.meta["val"]
        if name is None:
            return plain(held, late=False)
        if name not in self.places:
            self.places[name] = tuple(self.classes.fresh(size) for size in held.shape)
        axes = self.places[name]
        return Value(axes, np.zeros(len(axes[-1]) if axes else 1, np.bool_))


def _fits(found: Value | tuple[Value, ...], results: object) -> bool:
    """Tell whether values have the shapes of the results they stand for."""
    values = (found,) if isinstance(found, Value) else found
    tensors = (results,) if isinstance(results, Tensor) else cast("tuple[object, ...]", results)
    return all(
        len(value.axes) == tensor.dim()
        and all(
            axis is None or not static(size) or len(axis) == size
            for axis, size in zip(value.axes, tensor.shape, strict=True)
        )
        for value, tensor in zip(values, tensors, strict=False)
        if isinstance(tensor, Tensor)
    )


def _is_node(value: object) -> bool:
    return isinstance(value, fx.Node)


def plain(tensor: Tensor, *, late: bool) -> Value:
    """Return a value whose positions must all stay."""
    axes = [fixed(size) if static(size) else None for size in tensor.shape]
    last = axes[-1] if axes else None
    return Value(tuple(axes), np.full(1 if last is None else len(last), late))


def sizes(tensor: Tensor) -> list[int]:
    """Return the shape; for an unknown length, that of the rows it was traced with."""
    return [
        size if static(size) else size.node.hint for size in cast("Sequence[Any]", tensor.shape)
    ]


def static(size: object) -> bool:
    """Tell whether a length is known."""
    return isinstance(size, int)


def argument(node: fx.Node, place: int, default: Any = None) -> Any:
    """Return a positional argument, or what stands for it if it was left out."""
    return node.args[place] if len(node.args) > place else default


def nodes_of(node: fx.Node, place: int = 0) -> Sequence[fx.Node]:
    """Return an argument that is a list of nodes."""
    return cast("Sequence[fx.Node]", node.args[place])
