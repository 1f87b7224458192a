"""Two graphs under construction, and the one way from the query tower to the other."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, cast

from torch import SymInt, Tensor, fx, nn

from headway.core import CaptureError, Scope
from headway.graph.scope import Blocks, Constant, Form, Ids, PerTower, Whole
from headway.graph.simplify import aten, emit, where

ROW_TO_QUERY = "row_to_query"
ORIGIN = "origin"
"""Key of a tower node's ``meta``: the captured node that it was made for."""


class TowerBuilder:
    """One tower's graph: inputs by name, constants once each, operations in order."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.inputs: dict[str, fx.Node] = {}
        self.origin = ""
        self._constants: dict[int, tuple[fx.Node, Tensor]] = {}
        self._last_input: fx.Node | None = None
        self._rows: fx.Node | None = None

    def input(self, name: str, value: Tensor) -> fx.Node:
        """Return the input of that name, made if need be with the shape of ``value``."""
        if name not in self.inputs:
            with self._after_inputs():
                node = self.graph.placeholder(f"input_{len(self.inputs)}")
            node.meta["val"] = value
            self.inputs[name] = self._last_input = node
        return self.inputs[name]

    def _after_inputs(self) -> AbstractContextManager[None]:
        if self._last_input is None:
            return cast("AbstractContextManager[None]", self.graph.inserting_before(None))
        return cast("AbstractContextManager[None]", self.graph.inserting_after(self._last_input))

    def constant(self, value: Tensor, like: fx.Node) -> fx.Node:
        """Return a node that reads ``value``."""
        known = self._constants.get(id(value))
        if known is None:
            name = f"constant_{len(self._constants)}"
            self.root.register_buffer(name, value)
            node = self.graph.get_attr(name)
            node.meta["val"] = like.meta["val"].fake_mode.from_tensor(value, static_shapes=True)
            known = self._constants[id(value)] = (node, value)
        return known[0]

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Append an operation."""
        made = emit(self.graph, target, *args, **kwargs)
        made.meta[ORIGIN] = self.origin
        return made

    def copy(self, node: fx.Node, args: Any, kwargs: Any) -> fx.Node:
        """Append the operation of another graph's node; its shapes and place stay true."""
        made = self.graph.call_function(cast("Any", node.target), args, kwargs)
        made.meta = {**node.meta, ORIGIN: self.origin}
        return made

    def rows(self, value: SymInt) -> fx.Node:
        """Return the tower's number of rows; ``close`` chooses where it is read."""
        if self._rows is None:
            source = next(iter(self.inputs.values()))
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

    def _settle_rows(self) -> None:
        """Read the number of rows from an input that is needed anyway."""
        if self._rows is None or not self._rows.users:
            return
        used = (n for n in self.inputs.values() if any(u is not self._rows for u in n.users))
        source = next(used, None)
        if source is not None:
            self._rows.args = (source, 0)


class Towers:
    """The query tower, the candidate tower and what passes between them."""

    def __init__(self, rows: SymInt, row_to_query: Tensor) -> None:
        self.query = TowerBuilder(Scope.QUERY)
        self.candidate = TowerBuilder(Scope.CANDIDATE)
        self.hidden: dict[fx.Node, fx.Node] = {}
        self.forms: dict[fx.Node, Form] = {}
        self.notes: list[str] = []
        self._rows = rows
        self._row_to_query = row_to_query
        self._gathered: dict[fx.Node, fx.Node] = {}
        self._made: dict[tuple[Scope, object], Any] = {}

    def of(self, scope: Scope) -> TowerBuilder:
        """Return the tower of a scope."""
        return self.query if scope is Scope.QUERY else self.candidate

    def begin(self, node: fx.Node) -> None:
        """Say which captured node the operations to come are for."""
        self.query.origin = self.candidate.origin = node.name

    def node(self, form: Form, scope: Scope, like: fx.Node) -> Any:
        """Return the node (or number) that has the value in a tower, computing what it lacks.

        Args:
            form: what the value is; a candidate-level one cannot be asked for per query.
            scope: whose tower.
            like: the captured node that needs it, for its shape context and its place.
        """
        key = (scope, form.node if isinstance(form, PerTower) else form)
        if key not in self._made:
            self._made[key] = self._make(form, scope, like)
        return self._made[key]

    def is_rows(self, value: object) -> bool:
        """Tell whether a size is the number of rows."""
        return isinstance(value, SymInt) and bool(value.node.expr == self._rows.node.expr)

    def gather(self, node: fx.Node) -> fx.Node:
        """Return a query-tower value spread to the candidates, as late as its shape allows."""
        if node not in self._gathered:
            self._gathered[node] = self._spread(node)
        return self._gathered[node]

    def _make(self, form: Form, scope: Scope, like: fx.Node) -> Any:
        if isinstance(form, Whole):
            return form.node if form.scope is scope else self.gather(form.node)
        if isinstance(form, Constant):
            return self.of(scope).constant(form.value, self._like(like))
        if isinstance(form, Blocks):
            return self._concatenate(form, scope, like)
        if isinstance(form, PerTower):
            return self._recompute(form.node, scope, like)
        raise CaptureError(misused(form, like))

    def _like(self, node: fx.Node) -> fx.Node:
        """Return a node with a tensor to take the shape context from."""
        if hasattr(node.meta.get("val"), "fake_mode"):
            return node
        inputs = [*self.query.inputs.values(), *self.candidate.inputs.values()]
        return inputs[0]

    def _concatenate(self, form: Blocks, scope: Scope, like: fx.Node) -> fx.Node:
        """Join the parts; neighbours of the query are joined first and gathered as one."""
        nodes: list[fx.Node] = []
        run: list[fx.Node] = []
        for part in form.parts:
            if isinstance(part, Whole) and part.scope is Scope.QUERY is not scope:
                run.append(part.node)
                continue
            nodes += self._join_run(run)
            run = []
            nodes.append(self.node(part, scope, like))
        nodes += self._join_run(run)
        return nodes[0] if len(nodes) == 1 else self.of(scope).call(aten.cat.default, nodes, -1)

    def _join_run(self, run: list[fx.Node]) -> list[fx.Node]:
        if len(run) < 2:
            return [self.gather(node) for node in run]
        return [self.gather(self.query.call(aten.cat.default, run, -1))]

    def _recompute(self, node: fx.Node, scope: Scope, like: fx.Node) -> Any:
        tower = self.of(scope)
        if self.is_rows(node.meta["val"]):
            if not tower.inputs:
                tower.input(ROW_TO_QUERY, self._row_to_query)
            return tower.rows(node.meta["val"])
        args, kwargs = fx.map_arg(
            (node.args, node.kwargs), lambda n: self.node(self.forms[n], scope, like)
        )
        return tower.copy(node, args, kwargs)

    def _spread(self, node: fx.Node) -> fx.Node:
        value = node.meta["val"]
        if node.target is aten.sym_size.int:
            return self.candidate.rows(value)
        if node.op == "get_attr":
            constant = cast("Tensor", getattr(self.query.root, str(node.target)))
            return self.candidate.constant(constant, node)
        if _may_cross(node) and self._row_wise(value):
            index = self.candidate.input(ROW_TO_QUERY, self._row_to_query)
            self.hidden[node] = self.candidate.input(f"hidden of {node.name}", value)
            return self.candidate.call(aten.index_select.default, self.hidden[node], 0, index)
        if node.op == "placeholder" or not node.all_input_nodes:
            raise CaptureError(f"the value {node.name} has no axis of rows to spread{where(node)}")
        args, kwargs = fx.map_arg((node.args, node.kwargs), self.gather)
        return self.candidate.copy(node, args, kwargs)

    def _row_wise(self, value: Tensor) -> bool:
        sizes = list(value.shape)
        return bool(sizes) and self.is_rows(sizes[0]) and all(isinstance(s, int) for s in sizes[1:])


def _may_cross(node: fx.Node) -> bool:
    """Tell whether to gather a value itself: runners carry floats, and no copies of copies."""
    value = node.meta["val"]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    return node.target is not aten.expand.default


def drop_unused(graph: fx.Graph) -> None:
    """Erase the inputs that nothing reads."""
    for node in graph.find_nodes(op="placeholder"):
        if not node.users:
            graph.erase_node(node)


def misused(form: Ids, node: fx.Node) -> str:
    """Return what is wrong with an operation on ids that is no lookup."""
    feature, kind = form.part.feature.name, form.part.kind
    return (
        f"the {kind} of feature {feature!r} go into {node.target}{where(node)}; ids can only be "
        "looked up in an embedding, since towers see vectors: use the mask that comes with a "
        "sequence, and a dense feature for numbers"
    )
