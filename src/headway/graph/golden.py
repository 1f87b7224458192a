"""Queries that reach the corners: few and many rows, empty and full bags, the largest ids."""

from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np

from headway.core import (
    Bag,
    Column,
    Columns,
    Dense,
    Feature,
    Query,
    Ragged,
    Schema,
    Scope,
    Sequence,
    concat_columns,
    take_rows,
)

GOLDEN_SIZES = (0, 1, 2, 3, 7, 16, 17, 64, 256)
LONG_BAG_ROWS = 17
"""Up to this many rows bags run to their full length; beyond it they stay short, to store less."""
SHORT_BAG = 8


def golden_queries(
    schema: Schema, rng: np.random.Generator, sizes: Many[int] = GOLDEN_SIZES
) -> list[Query]:
    """Return one query per size, and two more that hold only id 0 and only the largest ids.

    Rows 0, 1, 2 and 3 of every id column are an empty bag, a full bag, id 0 and the largest id,
    shifted by the query's number, so that every context sees each of them too.

    Args:
        schema: of the model the queries are for.
        rng: draws values, ids and lengths.
        sizes: candidates per query.
    """
    queries = [_query(f"golden-{size}", schema, rng, size, shift=i) for i, size in enumerate(sizes)]
    first = {f.name: _edge(f, schema, 3, largest=False) for f in schema.features}
    last = {f.name: _edge(f, schema, 3, largest=True) for f in schema.features}
    return [*queries, _split("golden-first", first, schema), _split("golden-last", last, schema)]


def example_columns(schema: Schema, rng: np.random.Generator, queries: Many[Query] = ()) -> Columns:
    """Return columns of all features with one row per candidate of the queries, in order.

    Query-level columns are repeated for each candidate: what a model eats that knows nothing
    of queries. Without ``queries``, two small ones are drawn.
    """
    chosen = queries or [_query(str(n), schema, rng, n, shift=n) for n in (3, 4)]
    parts = []
    for query in chosen:
        context = take_rows(query.context, np.zeros(query.size, np.int64))
        columns = {**context, **query.candidates}
        parts.append({f.name: columns[f.name] for f in schema.features})
    return concat_columns(parts)


def _query(name: str, schema: Schema, rng: np.random.Generator, size: int, shift: int) -> Query:
    context = {f.name: _column(f, schema, rng, 1, shift) for f in schema.of_scope(Scope.QUERY)}
    candidates = {
        f.name: _column(f, schema, rng, size, shift) for f in schema.of_scope(Scope.CANDIDATE)
    }
    return Query(id=name, context=context, candidates=candidates, size=size)


def _column(
    feature: Feature, schema: Schema, rng: np.random.Generator, rows: int, shift: int
) -> Column:
    if isinstance(feature, Dense):
        return rng.standard_normal((rows, feature.width)).astype(np.float32)
    top = schema.table(feature.table).rows
    corner = (np.arange(rows) + shift) % max(rows, 4)
    if not isinstance(feature, Bag | Sequence):
        ids = rng.integers(0, top, rows)
        return np.where(corner == 2, 0, np.where(corner == 3, top - 1, ids)).astype(np.int64)
    limit = feature.max_length
    longest = limit if rows <= LONG_BAG_ROWS else min(limit, SHORT_BAG)
    lengths = rng.integers(0, longest + 1, rows)
    lengths = np.where(corner == 0, 0, np.where(corner == 1, limit, lengths))
    lengths = np.where(corner >= 2, np.maximum(lengths, corner < 4), lengths)
    bags = [rng.integers(0, top, n) for n in lengths]
    for bag, kind in zip(bags, corner, strict=True):
        if kind in {2, 3}:
            bag[-1] = 0 if kind == 2 else top - 1
    return Ragged.from_rows(bags)


def _edge(feature: Feature, schema: Schema, rows: int, *, largest: bool) -> Column:
    if isinstance(feature, Dense):
        return np.full((rows, feature.width), 1.0 if largest else 0.0, np.float32)
    row = schema.table(feature.table).rows - 1 if largest else 0
    if isinstance(feature, Bag | Sequence):
        return Ragged.from_rows([np.full(feature.max_length, row)] * rows)
    return np.full(rows, row, np.int64)


def _split(name: str, columns: Columns, schema: Schema) -> Query:
    one = take_rows(
        {f.name: columns[f.name] for f in schema.of_scope(Scope.QUERY)}, np.zeros(1, np.int64)
    )
    candidates = {f.name: columns[f.name] for f in schema.of_scope(Scope.CANDIDATE)}
    return Query(id=name, context=one, candidates=candidates, size=3)
