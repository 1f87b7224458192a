"""Raw features through a bundle's own transforms, and several queries at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contracts import tiny_ranker

from headway.bundle import BundleParts, write_bundle
from headway.core import Columns, Hidden, Query, QueryError, Ragged, UsageError
from headway.data import Identity, Scaling, Transforms
from headway.engine import Ranker, load

FIELDS: dict[str, Any] = {
    "ctx": ["ctx_a", "ctx_b", "ctx_c"],
    "user": "user",
    "liked": "liked",
    "recent": "recent",
    "price": ["price"],
    "item": "item",
    "similar": "similar",
}


def transforms() -> Transforms:
    from headway.data.transforms import DenseFields, IdField

    return Transforms(
        features={
            name: DenseFields(fields=tuple(field), scaling=(Scaling(),) * len(field))
            if isinstance(field, list)
            else IdField(field=field)
            for name, field in FIELDS.items()
        },
        encoders={
            "users": Identity(rows=tiny_ranker.USERS),
            "items": Identity(rows=tiny_ranker.ITEMS),
        },
    )


@pytest.fixture(scope="module")
def raw_path(tmp_path_factory: pytest.TempPathFactory, parts: BundleParts) -> Path:
    path = tmp_path_factory.mktemp("raw") / "tiny"
    write_bundle(path, replace(parts, transforms_json=transforms().to_json()))
    return path


@pytest.fixture
def query() -> Query:
    return tiny_ranker.draw(np.random.default_rng(8), 6)


def columns_of(query: Query) -> dict[str, Any]:
    return {**query.context, **query.candidates}


def request_of(query: Query) -> dict[str, Any]:
    """Return a query as raw JSON-like values."""
    context, own = columns_of(query), query.candidates
    similar = own["similar"]
    assert isinstance(similar, Ragged)
    return {
        "query": {
            **{f"ctx_{c}": float(v) for c, v in zip("abc", context["ctx"][0], strict=True)},
            "user": int(context["user"][0]),
            "liked": context["liked"].values.tolist(),
            "recent": context["recent"].values.tolist(),
        },
        "candidates": [
            {
                "price": float(own["price"][row, 0]),  # type: ignore[index]
                "item": int(own["item"][row]),  # type: ignore[index]
                "similar": similar.slice(row, row + 1).values.tolist(),
            }
            for row in range(query.size)
        ],
    }


def test_raw_features_rank_as_their_columns_score(raw_path: Path, query: Query) -> None:
    ranker = load(raw_path)
    scores = ranker.score_query(query)
    found = ranker.rank(request_of(query))
    order = np.argsort(-scores[:, 0], kind="stable")
    assert found.ids == order.tolist()
    np.testing.assert_allclose(found.scores, scores[order], atol=1e-6)


def test_candidates_go_by_their_names_and_only_the_best_are_returned(
    raw_path: Path, query: Query
) -> None:
    ranker, request = load(raw_path), request_of(query)
    everything = ranker.rank(request)
    for place, candidate in enumerate(request["candidates"]):
        candidate["id"] = f"item-{place}"
    found = ranker.rank(request, top_k=2)
    assert found.ids == [f"item-{place}" for place in everything.ids[:2]]
    assert ranker.rank({**request, "top_k": 2}).ids == found.ids
    assert "id" in request["candidates"][0], "what the caller gave stays as it was"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": 3}, r"candidates\[0\] must be an object of fields, not int"),
        ({"query": [1]}, "'query' must be an object of fields, not list"),
        ({"query": {}}, "query lacks the field"),
        ({"candidates": [{}]}, r"candidates\[0\] lacks the field 'price'"),
        ({"candidates": [{"id": 1.5}]}, r"candidates\[0\].id must be an integer or a string"),
        ({"top_k": 0}, "top_k is 0; it must be a whole number from 1"),
        ({"timeout_ms": 3}, "unknown key 'timeout_ms'"),
    ],
)
def test_a_wrong_request_is_refused_by_name(
    raw_path: Path, query: Query, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        load(raw_path).rank(request_of(query) | change)


def test_a_missing_part_is_named(raw_path: Path) -> None:
    with pytest.raises(QueryError, match="needs the key 'candidates'"):
        load(raw_path).rank({"query": {}})


def test_a_bundle_without_transforms_ranks_no_raw_features(bundle_path: Path, query: Query) -> None:
    with pytest.raises(UsageError, match=r"has no transforms.*score\(\)"):
        load(bundle_path).rank(request_of(query))


def test_many_queries_given_as_columns_score_as_one_by_one(bundle_path: Path) -> None:
    ranker, rng = load(bundle_path), np.random.default_rng(2)
    queries = [tiny_ranker.draw(rng, size) for size in (4, 0, 1, 9)]
    together = ranker.score_many([columns_of(q) for q in queries])
    for query, found in zip(queries, together, strict=True):
        np.testing.assert_allclose(found, ranker.score_query(query), atol=1e-6)
    assert ranker.score_many([]) == []


def test_the_query_that_does_not_fit_is_named(bundle_path: Path, query: Query) -> None:
    wrong = columns_of(query) | {"user": 1000}
    with pytest.raises(QueryError, match=r"queries\[1\]: feature 'user': id 1000 is outside"):
        load(bundle_path).score_many([columns_of(query), wrong])


class Keeping:
    """A runner that keeps what it was given."""

    def __init__(self) -> None:
        self.seen: list[Columns] = []

    def query(self, context: Columns) -> Hidden:
        self.seen.append(context)
        return ()

    def candidates(self, pieces: Any) -> None:
        self.seen += [piece.candidates for piece in pieces]
        for piece in pieces:
            piece.out[:] = 0

    def close(self) -> None:
        pass


def test_columns_of_the_right_type_are_not_copied(query: Query) -> None:
    runner, columns = Keeping(), columns_of(query)
    Ranker(tiny_ranker.SCHEMA, runner).score(columns)
    for seen in runner.seen:
        for name, column in seen.items():
            assert column is columns[name]


def test_read_only_arrays_are_scored(bundle_path: Path, query: Query) -> None:
    ranker, columns = load(bundle_path), columns_of(query)
    expected = ranker.score(columns)
    for column in columns.values():
        for array in (column.values, column.offsets) if isinstance(column, Ragged) else (column,):
            array.flags.writeable = False
    np.testing.assert_array_equal(ranker.score(columns), expected)


def test_strided_arrays_are_scored(bundle_path: Path, query: Query) -> None:
    ranker, columns = load(bundle_path), columns_of(query)
    expected = ranker.score(columns)
    columns["price"] = np.repeat(columns["price"], 2, axis=0)[::2]
    columns["item"] = np.repeat(columns["item"], 2)[::2]
    np.testing.assert_array_equal(ranker.score(columns), expected)


def test_an_id_beyond_int64_is_not_taken_for_padding(bundle_path: Path, query: Query) -> None:
    columns = columns_of(query)
    columns["liked"] = np.array([[3, 2**64 - 1]], np.uint64)
    with pytest.raises(QueryError, match="'liked': id 18446744073709551615 is beyond 63 bits"):
        load(bundle_path).score(columns)
