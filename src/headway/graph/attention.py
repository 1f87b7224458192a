"""Attention over a query's history: products with matrices that are built once per query."""

from __future__ import annotations

from math import prod

from torch import Tensor, fx

from headway.graph.forms import Product, Sizes
from headway.graph.nodes import aten
from headway.graph.rewrites import Rewrite
from headway.graph.towers import Towers


def fits_matrix(towers: Towers, product: Product, sizes: Sizes) -> bool:
    """Tell whether a linear map of ``h * c`` can be one product of c with a matrix per query.

    That needs one vector per candidate, and a history that the query has on all other axes.

    Args:
        towers: the towers.
        product: of a query's and a candidate's value with the same last axis.
        sizes: of the value that the product is a term of.
    """
    if not (towers.per_query and towers.allows(Rewrite.ATTENTION)):
        return False
    query, candidate = (n.meta["val"].shape[1:] for n in product)
    return (
        all(s == 1 for s in candidate[:-1])
        and tuple(query[:-1]) == sizes[:-1]
        and prod(query[:-1]) > 1
    )


def by_matrix(
    towers: Towers,
    terms: list[tuple[Product, Tensor]],
    plain: list[dict[fx.Node, Tensor]],
    once: fx.Node | None,
) -> fx.Node:
    """Return ``sum over d of W[u, d] h[p, d] c[d]`` for all positions p and units u.

    ``M[d, (p, u)] = W[u, d] h[p, d]`` is built in the query tower; the candidates' own term
    ``W' c``, which is the same for all positions, is added to the same matrix, and what the
    query has alone is the bias: one product per candidate in all.

    Args:
        towers: a per-query candidate tower.
        terms: products with the weights ``[units, d]`` of the map.
        plain: the candidates' own inputs with their weights; what is used here is taken out.
        once: the query's own term, ``[queries, positions.., units]`` or broadcast to it.
    """
    total: fx.Node | None = None
    for product, weight in terms:
        found = [w.pop(product.candidate) for w in plain if product.candidate in w]
        own = found[0] if found else None
        made = _one(towers, product, weight, (own, once if total is None else None))
        total = made if total is None else towers.candidate.call(aten.add.Tensor, total, made)
    towers.apply(Rewrite.ATTENTION, "the attention unit's product with the history")
    assert total is not None
    return total


def _one(
    towers: Towers,
    product: Product,
    weight: Tensor,
    rest: tuple[Tensor | None, fx.Node | None],
) -> fx.Node:
    own, once = rest
    query, candidate = towers.query, towers.candidate
    places = tuple(int(s) for s in product.query.meta["val"].shape[1:-1])
    dim, units, count = weight.shape[1], weight.shape[0], prod(places)
    turned = query.call(aten.permute.default, query.reshape(product.query, (count, dim)), [0, 2, 1])
    columns = query.reshape(turned, (dim, count, 1))
    matrix = query.call(aten.mul.Tensor, columns, query.constant(_across(weight)))
    if own is not None:
        matrix = query.call(aten.add.Tensor, matrix, query.constant(_across(own)))
    packed = towers.cross(query.reshape(matrix, (dim, count * units)))
    right = towers.only(packed)
    left = candidate.reshape(product.candidate, (dim,))
    if once is None:
        flat = candidate.call(aten.mm.default, left, right)
    else:
        full = query.call(aten.expand.default, once, [-1, *places, units])
        bias = towers.cross(query.reshape(full, (count * units,)))
        flat = candidate.call(aten.addmm.default, bias, left, right)
    return candidate.reshape(flat, (*places, units))


def _across(weight: Tensor) -> Tensor:
    """Return ``[units, d]`` as ``[d, 1, units]``."""
    return weight.t().unsqueeze(1).contiguous()
