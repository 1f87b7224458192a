from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.compress.throughput import completions, service_times, simulate_lbt
from headway.core import Ns, Sla

MS = 1_000_000


@given(
    gaps=st.lists(st.integers(0, 1000), min_size=1, max_size=30),
    service=st.lists(st.integers(0, 1000), min_size=30, max_size=30),
)
def test_completions_are_those_of_a_worker_that_takes_queries_in_order(
    gaps: list[int], service: list[int]
) -> None:
    arrivals = np.cumsum(np.array(gaps, np.int64))
    free, expected = 0, []
    for arrival, time in zip(arrivals.tolist(), service, strict=False):
        free = max(free, arrival) + time
        expected.append(free)
    times = np.array(service[: len(gaps)], np.float64)
    assert completions(arrivals, times).tolist() == expected


def test_times_lie_on_lines_between_the_sizes_measured_and_stay_positive() -> None:
    sizes, medians = np.array([64.0, 256.0, 1000.0]), np.array([10.0, 40.0, 41.0])
    found = service_times(np.array([1, 64, 160, 256, 1000]), sizes, medians)
    assert found == pytest.approx([5.0, 10.0, 25.0, 40.0, 41.0])


def test_twice_as_fast_a_model_serves_at_least_twice_the_rate() -> None:
    rng = np.random.default_rng(0)
    samples = {n: rng.normal(n * 50_000, 2_000, 200).astype(np.int64) for n in (64, 256, 1000)}
    sla = Sla(95.0, Ns(100 * MS))
    slow = simulate_lbt(samples, sla)
    fast = simulate_lbt({n: ns // 2 for n, ns in samples.items()}, sla)
    assert slow.confirmed
    assert fast.confirmed
    assert fast.lbt_qps > 2 * slow.lbt_qps
    # Never beyond what the worker could do if no query waited for another.
    assert fast.lbt_qps < 1e9 / (25_000 * 230)


def test_an_sla_below_the_time_of_one_query_is_never_met() -> None:
    samples = {n: np.full(50, n * MS, np.int64) for n in (64, 256, 1000)}
    assert simulate_lbt(samples, Sla(95.0, Ns(1 * MS))).lbt_qps == 0
