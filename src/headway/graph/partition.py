"""A captured graph becomes lookups, a query tower and a candidate tower."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import SymInt, Tensor, fx

from headway.core import Bag, CaptureError, IdFeature, Pooling, Schema, Scope, Sequence
from headway.graph.capture import Captured, PartKind
from headway.graph.layout import LOOKUP, Tower, finish
from headway.graph.rewrites import ALL, Rewrite
from headway.graph.scope import (
    Blocks,
    Constant,
    Decision,
    Form,
    Ids,
    PerTower,
    Whole,
    is_mixed,
    scope_of,
    widest,
)
from headway.graph.simplify import aten, value_of, where
from headway.graph.split import RULES
from headway.graph.towers import Towers, misused

_BAGS = (
    aten.embedding_bag.default,
    aten.embedding_bag.padding_idx,
    aten._embedding_bag.default,  # noqa: SLF001
    aten._embedding_bag_forward_only.default,  # noqa: SLF001
)
_MODES = {Pooling.SUM: 0, Pooling.MEAN: 1}


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """A model in three pieces that together give what it gives.

    Attributes:
        query: runs on one row per query; None if nothing depends on the query alone.
        candidate: runs on one row per candidate.
        tables: the model's parameter of each schema table that is looked up.
        schema: of the model.
        notes: what was hoisted, what stopped and what the model ignores, as sentences.
        decisions: what became of each captured node, by its name.
        rewrites: those that were allowed.
    """

    query: Tower | None
    candidate: Tower
    tables: dict[str, Tensor]
    schema: Schema
    notes: tuple[str, ...]
    decisions: dict[str, Decision] = field(default_factory=dict)
    rewrites: frozenset[Rewrite] = ALL


def partition(captured: Captured) -> Partition:
    """Share the graph out: what depends on the query alone runs once per query.

    Every value is constant, per query or per candidate, from its inputs; a concatenation has a
    scope for each of its parts, which the rules of ``split`` make use of. A per-query value
    that meets per-candidate ones is gathered by ``row_to_query``.

    Raises:
        CaptureError: if ids are used other than for a lookup, a parameter does not fit its
            table, no score depends on a candidate, or a table is never looked up.
    """
    return _Interpreter(captured).run()


class _Interpreter:
    """Goes through the captured graph once, giving every node its form."""

    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        self.graph = captured.module.graph
        self.tables: dict[str, Constant] = {}
        self.towers = Towers(*_row_context(captured))
        self.decisions: dict[str, Decision] = {}

    def run(self) -> Partition:
        """Return the finished partition."""
        forms = self.towers.forms
        for node in self.graph.nodes:
            if node.op == "output":
                return self._finish(forms[cast("fx.Node", node.args[0])], node)
            self.towers.begin(node)
            forms[node] = self._form(node)
            self.decisions[node.name] = Decision(_scope_name(forms[node]))
        raise CaptureError("the captured graph has no output; capture the model again")

    def _form(self, node: fx.Node) -> Form:
        if node.op == "placeholder":
            return self._placeholder(node)
        if node.op == "get_attr":
            value = cast("Tensor", value_of(self.captured.module, node))
            return Constant(value, self.captured.names.get(str(node.target), ""))
        if node.target is aten.embedding.default or node.target in _BAGS:
            form = self._lookup(node)
            if form is not None:
                return form
        if node.target is operator.getitem:
            bag = cast("fx.Node", node.args[0])
            if bag.target in _BAGS and isinstance(self.towers.forms[bag], Whole):
                return self._pooled(bag, node)
        return self._operation(node)

    def _pooled(self, bag: fx.Node, node: fx.Node) -> Form:
        """Take the vectors out of what embedding_bag returns."""
        if node.args[1] != 0:
            raise CaptureError(f"only the vectors of an embedding_bag can be used{where(node)}")
        return self.towers.forms[bag]

    def _placeholder(self, node: fx.Node) -> Form:
        part = self.captured.inputs[node.name]
        if part.kind not in {PartKind.DENSE, PartKind.MASK}:
            return Ids(part)
        tower = self.towers.of(part.scope)
        value = node.meta["val"]
        return Whole(part.scope, tower.input(f"{part.kind}.{part.feature.name}", value))

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
        rule = RULES.get(node.target)
        form = rule(towers, node) if rule else None
        return form or self._emit(node, scope, forms)

    def _emit(self, node: fx.Node, scope: Scope, forms: list[Form]) -> Form:
        towers = self.towers
        stopped = [f for f in forms if widest([f]) and scope_of(f) is not scope]
        stopped += [
            f for f in forms if isinstance(f, Blocks) and Scope.QUERY in map(scope_of, f.parts)
        ]
        if scope is Scope.CANDIDATE and stopped:
            towers.notes.append(f"stopped: {node.target} joins query and candidates{where(node)}")
        args, kwargs = fx.map_arg(
            (node.args, node.kwargs), lambda n: towers.node(towers.forms[n], scope, n)
        )
        return Whole(scope, towers.of(scope).copy(node, args, kwargs))

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
        self._bind(feature, weight, name, node)
        pooled = node.target in _BAGS
        if pooled:
            _check_bag(node, feature, forms[2], name)
        elif isinstance(feature, Bag):
            raise CaptureError(
                f"the ids of the bag {feature.name!r} are looked up one by one{where(node)}; "
                "use embedding_bag, or declare the feature as a sequence"
            )
        kind = "sequence." if isinstance(feature, Sequence) else LOOKUP
        value = node.meta["val"][0] if pooled else node.meta["val"]
        tower = self.towers.of(feature.scope)
        return Whole(feature.scope, tower.input(kind + feature.name, value))

    def _bind(self, feature: IdFeature, weight: Constant, name: str, node: fx.Node) -> None:
        table = self.captured.schema.table(feature.table)
        value = weight.value
        if tuple(value.shape) != (table.rows, table.dim):
            raise CaptureError(
                f"feature {feature.name!r} is looked up in {name!r} of shape {list(value.shape)}"
                f"{where(node)}, but its table {table.name!r} is [{table.rows}, {table.dim}]; "
                "make the two agree"
            )
        known = self.tables.setdefault(table.name, weight)
        if known.value.data_ptr() != value.data_ptr():
            raise CaptureError(
                f"feature {feature.name!r} is looked up in {name!r}{where(node)}, but its table "
                f"{table.name!r} is {known.name!r} already; give the schema one table (and one "
                "feature) per parameter"
            )

    def _finish(self, result: Form, output: fx.Node) -> Partition:
        towers = self.towers
        if scope_of(result) is not Scope.CANDIDATE:
            raise CaptureError(
                "no score depends on a candidate-level feature, so all candidates of a query "
                "would score the same; give the schema a candidate-level feature that is used"
            )
        _check_all_used(self.captured.schema, set(self.tables))
        last = cast("fx.Node", output.args[0])
        node = towers.node(result, Scope.CANDIDATE, last)
        towers.candidate.close([node])
        kept = {n: name for name, n in towers.candidate.inputs.items()}
        crossing = [(made, hidden) for made, hidden in towers.hidden.items() if hidden in kept]
        for i, (_, hidden) in enumerate(crossing):
            del towers.candidate.inputs[kept[hidden]]
            towers.candidate.inputs[f"hidden.{i}"] = hidden
        looked_up = {f.name: f.table for f in self.captured.schema.id_features()}
        candidate = finish(towers.candidate, ("output",), looked_up)
        query = None
        if crossing:
            towers.query.close([made for made, _ in crossing])
            names = tuple(f"hidden.{i}" for i in range(len(crossing)))
            query = finish(towers.query, names, looked_up)
        tables = {name: form.value for name, form in self.tables.items()}
        notes = (*towers.notes, *(f"ignored: {text}" for text in self.captured.warnings))
        return Partition(query, candidate, tables, self.captured.schema, notes, self.decisions)


def _scope_name(form: Form) -> str:
    if is_mixed(form):
        return "mixed"
    scope = scope_of(form)
    return scope.value if scope else "constant"


def _check_all_used(schema: Schema, looked_up: set[str]) -> None:
    """Refuse a table without a lookup: nothing says which parameter a bundle should store."""
    for table in schema.tables:
        if table.name in looked_up:
            continue
        mine = [f.name for f in schema.id_features() if f.table == table.name]
        whose = f"the features {mine}, which the model ignores" if mine else "no feature"
        raise CaptureError(
            f"the table {table.name!r} is never looked up: it belongs to {whose}; remove it "
            f"{'with them ' if mine else ''}from the schema, or use it in the model"
        )


def _row_context(captured: Captured) -> tuple[SymInt, Tensor]:
    """Return the symbolic number of rows, and what ``row_to_query`` looks like."""
    for node in captured.module.graph.find_nodes(op="placeholder"):
        kind, value = captured.inputs[node.name].kind, node.meta["val"]
        if kind is not PartKind.VALUES:
            rows = value.shape[0] - 1 if kind is PartKind.OFFSETS else value.shape[0]
            with value.fake_mode:
                return rows, torch.empty((rows,), dtype=torch.int64)
    raise CaptureError("the captured graph has no inputs; capture the model again")


def _check_bag(node: fx.Node, feature: IdFeature, offsets: Form | None, name: str) -> None:
    """Refuse an embedding_bag that is not the pooling the schema states."""
    rest = dict(enumerate(node.args[3:], start=3)) | dict(node.kwargs)
    padding = rest.get(8)
    if not isinstance(feature, Bag) or not isinstance(offsets, Ids):
        raise CaptureError(
            f"embedding_bag over {feature.name!r}{where(node)} needs the values and offsets of "
            "one bag feature; declare the feature as a bag"
        )
    if offsets.part.feature is not feature or offsets.part.kind is not PartKind.OFFSETS:
        raise CaptureError(
            f"embedding_bag over {feature.name!r}{where(node)} takes offsets of another input; "
            "pass the values and offsets of one bag feature"
        )
    if rest.get(4, 0) != _MODES[feature.pooling]:
        raise CaptureError(
            f"embedding_bag in {name!r}{where(node)} pools otherwise than by "
            f"{feature.pooling.value!r}, which the schema states for {feature.name!r}; make them agree"
        )
    if rest.get(6) is not None or not rest.get(7) or (padding is not None and padding != -1):
        raise CaptureError(
            f"embedding_bag in {name!r}{where(node)} must be called with "
            "include_last_offset=True and without per-sample weights or a padding index"
        )
