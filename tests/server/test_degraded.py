"""A lighter version answers what would be late else, and says so."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.server.harness import (
    INFER,
    RANK,
    SCHEMA,
    WAITING,
    Client,
    LinearRunner,
    Probe,
    Serve,
    expected,
    infer_body,
    linear_model,
    metric,
    wait_until,
)

from headway.core import (
    Dense,
    HeadwayError,
    Ns,
    Piece,
    Plan,
    Schema,
    Scope,
    Table,
    Task,
    UsageError,
)
from headway.core.clock import MonotonicClock
from headway.server import ServedModel
from headway.server.timing import with_times

SECOND = 10**9
# One query is foreseen to take 30 s: the first has no wait, a second would be late.
SLOW = Plan(
    policy="adaptive",
    service=((1, 30 * SECOND),),
    lighter_service=((1, 1000),),
    target_ns=Ns(40 * SECOND),
    timeout_ns=Ns(60 * SECOND),
)
DEGRADED = 'headway_degraded_queries_total{model="linear"}'
ROW = {"price": [0.25, 0.25], "item": 0, "tags": [1]}


class Light(LinearRunner):
    """Scores as the linear model does, less 1."""

    def candidates(self, pieces: Sequence[Piece]) -> None:
        super().candidates(pieces)
        for piece in pieces:
            piece.out[piece.start : piece.stop] -= 1


def with_lighter(plan: Plan, held: Probe, light: Probe) -> ServedModel:
    lighter = replace(linear_model("light"), new_runner=lambda: Light(light))
    return replace(linear_model(plan=plan, probe=held), lighter=lighter)


def scores(less: float) -> list[float]:
    raw = expected(0.5, [3, 4], [([0.25, 0.25], 0, [1])])[0]
    return [1 / (1 + (1 / raw - 1) * float(np.exp(less)))]


def test_what_would_be_late_is_answered_by_the_lighter_bundle_and_labelled(
    serve: Serve, held: Probe, pool: ThreadPoolExecutor
) -> None:
    light = Probe()
    client, _ = serve(with_lighter(SLOW, held, light))
    first = pool.submit(client.post, INFER, infer_body(1))
    assert held.entered.acquire(timeout=20)
    second = pool.submit(client.post, INFER, infer_body(1))
    body = {"query": {"age": 0.5, "likes": [3, 4]}, "candidates": [ROW]}
    third = pool.submit(client.post, RANK, body)
    wait_until(client, WAITING, 2)
    held.gate.set()
    full, lesser, ranked = (f.result().json() for f in (first, second, third))
    assert full["outputs"][0]["data"] == pytest.approx(scores(0), abs=1e-6)
    assert "parameters" not in full
    assert lesser["outputs"][0]["data"] == pytest.approx(scores(1), abs=1e-6)
    assert lesser["parameters"] == {"degraded": True}
    assert ranked["scores"] == pytest.approx(scores(1), abs=1e-6)
    assert ranked["degraded"] is True
    assert metric(client, DEGRADED) == 2
    assert (held.batches, sum(light.batches)) == ([1], 2)
    assert client.post(RANK, body).json()["degraded"] is False, "there is time again"


def test_a_reply_in_bytes_is_labelled_too(
    serve: Serve, held: Probe, pool: ThreadPoolExecutor
) -> None:
    client, _ = serve(with_lighter(SLOW, held, Probe()))
    body = {**infer_body(1), "parameters": {"binary_data_output": True}}
    asked = [pool.submit(client.post, INFER, body)]
    assert held.entered.acquire(timeout=20)
    asked.append(pool.submit(client.post, INFER, body))
    wait_until(client, WAITING, 1)
    held.gate.set()
    for future, less in zip(asked, (0, 1), strict=True):
        answer = future.result()
        end = int(answer.headers["inference-header-content-length"])
        got = np.frombuffer(answer.body[end:], np.float32)
        assert got.tolist() == pytest.approx(scores(less), abs=1e-6)
        assert (b'"parameters":{"degraded":true}' in answer.body[:end]) is bool(less)


def test_each_worker_has_a_runner_of_both_and_closes_both(serve: Serve) -> None:
    full, light = Probe(), Probe()
    _, server = serve(with_lighter(Plan(workers=2), full, light))
    server.stop()
    assert (full.made, full.closed, light.made, light.closed) == (2, 2, 2, 2)


def test_times_of_both_are_measured_before_the_first_query() -> None:
    full, light = Probe(), Probe()
    model = with_lighter(Plan(policy="adaptive"), full, light)
    few = Schema(features=SCHEMA.features[:3], tables=SCHEMA.tables[:1])
    lighter = ServedModel("light", few, Plan(), lambda: Flat(light))
    model = replace(model, schema=few, new_runner=lambda: Flat(full), lighter=lighter)
    plan = with_times(model.plan, model, MonotonicClock(), learnt=False)
    for knots in (plan.service, plan.lighter_service):
        assert [size for size, _ in knots] == [1, 64, 256, 1024]
        assert all(ns > 0 for _, ns in knots)
    assert (full.closed, light.closed) == (1, 1)
    known = with_times(Plan(policy="adaptive"), replace(model, lighter=None), Never(), learnt=True)
    assert known == Plan(policy="adaptive")


class Never:
    """A clock that nobody may look at."""

    def now(self) -> Ns:
        raise AssertionError


class Flat(LinearRunner):
    """Scores everything 0."""

    def candidates(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            piece.out[piece.start : piece.stop] = 0


def test_a_lighter_bundle_that_cannot_score_is_found_at_the_start() -> None:
    class Broken(Flat):
        def query(self, context: Any) -> Any:
            raise ValueError("no weights")

    lighter = replace(linear_model("light"), new_runner=lambda: Broken(Probe()))
    model = replace(linear_model(plan=SLOW), lighter=lighter)
    plan = replace_times(SLOW)
    with pytest.raises(HeadwayError, match=r"1 candidates .* no weights.* give the service times"):
        with_times(plan, model, MonotonicClock(), learnt=False)


def replace_times(plan: Plan) -> Plan:
    return Plan(policy="adaptive", service=plan.service)


def test_times_of_a_lighter_bundle_that_is_not_served_are_dropped(
    serve: Serve, held: Probe, pool: ThreadPoolExecutor
) -> None:
    client, _ = serve(linear_model(plan=SLOW, probe=held))
    first = pool.submit(client.post, INFER, infer_body(1))
    assert held.entered.acquire(timeout=20)
    refused = client.post(INFER, infer_body(1))
    assert refused.status == 503
    held.gate.set()
    assert first.result().status == 200
    line = 'headway_refused_queries_total{model="linear",reason="deadline out of reach"}'
    assert metric(client, line) == 1


def changed(**changes: Any) -> Schema:
    parts = {f: getattr(SCHEMA, f) for f in ("features", "tables", "tasks")}
    return Schema(**{**parts, **changes})


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        (changed(features=(*SCHEMA.features, Dense(name="x", scope=Scope.QUERY))), "features"),
        (changed(tables=(Table(name="items", rows=90, dim=1), SCHEMA.tables[1])), "table sizes"),
        (changed(tasks=(Task(name="buy"),)), "tasks"),
    ],
    ids=["features", "tables", "tasks"],
)
def test_a_lighter_bundle_must_take_the_same_queries(schema: Schema, what: str) -> None:
    lighter = replace(linear_model("light"), schema=schema)
    with pytest.raises(UsageError, match=f"'light' cannot answer for 'linear': its {what} differ"):
        replace(linear_model(), lighter=lighter)


def test_narrower_tables_are_fine_but_a_lighter_of_the_lighter_is_not() -> None:
    narrow = changed(tables=(Table(name="items", rows=100, dim=9), SCHEMA.tables[1]))
    lighter = replace(linear_model("light"), schema=narrow)
    model = replace(linear_model(), lighter=lighter)
    with pytest.raises(UsageError, match="number of lighter versions"):
        replace(linear_model("third"), lighter=model)


def test_the_lighter_bundle_is_not_asked_while_there_is_time(client: Client) -> None:
    assert metric(client, DEGRADED) == 0
