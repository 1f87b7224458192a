"""The early-stopping test gives the figures that MLPerf's load generator prints."""

from __future__ import annotations

from math import inf, isinf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.core import Sla, UsageError, from_ms
from headway.measure import (
    Outcome,
    RunRecord,
    early_stopping_estimate,
    fewest_queries,
    judge_sla,
    most_over_limit,
)

SLA = Sla(percentile=95.0, limit_ns=from_ms(25))
percentiles = st.sampled_from([50.0, 90.0, 95.0, 99.0, 99.9])


def run_with(violations: int, queries: int, *, lag_ms: float = 0.0) -> RunRecord:
    intended = np.arange(queries, dtype=np.int64) * from_ms(1)
    latency = np.where(np.arange(queries) < violations, from_ms(26), from_ms(10))
    status = np.full(queries, Outcome.OK, np.uint8)
    sizes = np.ones(queries, np.int64)
    sent = intended + from_ms(lag_ms)
    return RunRecord(intended, sent, intended + latency, status, sizes, queries * from_ms(1))


@pytest.mark.parametrize(
    ("percentile", "queries"), [(90.0, 44), (95.0, 90), (97.0, 152), (99.0, 459), (99.9, 4603)]
)
def test_without_violations_a_run_needs_as_many_as_a_power_of_the_percentile_says(
    percentile: float, queries: int
) -> None:
    assert fewest_queries(0, percentile) == queries
    assert (percentile / 100) ** queries <= 0.01 < (percentile / 100) ** (queries - 1)


# Printed by LoadGen in public logs: "need to process at least 64 queries", "at least 662 total
# queries", and a server run of 100 queries, all late, that needed 12,471 more.
@pytest.mark.parametrize(
    ("over", "percentile", "queries"), [(1, 90.0, 64), (1, 99.0, 662), (100, 99.0, 12_571)]
)
def test_needed_queries_are_those_that_loadgen_prints(
    over: int, percentile: float, queries: int
) -> None:
    assert fewest_queries(over, percentile) == queries


# "Processed at least 64 queries (201). Would discard 9 highest latency queries." and the like:
# LoadGen sets one more aside than it discards, which is its estimate.
@pytest.mark.parametrize(
    ("queries", "discarded"), [(100, 2), (201, 9), (659, 47), (708, 51), (79_944, 7796)]
)
def test_discarded_queries_are_those_that_loadgen_prints(queries: int, discarded: int) -> None:
    assert most_over_limit(queries, 90.0) - 1 == discarded
    found = early_stopping_estimate(np.arange(queries) * 1e6, 90.0)
    assert found == queries - 1 - discarded


@given(st.integers(0, 300), percentiles)
def test_needed_queries_are_the_fewest_that_allow_the_violations(
    over: int, percentile: float
) -> None:
    queries = fewest_queries(over, percentile)
    assert most_over_limit(queries, percentile) >= over > most_over_limit(queries - 1, percentile)


@pytest.mark.parametrize(("queries", "percentile"), [(200, 95.0), (1000, 99.0), (75, 90.0)])
def test_a_system_that_just_misses_passes_less_often_than_promised(
    queries: int, percentile: float
) -> None:
    rounds = 40_000
    over = np.random.default_rng(5).binomial(queries, 1 - percentile / 100, rounds)
    passed = (over <= most_over_limit(queries, percentile)).mean()
    # The promise is 0.01; three standard errors of the simulation are added.
    assert 0.001 < passed <= 0.01 + 3 * np.sqrt(0.01 * 0.99 / rounds)


def test_an_estimate_is_below_the_true_percentile_less_often_than_promised() -> None:
    rng = np.random.default_rng(6)
    truth = -np.log(0.05) * 10.0  # p95 of an exponential with a mean of 10 ms
    found = [early_stopping_estimate(rng.exponential(10e6, 300), 95.0) for _ in range(4000)]
    assert (np.array(found) < truth).mean() <= 0.01


def test_a_run_passes_with_its_estimate_as_the_limit() -> None:
    latency = np.random.default_rng(7).exponential(5e6, 500)
    over = int((latency > early_stopping_estimate(latency, 95.0) * 1e6).sum())
    assert over <= most_over_limit(500, 95.0)


def test_too_few_queries_or_answers_give_no_estimate() -> None:
    assert isinf(early_stopping_estimate(np.ones(63), 90.0))
    assert isinf(early_stopping_estimate(np.array([1.0] * 50 + [inf] * 50), 90.0))
    assert most_over_limit(0, 90.0) == -1
    assert most_over_limit(43, 90.0) == -1


@pytest.mark.parametrize(("percentile", "confidence"), [(0, 0.99), (100, 0.99), (95, 0), (95, 1)])
def test_percentiles_and_confidences_out_of_range_are_refused(
    percentile: float, confidence: float
) -> None:
    with pytest.raises(UsageError, match="lies between 0 and"):
        most_over_limit(100, percentile, confidence)
    with pytest.raises(UsageError, match="lies between 0 and"):
        fewest_queries(0, percentile, confidence)


def test_a_verdict_tells_a_run_that_met_its_sla_from_one_that_proves_it() -> None:
    close = judge_sla(run_with(10, 200), SLA)
    assert (close.met, close.early_stopping) == (True, False)
    assert close.queries_to_prove == fewest_queries(10, 95.0) == 398
    clear = judge_sla(run_with(3, 200), SLA)
    assert (clear.met, clear.early_stopping) == (True, True)
    assert clear.queries_to_prove <= 200


def test_a_run_with_a_fault_proves_nothing() -> None:
    verdict = judge_sla(run_with(0, 200, lag_ms=9.0), SLA)
    assert verdict.fault
    assert not verdict.early_stopping
