"""A ranker takes what people have at hand and refuses what does not fit, by name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from tests.contracts import tiny_ranker

from headway.core import Link, Query, QueryError, Ragged, Task
from headway.engine import Ranker, apply_link, load

BOTH = (Task(name="a"), Task(name="b", link=Link.IDENTITY))


@pytest.fixture(scope="module")
def ranker(bundle_path: Path) -> Ranker:
    return load(bundle_path)


@pytest.fixture
def query() -> Query:
    return tiny_ranker.draw(np.random.default_rng(3), 12)


def scores(query: Query) -> NDArray[np.float32]:
    return apply_link(tiny_ranker.expected(query), tiny_ranker.SCHEMA.tasks)


def columns_of(query: Query) -> dict[str, Any]:
    return {**query.context, **query.candidates}


def test_columns_in_their_own_form_are_scored(ranker: Ranker, query: Query) -> None:
    found = ranker.score(columns_of(query))
    assert found.dtype == np.float32
    assert found.shape == (12, 2)
    np.testing.assert_allclose(found, scores(query), rtol=1e-4, atol=1e-5)


def test_query_and_columns_give_the_same(ranker: Ranker, query: Query) -> None:
    np.testing.assert_array_equal(ranker.score_query(query), ranker.score(columns_of(query)))


def test_loose_forms_give_the_same(ranker: Ranker, query: Query) -> None:
    c = columns_of(query)
    loose = {
        "ctx": c["ctx"][0].astype(np.float64).tolist(),
        "user": int(c["user"][0]),
        "liked": c["liked"].values.tolist(),
        "recent": c["recent"].padded(6, -1),
        "price": c["price"][:, 0].tolist(),
        "item": c["item"].astype(np.uint16),
        "similar": (c["similar"].values.tolist(), c["similar"].offsets),
    }
    np.testing.assert_array_equal(ranker.score(loose), ranker.score(c))
    loose["similar"] = c["similar"].padded(9, -1).tolist()
    np.testing.assert_array_equal(ranker.score(loose), ranker.score(c))


def test_many_queries_score_as_one_by_one(ranker: Ranker) -> None:
    rng = np.random.default_rng(4)
    queries = [tiny_ranker.draw(rng, size) for size in (3, 0, 50)]
    for query, found in zip(queries, ranker.score_many(queries), strict=True):
        np.testing.assert_allclose(found, scores(query), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("item", [1.5] * 12, "'item' must hold integers"),
        ("item", [1] * 11 + [80], "'item': id 80 is outside"),
        ("item", [[1]] * 12, "'item' must be int64"),
        ("price", ["a"] * 12, "'price' must hold numbers"),
        ("price", [1.0] * 11 + [float("nan")], "'price' holds NaN"),
        ("price", [1.0] * 11 + [1e300], "'price' holds NaN or infinity"),
        ("price", [1.0] * 11, "'item' must be int64"),
        ("similar", [[1, 2], [1]] * 6, "'similar' has rows of different length"),
        ("similar", ([1, 2], [0, 2]), "'similar': offsets must be 13 numbers"),
        ("liked", [[1], [2]], "'liked': offsets must be 2 numbers"),
        ("ctx", [1, 2], "'ctx' must be float32"),
        ("extra", [1], "unknown feature 'extra'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    ranker: Ranker, query: Query, name: str, value: object, message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        ranker.score(columns_of(query) | {name: value})


def test_missing_feature_is_named(ranker: Ranker, query: Query) -> None:
    for name in columns_of(query):
        columns = {n: v for n, v in columns_of(query).items() if n != name}
        with pytest.raises(QueryError, match=f"missing .* feature '{name}'"):
            ranker.score(columns)


def test_no_candidates_give_no_scores(ranker: Ranker, query: Query) -> None:
    columns = columns_of(query) | {
        "price": np.zeros((0, 1), np.float32),
        "item": [],
        "similar": Ragged.from_rows([]),
    }
    assert ranker.score(columns).shape == (0, 2)


def test_one_ranker_serves_many_threads(ranker: Ranker) -> None:
    rng = np.random.default_rng(5)
    queries = [tiny_ranker.draw(rng, size) for size in rng.integers(1, 60, 40)]
    with ThreadPoolExecutor(4) as pool:
        for query, found in zip(queries, pool.map(ranker.score_query, queries), strict=True):
            np.testing.assert_allclose(found, scores(query), rtol=1e-4, atol=1e-5)


@given(npst.arrays(np.float32, st.tuples(st.integers(0, 8), st.just(2))))
def test_link_is_a_sigmoid_in_range_for_any_input(raw: NDArray[np.float32]) -> None:
    before = raw.copy()
    found = apply_link(raw, BOTH)
    np.testing.assert_array_equal(raw, before)
    np.testing.assert_array_equal(found[:, 1], raw[:, 1])
    finite = ~np.isnan(raw[:, 0])
    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-raw[finite, 0].astype(np.float64)))
    np.testing.assert_allclose(found[finite, 0], exact, rtol=1e-5, atol=1e-30)
    assert ((found[finite, 0] >= 0) & (found[finite, 0] <= 1)).all()
