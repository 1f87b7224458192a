"""A fleet keeps every query, and its balancers are worth what they know."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from tests.simulate.fleets import SLA, fly, kind, p99

from headway.core import Plan, UsageError
from headway.simulate import (
    BALANCERS,
    Autoscale,
    Failures,
    Fixed,
    FleetSpec,
    MachineKind,
    Oracle,
    Outage,
    Stragglers,
    make_balancer,
    simulate_fleet,
    simulate_stream,
)
from headway.workload import Schedule, production_sizes, stream_schedule

LOAD_80 = 3000.0


@pytest.mark.parametrize("better", ["shortest-queue", "least-expected-finish", "power-of-two"])
def test_who_looks_at_queues_beats_chance_at_80_percent_load(better: str) -> None:
    chance = fly(LOAD_80, 2, balancer="random")
    assert 0.7 < chance.utilisation < 0.9
    assert p99(fly(LOAD_80, 2, balancer=better)) < 0.8 * p99(chance)


def test_predictions_beat_queues_where_machines_are_unlike() -> None:
    unlike = (kind("fast", 2, cores=4), kind("slow", 4, cores=1, slower=4))
    queues = fly(3000, 2, balancer="shortest-queue", kinds=unlike)
    assert p99(fly(3000, 2, balancer="least-expected-finish", kinds=unlike)) < 0.9 * p99(queues)


@pytest.mark.parametrize("offload", [0, 800])
def test_predictions_leave_out_accelerators_that_the_plan_does_not_use(offload: int) -> None:
    cores = kind("cores", 4)
    plan = Plan(workers=2, split_size=500, service=cores.plan.service)
    fast = replace(cores.machine, accelerators=1, accelerator_service=((1, 1_000), (1000, 10_000)))
    both = replace(
        plan,
        accelerators=1,
        accelerator_service=fast.accelerator_service,
        offload_candidates=offload,
    )
    kinds = (replace(cores, plan=plan), MachineKind(name="more", machine=fast, plan=both, count=4))
    chance, predicted = (
        p99(fly(2500, 2, balancer=name, kinds=kinds))
        for name in ("random", "least-expected-finish")
    )
    assert predicted < 0.9 * chance


def test_predictions_learn_which_machines_are_stragglers() -> None:
    slow = Stragglers(share=0.25, factor=4.0)
    chance, queues, predicted = (
        p99(fly(2000, 2, balancer=name, stragglers=slow))
        for name in ("round-robin", "shortest-queue", "least-expected-finish")
    )
    assert predicted < queues < chance


def test_the_share_of_stragglers_is_rounded_not_cut_off() -> None:
    six: dict[str, Any] = {"kinds": (kind(count=6, cores=1),), "balancer": "round-robin"}
    fine, one = (fly(300, 1, stragglers=Stragglers(share=s), **six) for s in (0.05, 0.1))
    healthy = fly(300, 1, **six)
    assert fine.latency == healthy.latency
    assert one.utilisation > 1.1 * healthy.utilisation


@pytest.mark.parametrize("balancer", BALANCERS)
def test_every_query_ends_once_and_equal_seeds_are_equal(balancer: str) -> None:
    faults: dict[str, Any] = {
        "failures": Failures(mean_s=1.0, back_s=0.5),
        "stragglers": Stragglers(share=0.2, factor=2.0, of="time", spell_s=0.3),
    }
    one, two, other = (fly(2000, 1, balancer=balancer, seed=s, **faults) for s in (1, 1, 2))
    assert one == two
    assert one != other
    assert len(one.latency) == one.queries
    assert one.latency.unanswered == one.refused + one.late + one.failed
    assert sum(w.offered_qps * w.seconds for w in one.windows) == pytest.approx(one.queries)


def test_one_machine_in_a_fleet_is_as_one_alone() -> None:
    box = kind(count=1, cores=4)
    alone = replace(box, machine=replace(box.machine, ratios=()))
    fleet = fly(1200, 2, kinds=(alone,))
    blocks = stream_schedule(1200, 2, production_sizes, np.random.default_rng(0))
    told = simulate_stream(alone.machine, alone.plan, blocks, np.random.default_rng(1))
    assert fleet.queries == told.queries
    assert fleet.latency == told.latency


def test_an_outage_without_retry_loses_what_the_machine_had_and_no_more() -> None:
    outage = Failures(outages=(Outage(at_s=1.0, machines=2),), back_s=0.5, retry=False)
    run = fly(LOAD_80 / 3, 2, failures=outage)
    assert 0 < run.failed <= 40, "some milliseconds of two machines' queries"
    assert run.retried == run.refused == run.late == 0


def test_with_retry_an_outage_loses_nothing() -> None:
    outage = Failures(outages=(Outage(at_s=1.0, machines=2),), back_s=0.5)
    run = fly(LOAD_80 / 3, 2, failures=outage)
    assert run.retried > 0
    assert run.failed == run.refused == run.late == 0
    down = [w.machines for w in run.windows]
    assert down == pytest.approx([4, 4, 2, 4], abs=0.01)


def test_with_all_machines_away_queries_are_refused_until_they_are_back() -> None:
    outage = Failures(outages=(Outage(at_s=1.0, machines=4),), back_s=0.5)
    run = fly(1000, 2, failures=outage)
    assert run.refused == pytest.approx(500, rel=0.2)
    assert [w.refused > 0 for w in run.windows] == [False, False, True, False]
    assert [w.missed for w in run.windows] == [False, False, True, False]
    assert run.violation_s == pytest.approx(0.5)
    assert not run.met


def test_fewer_machines_gives_up_those_in_repair_before_the_last_that_works() -> None:
    run = fly(
        200,
        2,
        failures=Failures(outages=(Outage(at_s=0.5, machines=3),), back_s=9),
        autoscale=Autoscale(policy=Fixed(machines=2), look_s=1.0),
    )
    assert run.refused == run.failed == 0
    assert run.machine_hours * 3600 == pytest.approx(4 * 1 + 2 * 1)


def test_cost_and_energy_follow_from_machine_time() -> None:
    run = fly(2000, 2)
    assert run.machine_hours == pytest.approx(4 * 2 / 3600)
    assert run.cost == pytest.approx(2.0 * run.machine_hours)
    assert run.joules == pytest.approx(4 * 2 * (100 + 200 * run.utilisation), rel=1e-3)


@pytest.mark.parametrize("window_s", [0.5, 2.0])
def test_a_query_at_the_very_end_counts_like_any_other(window_s: float) -> None:
    end = Schedule(np.array([5, 2 * 10**9]), np.array([4, 4]), 2 * 10**9)
    spec = FleetSpec(kinds=(kind(count=1),), sla=SLA)
    run = simulate_fleet(spec, [end], window_s, np.random.default_rng(0))
    assert run.queries == len(run.latency) == 2
    assert sum(window.seconds for window in run.windows) == 2.0


def test_memory_of_a_fleet_does_not_grow_with_the_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is drawn at a time is far more than there are queries here.
    monkeypatch.setattr("headway.workload.arrivals.CHUNK", 256)

    def peak(seconds: float) -> int:
        tracemalloc.start()
        box = kind(count=2)
        fly(1000, seconds, window_s=seconds / 5, sizes=50, kinds=(box,), block=256)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(0.2)
    # A hundred bytes for each of 3,500 queries more would be three times this.
    assert peak(4) < peak(0.5) + 100_000


def test_a_fleet_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="name of its own"):
        FleetSpec(kinds=(kind("a"), kind("a")), sla=SLA)
    with pytest.raises(UsageError, match="at least one machine"):
        FleetSpec(kinds=(kind(count=0),), sla=SLA)
    with pytest.raises(UsageError, match=r"autoscale\.kind"):
        FleetSpec(kinds=(kind(),), autoscale=Autoscale(policy=Oracle(), kind="other"))
    with pytest.raises(UsageError, match=r"autoscale\.least"):
        FleetSpec(kinds=(kind(),), autoscale=Autoscale(policy=Oracle(), least=3, most=2))
    with pytest.raises(UsageError, match="no query arrived"):
        fly(1e-6, 1)
    with pytest.raises(UsageError, match="random, round-robin"):
        make_balancer("best", np.random.default_rng(0))


def test_under_overload_the_lighter_bundle_answers_what_would_be_refused() -> None:
    box = kind(count=1)
    strict = replace(box.plan, refuse_late=True, target_ns=SLA.limit_ns)
    lighter = replace(strict, lighter_service=tuple((n, ns // 4) for n, ns in strict.service))
    rate = 1.5 * LOAD_80 / 4
    alone, helped = (fly(rate, 4, kinds=(replace(box, plan=plan),)) for plan in (strict, lighter))
    assert alone.lightened == 0
    assert helped.lightened > 0
    assert helped.refused < 0.3 * alone.refused
