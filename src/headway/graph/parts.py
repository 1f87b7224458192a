"""Cutting, joining and mapping of forms: what several rules need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from torch import fx

from headway.core import Scope
from headway.graph.builder import TowerBuilder
from headway.graph.forms import Blocks, PerTower, Product, Sizes, Terms, scope_of, sizes_of
from headway.graph.nodes import aten
from headway.graph.towers import Towers

Change = Callable[[TowerBuilder, fx.Node], fx.Node]
"""Appends an operation on a node to its own tower; sizes 1 that stand for more stay 1."""


def each_node(towers: Towers, source: Terms, sizes: Sizes, change: Change) -> Terms:
    """Apply a change of shape to every node of a sum; it must commute with broadcasting."""

    def made(node: fx.Node) -> fx.Node:
        return change(towers.owner(node), node)

    return Terms(
        sizes,
        None if source.query is None else made(source.query),
        None if source.candidate is None else made(source.candidate),
        tuple(Product(made(p.query), made(p.candidate)) for p in source.products),
    )


def span(towers: Towers, form: Terms | Blocks, axis: int, start: int, stop: int) -> Terms | Blocks:
    """Return the columns from ``start`` to ``stop`` of an axis."""
    if isinstance(form, Terms):
        return _cut(towers, form, axis, start, stop)
    if form.order is not None:
        return _cut(towers, towers.whole(form), axis, start, stop)
    if form.axis != axis:
        parts = [_cut(towers, p, axis, start, stop) for p in form.parts]
        return joined(form.axis, parts)
    parts = [
        _cut(towers, part, axis, max(start - first, 0), min(stop, last) - first)
        for part, first, last in form.spans()
        if first < stop and start < last
    ]
    return joined(axis, parts)


def joined(axis: int, parts: Sequence[Terms]) -> Terms | Blocks:
    """Return parts side by side."""
    return parts[0] if len(parts) == 1 else Blocks(axis, tuple(parts))


def merged(towers: Towers, blocks: Blocks) -> Blocks:
    """Return a concatenation whose neighbours of one scope are one part."""
    if blocks.order is not None:
        return blocks
    parts: list[Terms] = []
    for scope, group in groupby(blocks.parts, key=_pure_scope):
        some = list(group)
        if scope is None or len(some) == 1:
            parts += some
            continue
        sizes = Blocks(blocks.axis, tuple(some)).sizes
        node = towers.of(scope).join([towers.exact(p, scope) for p in some], blocks.axis)
        parts.append(alone(scope, sizes, node))
    return Blocks(blocks.axis, tuple(parts))


def alone(scope: Scope, sizes: Sizes, node: fx.Node) -> Terms:
    """Return the value of one tower's node."""
    return Terms(sizes, query=node) if scope is Scope.QUERY else Terms(sizes, candidate=node)


def _pure_scope(part: Terms) -> Scope | None:
    return None if part.pure is None else scope_of(part)


def _cut(towers: Towers, form: Terms, axis: int, start: int, stop: int) -> Terms:
    if (start, stop) == (0, form.sizes[axis - 1]):
        return form
    if any(_as_large(p, form.sizes) for p in form.products):
        # Nothing gains by waiting, and once for all pieces is less than once for each.
        form = towers.whole(form)
    sizes = (*form.sizes[: axis - 1], stop - start, *form.sizes[axis:])

    def change(tower: TowerBuilder, node: fx.Node) -> fx.Node:
        # A size of 1 that stands for more is every column at once.
        if node.meta["val"].shape[axis] == 1:
            return node
        return tower.call(aten.slice.Tensor, node, axis, start, stop)

    return each_node(towers, form, sizes, change)


def _as_large(product: Product, sizes: Sizes) -> bool:
    """Tell whether both sides of a product have the size of the value."""
    return all(tuple(n.meta["val"].shape[1:]) == sizes for n in product)


def alike(towers: Towers, form: PerTower) -> Terms | None:
    """Return what both towers can make as the query's, if it has a row for each row."""
    value = form.node.meta["val"]
    sizes = sizes_of(value)
    if sizes is None or not towers.is_rows(value.shape[0]) or not towers.query.inputs:
        return None
    return Terms(sizes, query=towers.exact(form, Scope.QUERY))
