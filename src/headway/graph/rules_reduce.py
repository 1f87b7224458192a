"""Sums over axes, and products of matrices, of values that are partly the query's."""

from __future__ import annotations

from functools import reduce as fold
from math import prod

import torch
from torch import fx

from headway.core import Scope
from headway.graph.dots import chosen
from headway.graph.forms import (
    Blocks,
    Dots,
    Form,
    Operand,
    Product,
    Sizes,
    Terms,
    is_mixed,
    scope_of,
    sizes_of,
    waits,
)
from headway.graph.nodes import aten
from headway.graph.parts import joined, merged
from headway.graph.rewrites import Rewrite
from headway.graph.rules_arithmetic import plus
from headway.graph.towers import Towers


def total(towers: Towers, node: fx.Node, args: list[Operand]) -> Form | None:
    """Sum or average part by part and term by term."""
    source, dims, keep = (*args, None, False)[:3] if len(args) < 3 else args[:3]
    sizes = sizes_of(node.meta["val"])
    if node.kwargs or not dims or sizes is None or not towers.allows(Rewrite.BLOCKS):
        return None
    if isinstance(source, Dots):
        source = chosen(towers, source) if len(source.sizes) == 1 else towers.whole(source)
    rank = len(node.args[0].meta["val"].shape)  # type: ignore[union-attr]
    dims = sorted(d % rank for d in dims)
    if not isinstance(source, Terms | Blocks) or not waits(source) or dims[0] == 0:
        return None
    factor = 1.0
    if node.target is aten.mean.dim:
        factor = 1.0 / prod(source.sizes[d - 1] for d in dims)
    if isinstance(source, Terms):
        return _scaled(towers, _summed(towers, source, (dims, keep), sizes), factor)
    return _summed_blocks(towers, source, (dims, keep, factor), sizes)


def _summed_blocks(
    towers: Towers, source: Blocks, over: tuple[list[int], bool, float], sizes: Sizes
) -> Form | None:
    dims, keep, factor = over
    if source.order is not None and source.axis not in dims:
        return None
    blocks = merged(towers, source)
    towers.apply(Rewrite.BLOCKS)
    if source.axis in dims:
        parts = [_summed(towers, p, (dims, keep), sizes) for p in blocks.parts]
        return _scaled(towers, fold(lambda a, b: plus(towers, a, b, sizes), parts), factor)
    axis = source.axis - (0 if keep else sum(d < source.axis for d in dims))
    parts = []
    for part in blocks.parts:
        own = (*sizes[: axis - 1], part.sizes[source.axis - 1], *sizes[axis:])
        parts.append(_scaled(towers, _summed(towers, part, (dims, keep), own), factor))
    return joined(axis, parts)


def _scaled(towers: Towers, value: Terms, factor: float) -> Terms:
    if factor == 1.0:
        return value

    def made(node: fx.Node | None) -> fx.Node | None:
        return None if node is None else towers.owner(node).call(aten.mul.Tensor, node, factor)

    products = tuple(Product(p.query, made(p.candidate) or p.candidate) for p in value.products)
    return Terms(value.sizes, made(value.query), made(value.candidate), products)


def _summed(towers: Towers, part: Terms, over: tuple[list[int], bool], sizes: Sizes) -> Terms:
    """Sum every term; a broadcast axis counts as often as it stands for."""
    dims, keep = over
    drop = [] if keep else dims

    def plain(node: fx.Node | None) -> fx.Node | None:
        if node is None:
            return None
        times = prod(part.sizes[d - 1] for d in dims if not _wide(node, d))
        return _times(towers, _sum(towers, node, dims, keep=keep), times)

    products: list[Product] = []
    candidate = plain(part.candidate)
    for product in part.products:
        both = [d for d in dims if all(_wide(n, d) for n in product)]
        apart = [d for d in dims if d not in both]
        query, each = (_sum(towers, n, apart, keep=True) for n in product)
        neither = prod(part.sizes[d - 1] for d in dims if not any(_wide(n, d) for n in product))
        query = _times(towers, query, neither)
        if not both:
            products.append(Product(_dropped(towers, query, drop), _dropped(towers, each, drop)))
            continue
        made = _dropped(towers, contract(towers, query, each, both), drop)
        added = towers.candidate.call(aten.add.Tensor, candidate, made) if candidate else made
        candidate = added
    return Terms(sizes, plain(part.query), candidate, tuple(products))


def _wide(node: fx.Node, dim: int) -> bool:
    return bool(node.meta["val"].shape[dim] != 1)


def _sum(towers: Towers, node: fx.Node, dims: list[int], *, keep: bool) -> fx.Node:
    real = [d for d in dims if _wide(node, d)]
    if real == dims and dims:
        return towers.owner(node).call(aten.sum.dim_IntList, node, dims, keep)
    if real:
        node = towers.owner(node).call(aten.sum.dim_IntList, node, real, True)  # noqa: FBT003
    return node if keep else _dropped(towers, node, dims)


def _times(towers: Towers, node: fx.Node, times: int) -> fx.Node:
    if times == 1:
        return node
    return towers.owner(node).call(aten.mul.Tensor, node, float(times))


def _dropped(towers: Towers, node: fx.Node, dims: list[int]) -> fx.Node:
    if not dims:
        return node
    shape = node.meta["val"].shape
    sizes = tuple(int(s) for d, s in enumerate(shape) if d and d not in dims)
    return towers.owner(node).reshape(node, sizes)


def contract(towers: Towers, query: fx.Node, candidate: fx.Node, dims: list[int]) -> fx.Node:
    """Return the sum over axes of a product, those axes kept with size 1.

    Args:
        towers: the towers.
        query: in the query tower.
        candidate: in the candidate tower, with the same axes.
        dims: axes that both have in full.
    """
    rank = len(query.meta["val"].shape)
    rest = [d for d in range(1, rank) if d not in dims]
    columns = [d for d in rest if _wide(query, d)]
    lines = [d for d in rest if _wide(candidate, d)]
    if not towers.per_query:
        towers.stop()
    elif towers.allows(Rewrite.ATTENTION):
        towers.apply(Rewrite.ATTENTION)
    plain = not columns and not lines and not towers.per_query
    if set(columns) & set(lines) or plain:
        made = towers.candidate.call(aten.mul.Tensor, candidate, towers.cross(query))
        return towers.candidate.call(aten.sum.dim_IntList, made, dims, True)  # noqa: FBT003
    shape = [max(int(s), int(t)) for s, t in zip(_sizes(query), _sizes(candidate), strict=True)]
    deep, wide, high = (prod(shape[d - 1] for d in ds) for ds in (dims, columns, lines))
    right = _ordered(towers, query, [*dims, *columns], (deep, wide))
    left = _ordered(towers, candidate, [*lines, *dims], (high, deep) if lines else (deep,))
    made = towers.times_query(left, right)
    places = [*lines, *columns]
    if places == sorted(places):
        sizes = tuple(shape[d - 1] if d in places else 1 for d in range(1, rank))
        return towers.candidate.reshape(made, sizes)
    order = [*places, *(d for d in range(1, rank) if d not in places)]
    sizes = tuple(shape[d - 1] if d in places else 1 for d in order)
    back = [0, *(order.index(d) + 1 for d in range(1, rank))]
    return towers.candidate.call(aten.permute.default, towers.candidate.reshape(made, sizes), back)


def _sizes(node: fx.Node) -> Sizes:
    return tuple(node.meta["val"].shape[1:])


def _ordered(towers: Towers, node: fx.Node, axes: list[int], sizes: Sizes) -> fx.Node:
    tower = towers.owner(node)
    rest = [d for d in range(1, len(node.meta["val"].shape)) if d not in axes]
    order = [0, *axes, *rest]
    if axes != sorted(axes):
        node = tower.call(aten.permute.default, node, order)
    return tower.reshape(node, sizes)


def product(towers: Towers, node: fx.Node, args: list[Operand]) -> Form | None:
    """Multiply matrices of the query with matrices of the candidates."""
    left, right = args
    sizes = sizes_of(node.meta["val"])
    if sizes is None or len(sizes) != 2 or node.kwargs:
        return None
    if _is_gram(node, left) and towers.allows(Rewrite.DOTS):
        count = sizes[0]
        return Dots(left, torch.arange(count * count).reshape(count, count))
    matrices = isinstance(left, Terms) and isinstance(right, Terms)
    if not (matrices and towers.per_query and towers.allows(Rewrite.ATTENTION)):
        return None
    return _with_query(towers, left, right, sizes)


def _with_query(towers: Towers, left: Terms, right: Terms, sizes: Sizes) -> Form | None:
    left, right = (towers.whole(f) if is_mixed(f) else f for f in (left, right))
    if scope_of(left) is scope_of(right):
        return None
    towers.apply(Rewrite.ATTENTION)
    if scope_of(right) is Scope.QUERY:
        made = towers.times_query(
            towers.exact(left, Scope.CANDIDATE), towers.exact(right, Scope.QUERY)
        )
        return Terms(sizes, candidate=made)
    if sizes[1] == 1:
        return Terms(sizes, candidate=_history_times_vector(towers, left, right))
    turned = [
        towers.of(scope).call(aten.permute.default, towers.exact(form, scope), [0, 2, 1])
        for form, scope in ((right, Scope.CANDIDATE), (left, Scope.QUERY))
    ]
    made = towers.times_query(*turned)
    return Terms(sizes, candidate=towers.candidate.call(aten.permute.default, made, [0, 2, 1]))


def _history_times_vector(towers: Towers, history: Terms, vector: Terms) -> fx.Node:
    """Return ``[L, d] x [d, 1]`` of each candidate as one product of all with the history."""
    length, dim = history.sizes
    flat = towers.candidate.reshape(towers.exact(vector, Scope.CANDIDATE), (dim,))
    node = towers.exact(history, Scope.QUERY)
    turned = towers.query.call(aten.permute.default, node, [0, 2, 1])
    return towers.candidate.reshape(towers.times_query(flat, turned), (length, 1))


def _is_gram(node: fx.Node, left: Operand) -> bool:
    """Tell whether vectors of both scopes are multiplied with themselves, turned."""
    first, second = node.args[:2]
    if not isinstance(left, Blocks) or left.axis != 1 or left.order is not None:
        return False
    if not is_mixed(left) or not isinstance(second, fx.Node):
        return False
    turns = {aten.transpose.int, aten.permute.default}
    if second.target not in turns or second.args[0] is not first:
        return False
    axes = second.args[1] if second.target is aten.permute.default else None
    if axes is not None:
        return [int(a) % 3 for a in axes] == [0, 2, 1]  # type: ignore[union-attr, arg-type]
    return sorted(int(a) % 3 for a in second.args[1:3]) == [1, 2]  # type: ignore[arg-type]
