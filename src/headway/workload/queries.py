"""Encoded queries that fit a schema, with ids as skewed as production's."""

from __future__ import annotations

from dataclasses import dataclass

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
from headway.workload.ids import DrawIds, uniform_ids, zipf_ids
from headway.workload.settings import Lengths, Skew


def draw_queries(
    schema: Schema,
    sizes: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    ids: Skew | DrawIds = "zipf",
    exponent: float = 1.05,
    lengths: Lengths = "drawn",
) -> list[Query]:
    """Draw one query per size: normal dense values, skewed ids, lists of up to ``max_length``.

    Args:
        schema: what the queries fit.
        sizes: int64 ``[queries]``, candidates of each.
        rng: source of chance.
        ids: ``zipf``, or ``uniform``, the worst case for caches; or what draws them, such as
            ``AccessHistogram.draw`` or ``Reuse.over(zipf_ids())``. Each column is one call, its
            ids in the order of queries.
        exponent: of the Zipf law; nothing else looks at it.
        lengths: of bags and sequences: ``drawn`` uniformly up to ``max_length``, or all ``full``.
    """
    draw_ids = ids
    if draw_ids == "uniform":
        draw_ids = uniform_ids
    elif draw_ids == "zipf":
        draw_ids = zipf_ids(exponent)
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
