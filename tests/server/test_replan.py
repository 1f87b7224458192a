"""A plan changed while queries come: nothing is lost, nothing is scored twice or wrongly."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.server.harness import (
    INFER,
    PLAN,
    WAITING,
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
from headway.server import BackgroundServer, ServerSettings
from headway.server.manage import ForbiddenError, check_local

MANAGED = ServerSettings(port=0, allow_management=True)
MINUTE = 60 * 10**9
PATIENT = Plan(timeout_ns=Ns(MINUTE), split_size=7, refuse_late=False)
SERVICE = [[1, 20_000], [1000, 1_000_000]]


def right(client: Client, n: int) -> bool:
    """Ask for some candidates; return whether id and scores are those of this query."""
    ids = [(n * 7 + i) % 90 for i in range(n % 23 + 1)]
    answer = client.post(INFER, {**infer_body(len(ids), item=item(*ids)), "id": str(n)})
    want = expected(0.5, [3, 4], [([0.25, 0.25], i, [1]) for i in ids])
    got = answer.json()
    return (
        answer.status == 200
        and got["id"] == str(n)
        and np.allclose(got["outputs"][0]["data"], want, atol=1e-6)
    )


def change(client: Client, **changes: Any) -> dict[str, Any]:
    answer = client.post(PLAN, changes)
    assert answer.status == 200, answer.body
    told: dict[str, Any] = answer.json()
    return told


def test_twenty_changes_of_plan_under_load_lose_no_query_and_spoil_no_score() -> None:
    probe, stop, answered = Probe(), threading.Event(), threading.Semaphore(0)
    with BackgroundServer([linear_model(plan=PATIENT, probe=probe)], MANAGED) as server:
        client = Client(server.url)

        def ask(first: int) -> list[bool]:
            answers: list[bool] = []
            while not stop.is_set():
                answers.append(right(client, first + 8 * len(answers)))
                answered.release()
            return answers

        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask, first) for first in range(8)]
            try:
                for turn in range(20):
                    policy = "adaptive" if turn % 4 < 2 else "fixed"
                    told = change(
                        client,
                        workers=1 if turn % 2 else 3,
                        policy=policy,
                        split_size=5 + turn,
                        batch_candidates=turn,
                        service=SERVICE,
                    )
                    assert told["plan"]["policy"] == policy
                    # On goes the load: as many as ask at once, and one of the next.
                    assert all(answered.acquire(timeout=20) for _ in range(9))
            finally:
                stop.set()
            answers = [answer for future in asking for answer in future.result()]
        assert all(answers)
        outcomes = 'headway_queries_total{model="linear",outcome="%s"}'
        assert metric(client, outcomes % "done") == len(answers)
        for outcome in ("failed", "expired", "cancelled", "refused"):
            assert metric(client, outcomes % outcome) == 0
    assert probe.made == probe.closed, "each runner that was made is closed"
    assert probe.made == 1 + 10 * 2, "only those that were missing were made"


def test_a_waiting_query_is_cut_anew_and_more_workers_share_it(
    serve: Serve, held: Probe, pool: ThreadPoolExecutor
) -> None:
    plan = Plan(timeout_ns=Ns(MINUTE))
    client, _ = serve(linear_model(plan=plan, probe=held), MANAGED)
    first = pool.submit(client.post, INFER, infer_body(1))
    assert held.entered.acquire(timeout=20)
    second = pool.submit(right, client, 19)  # 20 candidates
    wait_until(client, WAITING, 1)
    change(client, workers=3, split_size=5)
    for _ in range(2):
        assert held.entered.acquire(timeout=20)
    held.gate.set()
    assert first.result().status == 200
    assert second.result()
    assert sorted(held.batches) == [1, 5, 5, 5, 5]


def of_workers(count: int) -> Plan:
    return Plan(timeout_ns=Ns(MINUTE), workers=count, refuse_late=False)


@pytest.mark.parametrize("policy", ["fixed", "adaptive"])
def test_workers_beyond_the_plan_leave_and_are_not_called(
    serve: Serve, held: Probe, pool: ThreadPoolExecutor, policy: str
) -> None:
    client, _ = serve(linear_model(plan=of_workers(3), probe=held), MANAGED)
    change(client, workers=1, policy=policy, service=SERVICE)
    asked = [pool.submit(right, client, 0)]
    assert held.entered.acquire(timeout=20)
    asked += [pool.submit(right, client, n) for n in (1, 2)]
    wait_until(client, WAITING, 2)
    assert len(held.batches) == 0
    held.gate.set()
    assert all(future.result() for future in asked)
    while held.closed < 2:
        assert client.get("/v2/health/live").status == 200
    assert metric(client, 'headway_workers{model="linear"}') == 1


def test_a_worker_that_is_busy_when_it_becomes_one_too_many_finishes_its_batch(
    serve: Serve, held: Probe, pool: ThreadPoolExecutor
) -> None:
    client, _ = serve(linear_model(plan=of_workers(3), probe=held), MANAGED)
    asked = [pool.submit(right, client, n) for n in range(3)]
    for _ in range(3):
        assert held.entered.acquire(timeout=20)
    change(client, workers=1)
    change(client, workers=2)
    held.gate.set()
    assert all(future.result() for future in asked)
    assert all(right(client, n) for n in range(20))
    assert held.made == 4


def test_a_plan_whose_workers_cannot_be_made_leaves_the_old_one_in_force(serve: Serve) -> None:
    probe = Probe()

    def new_runner() -> Runner:
        if probe.made == 2:
            raise HeadwayError("no memory for it")
        return LinearRunner(probe)

    client, _ = serve(replace(linear_model(plan=PATIENT), new_runner=new_runner), MANAGED)
    answer = client.post(PLAN, {"workers": 3, "split_size": 9})
    assert (answer.status, answer.error) == (500, "no memory for it")
    assert (probe.made, probe.closed) == (2, 1)
    assert client.get(PLAN).json()["plan"]["split_size"] == 7
    assert right(client, 5)


def test_a_machine_without_threads_left_keeps_the_workers_it_has(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe, start = Probe(), threading.Thread.start

    def scarce(thread: threading.Thread) -> None:
        if thread.name == "linear-2":
            raise RuntimeError("can't start new thread")
        start(thread)

    client, _ = serve(linear_model(plan=PATIENT, probe=probe), MANAGED)
    monkeypatch.setattr(threading.Thread, "start", scarce)
    answer = client.post(PLAN, {"workers": 3})
    assert (answer.status, probe.made, probe.closed) == (500, 3, 2)
    assert answer.error == "no thread for worker 2 of 'linear': can't start new thread"
    assert client.get(PLAN).json()["plan"]["workers"] == 1
    assert right(client, 5)


def test_changes_made_at_the_same_time_all_hold(serve: Serve, pool: ThreadPoolExecutor) -> None:
    client, _ = serve(linear_model(plan=PATIENT), MANAGED)
    changes = {"workers": 2, "split_size": 3, "batch_candidates": 4, "queue_candidates": 500}
    list(pool.map(lambda key: change(client, **{key: changes[key]}), changes))
    plan = client.get(PLAN).json()["plan"]
    assert {key: plan[key] for key in changes} == changes


def test_a_plan_in_force_is_told_with_how_its_policy_stands(serve: Serve) -> None:
    client, _ = serve(linear_model(plan=PATIENT), MANAGED)
    told = client.get(PLAN).json()
    assert (told["name"], told["version"], told["split_size"]) == ("linear", "1", 7)
    assert told["plan"]["workers"] == 1
    assert told["arrival_candidates_per_second"] is None
    told = change(client, policy="adaptive", service=SERVICE)
    assert told["predicted_wait_ms"] == 0
    assert told["arrival_candidates_per_second"] == 0
    assert all(right(client, n) for n in range(40))
    told = client.get("/v2/models/linear/versions/1/plan").json()
    assert 1 <= told["split_size"] <= 7
    config = client.get("/v2/models/linear/config").json()
    assert '"policy":"adaptive"' in config["parameters"]["headway_plan"]["string_value"]
    assert metric(client, 'headway_policy{model="linear",policy="adaptive"}') == 1
    assert metric(client, 'headway_split_size_candidates{model="linear"}') == told["split_size"]
    assert metric(client, 'headway_predicted_wait_seconds{model="linear"}') == 0


@pytest.fixture(scope="module")
def managed() -> Iterator[Client]:
    with BackgroundServer([linear_model(plan=PATIENT)], MANAGED) as server:
        yield Client(server.url)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"workerz": 2}, 400, "no key `$.workerz`; its keys are workers, threads"),
        ({"workers": 0}, 400, "Expected `int` >= 1 - at `$.workers`"),
        ({"workers": "many"}, 400, "Expected `int`, got `str` - at `$.workers`"),
        ({"policy": "best"}, 400, "at `$.policy`"),
        ({"service": [[64, 1], [1]]}, 400, "at `$.service[1]`"),
        ({"service": [[64, 1], [1, 1]]}, 400, "plan.service must hold"),
        ({"service": [[10**9, 10**9]]}, 400, "at `$.service`"),
        ({"service": [[1, 10**400]]}, 400, "at `$.service`"),
        ({"timeout_ns": 10**30}, 400, "at `$.timeout_ns`"),
        ({"workers": 100_000}, 400, "plan.workers is 100000; at most 256"),
        ({"split_size": 10**20}, 400, "split_size"),
        ({"batch_candidates": 10**10}, 400, "<= 1000000000"),
        ({"threads": 2}, 400, "plan.threads is 2; it stays 1"),
        ({"accelerators": 1}, 400, "plan.accelerators is 1; this server has none"),
        ({"lighter_service": [[64, 1]]}, 400, "there is no lighter bundle"),
        ([], 400, "Expected `object`, got `array`"),
        (b"{", 400, "malformed request"),
        (b'{"workers":' + b"[" * 10_000, 400, "malformed request"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_and_changes_nothing(
    managed: Client, body: Any, status: int, message: str
) -> None:
    before = managed.get(PLAN).json()
    answer = managed.post(PLAN, body)
    assert answer.status == status
    assert message in answer.error
    assert managed.get(PLAN).json() == before


def test_without_leave_there_is_nothing_to_manage(client: Client) -> None:
    assert client.get(PLAN).status == 404
    assert client.post(PLAN, {"workers": 2}).status == 404


def test_other_verbs_are_told_which_there_are(managed: Client) -> None:
    answer = managed.call("PUT", PLAN, {})
    assert (answer.status, answer.error) == (405, f"{PLAN} takes GET or POST, not PUT")


@pytest.mark.parametrize("header", ["Origin", "X-Forwarded-For", "Forwarded"])
def test_a_web_page_or_a_proxy_cannot_change_the_plan(managed: Client, header: str) -> None:
    answer = managed.call("POST", PLAN, {"workers": 2}, {header: "http://elsewhere"})
    assert answer.status == 403
    assert managed.get(PLAN).json()["plan"]["workers"] == 1


@pytest.mark.parametrize("peer", [("10.0.0.5", 1234), None, ("::ffff:10.0.0.5", 1)])
def test_another_machine_cannot_change_the_plan(peer: tuple[str, int] | None) -> None:
    with pytest.raises(ForbiddenError, match="from this machine only"):
        check_local({"client": peer, "headers": []})


@pytest.mark.parametrize("peer", [("127.0.0.1", 1234), ("::1", 1)])
def test_this_machine_may(peer: tuple[str, int]) -> None:
    check_local({"client": peer, "headers": [(b"host", b"localhost")]})
