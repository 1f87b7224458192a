"""Load, failure and departure: each accepted query gets one reply and harms no other."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pytest
from tests.server.harness import (
    INFER,
    OPEN,
    POISON,
    RANK,
    SCHEMA,
    WAITING,
    Answer,
    Client,
    LinearRunner,
    Probe,
    Serve,
    expected,
    infer_body,
    item,
    linear_model,
    metric,
    wait_until,
)

from headway.core import HeadwayError, Ns, Plan, Runner
from headway.server import BackgroundServer, ServedModel, ServerSettings

SERVICE = ((1, 20_000), (1000, 1_000_000))
MINUTE = Ns(60 * 10**9)


def test_small_queries_waiting_together_are_scored_together(
    serve: Serve, held: Probe, pool: ThreadPoolExecutor
) -> None:
    client, _ = serve(linear_model(plan=Plan(batch_candidates=100), probe=held))
    first = pool.submit(client.post, INFER, infer_body(1))
    assert held.entered.acquire(timeout=20)
    rest = [pool.submit(client.post, INFER, infer_body(n)) for n in (2, 3, 4)]
    wait_until(client, WAITING, 3)
    held.gate.set()
    assert [f.result().status for f in [first, *rest]] == [200] * 4
    assert held.batches == [1, 9]


def test_a_worker_with_more_to_do_lets_the_event_loop_send_its_answer_first(
    serve: Serve, held: Probe, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    gave_way: list[str] = []
    name = "headway.server.executor.give_way"
    monkeypatch.setattr(name, lambda: gave_way.append(threading.current_thread().name))
    client, _ = serve(linear_model(plan=Plan(workers=1), probe=held))
    first = pool.submit(client.post, INFER, infer_body(1))
    assert held.entered.acquire(timeout=20)
    second = pool.submit(client.post, INFER, infer_body(2))
    wait_until(client, WAITING, 1)
    held.gate.set()
    assert [f.result().status for f in (first, second)] == [200, 200]
    assert gave_way[:1] == ["linear-0"], "after the first answer, a query waiting"


def test_a_poisoned_query_fails_alone_in_its_batch(
    serve: Serve, held: Probe, pool: ThreadPoolExecutor
) -> None:
    client, _ = serve(linear_model(plan=Plan(batch_candidates=100), probe=held))
    first = pool.submit(client.post, INFER, infer_body(1))
    assert held.entered.acquire(timeout=20)
    bodies = [infer_body(2, item=item(1, n)) for n in (5, POISON, 7)]
    bodies.append(infer_body(2, age={"datatype": "FP32", "shape": [1, 1], "data": [-999]}))
    rest = [pool.submit(client.post, INFER, body) for body in bodies]
    wait_until(client, WAITING, 4)
    held.gate.set()
    assert first.result().status == 200
    answers = [f.result() for f in rest]
    assert [a.status for a in answers] == [200, 500, 200, 500]
    assert "other queries are not affected" in answers[1].error
    want = expected(0.5, [3, 4], [([0.25, 0.25], i, [1]) for i in (1, 7)])
    assert np.allclose(answers[2].json()["outputs"][0]["data"], want, atol=1e-6)
    assert client.post(INFER, infer_body()).status == 200, "the worker lives on"
    assert metric(client, 'headway_queries_total{model="linear",outcome="failed"}') == 2


def test_a_full_queue_answers_503_with_a_time_to_come_back(
    serve: Serve, held: Probe, pool: ThreadPoolExecutor
) -> None:
    client, _ = serve(linear_model(plan=Plan(queue_candidates=10), probe=held))
    running = pool.submit(client.post, INFER, infer_body(1))
    assert held.entered.acquire(timeout=20)
    waiting = pool.submit(client.post, INFER, infer_body(8))
    wait_until(client, WAITING, 1)
    refused = client.post(INFER, infer_body(3))
    assert refused.status == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "overloaded" in refused.error
    held.gate.set()
    assert (running.result().status, waiting.result().status) == (200, 200)
    assert metric(client, 'headway_queries_total{model="linear",outcome="refused"}') == 1


def test_a_query_whose_time_runs_out_gets_504_even_while_the_worker_hangs(
    serve: Serve, held: Probe, pool: ThreadPoolExecutor
) -> None:
    client, _ = serve(linear_model(probe=held))
    # Long enough for a busy machine to hand the first one to the worker in time.
    body = {**infer_body(1), "parameters": {"timeout": 1_000_000}}
    running = pool.submit(client.post, INFER, body)
    assert held.entered.acquire(timeout=20)
    waiting = pool.submit(client.post, INFER, body)
    ranked = pool.submit(
        client.post, RANK, {"query": {"age": 1, "likes": []}, "candidates": [], "timeout_ms": 1}
    )
    assert running.result().status == 504
    assert waiting.result().status == 504
    assert ranked.result().status == 200, "nothing to score, nothing to wait for"
    held.gate.set()
    assert client.post(INFER, infer_body()).status == 200


@pytest.mark.parametrize("policy", ["fixed", "adaptive"])
def test_the_plans_timeout_holds_where_the_client_names_none(
    serve: Serve, held: Probe, policy: Literal["fixed", "adaptive"]
) -> None:
    plan = Plan(timeout_ns=Ns(10_000_000), policy=policy, service=SERVICE)
    client, _ = serve(linear_model(plan=plan, probe=held))
    assert client.post(INFER, infer_body()).status == 504


def test_a_client_that_leaves_takes_its_queued_work_along(
    serve: Serve, held: Probe, pool: ThreadPoolExecutor
) -> None:
    client, _ = serve(linear_model(plan=Plan(timeout_ns=Ns(60 * 10**9)), probe=held))
    running = pool.submit(client.post, INFER, infer_body(1))
    assert held.entered.acquire(timeout=20)
    connection = client.connect()
    body = b'{"query":{"age":1,"likes":[]},"candidates":[{"price":[1,2],"item":1,"tags":[]}]}'
    head = b"POST /v1/rank/linear HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    connection.sendall(head % len(body) + body)
    wait_until(client, WAITING, 1)
    connection.close()
    wait_until(client, WAITING, 0)
    held.gate.set()
    assert running.result().status == 200
    assert held.batches == [1]
    assert metric(client, 'headway_queries_total{model="linear",outcome="cancelled"}') == 1


@pytest.mark.parametrize(
    "plan",
    [
        Plan(workers=2, split_size=7, batch_candidates=20),
        Plan(workers=3, split_size=7, policy="adaptive", service=SERVICE, refuse_late=False),
        Plan(workers=3, split_size=7, policy="adaptive", service=SERVICE, timeout_ns=MINUTE),
    ],
    ids=["fixed", "adaptive", "refusing"],
)
def test_every_query_of_a_crowd_gets_its_own_scores(
    serve: Serve, pool: ThreadPoolExecutor, plan: Plan
) -> None:
    client, _ = serve(linear_model(plan=plan))

    def ask(n: int) -> bool:
        ids = [(n * 7 + i) % 90 for i in range(n % 23 + 1)]
        body = {**infer_body(len(ids), item=item(*ids)), "id": str(n)}
        answer: Answer = client.post(INFER, body)
        want = expected(0.5, [3, 4], [([0.25, 0.25], i, [1]) for i in ids])
        got = answer.json()
        return got["id"] == str(n) and np.allclose(got["outputs"][0]["data"], want, atol=1e-6)

    assert all(pool.map(ask, range(200)))
    assert metric(client, OPEN) == 0


class Nonsense:
    """Gives NaN."""

    def query(self, context: Any) -> Any:
        return None

    def candidates(self, pieces: Any) -> None:
        for piece in pieces:
            piece.out[piece.start : piece.stop] = np.nan

    def close(self) -> None:
        pass


def test_a_model_that_gives_nan_is_an_error_and_not_a_score(serve: Serve) -> None:
    client, _ = serve(ServedModel("linear", SCHEMA, Plan(), Nonsense))
    answer = client.post(INFER, infer_body())
    assert answer.status == 500
    assert "NaN" in answer.error
    assert metric(client, 'headway_queries_total{model="linear",outcome="failed"}') == 1


def test_runners_are_closed_with_the_server() -> None:
    probe = Probe()
    with BackgroundServer([linear_model(plan=Plan(workers=3), probe=probe)]):
        pass
    assert probe.closed == 3


def test_a_model_that_cannot_start_is_reported_to_the_caller() -> None:
    probe = Probe()
    made = iter([LinearRunner(probe)])

    def new_runner() -> Runner:
        for runner in made:
            return runner
        raise HeadwayError("no runner today")

    before = threading.active_count()
    server = BackgroundServer([ServedModel("broken", SCHEMA, Plan(workers=2), new_runner)])
    with pytest.raises(HeadwayError, match="no runner today"):
        server.start()
    server.stop()
    assert threading.active_count() <= before
    assert probe.closed == 1, "the runner that was made is closed"


def test_draining_answers_what_was_accepted_and_then_stops(
    held: Probe, pool: ThreadPoolExecutor
) -> None:
    server = BackgroundServer([linear_model(probe=held)], ServerSettings(port=0))
    client = Client(server.start())
    running = pool.submit(client.post, INFER, infer_body(1))
    assert held.entered.acquire(timeout=20)
    waiting = pool.submit(client.post, INFER, infer_body(2))
    wait_until(client, WAITING, 1)
    server.begin_drain()
    held.gate.set()
    server.stop()
    assert (running.result().status, waiting.result().status) == (200, 200)


def test_what_cannot_be_finished_while_draining_is_answered_with_503(
    held: Probe, pool: ThreadPoolExecutor
) -> None:
    plan = Plan(timeout_ns=Ns(60 * 10**9))
    server = BackgroundServer(
        [linear_model(plan=plan, probe=held)], ServerSettings(port=0, drain_s=1)
    )
    client = Client(server.start())
    stuck = pool.submit(client.post, INFER, infer_body(1))
    assert held.entered.acquire(timeout=20)
    server.begin_drain()
    answer = stuck.result()
    held.gate.set()
    server.stop()
    assert answer.status == 503
    assert "stopped before" in answer.error


class Mortal(LinearRunner):
    """Dies of age -1 as a runner in a process of its own does: its socket is closed."""

    dead = False

    def query(self, context: Any) -> Any:
        self.dead = self.dead or context["age"][0, 0] == -1
        return super().query(context)

    def candidates(self, pieces: Any) -> None:
        if self.dead:
            raise HeadwayError("the process has ended") from BrokenPipeError()
        super().candidates(pieces)


def test_a_dead_runner_is_replaced_and_the_server_says_so_meanwhile(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    probe, allowed = Probe(), threading.Event()
    made: list[Mortal] = []

    def new_runner() -> Runner:
        if made and not allowed.is_set():
            raise HeadwayError("not yet")
        made.append(Mortal(probe))
        return made[-1]

    client, _ = serve(ServedModel("linear", SCHEMA, Plan(), new_runner))
    assert client.get("/v2/health/ready").status == 200
    deadly = infer_body(age={"datatype": "FP32", "shape": [1, 1], "data": [-1]})
    assert client.post(INFER, deadly).status == 500
    for _ in range(20):
        assert client.post(INFER, infer_body()).status == 500
    answer = client.get("/v2/health/ready")
    assert answer.status == 503
    assert "lost a runner" in answer.error
    lines = [record.getMessage() for record in caplog.records]
    assert sum("a runner died" in line for line in lines) == 1
    assert 1 <= len(lines) < 20, "not a line for each query"
    assert not any(record.exc_info for record in caplog.records if record.levelname != "DEBUG")
    allowed.set()
    while client.get("/v2/health/ready").status == 503:
        pass  # without any query
    assert client.post(INFER, infer_body()).status == 200
    assert (len(made), probe.closed) == (2, 1)


def test_a_worker_without_a_runner_leaves_queries_to_those_that_have_one(
    serve: Serve, pool: ThreadPoolExecutor
) -> None:
    allowed = threading.Event()
    made: list[Mortal] = []

    def new_runner() -> Runner:
        if len(made) == 2 and not allowed.is_set():
            raise HeadwayError("not yet")
        made.append(Mortal(Probe()))
        return made[-1]

    client, _ = serve(ServedModel("linear", SCHEMA, Plan(workers=2), new_runner))
    deadly = infer_body(age={"datatype": "FP32", "shape": [1, 1], "data": [-1]})
    assert client.post(INFER, deadly).status == 500
    assert [client.post(INFER, infer_body()).status for _ in range(20)] == [200] * 20
    crowd = [pool.submit(client.post, INFER, infer_body()) for _ in range(60)]
    assert [future.result().status for future in crowd] == [200] * 60
    allowed.set()
    while client.get("/v2/health/ready").status == 503:
        pass
    assert [client.post(INFER, infer_body()).status for _ in range(20)] == [200] * 20
    assert len(made) == 3


def test_a_query_that_finds_its_runner_dead_is_scored_by_the_next(serve: Serve) -> None:
    probe = Probe()
    made: list[Mortal] = []

    def new_runner() -> Runner:
        made.append(Mortal(probe))
        return made[-1]

    client, _ = serve(ServedModel("linear", SCHEMA, Plan(), new_runner))
    made[0].dead = True
    assert client.post(INFER, infer_body()).status == 200
    assert len(made) == 2
