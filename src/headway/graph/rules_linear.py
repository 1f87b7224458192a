"""A linear map of parts and terms: the query's columns once, the candidates' per row."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from math import prod
from typing import cast

import torch
from torch import Tensor, fx

from headway.core import Scope
from headway.graph.attention import by_matrix, fits_matrix
from headway.graph.cost import ELEMENT
from headway.graph.dots import chosen
from headway.graph.forms import (
    Blocks,
    Constant,
    Dots,
    Form,
    Operand,
    Product,
    Sizes,
    Terms,
    scope_of,
    waits,
)
from headway.graph.nodes import aten, where
from headway.graph.parts import merged
from headway.graph.rewrites import Rewrite
from headway.graph.towers import Towers

CHEAPEST_ROWS = 16
"""A rewrite must save work at this many candidates."""


def linear(towers: Towers, node: fx.Node, args: list[Operand]) -> Form | None:
    """Apply a linear map term by term: ``W [q, c] = Wq q + Wc c``; the bias goes with the query's.

    Columns that hold the same value, such as ``h`` and ``h - c`` in an attention unit, share one
    product: ``Wh h + Wd (h - c) = (Wh + Wd) h - Wd c``.
    """
    source, weight, bias = (*args, None)[:3]
    if not isinstance(weight, Constant) or not isinstance(bias, Constant | None):
        return None
    if not towers.allows(Rewrite.SPLIT_LINEAR) or not waits(source):
        return None
    if isinstance(source, Dots):
        source = chosen(towers, source) if len(source.sizes) == 1 else towers.whole(source)
    if isinstance(source, Terms):
        return _mapped(towers, node, [(source, weight.value)], bias)
    if source.axis < len(source.sizes):
        return _each_part(towers, node, merged(towers, source), (weight, bias))
    pieces = []
    for part, start, stop in source.spans():
        columns = weight.value[:, start:stop]
        if source.order is not None:
            columns = weight.value[:, torch.tensor(source.order[start:stop])]
        pieces.append((part, columns))
    return _mapped(towers, node, pieces, bias)


def _each_part(
    towers: Towers, node: fx.Node, blocks: Blocks, layer: tuple[Constant, Constant | None]
) -> Blocks:
    """Map parts that lie along another axis than the one that is mapped."""
    weight, bias = layer
    if any(scope_of(p) is Scope.QUERY for p in blocks.parts):
        towers.apply(Rewrite.SPLIT_LINEAR)
    parts = [_mapped(towers, node, [(p, weight.value)], bias) for p in blocks.parts]
    return Blocks(blocks.axis, tuple(parts), blocks.order)


@dataclass
class _Columns:
    """The inputs of one product in one tower, each with its share of the weights."""

    weights: dict[fx.Node, Tensor] = field(default_factory=dict)

    def add(self, node: fx.Node, weight: Tensor) -> None:
        base, factor = _unscaled(node)
        if base.meta["val"].shape[-1] == 1 and weight.shape[1] != 1:
            weight = weight.sum(1, keepdim=True)
        weight = weight if factor == 1.0 else weight * factor
        known = self.weights.get(base)
        self.weights[base] = weight if known is None else known + weight


def _share_out(sums: dict[Sizes, _Columns]) -> None:
    """Give the weights of a sum to its terms, where those are inputs of the map anyway."""
    known = {node: columns for columns in sums.values() for node in columns.weights}
    for node, columns in known.items():
        terms = node.args[:2]
        if node.target not in {aten.add.Tensor, aten.sub.Tensor} or node.kwargs:
            continue
        if not all(isinstance(t, fx.Node) and t in known and t is not node for t in terms):
            continue
        first, second = cast("tuple[fx.Node, fx.Node]", terms)
        weight = columns.weights.pop(node)
        known[first].add(first, weight)
        known[second].add(second, weight if node.target is aten.add.Tensor else -weight)


def _unscaled(node: fx.Node) -> tuple[fx.Node, float]:
    """Return what a value is a multiple of, and how many times."""
    factor = 1.0
    while node.target in {aten.neg.default, aten.mul.Tensor}:
        times = -1.0 if node.target is aten.neg.default else node.args[1]
        if not isinstance(times, int | float):
            break
        node, factor = cast("fx.Node", node.args[0]), factor * times
    return node, factor


Pieces = list[tuple[Terms, Tensor]]


def _mapped(towers: Towers, node: fx.Node, pieces: Pieces, bias: Constant | None) -> Terms:
    """Return the map of parts side by side, each with its columns of the weights."""
    sizes: Sizes = (*pieces[0][0].sizes[:-1], pieces[0][1].shape[0])
    if len(pieces) > 1 or pieces[0][0].pure is None:
        pieces = _worth_splitting(towers, node, pieces)
    query: dict[Sizes, _Columns] = {}
    each: dict[Sizes, _Columns] = {}
    for part, weight in pieces:
        for value, sums in ((part.query, query), (part.candidate, each)):
            if value is not None:
                _columns_of(sums, value).add(value, weight)
    _share_out(each)
    waiting = [(p, weight) for part, weight in pieces for p in part.products]
    products, by_history = _sorted_out(towers, waiting, each, sizes)
    once = _product(towers, Scope.QUERY, query, bias)
    bias = bias if once is None else None
    first: fx.Node | None = None
    if by_history:
        first = by_matrix(towers, by_history, [c.weights for c in each.values()], once)
        once = None
    rest = _product(towers, Scope.CANDIDATE, each, bias)
    bias = bias if rest is None else None
    total = first or rest
    if first is not None and rest is not None:
        total = towers.candidate.call(aten.add.Tensor, first, rest)
    return _shifted(towers, Terms(sizes, once, total, tuple(products)), bias)


def _sorted_out(
    towers: Towers,
    waiting: list[tuple[Product, Tensor]],
    each: dict[Sizes, _Columns],
    sizes: Sizes,
) -> tuple[list[Product], list[tuple[Product, Tensor]]]:
    """Return products that go on waiting and those for a matrix; the rest joins ``each``."""
    kept: list[Product] = []
    by_history: list[tuple[Product, Tensor]] = []
    for product, weight in waiting:
        mapped = _kept(towers, product, weight)
        if mapped is not None:
            kept.append(mapped)
        elif fits_matrix(towers, product, sizes):
            by_history.append((product, weight))
        else:
            crossed = towers.cross(product.query)
            made = towers.candidate.call(aten.mul.Tensor, product.candidate, crossed)
            _columns_of(each, made).add(made, weight)
    return kept, by_history


def _shifted(towers: Towers, value: Terms, bias: Constant | None) -> Terms:
    """Add a bias that no product of matrices took along."""
    if bias is None:
        return value
    shift = towers.candidate.constant(bias.value)
    total = towers.compact(value, Scope.CANDIDATE)
    return Terms(value.sizes, None, towers.candidate.call(aten.add.Tensor, total, shift))


def _columns_of(sums: dict[Sizes, _Columns], value: fx.Node) -> _Columns:
    return sums.setdefault(tuple(value.meta["val"].shape[1:-1]), _Columns())


def _kept(towers: Towers, product: Product, weight: Tensor) -> Product | None:
    """Map the one side of a product whose other side is a single number on the last axis."""
    query, candidate = product
    if candidate.meta["val"].shape[-1] == 1:
        return Product(_one(towers, query, weight), candidate)
    if query.meta["val"].shape[-1] == 1:
        return Product(query, _one(towers, candidate, weight))
    return None


def _one(towers: Towers, value: fx.Node, weight: Tensor) -> fx.Node:
    columns = _Columns()
    columns.add(value, weight)
    made = _product(towers, towers.owner(value).scope, {(): columns}, None)
    assert made is not None
    return made


def _product(
    towers: Towers, scope: Scope, sums: dict[Sizes, _Columns], bias: Constant | None
) -> fx.Node | None:
    """Return one product per broadcast shape of a tower's inputs, added up."""
    tower = towers.of(scope)
    made: list[fx.Node] = []
    for columns in sums.values():
        if not columns.weights:
            continue
        nodes = list(columns.weights)
        rank = len(nodes[0].meta["val"].shape)
        block = tower.join(nodes, rank - 1)
        matrix = torch.cat(list(columns.weights.values()), 1)
        extra = [tower.constant(bias.value)] if bias is not None and not made else []
        made.append(tower.call(aten.linear.default, block, tower.constant(matrix), *extra))
    if not made:
        return None
    return reduce(lambda a, b: tower.call(aten.add.Tensor, a, b), made)


def _worth_splitting(towers: Towers, node: fx.Node, pieces: Pieces) -> Pieces:
    """Return the pieces as they are, or as the candidates' where a split would save nothing."""
    parts = [part for part, _ in pieces]
    once = sum(_numel(p.query) for p in parts)
    if not once and not any(p.products for p in parts):
        return pieces
    if _split_work(pieces) < _whole_work(pieces):
        width = sum(p.sizes[-1] for p in parts)
        moved = sum(p.sizes[-1] for p in parts if p.candidate is None and not p.products)
        share = f"{moved} of {width} columns" if moved else "the query's share"
        towers.apply(Rewrite.SPLIT_LINEAR, f"{share} of the linear{where(node)}")
        return pieces
    towers.stopped = f"splitting would save nothing at {CHEAPEST_ROWS} candidates"
    towers.notes.append(f"stopped: {towers.stopped}, for the linear{where(node)}")
    joined = Blocks(len(parts[0].sizes), tuple(parts)) if len(parts) > 1 else parts[0]
    return [(towers.whole(joined), torch.cat([weight for _, weight in pieces], 1))]


def _split_work(pieces: Pieces) -> int:
    """Return the work of a split map: what crosses has the width of the outputs."""
    outputs = pieces[0][1].shape[0]
    parts = [part for part, _ in pieces]
    waiting = [p for part in parts for p in part.products]
    once = sum(_numel(p.query) for p in parts)
    each = sum(_numel(p.candidate) for p in parts)
    each += sum(max(map(_numel, p)) for p in waiting if p.candidate.meta["val"].shape[-1] > 1)
    crossing = (1 + len(waiting)) * 2 * prod(parts[0].sizes[:-1]) * outputs
    return CHEAPEST_ROWS * (ELEMENT * crossing + each * outputs) + once * outputs


def _whole_work(pieces: Pieces) -> int:
    """Return the work of joining everything per candidate and mapping that."""
    outputs = pieces[0][1].shape[0]
    parts = [part for part, _ in pieces]
    inputs = prod(parts[0].sizes[:-1]) * sum(p.sizes[-1] for p in parts)
    copied = inputs + sum(_numel(p.query) for p in parts)
    copied += sum(max(map(_numel, p)) for part in parts for p in part.products)
    return CHEAPEST_ROWS * (ELEMENT * copied + inputs * outputs)


def _numel(node: fx.Node | None) -> int:
    return 0 if node is None else prod(int(s) for s in node.meta["val"].shape[1:])
