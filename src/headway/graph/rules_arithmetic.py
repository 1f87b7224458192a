"""Sums go term by term, each in its tower; a product of query and candidate waits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Any, Literal

import torch
from torch import Tensor, fx

from headway.core import Scope
from headway.graph.dots import chosen
from headway.graph.forms import (
    Blocks,
    Constant,
    Dots,
    Form,
    Operand,
    PerTower,
    Product,
    Sizes,
    Terms,
    is_mixed,
    scope_of,
    sizes_of,
)
from headway.graph.nodes import aten
from headway.graph.parts import alike, alone, joined, span
from headway.graph.rewrites import Rewrite
from headway.graph.towers import Towers

Combine = Callable[[Towers, Terms, Terms, Sizes], Terms]
_MOST_TERMS = 3
"""A product is multiplied out over a sum only while that gives no more terms than this."""


def add(towers: Towers, node: fx.Node, args: list[Operand]) -> Form | None:
    """Add term by term."""
    return _binary(towers, node, args, plus)


def subtract(towers: Towers, node: fx.Node, args: list[Operand]) -> Form | None:
    """Subtract term by term."""
    return _binary(towers, node, args, minus)


def multiply(towers: Towers, node: fx.Node, args: list[Operand]) -> Form | None:
    """Multiply each term by a constant, or keep the product of a query's and a candidate's."""
    return _binary(towers, node, args, times)


def divide(towers: Towers, node: fx.Node, args: list[Operand]) -> Form | None:
    """Divide each term by a constant."""
    return _binary(towers, node, args, None)


def negate(towers: Towers, _node: fx.Node, args: list[Operand]) -> Form | None:
    """Turn the sign of each term."""
    return _with_constant(towers, aten.mul.Tensor, args[0], -1.0)


def plus(towers: Towers, a: Terms, b: Terms, sizes: Sizes) -> Terms:
    """Return the sum of two values."""
    return Terms(
        sizes,
        _added(towers, a.query, b.query),
        _added(towers, a.candidate, b.candidate),
        _collected(towers, (*a.products, *b.products)),
    )


def minus(towers: Towers, a: Terms, b: Terms, sizes: Sizes) -> Terms:
    """Return the difference of two values."""
    turned = tuple(Product(q, towers.candidate.call(aten.neg.default, c)) for q, c in b.products)
    return Terms(
        sizes,
        _subtracted(towers, a.query, b.query),
        _subtracted(towers, a.candidate, b.candidate),
        _collected(towers, (*a.products, *turned)),
    )


def times(towers: Towers, a: Terms, b: Terms, sizes: Sizes) -> Terms:
    """Return the product of two values, not carried out where it waits for what comes next."""
    if a.pure is None or (b.pure is not None and scope_of(b) is Scope.QUERY):
        a, b = b, a
    factor = a.pure
    waiting = towers.allows(Rewrite.PRODUCTS)
    if (
        factor is not None
        and scope_of(a) is Scope.QUERY
        and (waiting or scope_of(b) is Scope.QUERY)
    ):
        count = len(b.products) + (b.candidate is not None) + (b.query is not None)
        if b.pure is not None or count < _MOST_TERMS:
            return _scaled_by_query(towers, factor, b, sizes)
    if is_mixed(a) or is_mixed(b):
        towers.stop()
    left, right = towers.whole(a), towers.whole(b)
    scope = Scope.QUERY if left.candidate is None and right.candidate is None else Scope.CANDIDATE
    nodes = [towers.compact(t, scope) for t in (left, right)]
    return alone(scope, sizes, towers.of(scope).call(aten.mul.Tensor, *nodes))


def _scaled_by_query(towers: Towers, factor: fx.Node, other: Terms, sizes: Sizes) -> Terms:
    def scaled(node: fx.Node) -> fx.Node:
        return towers.query.call(aten.mul.Tensor, node, factor)

    products = [Product(scaled(q), c) for q, c in other.products]
    if other.candidate is not None:
        products.append(Product(factor, other.candidate))
    query = None if other.query is None else scaled(other.query)
    return Terms(sizes, query, None, tuple(products))


def _added(towers: Towers, a: fx.Node | None, b: fx.Node | None) -> fx.Node | None:
    if a is None or b is None:
        return b if a is None else a
    return towers.owner(a).call(aten.add.Tensor, a, b)


def _subtracted(towers: Towers, a: fx.Node | None, b: fx.Node | None) -> fx.Node | None:
    if b is None:
        return a
    tower = towers.owner(b)
    if a is None:
        return tower.call(aten.neg.default, b)
    return tower.call(aten.sub.Tensor, a, b)


def _collected(towers: Towers, products: tuple[Product, ...]) -> tuple[Product, ...]:
    """Return products with one entry per query's value."""
    sums: dict[fx.Node, fx.Node] = {}
    for query, candidate in products:
        known = sums.get(query)
        total = candidate
        if known is not None:
            total = towers.candidate.call(aten.add.Tensor, known, candidate)
        sums[query] = total
    return tuple(Product(q, c) for q, c in sums.items())


def _binary(
    towers: Towers, node: fx.Node, args: list[Operand], combine: Combine | None
) -> Form | None:
    first, second = (_flat(towers, a) for a in args)
    sizes = sizes_of(node.meta["val"])
    if sizes is None or node.kwargs or not towers.is_rows(node.meta["val"].shape[0]):
        return None
    if isinstance(second, int | float | Constant):
        return _with_constant(towers, node.target, first, second, sizes)
    if isinstance(first, int | float | Constant):
        return _from_constant(towers, node, first, second, sizes)
    if combine is None or not all(_fits(f, sizes) for f in (first, second)):
        return None
    if isinstance(first, Terms) and isinstance(second, Terms):
        return _recorded(towers, combine(towers, first, second, sizes), (first, second))
    return _by_parts(towers, (first, second), sizes, combine)


def _flat(towers: Towers, operand: Operand) -> Operand:
    if isinstance(operand, Dots):
        return chosen(towers, operand) if len(operand.sizes) == 1 else towers.whole(operand)
    if isinstance(operand, PerTower):
        return alike(towers, operand)
    return operand


def _fits(form: Operand, sizes: Sizes) -> bool:
    if not isinstance(form, Terms | Blocks) or len(form.sizes) != len(sizes):
        return False
    return isinstance(form, Terms) or form.order is None


def _recorded(towers: Towers, made: Terms, sources: tuple[Terms, ...]) -> Terms:
    if is_mixed(made) or any(is_mixed(s) for s in sources):
        towers.apply(Rewrite.PRODUCTS if made.products else Rewrite.BLOCKS)
    return made


def _from_constant(
    towers: Towers, node: fx.Node, first: Any, second: Operand, sizes: Sizes
) -> Form | None:
    """Return ``constant op value``."""
    if node.target in {aten.add.Tensor, aten.mul.Tensor}:
        return _with_constant(towers, node.target, second, first, sizes)
    if node.target is not aten.sub.Tensor:
        return None
    turned = _with_constant(towers, aten.mul.Tensor, second, -1.0)
    return _with_constant(towers, aten.add.Tensor, turned, first, sizes)


def _by_parts(
    towers: Towers, pair: tuple[Operand, Operand], sizes: Sizes, combine: Combine
) -> Form | None:
    """Combine two values part by part, neighbours with the same scopes in one piece."""
    axes = {f.axis for f in pair if isinstance(f, Blocks)}
    if len(axes) != 1:
        return None
    if any(_all_of_candidates(f, sizes) for f in pair):
        return _carried_out(towers, pair, sizes, combine)
    axis = axes.pop()
    size = sizes[axis - 1]
    if any(isinstance(f, Blocks) and f.sizes[axis - 1] != size for f in pair):
        return None
    parts = []
    for start, stop in _pieces(pair, size):
        a, b = (
            f if f.sizes[axis - 1] == 1 != size else _piece(towers, f, axis, (start, stop))
            for f in pair
        )
        parts.append(combine(towers, a, b, (*sizes[: axis - 1], stop - start, *sizes[axis:])))
    towers.apply(Rewrite.PRODUCTS if any(p.products for p in parts) else Rewrite.BLOCKS)
    return joined(axis, parts)


def _all_of_candidates(form: Operand, sizes: Sizes) -> bool:
    """Tell whether a value is one node of the candidates in its full size.

    Then no part of a sum or product with it is the query's, and parts only cost copies.
    """
    if not isinstance(form, Terms) or form.candidate is None or form.pure is None:
        return False
    return tuple(form.candidate.meta["val"].shape[1:]) == sizes


def _carried_out(
    towers: Towers, pair: tuple[Operand, Operand], sizes: Sizes, combine: Combine
) -> Form:
    """Combine two values as the candidates', the query's share gathered once."""
    if any(is_mixed(f) or scope_of(f) is Scope.QUERY for f in pair):
        towers.stop()
    first, second = (
        alone(Scope.CANDIDATE, f.sizes, towers.exact(f, Scope.CANDIDATE)) for f in pair
    )
    return combine(towers, first, second, sizes)


def _pieces(pair: tuple[Operand, Operand], size: int) -> list[tuple[int, int]]:
    ends = {0, size}
    for form in pair:
        if isinstance(form, Blocks):
            ends |= {stop for _, _, stop in form.spans()}
    places = sorted(ends)
    cuts = list(pairwise(places))
    kinds = {cut: tuple(_kind(form, cut[0]) for form in pair) for cut in cuts}
    pieces = []
    for _, group in groupby(cuts, key=kinds.__getitem__):
        some = list(group)
        pieces.append((some[0][0], some[-1][1]))
    return pieces


def _kind(form: Terms | Blocks, column: int) -> object:
    """Return what tells whether neighbours may be treated in one piece."""
    if isinstance(form, Terms):
        return form
    part = next(p for p, start, stop in form.spans() if start <= column < stop)
    return scope_of(part) if part.pure is not None else part


def _piece(towers: Towers, form: Operand, axis: int, place: tuple[int, int]) -> Terms:
    found = span(towers, form, axis, *place)
    if isinstance(found, Terms):
        return found
    scope = scope_of(found) or Scope.CANDIDATE
    return alone(scope, found.sizes, towers.exact(found, scope))


def _with_constant(
    towers: Towers, target: Any, source: Operand, other: Any, sizes: Sizes | None = None
) -> Form | None:
    """Combine each part with a number, or with its columns of a constant."""
    sizes = sizes or getattr(source, "sizes", None)
    if not isinstance(source, Terms | Blocks) or sizes is None or len(source.sizes) != len(sizes):
        return None
    value = other.value if isinstance(other, Constant) else other
    if isinstance(value, Tensor):
        if value.dim() > len(sizes) + 1 or (value.dim() == len(sizes) + 1 and value.shape[0] != 1):
            return None
        value = value.reshape((1,) * (len(sizes) + 1 - value.dim()) + tuple(value.shape))
    if isinstance(source, Terms):
        return _term_with(towers, target, source, value, sizes)
    at = source.axis - 1
    if source.sizes[at] != sizes[at]:
        return None
    parts = []
    for part, start, stop in source.spans():
        own = _columns(value, source, start, stop)
        target_sizes = (*sizes[:at], stop - start, *sizes[at + 1 :])
        parts.append(_term_with(towers, target, part, own, target_sizes))
    if any(part.query is not None for part in parts):
        towers.apply(Rewrite.BLOCKS)
    return Blocks(source.axis, tuple(parts), source.order)


def _columns(value: Any, source: Blocks, start: int, stop: int) -> Any:
    if not isinstance(value, Tensor) or value.shape[source.axis] == 1:
        return value
    if source.order is None:
        return value.narrow(source.axis, start, stop - start)
    return value.index_select(source.axis, torch.tensor(source.order[start:stop]))


def _term_with(towers: Towers, target: Any, part: Terms, value: Any, sizes: Sizes) -> Terms:
    """Scale every term, or add to one."""
    kind: Literal["scale", "shift"] = (
        "scale" if target in {aten.mul.Tensor, aten.div.Tensor} else "shift"
    )
    if kind == "shift" and part.query is None and part.candidate is None:
        part = towers.whole(part)

    def made(node: fx.Node) -> fx.Node:
        tower = towers.owner(node)
        other = value
        if isinstance(value, Tensor):
            other = tower.constant(_short(value))
        return tower.call(target, node, other)

    if kind == "scale":
        return Terms(
            sizes,
            None if part.query is None else made(part.query),
            None if part.candidate is None else made(part.candidate),
            tuple(Product(made(q), c) for q, c in part.products),
        )
    if part.query is not None:
        return Terms(sizes, made(part.query), part.candidate, part.products)
    assert part.candidate is not None
    return Terms(sizes, None, made(part.candidate), part.products)


def _short(value: Tensor) -> Tensor:
    """Drop the leading axes of size 1."""
    while value.dim() and value.shape[0] == 1:
        value = value[0]
    return value.contiguous()
