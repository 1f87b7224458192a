"""Goes through a captured graph once and builds both towers."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import SymInt, Tensor, fx

from headway.core import Bag, CaptureError, IdFeature, Scope, Sequence
from headway.graph.capture import Captured, PartKind
from headway.graph.dots import chosen
from headway.graph.forms import (
    Constant,
    Decision,
    Dots,
    Form,
    Ids,
    PerTower,
    Terms,
    Whole,
    is_mixed,
    scope_of,
    sizes_of,
    widest,
)
from headway.graph.layout import LOOKUP, Tower, finish
from headway.graph.lookups import BAGS, check_all_used, check_bag, check_shape, mapped
from headway.graph.nodes import CASTS, PICKS, aten, value_of, where
from headway.graph.parts import alone
from headway.graph.rewrites import Rewrite
from headway.graph.rules import BROADCASTS, RULES
from headway.graph.towers import Towers, misused


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What came of one pass: as in ``Partition``, which has the meanings."""

    query: Tower | None
    candidate: Tower
    tables: dict[str, Tensor]
    places: dict[str, Tensor]
    notes: tuple[str, ...]
    decisions: dict[str, Decision]


class Interpreter:
    """Goes through the captured graph once, giving every node its form."""

    def __init__(
        self, captured: Captured, rewrites: frozenset[Rewrite], *, per_query: bool
    ) -> None:
        self.captured = captured
        self.graph = captured.module.graph
        self.tables: dict[str, tuple[Constant, Constant | None]] = {}
        rows, index = _row_context(captured)
        self.towers = Towers(rows, index, per_query=per_query, rewrites=rewrites)
        self.decisions: dict[str, Decision] = {}

    def run(self) -> Result:
        """Return the finished towers."""
        towers = self.towers
        for node in self.graph.nodes:
            if node.op == "output":
                return self._finish(towers.forms[cast("fx.Node", node.args[0])])
            towers.begin(node)
            form = towers.forms[node] = self._form(node)
            rewrite = towers.rewrite
            if not rewrite and node.op == "call_function" and scope_of(form) is Scope.QUERY:
                rewrite = Rewrite.HOIST.value
            self.decisions[node.name] = Decision(_scope_name(form), rewrite, towers.stopped)
        raise CaptureError("the captured graph has no output; capture the model again")

    def _form(self, node: fx.Node) -> Form:
        if node.op == "placeholder":
            return self._placeholder(node)
        if node.op == "get_attr":
            value = cast("Tensor", value_of(self.captured.module, node))
            return Constant(value, self.captured.names.get(str(node.target), ""))
        return self._of_ids(node) or self._operation(node)

    def _of_ids(self, node: fx.Node) -> Form | None:
        """Return what becomes of ids, or of what was looked up; None for all other operations."""
        if node.target is aten.embedding.default or node.target in BAGS:
            return self._lookup(node)
        if node.target in (*PICKS, *CASTS):
            return mapped(node, self.towers.forms)
        if node.target is operator.getitem:
            bag = cast("fx.Node", node.args[0])
            if bag.target in BAGS and isinstance(self.towers.forms[bag], Terms):
                return self._pooled(bag, node)
        return None

    def _pooled(self, bag: fx.Node, node: fx.Node) -> Form:
        """Take the vectors out of what embedding_bag returns."""
        if node.args[1] != 0:
            raise CaptureError(f"only the vectors of an embedding_bag can be used{where(node)}")
        return self.towers.forms[bag]

    def _placeholder(self, node: fx.Node) -> Form:
        part = self.captured.inputs[node.name]
        if part.kind not in {PartKind.DENSE, PartKind.MASK}:
            return Ids(part)
        return self._input(part.scope, f"{part.kind}.{part.feature.name}", node.meta["val"])

    def _input(self, scope: Scope, name: str, value: Tensor) -> Form:
        node = self.towers.of(scope).input(name, value)
        form = self._valued(scope, node, value)
        if scope is Scope.QUERY and not self.towers.allows(Rewrite.HOIST):
            # With a row per candidate: rules expect one of all that is a candidate's.
            return self._valued(Scope.CANDIDATE, self.towers.exact(form, Scope.CANDIDATE), value)
        return form

    def _valued(self, scope: Scope, node: fx.Node, value: object) -> Form:
        """Return the form of an operation's result, as rules like it if it is row by row."""
        sizes = sizes_of(value)
        if sizes is None or not self.towers.is_rows(cast("Tensor", value).shape[0]):
            return Whole(scope, node)
        return alone(scope, sizes, node)

    def _operation(self, node: fx.Node) -> Form:
        towers = self.towers
        forms = [towers.forms[n] for n in node.all_input_nodes]
        if not isinstance(node.meta["val"], Tensor | tuple | list):
            return PerTower(node)
        wrong = next((f for f in forms if isinstance(f, Ids)), None)
        if wrong is not None:
            raise CaptureError(misused(wrong, node))
        scope = widest(forms)
        if scope is None:
            return PerTower(node)
        # Work of the query alone stays where it is; only broadcasts are worth putting off.
        if scope is Scope.CANDIDATE or node.target is aten.expand.default:
            rule = RULES.get(node.target)
            form = rule(towers, node, [self._operand(a) for a in node.args]) if rule else None
            if form is not None:
                return form
        return self._emit(node, scope, forms)

    def _operand(self, argument: object) -> Any:
        if isinstance(argument, list | tuple):
            return [self._operand(a) for a in argument]
        if not isinstance(argument, fx.Node):
            return argument
        return self.towers.settled(self.towers.forms[argument])

    def _emit(self, node: fx.Node, scope: Scope, forms: list[Form]) -> Form:
        """Append the operation to the tower of its scope, its operands carried out."""
        towers = self.towers
        if scope is Scope.CANDIDATE and any(
            is_mixed(f) or scope_of(f) is Scope.QUERY for f in forms
        ):
            towers.stop()
        for source in node.all_input_nodes:
            form = towers.forms[source]
            if isinstance(form, Dots) and len(form.sizes) == 1:
                towers.forms[source] = chosen(towers, form)
        settle = towers.compact if node.target in BROADCASTS else towers.exact
        args, kwargs = fx.map_arg(
            (node.args, node.kwargs), lambda n: settle(towers.forms[n], scope)
        )
        if node.target in BROADCASTS:
            made = towers.of(scope).call(node.target, *args, **kwargs)
        elif node.target is aten.cat.default and _joins_columns(node):
            axis = cast("int", args[1]) % node.meta["val"].dim()
            made = towers.of(scope).join(list(cast("list[fx.Node]", args[0])), axis)
        else:
            made = towers.of(scope).copy(node, args, kwargs)
        return self._valued(scope, made, node.meta["val"])

    def _lookup(self, node: fx.Node) -> Form | None:
        """Turn an embedding into an input of its tower; None if it is constant."""
        forms = [self.towers.forms[a] if isinstance(a, fx.Node) else None for a in node.args[:3]]
        weight, ids = forms[0], forms[1]
        if not isinstance(weight, Constant) or isinstance(ids, Constant):
            return None
        name = weight.name or "an embedding"
        if not isinstance(ids, Ids):
            raise CaptureError(
                f"{name!r} is looked up with computed ids{where(node)}; look embeddings up with "
                "a feature of the schema as it comes in, and compute ids in the transforms"
            )
        feature = cast("IdFeature", ids.part.feature)
        self._bind(feature, weight, ids.places, node)
        pooled = node.target in BAGS
        if pooled:
            check_bag(node, feature, forms[2], name)
        elif isinstance(feature, Bag):
            raise CaptureError(
                f"the ids of the bag {feature.name!r} are looked up one by one{where(node)}; "
                "use embedding_bag, or declare the feature as a sequence"
            )
        kind = "sequence." if isinstance(feature, Sequence) else LOOKUP
        value = node.meta["val"][0] if pooled else node.meta["val"]
        return self._input(feature.scope, kind + feature.name, value)

    def _bind(
        self, feature: IdFeature, weight: Constant, places: Constant | None, node: fx.Node
    ) -> None:
        """Take a parameter, and the map into it if there is one, for a table of the schema."""
        table = self.captured.schema.table(feature.table)
        check_shape(table, weight, places, feature.name, where(node))
        known = self.tables.setdefault(table.name, (weight, places))
        if _addresses(known) != _addresses((weight, places)):
            raise CaptureError(
                f"feature {feature.name!r} is looked up in {weight.name!r}{where(node)}, but its "
                f"table {table.name!r} is {known[0].name!r} already; give the schema one table "
                "(and one feature) per parameter, and one map"
            )

    def _finish(self, result: Form) -> Result:
        towers, schema = self.towers, self.captured.schema
        if scope_of(result) is not Scope.CANDIDATE:
            raise CaptureError(
                "no score depends on a candidate-level feature, so all candidates of a query "
                "would score the same; give the schema a candidate-level feature that is used"
            )
        check_all_used(schema, set(self.tables))
        towers.candidate.close([towers.exact(result, Scope.CANDIDATE)])
        kept = {n: name for name, n in towers.candidate.inputs.items()}
        crossing = [(made, hidden) for made, hidden in towers.hidden.items() if hidden in kept]
        for i, (_, hidden) in enumerate(crossing):
            del towers.candidate.inputs[kept[hidden]]
            towers.candidate.inputs[f"hidden.{i}"] = hidden
        looked_up = {f.name: f.table for f in schema.id_features()}
        per_query = towers.per_query and bool(crossing)
        candidate = finish(towers.candidate, ("output",), looked_up, per_query=per_query)
        query = None
        if crossing:
            towers.query.close([made for made, _ in crossing])
            names = tuple(f"hidden.{i}" for i in range(len(crossing)))
            query = finish(towers.query, names, looked_up)
        tables = {name: weight.value for name, (weight, _) in self.tables.items()}
        places = {n: p.value for n, (_, p) in self.tables.items() if p is not None}
        notes = (*towers.notes, *(f"ignored: {text}" for text in self.captured.warnings))
        return Result(query, candidate, tables, places, notes, self.decisions)


def _addresses(forms: Iterable[Constant | None]) -> list[int]:
    return [0 if form is None else form.value.data_ptr() for form in forms]


def _scope_name(form: Form) -> str:
    if is_mixed(form):
        return "mixed"
    scope = scope_of(form)
    return scope.value if scope else "constant"


def _row_context(captured: Captured) -> tuple[SymInt, Tensor]:
    """Return the symbolic number of rows, and what ``row_to_query`` looks like."""
    for node in captured.module.graph.find_nodes(op="placeholder"):
        kind, value = captured.inputs[node.name].kind, node.meta["val"]
        if kind is not PartKind.VALUES:
            rows = value.shape[0] - 1 if kind is PartKind.OFFSETS else value.shape[0]
            with value.fake_mode:
                return rows, torch.empty((rows,), dtype=torch.int64)
    raise CaptureError("the captured graph has no inputs; capture the model again")


def _joins_columns(node: fx.Node) -> bool:
    """Tell whether a concatenation is of rows whose sizes are known, and not of the rows."""
    sources = cast("list[fx.Node]", node.args[0])
    axis = cast("int", node.args[1]) if len(node.args) > 1 else 0
    known = all(sizes_of(n.meta["val"]) is not None for n in sources)
    return known and axis % node.meta["val"].dim() != 0
