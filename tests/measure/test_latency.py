"""Latencies are judged from intended arrival, and nothing unanswered is forgotten."""

from __future__ import annotations

from math import inf, isinf

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from headway.core import DataError, Sla, from_ms, parse_sla
from headway.measure import (
    NEVER,
    LatencyProfile,
    Outcome,
    RunRecord,
    estimate_percentiles,
    judge_sla,
    latency_histogram,
    order_ranks,
    profile_of,
    queries_needed,
    summarize_latency,
)

MS = 1_000_000


def record(latency_ms: list[float] | NDArray[np.float64], lag_ms: float = 0.0) -> RunRecord:
    """One query every 10 ms, 100 candidates each; infinite latencies were refused."""
    latency = np.asarray(latency_ms, np.float64) * MS
    intended = np.arange(len(latency), dtype=np.int64) * 10 * MS
    ok = np.isfinite(latency)
    done = np.full(len(latency), NEVER, np.int64)
    done[ok] = intended[ok] + latency[ok].astype(np.int64)
    return RunRecord(
        intended_ns=intended,
        sent_ns=intended + from_ms(lag_ms),
        done_ns=done,
        status=np.where(ok, Outcome.OK, Outcome.REFUSED).astype(np.uint8),
        sizes=np.full(len(latency), 100, np.int64),
        duration_ns=10 * MS * len(latency),
    )


def test_a_summary_counts_refused_queries_as_infinitely_late() -> None:
    summary = summarize_latency(record([1.0] * 95 + [inf] * 5), percentiles=(50, 95, 99))
    assert [p.value_ms for p in summary.percentiles] == [1.0, 1.0, inf]
    assert summary.outcomes["refused"] == 5
    assert isinf(summary.max_ms)
    assert summary.mean_ms == 1.0
    assert summary.at(99).high_ms == inf


def test_rates_are_those_of_the_schedule_and_of_the_answers() -> None:
    summary = summarize_latency(record([1.0] * 90 + [inf] * 10))
    assert (summary.offered_qps, summary.offered_cps) == (100, 10_000)
    assert (summary.achieved_qps, summary.achieved_cps) == (90, 9000)


def test_latency_includes_the_generators_lag_which_is_also_told_apart() -> None:
    summary = summarize_latency(record([5.0] * 50, lag_ms=2.0))
    assert summary.at(50).value_ms == 5.0
    assert summary.lag[0].value_ms == 2.0


def test_warm_up_is_cut_by_intended_arrival() -> None:
    cut = record([9.0] * 10 + [1.0] * 90).after(100 * MS)
    assert len(cut) == 90
    assert cut.latency_ns.max() == MS
    assert cut.offered_qps == 100
    with pytest.raises(DataError, match="must last"):
        cut.after(10**12)


def test_an_empty_run_cannot_be_summarised() -> None:
    with pytest.raises(DataError, match="no queries"):
        summarize_latency(record([1.0] * 3).after(25 * MS))


def test_a_record_with_columns_of_different_length_is_refused() -> None:
    good = record([1.0, 2.0])
    with pytest.raises(DataError, match="lengths"):
        RunRecord(good.intended_ns, good.sent_ns[:1], good.done_ns, good.status, good.sizes, 5)


@given(st.integers(1, 400), st.floats(0.01, 0.999), st.integers(0, 999))
def test_order_statistics_enclose_the_quantile_as_often_as_promised(
    count: int, quantile: float, seed: int
) -> None:
    low, high = order_ranks(count, quantile, 0.9)
    assert 0 <= low < high <= count + 1
    below = np.random.default_rng(seed).binomial(count, quantile, size=4000)
    # Enclosed when at least `low` and fewer than `high` values lie below the quantile.
    assert ((below >= low) & (below < high)).mean() >= 0.9 - 0.03


def test_a_known_interval_of_the_median() -> None:
    assert order_ranks(10, 0.5, 0.95) == (2, 9)


@pytest.mark.parametrize("percentile", [50.0, 95.0, 99.0, 99.9])
def test_the_needed_number_of_queries_is_the_first_that_bounds_the_percentile(
    percentile: float,
) -> None:
    needed = queries_needed(percentile)
    assert order_ranks(needed, percentile / 100)[1] <= needed
    assert order_ranks(needed - 1, percentile / 100)[1] == needed


def test_p95_of_a_hundred_values_is_the_ninety_fifth() -> None:
    (found,) = estimate_percentiles(np.arange(1.0, 101.0) * 1e6, (95.0,))
    assert found.value_ms == 95
    assert found.low_ms < 95 < found.high_ms


def test_an_sla_is_met_at_its_limit_and_broken_by_refusals() -> None:
    sla = parse_sla("p95=5ms")
    met = judge_sla(record([5.0] * 95 + [9.0] * 5), sla)
    assert (met.met, met.violations, met.fault, met.enough) == (True, 5, "", True)
    broken = judge_sla(record([1.0] * 94 + [inf] * 6), sla)
    assert (broken.met, broken.violations, broken.value_ms) == (False, 6, inf)


def test_too_few_queries_prove_nothing() -> None:
    verdict = judge_sla(record([1.0] * 71), Sla())
    assert not verdict.met
    assert not verdict.enough
    assert "p95 needs 72" in verdict.fault


def test_a_late_generator_spoils_its_run() -> None:
    verdict = judge_sla(record([6.0] * 100, lag_ms=6.0), Sla())
    assert not verdict.met
    assert "load generator was late" in verdict.fault


def test_a_run_that_ended_early_proves_nothing() -> None:
    whole = record([1.0] * 100)
    sent = whole.sent_ns.copy()
    sent[99] = NEVER
    cut = RunRecord(whole.intended_ns, sent, whole.done_ns, whole.status, whole.sizes, 10**9)
    assert "ended early: 1 of 100" in judge_sla(cut, Sla()).fault


@given(st.lists(st.floats(1.0, 1e11), max_size=50))
def test_a_histogram_holds_every_finite_value_in_its_bucket(values: list[float]) -> None:
    edges, counts = latency_histogram(np.array([*values, inf]))
    assert counts.sum() == len(values)
    assert len(edges) == len(counts) + 1
    ratios = edges[1:] / edges[:-1]
    np.testing.assert_allclose(ratios, ratios[0])
    for value in values:
        assert edges[0] * (1 - 1e-9) <= value <= edges[-1] * (1 + 1e-9)


def test_a_summary_can_be_written_as_json() -> None:
    text = msgspec.json.encode(summarize_latency(record([1.0] * 100)))
    assert msgspec.json.decode(text)["queries"] == 100


def test_a_profile_interpolates_and_goes_on_with_its_last_slope() -> None:
    profile = profile_of({64: np.full(9, 1000.0), 256: np.full(9, 3000.0)}, (50.0, 95.0))
    assert [profile.at(rows, 95.0) for rows in (1, 64, 160, 256, 448)] == [
        1000,
        1000,
        2000,
        3000,
        5000,
    ]
    assert LatencyProfile.from_json(profile.to_json()) == profile
    with pytest.raises(DataError, match="not 99"):
        profile.at(64, 99)


def test_a_profile_with_holes_is_refused() -> None:
    with pytest.raises(DataError, match="one duration per"):
        LatencyProfile.from_json(b'{"rows":[1,2],"percentiles":[50],"ns":[[1]]}')
    with pytest.raises(DataError, match="must rise"):
        LatencyProfile.from_json(b'{"rows":[2,1],"percentiles":[50],"ns":[[1],[2]]}')
