"""Ten times too much at once: the queue stays bounded, and all that was taken in is answered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest
from tests.server.harness import (
    INFER,
    OPEN,
    Answer,
    Probe,
    Serve,
    infer_body,
    linear_model,
    metric,
)

from headway.core import Ns, Plan

SECOND = 10**9
FIXED = Plan(queue_candidates=50, timeout_ns=Ns(60 * SECOND))
# Foreseen are 30 s for five candidates: with one at work and one waiting, a third is too late.
ADAPTIVE = Plan(
    policy="adaptive",
    service=((5, 30 * SECOND),),
    target_ns=Ns(70 * SECOND),
    timeout_ns=Ns(60 * 60 * SECOND),
)


@pytest.mark.parametrize(
    ("plan", "accepted", "reason"),
    [(FIXED, 11, "queue full"), (ADAPTIVE, 2, "deadline out of reach")],
    ids=["fixed", "adaptive"],
)
def test_a_burst_of_ten_times_too_much_is_refused_in_part_and_forgotten(
    serve: Serve, held: Probe, plan: Plan, accepted: int, reason: str
) -> None:
    client, _ = serve(linear_model(plan=plan, probe=held))
    with ThreadPoolExecutor(24) as pool:
        taken = [pool.submit(client.post, INFER, infer_body(5))]
        assert held.entered.acquire(timeout=20)
        burst = [pool.submit(client.post, INFER, infer_body(5)) for _ in range(109)]
        refused: list[Answer] = []
        for future in as_completed(burst):
            refused.append(future.result())
            if len(refused) == 110 - accepted:
                break
        assert {answer.status for answer in refused} == {503}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert metric(client, OPEN) == accepted
        line = 'headway_queue_candidates{model="linear"}'
        assert metric(client, line) == 5 * (accepted - 1) <= plan.queue_candidates
        line = f'headway_refused_queries_total{{model="linear",reason="{reason}"}}'
        assert metric(client, line) == len(refused)
        held.gate.set()
        answers = [future.result() for future in (*taken, *burst)]
    assert sum(answer.status == 200 for answer in answers) == accepted
    assert sum(held.batches) == 5 * accepted, "no candidate twice, none of a refused query"
    assert metric(client, OPEN) == 0
    assert all(client.post(INFER, infer_body(5)).status == 200 for _ in range(20))


def test_what_is_too_late_when_a_worker_is_free_again_is_not_computed(
    serve: Serve, held: Probe
) -> None:
    client, _ = serve(linear_model(plan=FIXED, probe=held))
    with ThreadPoolExecutor(12) as pool:
        patient = pool.submit(client.post, INFER, infer_body(5))
        assert held.entered.acquire(timeout=20)
        hasty = {**infer_body(4), "parameters": {"timeout": 200_000}}
        late = [pool.submit(client.post, INFER, hasty) for _ in range(10)]
        assert {future.result().status for future in late} == {504}
        held.gate.set()
        assert patient.result().status == 200
    assert client.post(INFER, infer_body(3)).status == 200
    assert held.batches == [5, 3]
