"""The readable call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from tests.server.harness import RANK, Client, Serve, expected, linear_model

from headway.core import Plan, Query, QueryError, Ragged, Schema, Scope, Sparse, Table
from headway.server import ServedModel

QUERY = {"age": 0.5, "likes": [3, 4]}


def candidate(item: int, **more: Any) -> dict[str, Any]:
    return {"price": [0.25, 0.25], "item": item, "tags": [1], **more}


def scores(*items: int) -> list[float]:
    return expected(0.5, [3, 4], [([0.25, 0.25], item, [1]) for item in items])


def test_candidates_come_back_best_first_with_their_scores(client: Client) -> None:
    body = {"id": "q", "query": QUERY, "candidates": [candidate(n) for n in (5, 50, 20)]}
    answer = client.post(RANK, body)
    assert answer.status == 200
    got = answer.json()
    assert got["ids"] == [1, 2, 0]
    assert got["scores"] == pytest.approx(scores(50, 20, 5), abs=1e-6)
    rest = {key: value for key, value in got.items() if key not in ("ids", "scores")}
    assert rest == {"id": "q", "model": "linear", "version": "1", "degraded": False}


def test_candidates_are_called_by_their_own_ids(client: Client) -> None:
    rows = [candidate(5, id="a"), candidate(50), candidate(20, id=-7)]
    assert client.post(RANK, {"query": QUERY, "candidates": rows}).json()["ids"] == [1, -7, "a"]


def test_only_the_best_k_are_sent(client: Client) -> None:
    rows = [candidate(n) for n in range(10)]
    got = client.post(RANK, {"query": QUERY, "candidates": rows, "top_k": 3}).json()
    assert got["ids"] == [9, 8, 7]
    assert len(got["scores"]) == 3


def test_equal_scores_keep_the_order_they_came_in(client: Client) -> None:
    rows = [candidate(5) for _ in range(6)]
    assert client.post(RANK, {"query": QUERY, "candidates": rows}).json()["ids"] == list(range(6))


def test_no_candidates_give_no_scores(client: Client) -> None:
    got = client.post(RANK, {"query": QUERY, "candidates": []}).json()
    assert (got["ids"], got["scores"]) == ([], [])


def test_a_scalar_is_a_list_of_one(client: Client) -> None:
    query = {"age": [0.5], "likes": 3}
    row = {"price": [0.25, 0.25], "item": [5], "tags": 1}
    got = client.post(RANK, {"query": query, "candidates": [row]}).json()
    want = expected(0.5, [3], [([0.25, 0.25], 5, [1])])
    assert got["scores"] == pytest.approx(want, abs=1e-6)


def test_a_feature_called_id_names_its_candidate_too(serve: Serve) -> None:
    schema = Schema(
        features=(Sparse(name="id", table="items", scope=Scope.CANDIDATE),),
        tables=(Table(name="items", rows=10, dim=1),),
    )
    client, _ = serve(ServedModel("ids", schema, Plan(), IdRunner))
    rows = [{"id": 2}, {"id": 7}]
    assert client.post("/v1/rank/ids", {"query": {}, "candidates": rows}).json()["ids"] == [7, 2]


class IdRunner:
    """Scores a candidate by its id."""

    def query(self, context: Any) -> Any:
        return None

    def candidates(self, pieces: Any) -> None:
        for piece in pieces:
            rows = slice(piece.start, piece.stop)
            piece.out[rows, 0] = piece.candidates["id"][rows]

    def close(self) -> None:
        pass


class Shop:
    """Transforms as a shop would have them: names for items, one raw column."""

    items: ClassVar = {"apple": 5, "pear": 50}

    def fields(self, schema: Schema, scope: Scope) -> tuple[str, ...]:
        return ("years",) if scope is Scope.QUERY else ("fruit",)

    def encode_query(
        self, raw_query: dict[str, Any], raw_candidates: list[dict[str, Any]], schema: Schema
    ) -> Query:
        try:
            ids = [self.items[row["fruit"]] for row in raw_candidates]
        except KeyError as error:
            raise QueryError(f"feature 'fruit': unknown {error}") from error
        count = len(ids)
        return Query(
            id="",
            context={
                "age": np.array([[raw_query["years"] / 100]], np.float32),
                "likes": Ragged.from_rows([[3, 4]]),
            },
            candidates={
                "price": np.full((count, 2), 0.25, np.float32),
                "item": np.array(ids, np.int64),
                "tags": Ragged.from_rows([[1]] * count),
            },
            size=count,
        )


def test_raw_features_go_through_the_models_transforms(serve: Serve) -> None:
    client, _ = serve(replace(linear_model(), transforms=Shop()))
    rows = [{"fruit": "apple", "id": "a"}, {"fruit": "pear", "id": "p"}]
    got = client.post(RANK, {"query": {"years": 50}, "candidates": rows}).json()
    assert got["ids"] == ["p", "a"]
    assert got["scores"] == pytest.approx(scores(50, 5), abs=1e-6)
    bad = client.post(RANK, {"query": {"years": 50}, "candidates": [{"fruit": "stone"}]})
    assert (bad.status, bad.error) == (400, "feature 'fruit': unknown 'stone'")


def test_a_misspelt_key_is_answered_with_those_there_are(client: Client) -> None:
    answer = client.post(RANK, {"query": QUERY, "candidates": [candidate(5)], "topk": 3})
    assert answer.status == 400
    assert "unknown field `topk`; its fields are query, candidates, id, top_k" in answer.error
