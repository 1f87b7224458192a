"""One tower's graph under construction."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager
from typing import Any, cast

from torch import SymInt, Tensor, fx, nn

from headway.core import Scope
from headway.graph.forms import Sizes
from headway.graph.nodes import aten, emit, frozen

ROW_TO_QUERY = "row_to_query"
HIDDEN = "hidden of "
ORIGIN = "origin"
"""Key of a tower node's ``meta``: the captured node that it was made for."""
_PLACE = ("stack_trace", "nn_module_stack")


class TowerBuilder:
    """One tower's graph: inputs by name, constants once each, operations in order."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.inputs: dict[str, fx.Node] = {}
        self._origin: dict[str, Any] = {}
        self._constants: dict[int, tuple[fx.Node, Tensor]] = {}
        self._calls: dict[Hashable, fx.Node] = {}
        self._last_input: fx.Node | None = None
        self._rows: fx.Node | None = None

    def begin(self, node: fx.Node) -> None:
        """Say which captured node the operations to come are for."""
        self._origin = {key: node.meta[key] for key in _PLACE if key in node.meta}
        self._origin[ORIGIN] = node.name

    def input(self, name: str, value: Tensor) -> fx.Node:
        """Return the input of that name, made if need be with the shape of ``value``."""
        if name not in self.inputs:
            with self._after_inputs():
                node = self.graph.placeholder(f"input_{len(self.inputs)}")
            node.meta["val"] = value
            self.inputs[name] = self._last_input = node
        return self.inputs[name]

    def constant(self, value: Tensor) -> fx.Node:
        """Return a node that reads ``value``."""
        known = self._constants.get(id(value))
        if known is None:
            name = f"constant_{len(self._constants)}"
            self.root.register_buffer(name, value)
            node = self.graph.get_attr(name)
            like = next(iter(self.inputs.values())).meta["val"]
            node.meta["val"] = like.fake_mode.from_tensor(value, static_shapes=True)
            known = self._constants[id(value)] = (node, value)
        return known[0]

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Return an operation's result, the same node for the same operation."""
        key = (target, frozen(args), frozen(kwargs))
        if key not in self._calls:
            made = emit(self.graph, target, *args, **kwargs)
            made.meta |= self._origin
            self._calls[key] = made
        return self._calls[key]

    def copy(self, node: fx.Node, args: Any, kwargs: Any) -> fx.Node:
        """Append the operation of another graph's node; its shapes and place stay true."""
        made = self.graph.call_function(cast("Any", node.target), args, kwargs)
        made.meta = {**node.meta, **self._origin}
        return made

    def reshape(self, node: fx.Node, sizes: Sizes) -> fx.Node:
        """Return a value with other sizes after its rows."""
        source = node
        while source.target is aten.reshape.default and _keeps_rows(source):
            source = cast("fx.Node", source.args[0])
        for known in (node, source):
            if tuple(known.meta["val"].shape[1:]) == sizes:
                return known
        first = known.meta["val"].shape[0]
        return self.call(aten.reshape.default, source, [1 if _is_one(first) else -1, *sizes])

    def join(self, nodes: list[fx.Node], axis: int) -> fx.Node:
        """Return a concatenation; flat where nothing lies before the axis, as lookups lie flat."""
        if len(nodes) == 1:
            return nodes[0]
        shapes = [n.meta["val"].shape for n in nodes]
        rank = len(shapes[0])
        if axis == rank - 1 and rank == 2:
            return self.call(aten.cat.default, nodes, -1)
        if any(s != 1 for shape in shapes for s in shape[1:axis]):
            return self.call(aten.cat.default, nodes, axis)
        flat = [self.reshape(n, (_count(n),)) for n in nodes]
        total = sum(int(shape[axis]) for shape in shapes)
        sizes = (*shapes[0][1:axis], total, *shapes[0][axis + 1 :])
        return self.reshape(self.call(aten.cat.default, flat, -1), tuple(int(s) for s in sizes))

    def rows(self, value: SymInt, like: Tensor) -> fx.Node:
        """Return the tower's number of rows; ``close`` chooses where it is read.

        Args:
            value: the symbol.
            like: of the input to read it from while there is none.
        """
        if self._rows is None:
            own = [n for name, n in self.inputs.items() if not name.startswith(HIDDEN)]
            source = own[0] if own else self.input(ROW_TO_QUERY, like)
            with self._after_inputs():
                self._rows = self.graph.call_function(aten.sym_size.int, (source, 0))
            self._rows.meta["val"] = value
        return self._rows

    def close(self, outputs: list[fx.Node]) -> None:
        """End the graph with these outputs and drop what they do not need."""
        self.graph.output(tuple(outputs))
        self.graph.eliminate_dead_code()
        self._settle_rows()
        drop_unused(self.graph)
        kept = set(self.graph.nodes)
        self.inputs = {name: node for name, node in self.inputs.items() if node in kept}

    def _after_inputs(self) -> AbstractContextManager[None]:
        if self._last_input is None:
            return cast("AbstractContextManager[None]", self.graph.inserting_before(None))
        return cast("AbstractContextManager[None]", self.graph.inserting_after(self._last_input))

    def _settle_rows(self) -> None:
        """Read the number of rows from an input that is needed anyway."""
        if self._rows is None or not self._rows.users:
            return
        own = (n for name, n in self.inputs.items() if not name.startswith(HIDDEN))
        used = (n for n in own if any(u is not self._rows for u in n.users))
        source = next(used, None)
        if source is not None:
            self._rows.args = (source, 0)


def drop_unused(graph: fx.Graph) -> None:
    """Erase the inputs that nothing reads."""
    for node in graph.find_nodes(op="placeholder"):
        if not node.users:
            graph.erase_node(node)


def _count(node: fx.Node) -> int:
    total = 1
    for size in node.meta["val"].shape[1:]:
        total *= int(size)
    return total


def _is_one(size: object) -> bool:
    return isinstance(size, int) and size == 1


def _keeps_rows(node: fx.Node) -> bool:
    source = cast("fx.Node", node.args[0])
    before, after = source.meta["val"].shape, node.meta["val"].shape
    return bool(before and after) and str(before[0]) == str(after[0])
