"""How well each query's own candidates are ordered: NDCG and hit rate of the first k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.core import DataError, UsageError
from headway.measure.quality import check_labelled

Array = NDArray[Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class QueryRanking:
    """One figure per query with both classes, in the order of the queries' ids.

    Queries of one class are left out: any order of them is as good as any other.

    Attributes:
        ids: of the queries ``[queries]``.
        ndcg: normalised discounted cumulative gain of the first k ``[queries]``.
        worst: the lowest NDCG that any order of the query's rows has ``[queries]``.
        hit: chance that a positive is among the first k ``[queries]``.
    """

    ids: Array
    ndcg: Floats
    worst: Floats
    hit: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """Rows sorted by query and falling score; ``[rows]``, then ``[ties]``, then ``[queries]``."""

    labels: Floats
    position: Ints
    tie_start: Ints
    tie_query: Ints
    positives: Floats


def rank_queries(labels: Array, scores: Array, groups: Array, k: int = 10) -> QueryRanking:
    """Return NDCG@k and hit rate@k of every query, without a Python loop over queries.

    The gain of a positive is 1 and its discount ``1 / log2(1 + position)``, as in Jarvelin and
    Kekalainen, "Cumulated gain-based evaluation of IR techniques" (ACM TOIS 2002). Equal scores
    are fair: both figures are expected values over all orders of the tied rows, in closed form
    as in McSherry and Najork, "Computing information retrieval performance measures efficiently
    in the presence of tied scores" (ECIR 2008).

    Args:
        labels: ``[rows]`` of 0 and 1.
        scores: ``[rows]`` on any monotone scale.
        groups: id ``[rows]`` of the query of each row, in any order.
        k: how many of the first rows count.

    Raises:
        DataError: if shapes differ, a score is not finite or a label is not 0 or 1.
        UsageError: if k is below 1.
    """
    if k < 1:
        raise UsageError(f"the first {k} rows of a query say nothing; k must be at least 1")
    y, s = check_labelled(labels, scores)
    if np.shape(groups) != y.shape:
        raise DataError(f"groups have shape {list(np.shape(groups))}, not [{len(y)}]")
    ids, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = _order(y, s, place.reshape(-1), sizes)
    both = (order.positives > 0) & (order.positives < sizes)
    discount = np.zeros(max(k, int(sizes.max())) + 1)
    discount[:k] = 1 / np.log2(np.arange(k) + 2)
    first, positives = np.append(0.0, np.cumsum(discount)), order.positives.astype(np.int64)
    ideal = first[positives][both]
    last = (first[sizes] - first[sizes - positives])[both]
    gain, hit = _gain(order, discount, len(ids))[both], _hit(order, k, len(ids))[both]
    return QueryRanking(ids[both], ndcg=gain / ideal, worst=last / ideal, hit=hit)


def _order(y: Floats, s: Floats, place: Ints, sizes: Ints) -> _Order:
    by = np.lexsort((-s, place))
    place, s, y = place[by], s[by], y[by]
    first = np.append(0, np.cumsum(sizes)[:-1])
    new = np.append(True, (place[1:] != place[:-1]) | (s[1:] != s[:-1]))
    start = np.flatnonzero(new)
    return _Order(
        labels=y,
        position=np.arange(len(y)) - first[place],
        tie_start=start,
        tie_query=place[start],
        positives=np.bincount(place, weights=y, minlength=len(sizes)).astype(np.float64),
    )


def _gain(order: _Order, discount: Floats, queries: int) -> Floats:
    """Each of the tied rows stands at each of their positions equally often."""
    labels = np.add.reduceat(order.labels, order.tie_start)
    discounts = np.add.reduceat(discount[order.position], order.tie_start)
    size = np.diff(np.append(order.tie_start, len(order.labels)))
    each = labels * discounts / size
    return np.bincount(order.tie_query, weights=each, minlength=queries).astype(np.float64)


def _hit(order: _Order, k: int, queries: int) -> Floats:
    """Return one minus the chance that all of the first k are negatives.

    The rows tied across the border are drawn without replacement: with c tied rows, p of them
    positive and r places left, no positive is drawn with the chance C(c - p, r) / C(c, r).
    """
    size = np.diff(np.append(order.tie_start, len(order.labels)))
    own = np.add.reduceat(order.labels, order.tie_start).astype(np.int64)
    left = np.clip(k - order.position[order.tie_start], 0, size)
    logs = np.append(0.0, np.cumsum(np.log(np.arange(1, int(size.max()) + 1))))
    possible = size - own >= left
    rest = np.where(possible, size - own - left, 0)
    missed = logs[size - own] - logs[rest] + logs[size - left] - logs[size]
    missed = np.where(possible, missed, -np.inf)
    none = np.bincount(order.tie_query, weights=missed, minlength=queries)
    return np.asarray(-np.expm1(none), np.float64)
