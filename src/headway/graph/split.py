"""Hoisting rules: work on the query's part of a value moves to the query tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from headway.core import Scope
from headway.graph.scope import Blocks, Constant, Form, PerTower, Whole, is_mixed, scope_of
from headway.graph.simplify import aten, where
from headway.graph.towers import Towers

Rule = Callable[[Towers, fx.Node], Form | None]
"""Returns the node's value as a form, or None where the rule does not apply."""

_PER_ELEMENT = (
    aten.relu.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.gelu.default,
    aten.silu.default,
    aten.leaky_relu.default,
    aten.elu.default,
    aten.hardtanh.default,
    aten.neg.default,
    aten.exp.default,
)
_WITH_CONSTANT = (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor)


def join(towers: Towers, node: fx.Node) -> Form | None:
    """Keep a concatenation on the last axis as parts, also those of its parts.

    Not emitting it yet is what lets the next operation treat each part by its scope.
    """
    sources = node.args[0]
    dim = node.args[1] if len(node.args) > 1 else 0
    rank = len(node.meta["val"].shape)
    if not isinstance(sources, Sequence) or not isinstance(dim, int) or dim % rank != rank - 1:
        return None
    parts: list[Whole | PerTower] = []
    for source in sources:
        form = towers.forms[source] if isinstance(source, fx.Node) else None
        if isinstance(form, Blocks):
            parts += form.parts
        elif isinstance(form, Whole | PerTower):
            parts.append(form)
        else:
            return None
    return Blocks(tuple(parts)) if rank > 1 else None


def split_linear(towers: Towers, node: fx.Node) -> Form | None:
    """Apply a linear to the query's columns once per query: ``W [q, c] = Wq q + Wc c``.

    The bias goes with the query's part. Values that both towers can make stay with the
    candidates.
    """
    source, weight, bias = (*_forms(towers, node), None)[:3]
    if not isinstance(source, Blocks) or not is_mixed(source):
        return None
    if not isinstance(weight, Constant):
        return None
    columns: dict[Scope, list[Tensor]] = {Scope.QUERY: [], Scope.CANDIDATE: []}
    parts: dict[Scope, list[Whole | PerTower]] = {Scope.QUERY: [], Scope.CANDIDATE: []}
    for part, start, stop in _spans(source):
        scope = scope_of(part) or Scope.CANDIDATE
        parts[scope].append(part)
        columns[scope].append(weight.value[:, start:stop])
    products = {}
    for scope in (Scope.QUERY, Scope.CANDIDATE):
        tower = towers.of(scope)
        block = towers.node(Blocks(tuple(parts[scope])), scope, node)
        matrix = tower.constant(torch.cat(columns[scope], 1), block)
        extra = [towers.node(bias, scope, node)] if bias and scope is Scope.QUERY else []
        products[scope] = tower.call(aten.linear.default, block, matrix, *extra)
    gathered = towers.gather(products[Scope.QUERY])
    moved = sum(c.shape[1] for c in columns[Scope.QUERY])
    towers.notes.append(
        f"hoisted: {moved} of {weight.value.shape[1]} columns of the linear{where(node)}"
    )
    total = towers.candidate.call(aten.add.Tensor, products[Scope.CANDIDATE], gathered)
    return Whole(Scope.CANDIDATE, total)


def per_element(towers: Towers, node: fx.Node) -> Form | None:
    """Apply an element-wise function to each part in its own tower."""
    source = towers.forms.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
    if not isinstance(source, Blocks) or not is_mixed(source):
        return None
    return _each(towers, node, source, lambda _part, _start, _stop: node.args[1:])


def with_constant(towers: Towers, node: fx.Node) -> Form | None:
    """Combine each part with a number or with its columns of a constant vector."""
    source, *rest = [towers.forms.get(a) if isinstance(a, fx.Node) else a for a in node.args]
    if not isinstance(source, Blocks) or not is_mixed(source) or len(rest) != 1 or node.kwargs:
        return None
    other = rest[0]
    if isinstance(other, int | float):
        return _each(towers, node, source, lambda _part, _start, _stop: (other,))
    if not isinstance(other, Constant):
        return None
    vector = other.value
    if vector.dim() != 1 or vector.shape[0] != node.meta["val"].shape[-1]:
        return None

    def columns(part: fx.Node, start: int, stop: int) -> tuple[fx.Node]:
        # The part's own graph tells its tower.
        tower = towers.query if part.graph is towers.query.graph else towers.candidate
        return (tower.constant(vector[start:stop].contiguous(), part),)

    return _each(towers, node, source, columns)


RULES: dict[Any, Rule] = {
    aten.cat.default: join,
    aten.linear.default: split_linear,
    **dict.fromkeys(_PER_ELEMENT, per_element),
    **dict.fromkeys(_WITH_CONSTANT, with_constant),
}
"""Operation to the rule that may hoist it; what no rule covers is gathered."""


def _forms(towers: Towers, node: fx.Node) -> list[Form | None]:
    return [towers.forms[a] if isinstance(a, fx.Node) else None for a in node.args]


def _spans(source: Blocks) -> list[tuple[Whole | PerTower, int, int]]:
    spans, start = [], 0
    for part in source.parts:
        stop = start + int(part.node.meta["val"].shape[-1])
        spans.append((part, start, stop))
        start = stop
    return spans


def _each(
    towers: Towers,
    node: fx.Node,
    source: Blocks,
    extra: Callable[[fx.Node, int, int], Sequence[Any]],
) -> Blocks:
    parts = []
    for part, start, stop in _spans(source):
        scope = scope_of(part) or Scope.CANDIDATE
        value = towers.node(part, scope, node)
        result = towers.of(scope).call(
            node.target, value, *extra(value, start, stop), **node.kwargs
        )
        parts.append(Whole(scope, result))
    return Blocks(tuple(parts))
