"""The search finds the knee of known systems and is not fooled by single runs."""

from __future__ import annotations

import numpy as np
import pytest

from headway.core import Sla, from_ms
from headway.measure import LbtPoint, LbtSettings, Outcome, RunRecord, find_lbt

SLA = Sla(percentile=95.0, limit_ns=from_ms(25))


def run_of(
    rate: float, latency_ms: float, queries: int = 200, lag_ms: float = 0.0, size: int = 10
) -> RunRecord:
    intended = (np.arange(queries) * (1e9 / rate)).astype(np.int64)
    return RunRecord(
        intended_ns=intended,
        sent_ns=intended + from_ms(lag_ms),
        done_ns=intended + from_ms(latency_ms),
        status=np.full(queries, Outcome.OK, np.uint8),
        sizes=np.full(queries, size, np.int64),
        duration_ns=round(queries * 1e9 / rate),
    )


def single_server(rate: float, seed: int) -> RunRecord:
    """Poisson arrivals at one server that takes 1 ms: Lindley's recursion."""
    rng = np.random.default_rng(seed)
    queries = 20_000
    intended = np.cumsum(rng.exponential(1e9 / rate, queries)).astype(np.int64)
    work = np.arange(1, queries + 1) * 1_000_000
    done = work + np.maximum.accumulate(intended - (work - 1_000_000))
    ones = np.ones(queries, np.int64)
    return RunRecord(intended, intended, done, np.zeros(queries, np.uint8), ones, int(intended[-1]))


@pytest.mark.parametrize("start", [1.0, 300.0, 40_000.0])
def test_the_edge_of_a_cliff_is_found_from_any_start(start: float) -> None:
    settings = LbtSettings(sla=SLA, start_qps=start, tolerance=0.02, evaluations=60)
    found = find_lbt(lambda r, _: run_of(r, 10.0 if r <= 300 else 1000.0), settings)
    assert 300 / 1.02 <= found.lbt_qps <= 300
    assert found.lbt_cps == pytest.approx(10 * found.lbt_qps, rel=1e-3)
    assert found.confirmed


def test_a_single_server_queue_gives_the_rate_that_queueing_theory_gives() -> None:
    # M/D/1 with 1 ms service: the wait's tail falls like exp(-theta t), theta from
    # rate (e^(theta) - 1) = theta in ms; p95 of 10 ms lies near 0.85 load.
    found = find_lbt(
        single_server, LbtSettings(sla=Sla(percentile=95.0, limit_ns=from_ms(10)), tolerance=0.02)
    )
    assert found.confirmed
    assert 820 <= found.lbt_qps <= 920


def test_every_run_has_a_fresh_schedule_and_is_kept() -> None:
    seeds: list[int] = []
    told: list[LbtPoint] = []

    def evaluate(rate: float, seed: int) -> RunRecord:
        seeds.append(seed)
        return run_of(rate, 10.0 if rate <= 300 else 1000.0)

    found = find_lbt(evaluate, LbtSettings(sla=SLA, seed=7), told.append)
    assert seeds == list(range(7, 7 + len(seeds)))
    assert tuple(told) == found.points
    assert found.points[-1].purpose == "confirm"
    assert found.points[-1].rate_qps == found.lbt_qps


def test_a_lucky_pass_is_not_confirmed_but_stepped_down_from() -> None:
    lucky = {"left": 1}

    def evaluate(rate: float, seed: int) -> RunRecord:
        good = rate <= 300
        if not good and rate < 400 and lucky["left"]:
            lucky["left"] -= 1
            good = True
        return run_of(rate, 10.0 if good else 1000.0)

    found = find_lbt(evaluate, LbtSettings(sla=SLA, start_qps=90, evaluations=60))
    assert lucky["left"] == 0
    assert found.confirmed
    assert 240 <= found.lbt_qps <= 300


def test_one_unlucky_run_does_not_end_the_growth() -> None:
    def evaluate(rate: float, seed: int) -> RunRecord:
        # The third run is a near miss by chance, as a busy machine may make it.
        return run_of(rate, 10.0 if rate <= 1000 else 1000.0, lag_ms=9.0 if seed == 2 else 0.0)

    found = find_lbt(evaluate, LbtSettings(sla=SLA, start_qps=50))
    assert found.lbt_qps > 900


def test_a_system_that_never_meets_the_sla_has_no_throughput() -> None:
    found = find_lbt(lambda r, _: run_of(r, 100.0), LbtSettings(sla=SLA, start_qps=8, lowest_qps=1))
    assert (found.lbt_qps, found.confirmed) == (0, False)
    assert "no rate from 1 qps up" in found.note


def test_a_system_faster_than_the_highest_rate_says_so() -> None:
    found = find_lbt(lambda r, _: run_of(r, 1.0), LbtSettings(sla=SLA, highest_qps=500))
    assert (found.lbt_qps, found.confirmed) == (500, True)
    assert "highest rate allowed" in found.note


def test_runs_spoilt_by_the_generator_do_not_count() -> None:
    found = find_lbt(
        lambda r, _: run_of(r, 10.0, lag_ms=0.0 if r <= 200 else 9.0), LbtSettings(sla=SLA)
    )
    assert found.lbt_qps <= 200
    assert any("load generator was late" in p.verdict.fault for p in found.points)


@pytest.mark.parametrize("budget", [5, 6, 8, 11])
def test_the_budget_of_runs_is_kept(budget: int) -> None:
    calls: list[float] = []

    def evaluate(rate: float, seed: int) -> RunRecord:
        calls.append(rate)
        return run_of(rate, 10.0 if rate <= 777 else 1000.0)

    found = find_lbt(evaluate, LbtSettings(sla=SLA, evaluations=budget))
    assert len(calls) <= budget
    assert 0 < found.lbt_qps <= 777


def test_a_system_that_answers_by_chance_is_never_confirmed_above_its_good_rates() -> None:
    rng = np.random.default_rng(3)

    def evaluate(rate: float, seed: int) -> RunRecord:
        good = rate <= 100 or rng.random() < 0.3
        return run_of(rate, 10.0 if good else 1000.0)

    found = find_lbt(evaluate, LbtSettings(sla=SLA, evaluations=60))
    assert found.confirmed
    assert found.lbt_qps < 800
