"""Machines for a load are bounded by reckoning and confirmed by runs."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.simulate.fleets import SERVICE, SLA, fly, kind

from headway.core import Ns, Plan, Sla, UsageError
from headway.simulate import (
    FleetJob,
    FleetSpec,
    Machine,
    MachineKind,
    Sizing,
    SizingSettings,
    highest_qps,
    machine_lbt,
    machines_for,
    merge_latency,
    published_knots,
    run_seeds,
    sum_up,
)
from headway.workload import Workload

FEW = SizingSettings(sla=SLA, queries=1000, sample=3)
RATE = 20_000.0


@pytest.fixture(scope="module")
def sized() -> tuple[Sizing, list[str]]:
    """Machines for a rate, and what was told meanwhile."""
    told: list[str] = []
    return machines_for(RATE, kind(), FEW, told.append), told


def test_a_machine_bears_less_than_it_can_do_and_more_with_a_looser_sla() -> None:
    box = kind()
    top = highest_qps(box, Workload())
    tight, loose = (
        machine_lbt(box, replace(FEW, sla=Sla(95.0, Ns(ms * 1_000_000)))).lbt_qps for ms in (8, 50)
    )
    assert 0 < tight < loose <= 1.1 * top


def test_machines_lie_between_the_bound_and_each_on_its_own(
    sized: tuple[Sizing, list[str]],
) -> None:
    found, told = sized
    assert found.bound < found.machines <= 1.1 * found.alone
    assert found.utilisation < 0.99
    assert found.confirmed
    assert found.tail_ms <= 25
    assert found.cost_per_hour == 2.0 * found.machines
    assert 100 * found.machines < found.watts < 300 * found.machines
    assert any("machines" in text for text in told)
    fleet = replace(kind(), count=found.machines)
    assert fly(RATE, 0.2, kinds=(fleet,)).met, "the whole fleet holds what the sample promised"


def test_machines_grow_with_the_load(sized: tuple[Sizing, list[str]]) -> None:
    many = machines_for(100 * RATE, kind(), FEW).machines
    assert 60 < many / sized[0].machines < 140


def test_an_sla_below_the_service_time_is_not_confirmed() -> None:
    found = machines_for(1000, kind(), replace(FEW, sla=Sla(95.0, Ns(100_000))))
    assert not found.confirmed
    assert found.alone == 0


def test_few_machines_are_counted_one_by_one_however_low_the_bound() -> None:
    # A core that does 1,000 candidates in the time of one could bear them all, if it batched.
    service = ((1, 1_000_000), (1000, 1_010_000))
    one = MachineKind(
        name="flat",
        machine=Machine(cores=1, service=service),
        plan=Plan(workers=1, service=service),
        count=1,
    )
    settings = replace(
        FEW, sla=Sla(95.0, Ns(10_000_000)), workload=Workload.parse("4"), queries=4000, sample=8
    )
    found = machines_for(10_000, one, settings)
    assert found.bound == 1
    assert found.confirmed
    assert 10 < found.machines <= found.alone <= 13, "9.97 of them would always be busy"
    assert found.sample == 8
    alone = machines_for(500, one, settings)
    assert (alone.machines, alone.sample) == (1, 1)


def test_a_balancer_that_loses_a_few_gets_more_machines_than_the_sla_alone_asks_for() -> None:
    # The largest queries take 22 ms in two pieces, so two at once on one machine miss 35 ms.
    sla = Sla(95.0, Ns(35_000_000))
    service = ((1, 400_000), (64, 3_000_000), (256, 11_000_000), (1024, 43_000_000))
    box = kind(cores=2)
    strict = replace(
        box,
        machine=replace(box.machine, service=service),
        plan=replace(box.plan, service=service, refuse_late=True, target_ns=sla.limit_ns),
    )
    settings = replace(FEW, sla=sla, balancer="random", queries=4000, sample=8)
    found = machines_for(500, strict, settings)
    assert found.confirmed
    assert found.lost <= settings.most_lost
    assert found.machines > 2 * found.alone


@pytest.mark.parametrize("percentile", [99.0, 99.9])
def test_a_far_percentile_gets_runs_long_enough_to_judge_it(percentile: float) -> None:
    settings = replace(FEW, sla=Sla(percentile, Ns(100_000_000)))
    assert machine_lbt(kind(), settings).lbt_qps > 0.5 * highest_qps(kind(), Workload())


def test_several_seeds_are_several_runs_and_one_histogram() -> None:
    job = FleetJob(
        spec=FleetSpec(kinds=(kind(count=2),), sla=SLA),
        workload=Workload(),
        rate_qps=500,
        duration_s=1,
        window_s=0.5,
    )
    here = run_seeds(job, (1, 2), processes=1)
    spawned = run_seeds(job, (1, 2), processes=2)
    assert here == spawned
    assert len({run.queries for run in here}) == 2
    assert len(merge_latency(here)) == sum(run.queries for run in here)
    totals = sum_up(here, SLA)
    assert totals.queries == sum(run.queries for run in here)
    assert totals.met
    assert totals.queries_per_joule is not None


def test_published_devices_are_as_fast_as_published() -> None:
    t4 = dict(published_knots("t4", "wnd"))
    assert (t4[200], t4[1000]) == (3_800_000, 9_400_000)
    assert t4[1] == pytest.approx(2.4e6, rel=0.01)
    assert dict(published_knots("gtx-1080-ti", "wnd", SERVICE))[1024] == round(8_400_000 / 4.62)
    for device, model, core in (("t4", "din", ()), ("a100", "wnd", ()), ("gtx-1080-ti", "wnd", ())):
        with pytest.raises(UsageError, match=device):
            published_knots(device, model, core)


def test_a_handful_of_machines_tracks_the_tail_of_a_fleet() -> None:
    def tail(machines: int) -> float:
        run = fly(600 * machines, 10 / machines, kinds=(kind(count=machines),), balancer="random")
        return run.latency.percentiles((95.0,))[0].value_ms

    assert tail(4) == pytest.approx(tail(12), rel=0.1)
