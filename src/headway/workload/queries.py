"""Encoded queries that fit a schema, with ids as skewed as production's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.core import (
    Bag,
    Column,
    Dense,
    Feature,
    Query,
    Ragged,
    Schema,
    Scope,
    Sparse,
    slice_columns,
)
from headway.workload.settings import Lengths, Skew

DrawIds = Callable[[int, int, np.random.Generator], NDArray[np.int64]]
"""Draws (count, table rows, rng) ids."""


def draw_queries(
    schema: Schema,
    sizes: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    ids: Skew = "zipf",
    exponent: float = 1.05,
    lengths: Lengths = "drawn",
) -> list[Query]:
    """Draw one query per size: normal dense values, skewed ids, lists of up to ``max_length``.

    Args:
        schema: what the queries fit.
        sizes: int64 ``[queries]``, candidates of each.
        rng: source of chance.
        ids: ``zipf``, or ``uniform``, the worst case for caches.
        exponent: of the Zipf law.
        lengths: of bags and sequences: ``drawn`` uniformly up to ``max_length``, or all ``full``.
    """

    def draw_ids(count: int, rows: int, source: np.random.Generator) -> NDArray[np.int64]:
        if ids == "uniform":
            return source.integers(rows, size=count)
        return scatter(zipf_ranks(count, rows, exponent, source), rows)

    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    draw = _Draw(schema, draw_ids, lengths, rng)
    context = draw.columns(Scope.QUERY, len(sizes))
    candidates = draw.columns(Scope.CANDIDATE, int(offsets[-1]))
    return [
        Query(
            id=str(i),
            context=slice_columns(context, i, i + 1),
            candidates=slice_columns(candidates, int(offsets[i]), int(offsets[i + 1])),
            size=int(size),
        )
        for i, size in enumerate(sizes)
    ]


def zipf_ranks(
    count: int, rows: int, exponent: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw ranks 0 .. rows - 1 with probability proportional to ``(rank + 1) ** -exponent``.

    Exact for any exponent >= 0, without a table of probabilities: rejection from the envelope
    of Hörmann and Derflinger, "Rejection-inversion to generate variates from monotone discrete
    distributions" (ACM TOMACS 1996), all draws at once.

    Args:
        count: how many.
        rows: how many ranks there are.
        exponent: of the law; 0 is uniform.
        rng: source of chance.

    Returns:
        int64 ``[count]``.
    """
    out = np.empty(count, np.int64)
    missing = np.arange(count)
    low = _area(1.5, exponent) - 1.0
    high = _area(rows + 0.5, exponent)
    while len(missing):
        under = rng.uniform(low, high, size=len(missing))
        rank = np.clip(np.floor(_inverse_area(under, exponent) + 0.5), 1, rows)
        kept = under >= _area(rank + 0.5, exponent) - rank**-exponent
        out[missing[kept]] = rank[kept].astype(np.int64) - 1
        missing = missing[~kept]
    return out


def scatter(ranks: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Spread ranks over a table one to one, so that popular rows do not lie side by side.

    Multiplication by a number that shares no factor with ``rows``; near the golden section of
    the table, neighbours in rank land far apart.
    """
    # The second bound keeps the product inside 64 bits.
    step = max(1, min(int(rows * 0.6180339887), 2**62 // rows))
    while np.gcd(step, rows) != 1:
        step += 1
    return ranks * step % rows


def _area(x: Any, exponent: float) -> Any:
    """Integral of ``x ** -exponent`` from 1."""
    if abs(exponent - 1) < 1e-9:
        return np.log(x)
    return np.expm1((1 - exponent) * np.log(x)) / (1 - exponent)


def _inverse_area(area: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    if abs(exponent - 1) < 1e-9:
        return np.exp(area)
    inside = np.maximum((1 - exponent) * area, -1 + 1e-16)
    return np.asarray(np.exp(np.log1p(inside) / (1 - exponent)))


@dataclass(frozen=True, slots=True)
class _Draw:
    """Draws columns that fit a schema."""

    schema: Schema
    ids: DrawIds
    lengths: Lengths
    rng: np.random.Generator

    def columns(self, scope: Scope, rows: int) -> dict[str, Column]:
        return {f.name: self._column(f, rows) for f in self.schema.of_scope(scope)}

    def _column(self, feature: Feature, rows: int) -> Column:
        if isinstance(feature, Dense):
            return self.rng.standard_normal((rows, feature.width), dtype=np.float32)
        table = self.schema.table(feature.table).rows
        if isinstance(feature, Sparse):
            return self.ids(rows, table, self.rng)
        shortest = 0 if isinstance(feature, Bag) else 1
        if self.lengths == "full":
            shortest = feature.max_length
        lengths = self.rng.integers(shortest, feature.max_length + 1, size=rows)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Ragged(self.ids(int(offsets[-1]), table, self.rng), offsets)
