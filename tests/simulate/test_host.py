"""A host adds time to the scheduler that serves, and no decision of its own."""

from __future__ import annotations

from collections.abc import Collection
from heapq import heappop
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.core import Ns, Plan, UsageError
from headway.scheduler import Admission, Arrival, Completion, Scheduler, Work
from headway.simulate import Host, Machine, simulate, simulate_busy
from headway.simulate.host import Event
from headway.workload import Schedule

SERVICE = ((1, 100_000), (64, 700_000), (1024, 9_000_000))
FAST = ((1, 400_000), (1024, 2_000_000))
PLANS = {
    "split": Plan(workers=3, split_size=50),
    "batched": Plan(workers=2, split_size=100, batch_candidates=200, timeout_ns=Ns(5_000_000)),
    "offloaded": Plan(workers=2, accelerators=1, offload_candidates=200, split_size=64),
    "adaptive": Plan(
        workers=2, accelerators=1, policy="adaptive", service=SERVICE, accelerator_service=FAST
    ),
}


class Noted(Scheduler):
    """A scheduler that notes what it is asked and what it answers."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.notes: list[tuple[str, tuple[Any, ...], Any]] = []

    def submit(self, arrival: Arrival, now: Ns) -> Admission:
        answer = super().submit(arrival, now)
        self.notes.append(("submit", (arrival, now), answer))
        return answer

    def next_work(self, worker: int, now: Ns) -> Work | None:
        answer = super().next_work(worker, now)
        self.notes.append(("next_work", (worker, now), answer))
        return answer

    def finished(self, work: Work, now: Ns, failed: Collection[int] = ()) -> tuple[Completion, ...]:
        answer = super().finished(work, now, failed)
        self.notes.append(("finished", (work, now), answer))
        return answer

    def expire(self, now: Ns) -> tuple[Completion, ...]:
        answer = super().expire(now)
        self.notes.append(("expire", (now,), answer))
        return answer


def run(plan: Plan, gaps_and_sizes: list[tuple[int, int]]) -> tuple[Noted, list[Completion]]:
    """Let queries arrive at a host and all work end."""
    machine = Machine(
        cores=3, service=SERVICE, interference=1.5, accelerators=1, accelerator_service=FAST
    )
    events: list[Event] = []
    host = Host(machine, plan, events, count(), np.random.default_rng(0))
    host.scheduler = scheduler = Noted(plan)
    ended: list[Completion] = []

    def work_until(until: float) -> None:
        while events and events[0][0] <= until:
            now, _, _, work = heappop(events)
            ended.extend(host.finish(work, now))

    now = 0
    for query, (gap, size) in enumerate(gaps_and_sizes):
        now += gap
        work_until(now)
        host.arrive(query, size, now + plan.timeout_ns, now)
    work_until(float("inf"))
    return scheduler, ended


TRACES = st.lists(
    st.tuples(st.integers(0, 3_000_000), st.integers(1, 1000)), min_size=1, max_size=60
)


@pytest.mark.parametrize("name", PLANS)
@settings(max_examples=25, deadline=None)
@given(trace=TRACES)
def test_a_trace_gets_equal_decisions_directly_and_through_a_host(
    name: str, trace: list[tuple[int, int]]
) -> None:
    noted, _ = run(PLANS[name], trace)
    direct = Scheduler(PLANS[name])
    for method, arguments, answer in noted.notes:
        assert getattr(direct, method)(*arguments) == answer


@pytest.mark.parametrize("name", PLANS)
@settings(max_examples=25, deadline=None)
@given(trace=TRACES)
def test_every_query_ends_once_and_no_worker_idles_while_one_waits(
    name: str, trace: list[tuple[int, int]]
) -> None:
    noted, ended = run(PLANS[name], trace)
    accepted = [
        arguments[0].id
        for method, arguments, answer in noted.notes
        if method == "submit" and type(answer).__name__ == "Accepted"
    ]
    assert sorted(c.query for c in ended) == accepted
    assert noted.load().waiting_candidates == 0


def test_cores_that_the_plan_leaves_alone_hold_nobody_up() -> None:
    events: list[Event] = []
    machine = Machine(cores=3, service=SERVICE, interference=1.5)
    host = Host(machine, Plan(workers=2), events, count(), np.random.default_rng(0))
    host.arrive(0, 64, 10**12, 0)
    host.arrive(1, 64, 10**12, 0)
    assert sorted(when for when, *_ in events) == [700_000, 875_000]


def test_a_slow_machine_takes_as_much_longer() -> None:
    def taken(slowdown: float) -> int:
        events: list[Event] = []
        machine = Machine(cores=1, service=SERVICE)
        host = Host(machine, Plan(), events, count(), np.random.default_rng(0))
        host.slowdown = slowdown
        host.arrive(0, 64, 10**12, 0)
        return events[0][0]

    assert (taken(1.0), taken(3.0)) == (700_000, 2_100_000)


def finished_at(machine: Machine, arrivals: list[tuple[int, int]]) -> list[int]:
    """Return when each of some (moment, size) was done, on a machine of one worker."""
    plan = Plan(workers=1, split_size=4096, timeout_ns=Ns(10**12))
    moments, sizes = (np.array(column, np.int64) for column in zip(*arrivals, strict=True))
    schedule = Schedule(moments, sizes, 10**9)
    record = simulate(machine, plan, schedule, np.random.default_rng(0))
    return [int(ns) for ns in record.done_ns]


def test_a_query_that_comes_or_goes_while_all_cores_work_holds_one_of_them_up() -> None:
    machine = Machine(cores=1, service=SERVICE, front_ns=40_000)
    assert finished_at(machine, [(0, 1)]) == [100_000], "an idle core has the time to spare"
    assert finished_at(machine, [(0, 1), (10_000, 1)]) == [120_000, 240_000]
    told = finished_at(machine, [(0, 1), (10_000, 1), (20_000, 1)])
    assert told == [140_000, 260_000, 380_000]


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 1024)), min_size=1, max_size=40),
    st.integers(0, 200_000),
)
def test_the_process_around_the_workers_costs_no_more_than_its_time_for_each_query(
    arrivals: list[tuple[int, int]], front: int
) -> None:
    arrivals.sort()
    without = finished_at(Machine(cores=1, service=SERVICE), arrivals)
    done = finished_at(Machine(cores=1, service=SERVICE, front_ns=front), arrivals)
    assert all(a <= b <= a + front * len(arrivals) for a, b in zip(without, done, strict=True))


def test_a_core_that_rested_takes_longer_and_one_at_work_does_not() -> None:
    rested = ((1, 200_000), (64, 1_400_000))
    machine = Machine(
        cores=1, service=((1, 100_000), (64, 700_000)), rested_service=rested, rest_ns=1_000_000
    )
    events: list[Event] = []
    host = Host(machine, Plan(workers=1), events, count(), np.random.default_rng(0))

    def took(at: int) -> int:
        host.arrive(at, 64, at + 10**12, at)
        end, _, _, work = heappop(events)
        host.finish(work, end)
        return end - at

    first = took(0)
    assert first == 1_400_000
    assert took(first) == 700_000
    later = first + 700_000 + 1_000_000
    assert took(later) == pytest.approx(700_000 + 700_000 * (1 - np.exp(-1)), rel=1e-6)


TOWERED = Machine(cores=2, service=SERVICE, tower_ns=80_000)


def ends(host_plan: Plan, sizes: list[int]) -> list[int]:
    """Return when each piece of work ends of queries that arrive together."""
    events: list[Event] = []
    host = Host(TOWERED, host_plan, events, count(), np.random.default_rng(0))
    for query, size in enumerate(sizes):
        host.arrive(query, size, 10**12, 0)
    found = []
    while events:
        now, _, _, work = heappop(events)
        found.append(now)
        host.finish(work, now)
    return found


def test_a_chunk_waits_for_its_query_tower_and_a_later_one_is_spared_it() -> None:
    # Four chunks of 64 on two cores: the second runs beside the first and waits for its tower.
    assert ends(Plan(workers=2, split_size=64), [256]) == [700_000, 700_000, 1_320_000, 1_320_000]


def test_a_batch_runs_the_query_tower_of_each_of_its_queries() -> None:
    plan = Plan(workers=1, split_size=64, batch_candidates=64)
    # The first begins alone; the two of 32 that waited are one batch.
    assert ends(plan, [64, 32, 32]) == [700_000, 700_000 + 700_000 + 80_000]


def test_a_query_tower_is_no_more_than_what_it_is_part_of() -> None:
    with pytest.raises(UsageError, match=r"machine\.tower_ns is 200000"):
        Machine(cores=1, service=SERVICE, tower_ns=200_000)


def test_the_worker_time_of_a_run_is_that_of_all_its_work() -> None:
    plan = Plan(workers=2, split_size=64, timeout_ns=Ns(10**12))
    schedule = Schedule(np.array([0, 10_000]), np.array([64, 128]), 10**9)
    machine = Machine(cores=2, service=SERVICE)
    record, busy_ns = simulate_busy(machine, plan, schedule, np.random.default_rng(0))
    assert busy_ns == 3 * 700_000
    assert (
        record.done_ns == simulate(machine, plan, schedule, np.random.default_rng(0)).done_ns
    ).all()
