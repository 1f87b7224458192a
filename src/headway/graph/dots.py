"""Dot products of all pairs of vectors: the query's own once, the mixed in one product."""

from __future__ import annotations

import torch
from torch import fx

from headway.core import Scope
from headway.graph.builder import TowerBuilder
from headway.graph.forms import Blocks, Dots, scope_of
from headway.graph.nodes import aten
from headway.graph.parts import alone
from headway.graph.rewrites import Rewrite
from headway.graph.towers import Towers


def chosen(towers: Towers, dots: Dots) -> Blocks:
    """Return the wanted products as one part per pair of scopes.

    Args:
        towers: with the vectors.
        dots: with one axis of pairs.
    """
    stacks, places = _stacks(towers, dots.vectors)
    count = len(places)
    groups: dict[tuple[Scope, Scope], list[tuple[int, int]]] = {}
    for column, pair in enumerate(dots.pairs.tolist()):
        (first, i), (second, j) = places[pair // count], places[pair % count]
        if (first, second) == (Scope.QUERY, Scope.CANDIDATE):
            first, second, i, j = second, first, j, i
        width = stacks[second].meta["val"].shape[1]
        groups.setdefault((first, second), []).append((column, i * width + j))
    parts, order = [], []
    for (first, second), picks in groups.items():
        scope = Scope.QUERY if first is second is Scope.QUERY else Scope.CANDIDATE
        products = _products(towers, stacks[first], stacks[second], scope)
        index = torch.tensor([place for _, place in picks])
        parts.append(alone(scope, (len(picks),), _picked(towers.of(scope), products, index)))
        order += [column for column, _ in picks]
    towers.apply(Rewrite.DOTS)
    return Blocks(1, tuple(parts), tuple(order))


def _stacks(
    towers: Towers, vectors: Blocks
) -> tuple[dict[Scope, fx.Node], list[tuple[Scope, int]]]:
    """Return the vectors of each scope, and where each vector of the value stands there."""
    nodes: dict[Scope, list[fx.Node]] = {}
    places: list[tuple[Scope, int]] = []
    counts = dict.fromkeys(Scope, 0)
    for found in vectors.parts:
        part = towers.whole(found) if found.pure is None else found
        scope = scope_of(part) or Scope.CANDIDATE
        nodes.setdefault(scope, []).append(towers.exact(part, scope))
        places += [(scope, counts[scope] + i) for i in range(part.sizes[0])]
        counts[scope] += part.sizes[0]
    return {scope: towers.of(scope).join(some, 1) for scope, some in nodes.items()}, places


def _products(towers: Towers, first: fx.Node, second: fx.Node, scope: Scope) -> fx.Node:
    tower = towers.owner(second)
    turned = tower.call(aten.permute.default, second, [0, 2, 1])
    if towers.of(scope) is tower:
        return tower.call(aten.bmm.default, first, turned)
    return towers.times_query(first, turned)


def _picked(tower: TowerBuilder, products: fx.Node, index: torch.Tensor) -> fx.Node:
    shape = products.meta["val"].shape
    flat = tower.reshape(products, (int(shape[1]) * int(shape[2]),))
    if index.tolist() == list(range(flat.meta["val"].shape[1])):
        return flat
    return tower.call(aten.index_select.default, flat, 1, tower.constant(index))
