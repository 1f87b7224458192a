from __future__ import annotations

import numpy as np

from headway.core import Query, Ragged, Schema, check_query
from headway.graph import golden_queries


def ragged(query: Query, name: str) -> Ragged:
    column = query.candidates.get(name, query.context.get(name))
    assert isinstance(column, Ragged)
    return column


def test_golden_queries_are_valid_and_have_the_sizes_that_break_things(rich_schema: Schema) -> None:
    queries = golden_queries(rich_schema, np.random.default_rng(0))
    for query in queries:
        check_query(query, rich_schema)
    assert {0, 1, 2, 3, 7, 16, 17, 64, 256} <= {q.size for q in queries}
    assert len({q.id for q in queries}) == len(queries)


def test_golden_queries_hold_empty_and_full_bags_and_the_outermost_ids(rich_schema: Schema) -> None:
    queries = golden_queries(rich_schema, np.random.default_rng(0))
    for name, longest, top in (("genres", 4, 6), ("liked", 20, 89), ("seen", 6, 89)):
        lengths = np.concatenate([ragged(q, name).lengths() for q in queries])
        values = np.concatenate([ragged(q, name).values for q in queries])
        assert {0, longest} <= set(lengths.tolist())
        assert {0, top} <= set(values.tolist())


def test_golden_queries_are_small_enough_to_store(rich_schema: Schema) -> None:
    queries = golden_queries(rich_schema, np.random.default_rng(0))
    columns = [c for q in queries for c in (*q.context.values(), *q.candidates.values())]
    size = sum(
        c.values.nbytes + c.offsets.nbytes if isinstance(c, Ragged) else c.nbytes for c in columns
    )
    assert size < 200_000


def test_the_same_seed_draws_the_same_golden_queries(rich_schema: Schema) -> None:
    first, second = (golden_queries(rich_schema, np.random.default_rng(4)) for _ in range(2))
    for one, two in zip(first, second, strict=True):
        assert np.array_equal(ragged(one, "genres").values, ragged(two, "genres").values)
