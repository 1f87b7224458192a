"""A simulated machine keeps the laws of queues, and repeats itself."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from math import factorial, sqrt

import numpy as np
import pytest

from headway.core import Ns, Plan
from headway.measure import Outcome
from headway.simulate import Machine, simulate, simulate_stream
from headway.workload import (
    Schedule,
    draw_schedule,
    fixed_sizes,
    production_sizes,
    stream_schedule,
)

SERVICE = ((1, 200_000), (256, 1_800_000), (1024, 6_600_000))
ENDLESS = 10**15
MS = 1_000_000


def mean_wait_ms(servers: int, load: float, ratios: tuple[float, ...]) -> float:
    """Mean wait of queries that take a millisecond on average, at a load of the servers."""
    machine = Machine(cores=servers, service=((1, MS),), ratios=ratios)
    plan = Plan(workers=servers, timeout_ns=Ns(ENDLESS), queue_candidates=10**9)
    rate = load * servers * 1000
    schedule = draw_schedule(rate, 60_000 / rate, fixed_sizes(1), np.random.default_rng(1))
    record = simulate(machine, plan, schedule, np.random.default_rng(2))
    return float(record.latency_ns.mean()) / MS - 1


def erlang_wait(servers: int, load: float) -> float:
    """Mean wait in M/M/c by Erlang's C, in service times."""
    offered = servers * load
    full = offered**servers / factorial(servers) / (1 - load)
    waits = full / (full + sum(offered**k / factorial(k) for k in range(servers)))
    return waits / (servers * (1 - load))


@pytest.mark.parametrize("load", [0.5, 0.7])
def test_waits_of_exponential_service_are_those_of_m_m_1(load: float) -> None:
    exponential = tuple((-np.log1p(-(np.arange(4096) + 0.5) / 4096)).tolist())
    assert mean_wait_ms(1, load, exponential) == pytest.approx(load / (1 - load), rel=0.08)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.7), (4, 0.8), (16, 0.9)])
def test_waits_of_constant_service_are_those_of_m_d_c(servers: int, load: float) -> None:
    # Cosmetatos' approximation of M/D/c (Operational Research Quarterly 1975), exact for c = 1.
    spread = (1 - load) * (servers - 1) * (sqrt(4 + 5 * servers) - 2) / (16 * load * servers)
    expected = erlang_wait(servers, load) / 2 * (1 + spread)
    assert mean_wait_ms(servers, load, ()) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("policy", ["fixed", "adaptive"])
def test_equal_seeds_give_equal_records(policy: str) -> None:
    machine = Machine(cores=4, service=SERVICE, interference=1.3, ratios=(0.8, 1.0, 1.2, 2.0))
    plan = Plan(workers=4, policy=policy, split_size=128, service=SERVICE)  # type: ignore[arg-type]
    schedule = draw_schedule(1500, 2, production_sizes, np.random.default_rng(3))
    one, two, other = (
        simulate(machine, plan, schedule, np.random.default_rng(seed)) for seed in (4, 4, 5)
    )
    assert (one.done_ns == two.done_ns).all()
    assert (one.status == two.status).all()
    assert (one.done_ns != other.done_ns).any()


def test_a_stream_tells_the_same_as_a_record() -> None:
    machine = Machine(cores=2, service=SERVICE, interference=1.2)
    plan = Plan(workers=2, split_size=256, timeout_ns=Ns(20 * MS), queue_candidates=2000)
    blocks = list(stream_schedule(1400, 3, production_sizes, np.random.default_rng(0), block=500))
    whole = Schedule(
        np.concatenate([b.intended_ns for b in blocks]),
        np.concatenate([b.sizes for b in blocks]),
        blocks[0].duration_ns,
    )
    record = simulate(machine, plan, whole, np.random.default_rng(1))
    told = simulate_stream(machine, plan, blocks, np.random.default_rng(1))
    assert told.queries == len(record)
    assert told.refused == (record.status == Outcome.REFUSED).sum() > 0
    assert told.late == (record.status == Outcome.LATE).sum()
    assert told.latency.unanswered == np.isinf(record.latency_ns).sum()
    assert told.busy > 0.8


def test_memory_does_not_grow_with_the_queries() -> None:
    machine = Machine(cores=8, service=SERVICE)
    plan = Plan(workers=8, split_size=512)

    def peak(queries: int) -> int:
        blocks: Iterator[Schedule] = stream_schedule(
            3000, queries / 3000, fixed_sizes(100), np.random.default_rng(0), block=200
        )
        tracemalloc.start()
        simulate_stream(machine, plan, blocks, np.random.default_rng(1))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(500)
    assert peak(4_000) < peak(1_000) + 100_000


def test_where_small_chunks_take_nearly_the_target_the_adaptive_policy_still_holds_it() -> None:
    # Cutting finer doubles the work and shortens a chunk by a tenth of the target.
    knots = ((1, 7_600_000), (8, 15_500_000), (16, 18_100_000), (32, 21_600_000), (64, 28_600_000))
    plan = Plan(
        workers=40,
        policy="adaptive",
        split_size=4096,
        service=knots,
        target_ns=Ns(25_000_000),
        timeout_ns=Ns(10**12),
        queue_candidates=10**9,
    )
    rng = np.random.default_rng(3)
    schedule = draw_schedule(50.0, 60.0, production_sizes, rng)
    record = simulate(Machine(cores=40, service=knots), plan, schedule, rng)
    late = np.mean(record.after(10**10).latency_ns > plan.target_ns)
    assert late <= 0.05
