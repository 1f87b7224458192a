"""The two towers under construction, and the one way from the query's to the candidates'."""

from __future__ import annotations

from functools import reduce
from typing import Any, cast

import torch
from torch import SymInt, Tensor, fx

from headway.core import CaptureError, Scope
from headway.graph.builder import HIDDEN, ROW_TO_QUERY, TowerBuilder
from headway.graph.forms import (
    Blocks,
    Constant,
    Dots,
    Form,
    Ids,
    PerTower,
    Sizes,
    Terms,
    Whole,
    scope_of,
)
from headway.graph.nodes import aten, where
from headway.graph.rewrites import ALL, Rewrite


class Towers:
    """The query tower, the candidate tower and what passes between them.

    Attributes:
        per_query: whether the candidate tower scores candidates of one query: values of the
            query then have one row and are broadcast, else they are gathered by row.
        forms: of the captured nodes met so far.
        hidden: query-tower nodes to the candidate tower's inputs that carry them.
        rewrite: that applied to the captured node at hand; empty if none did.
        stopped: why the work of the node at hand stays with the candidates; else empty.
    """

    def __init__(
        self,
        rows: SymInt,
        row_to_query: Tensor,
        *,
        per_query: bool = False,
        rewrites: frozenset[Rewrite] = ALL,
    ) -> None:
        self.query = TowerBuilder(Scope.QUERY)
        self.candidate = TowerBuilder(Scope.CANDIDATE)
        self.per_query = per_query
        self.forms: dict[fx.Node, Form] = {}
        self.hidden: dict[fx.Node, fx.Node] = {}
        self.notes: list[str] = []
        self.rewrite = self.stopped = ""
        self._rewrites = rewrites
        self._node: fx.Node | None = None
        self._rows = rows
        self._row_to_query = row_to_query
        self._crossed: dict[fx.Node, fx.Node] = {}
        self._made: dict[tuple[Scope, bool, object], Any] = {}

    def begin(self, node: fx.Node) -> None:
        """Say which captured node the operations to come are for."""
        self.query.begin(node)
        self.candidate.begin(node)
        self._node = node
        self.rewrite = self.stopped = ""

    def allows(self, rewrite: Rewrite) -> bool:
        """Tell whether a rewrite may be applied."""
        return rewrite in self._rewrites

    def apply(self, rewrite: Rewrite, note: str = "") -> None:
        """Record that a rewrite moved work away from the node at hand."""
        self.rewrite = rewrite.value
        if note:
            self.notes.append(f"hoisted: {note}")

    def of(self, scope: Scope) -> TowerBuilder:
        """Return the tower of a scope."""
        return self.query if scope is Scope.QUERY else self.candidate

    def owner(self, node: fx.Node) -> TowerBuilder:
        """Return the tower that a node belongs to."""
        return self.query if node.graph is self.query.graph else self.candidate

    def is_rows(self, value: object) -> bool:
        """Tell whether a size is the number of rows."""
        return isinstance(value, SymInt) and bool(value.node.expr == self._rows.node.expr)

    def exact(self, form: Form, scope: Scope) -> Any:
        """Return the node (or number) that has a value in a tower, in its full shape.

        Args:
            form: what the value is; a candidate-level one cannot be asked for per query.
            scope: whose tower.
        """
        return self._settled(form, scope, full=True)

    def compact(self, form: Form, scope: Scope) -> Any:
        """Return the same as ``exact`` with broadcasts not carried out: axes may have size 1.

        So may the rows, where the tower is per query and the value the query's.
        """
        return self._settled(form, scope, full=False)

    def whole(self, form: Terms | Blocks | Dots) -> Terms:
        """Return a value as one node of the candidates, or of the query if it is all the query's."""
        scope = scope_of(form) or Scope.CANDIDATE
        node = self.compact(form, scope)
        if scope is Scope.QUERY:
            return Terms(form.sizes, query=node)
        return Terms(form.sizes, candidate=node)

    def settled(self, form: Form) -> Form:
        """Return a value's one node if it was carried out before and its parts save nothing.

        They save nothing if the candidates' share is as large as the value: whatever follows has
        as much to do for it, and would add the query's share again each time.
        """
        if not isinstance(form, Terms) or form.pure is not None or form.candidate is None:
            return form
        whole = self._made.get((Scope.CANDIDATE, False, form))
        if whole is None or tuple(form.candidate.meta["val"].shape[1:]) != form.sizes:
            return form
        return Terms(form.sizes, candidate=whole)

    def cross(self, node: fx.Node) -> fx.Node:
        """Return a query-tower value for the candidates: gathered, or one row to broadcast."""
        if node not in self._crossed:
            self._crossed[node] = self._spread(node)
        return self._crossed[node]

    def times_query(self, value: fx.Node, matrices: fx.Node) -> fx.Node:
        """Return the product of candidates' rows with the query's matrix.

        Args:
            value: of the candidates, ``[rows, n, k]`` or ``[rows, k]``.
            matrices: of the query, ``[queries, k, m]``.
        """
        crossed = self.cross(matrices)
        if self.per_query:
            return self.candidate.call(aten.matmul.default, value, self.only(crossed))
        if len(value.meta["val"].shape) == 3:
            return self.candidate.call(aten.bmm.default, value, crossed)
        lines = self.candidate.call(aten.unsqueeze.default, value, 1)
        return self.candidate.call(
            aten.squeeze.dim, self.candidate.call(aten.bmm.default, lines, crossed), 1
        )

    def only(self, crossed: fx.Node) -> fx.Node:
        """Return the one query's matrix, without the axis of queries."""
        sizes = [int(s) for s in crossed.meta["val"].shape[1:]]
        return self.candidate.call(aten.reshape.default, crossed, sizes)

    def stop(self) -> None:
        """Record that the node at hand joins query and candidates for good."""
        if self._node is not None and not self.stopped:
            self.stopped = f"{self._node.target} joins query and candidates"
            self.notes.append(f"stopped: {self.stopped}{where(self._node)}")

    def row_count(self) -> fx.Node:
        """Return the number of candidates."""
        return self.candidate.rows(self._rows, self._row_to_query)

    def _settled(self, form: Form, scope: Scope, *, full: bool) -> Any:
        key = (scope, full, form.node if isinstance(form, PerTower) else form)
        if key not in self._made:
            node = self._make(form, scope)
            if full and isinstance(form, Terms | Blocks | Dots):
                node = self._filled(node, form.sizes, scope)
            self._made[key] = node
        return self._made[key]

    def _filled(self, node: fx.Node, sizes: Sizes, scope: Scope) -> fx.Node:
        """Carry out the broadcasts that were put off."""
        grows = scope is Scope.CANDIDATE and self._one_row(node)
        if tuple(node.meta["val"].shape[1:]) == sizes and not grows:
            return node
        target = self._full(sizes) if grows else [-1, *sizes]
        return self.of(scope).call(aten.expand.default, node, target)

    def _full(self, sizes: Sizes) -> list[Any]:
        return [self.row_count(), *sizes]

    def _one_row(self, node: fx.Node) -> bool:
        first = node.meta["val"].shape[0]
        return self.per_query and isinstance(first, int) and first == 1

    def _make(self, form: Form, scope: Scope) -> Any:
        if isinstance(form, Whole):
            return form.node if form.scope is scope else self._exactly(form.node)
        if isinstance(form, Constant):
            return self.of(scope).constant(form.value)
        if isinstance(form, Terms):
            return self._total(form, scope)
        if isinstance(form, Blocks):
            return self._concatenated(form, scope)
        if isinstance(form, PerTower):
            return self._recompute(form.node, scope)
        if isinstance(form, Dots):
            return self._multiplied(form, scope)
        raise CaptureError(f"ids of {form.part.feature.name!r} cannot enter a tower")

    def _total(self, form: Terms, scope: Scope) -> fx.Node:
        """Carry out the products and the sum."""
        if scope is Scope.QUERY:
            return cast("fx.Node", form.query)
        call = self.candidate.call
        parts = [] if form.candidate is None else [form.candidate]
        parts += [call(aten.mul.Tensor, p.candidate, self.cross(p.query)) for p in form.products]
        parts += [] if form.query is None else [self.cross(form.query)]
        return reduce(lambda a, b: call(aten.add.Tensor, a, b), parts)

    def _concatenated(self, form: Blocks, scope: Scope) -> fx.Node:
        """Join the parts; neighbours of the query are joined first and cross as one."""
        nodes: list[fx.Node] = []
        run: list[Terms] = []
        for part in (*form.parts, None):
            if part is not None and scope_of(part) is Scope.QUERY is not scope:
                run.append(part)
                continue
            if run:
                joined = self.query.join([self.exact(p, Scope.QUERY) for p in run], form.axis)
                nodes.append(self.exact(Terms(tuple(joined.meta["val"].shape[1:]), joined), scope))
                run = []
            if part is not None:
                nodes.append(self.exact(part, scope))
        tower = self.of(scope)
        total = tower.join(nodes, form.axis)
        if form.order is None:
            return total
        places = inverse(form.order)
        return tower.call(aten.index_select.default, total, form.axis, tower.constant(places))

    def _multiplied(self, form: Dots, scope: Scope) -> fx.Node:
        """Multiply all vectors with all; only where no rule took a choice of them."""
        tower = self.of(scope)
        vectors = self.exact(form.vectors, scope)
        turned = tower.call(aten.permute.default, vectors, [0, 2, 1])
        products = tower.call(aten.bmm.default, vectors, turned)
        count = vectors.meta["val"].shape[1]
        flat = tower.reshape(products, (count * count,))
        index = form.pairs.flatten()
        if index.tolist() != list(range(count * count)):
            flat = tower.call(aten.index_select.default, flat, 1, tower.constant(index))
        return tower.reshape(flat, form.sizes)

    def _recompute(self, node: fx.Node, scope: Scope) -> Any:
        tower = self.of(scope)
        if self.is_rows(node.meta["val"]):
            return tower.rows(node.meta["val"], self._row_to_query)
        args, kwargs = fx.map_arg(
            (node.args, node.kwargs), lambda n: self.exact(self.forms[n], scope)
        )
        return tower.copy(node, args, kwargs)

    def _exactly(self, node: fx.Node) -> Any:
        """Return a query-tower value for the candidates with a row for each, if it has rows."""
        crossed = self.cross(node)
        value = node.meta["val"]
        if isinstance(value, Tensor) and value.dim() and self._one_row(crossed):
            return self._filled(crossed, tuple(crossed.meta["val"].shape[1:]), Scope.CANDIDATE)
        return crossed

    def _spread(self, node: fx.Node) -> fx.Node:
        value = node.meta["val"]
        if node.target is aten.sym_size.int:
            return self.candidate.rows(value, self._row_to_query)
        if node.op == "get_attr":
            return self.candidate.constant(
                cast("Tensor", getattr(self.query.root, str(node.target)))
            )
        row_wise = isinstance(value, Tensor) and self._row_wise(value)
        if row_wise and value.is_floating_point() and node.target is not aten.expand.default:
            return self._hand_over(node, value)
        if node.op == "placeholder" or not node.all_input_nodes:
            raise CaptureError(f"the value {node.name} has no axis of rows to spread{where(node)}")
        # Runners carry floats, so what is none is made again from what is.
        again = self.cross if row_wise and node.target is not aten.expand.default else self._exactly
        args, kwargs = fx.map_arg((node.args, node.kwargs), again)
        if self.per_query:
            return self.candidate.call(node.target, *args, **kwargs)
        return self.candidate.copy(node, args, kwargs)

    def _hand_over(self, node: fx.Node, value: Tensor) -> fx.Node:
        if self.per_query:
            one = value.new_empty((1, *value.shape[1:]))
            self.hidden[node] = self.candidate.input(f"{HIDDEN}{node.name}", one)
            return self.hidden[node]
        index = self.candidate.input(ROW_TO_QUERY, self._row_to_query)
        self.hidden[node] = self.candidate.input(f"{HIDDEN}{node.name}", value)
        return self.candidate.call(aten.index_select.default, self.hidden[node], 0, index)

    def _row_wise(self, value: Tensor) -> bool:
        sizes = list(value.shape)
        return bool(sizes) and self.is_rows(sizes[0]) and all(isinstance(s, int) for s in sizes[1:])


def inverse(order: tuple[int, ...]) -> Tensor:
    """Return for each column of a value its place in the concatenation."""
    places = torch.empty(len(order), dtype=torch.int64)
    places[torch.tensor(order)] = torch.arange(len(order))
    return places


def misused(form: Ids, node: fx.Node) -> str:
    """Return what is wrong with an operation on ids that is no lookup."""
    feature, kind = form.part.feature.name, form.part.kind
    return (
        f"the {kind} of feature {feature!r} go into {node.target}{where(node)}; ids can only be "
        "looked up in an embedding, since towers see vectors: use the mask that comes with a "
        "sequence, and a dense feature for numbers"
    )
