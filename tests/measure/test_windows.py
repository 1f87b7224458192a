"""Windows of a run add up to the run, and show when its SLA was missed."""

from __future__ import annotations

from math import inf, isinf, isnan

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from headway.core import Ns, Sla, UsageError, from_ms, from_seconds
from headway.measure import (
    NEVER,
    Outcome,
    RunRecord,
    estimate_percentiles,
    run_windows,
    violation_seconds,
    window_length,
)

SLA = Sla(percentile=90.0, limit_ns=from_ms(25))


def record(
    latency_ms: NDArray[np.float64], intended_ms: NDArray[np.float64], seconds: float
) -> RunRecord:
    """Infinite latencies were refused."""
    intended = (intended_ms * 1e6).astype(np.int64)
    ok = np.isfinite(latency_ms)
    done = np.full(len(intended), NEVER, np.int64)
    done[ok] = intended[ok] + (latency_ms[ok] * 1e6).astype(np.int64)
    status = np.where(ok, Outcome.OK, Outcome.REFUSED).astype(np.uint8)
    sizes = np.ones(len(intended), np.int64)
    return RunRecord(intended, intended, done, status, sizes, from_seconds(seconds))


def steady(seconds: float, qps: float = 100.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latencies of 10 ms and intended arrivals in ms."""
    intended = np.arange(int(seconds * qps), dtype=np.float64) * (1000 / qps)
    return np.full(len(intended), 10.0, np.float64), intended


@given(st.integers(1, 300), st.floats(0.02, 3.0), st.integers(0, 99))
def test_windows_add_up_to_the_run(queries: int, window_s: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    latency = rng.exponential(10.0, queries)
    latency[rng.random(queries) < 0.1] = inf
    run = record(latency, np.sort(rng.uniform(0, 2000.0, queries)), 2.0)
    windows = run_windows(run, SLA, from_seconds(window_s))
    assert sum(w.seconds for w in windows) == pytest.approx(2.0)
    assert sum(w.offered_qps * w.seconds for w in windows) == pytest.approx(queries)
    assert sum(w.violations for w in windows) == (run.latency_ns > SLA.limit_ns).sum()
    assert sum(w.outcomes["refused"] for w in windows) == (run.status == Outcome.REFUSED).sum()
    in_time = (run.done_ns >= 0) & (run.done_ns < run.duration_ns)
    assert sum(w.achieved_qps * w.seconds for w in windows) == pytest.approx(in_time.sum())


def test_a_window_has_the_percentiles_of_its_own_queries() -> None:
    rng = np.random.default_rng(3)
    _, intended = steady(4.0)
    latency = rng.exponential(10.0, 400)
    second = run_windows(record(latency, intended, 4.0), SLA, from_seconds(1))[1]
    exact = estimate_percentiles(np.floor(latency[100:200] * 1e6), (50.0, 95.0, 99.0, 90.0))
    found = (second.p50_ms, second.p95_ms, second.p99_ms, second.sla_ms)
    np.testing.assert_allclose(found, [p.value_ms for p in exact])
    assert (second.start_s, second.seconds, second.offered_qps) == (1.0, 1.0, 100.0)


def test_seconds_in_violation_are_those_of_a_stall() -> None:
    latency, intended = steady(10.0)
    stalled = (intended >= 3000) & (intended < 5000)
    latency[stalled] = 5000 - intended[stalled] + 30
    windows = run_windows(record(latency, intended, 10.0), SLA, from_seconds(1))
    assert [w.start_s for w in windows if w.missed] == [3.0, 4.0]
    assert violation_seconds(windows) == 2.0
    # Nothing came back during the stall, and everything did in the second after it.
    assert [w.achieved_qps for w in windows][3:6] == pytest.approx([1, 0, 298], abs=2)


def test_refused_queries_make_a_window_miss() -> None:
    latency, intended = steady(2.0)
    latency[:20] = inf
    first, second = run_windows(record(latency, intended, 2.0), SLA, from_seconds(1))
    assert first.missed
    assert isinf(first.sla_ms)
    assert (first.violations, first.outcomes["refused"], second.missed) == (20, 20, False)


def test_a_window_without_queries_misses_nothing() -> None:
    latency, intended = steady(1.0)
    _, second = run_windows(record(latency, intended, 2.0), SLA, from_seconds(1))
    assert isnan(second.p50_ms)
    assert (second.offered_qps, second.missed) == (0.0, False)
    assert msgspec.json.decode(msgspec.json.encode(second))["p50_ms"] is None


def test_a_window_longer_than_the_run_is_the_run() -> None:
    latency, intended = steady(1.0)
    (only,) = run_windows(record(latency, intended, 1.0), SLA, from_seconds(60))
    assert (only.seconds, only.offered_qps) == (1.0, 100.0)


@pytest.mark.parametrize(
    ("seconds", "qps", "length_s"),
    [
        (5.0, 1000.0, 0.1),
        (5.0, 100.0, 0.5),
        (60.0, 1000.0, 0.5),
        (600.0, 2.0, 30.0),
        (9.0, 0.2, 60),
    ],
)
def test_windows_are_long_enough_for_their_percentile_and_few(
    seconds: float, qps: float, length_s: float
) -> None:
    assert window_length(record(*steady(seconds, qps), seconds), SLA) == from_seconds(length_s)


def test_a_window_without_length_is_refused() -> None:
    with pytest.raises(UsageError, match="not 0 ns"):
        run_windows(record(*steady(1.0), 1.0), SLA, Ns(0))
