"""A change of plan while queries wait and run."""

from __future__ import annotations

import pytest
from tests.scheduler.crew import CORE, LATER, MS, Crew

from headway.core import Knots, Ns, Plan
from headway.scheduler import Accepted, Arrival, Completion, Outcome, Scheduler, Work

FAST: Knots = ((1, 500_000), (1_001, 1_500_000))
ACCELERATED = Plan(
    workers=1,
    policy="adaptive",
    service=CORE,
    accelerators=1,
    accelerator_service=FAST,
    split_size=100,
    refuse_late=False,
)


def submit(scheduler: Scheduler, query: int, size: int, now: int = 0) -> Accepted:
    admission = scheduler.submit(Arrival(query, size, Ns(LATER)), Ns(now))
    assert isinstance(admission, Accepted)
    return admission


def take(scheduler: Scheduler, worker: int = 0, now: int = 0) -> Work:
    work = scheduler.next_work(worker, Ns(now))
    assert work is not None
    return work


def drain(scheduler: Scheduler, workers: int = 1) -> tuple[list[Work], list[Completion]]:
    """Let cores take and finish all there is."""
    works: list[Work] = []
    ended: list[Completion] = []
    now, idle = 1, 0
    while idle < workers:
        work = scheduler.next_work(now % workers, Ns(now))
        now += 1
        idle = 0 if work else idle + 1
        if work:
            works.append(work)
            ended += scheduler.finished(work, Ns(now))
    return works, ended


def test_what_waits_is_cut_anew_and_what_has_begun_is_not() -> None:
    scheduler = Scheduler(Plan(split_size=50))
    submit(scheduler, 1, 100)
    submit(scheduler, 2, 100)
    first = take(scheduler)
    scheduler.replan(Plan(split_size=25))
    scheduler.finished(first, Ns(1))
    works, ended = drain(scheduler)
    assert [(w.chunks[0].query, w.candidates) for w in works] == [(1, 50)] + [(2, 25)] * 4
    assert [(c.query, c.outcome) for c in ended] == [(1, Outcome.DONE), (2, Outcome.DONE)]


def test_retired_workers_finish_what_they_have_and_get_no_more() -> None:
    scheduler = Scheduler(Plan(workers=3, split_size=10))
    submit(scheduler, 1, 40)
    works = [take(scheduler, worker) for worker in range(3)]
    scheduler.replan(Plan(workers=1, split_size=10))
    assert scheduler.finished(works[2], Ns(1)) == ()
    assert scheduler.next_work(2, Ns(1)) is None
    assert scheduler.finished(works[1], Ns(1)) == ()
    last = take(scheduler, 0, 1)
    scheduler.finished(works[0], Ns(2))
    assert [c.outcome for c in scheduler.finished(last, Ns(2))] == [Outcome.DONE]


def test_new_workers_get_work_at_once() -> None:
    scheduler = Scheduler(Plan(split_size=10))
    submit(scheduler, 1, 20)
    assert scheduler.next_work(1, Ns(0)) is None
    scheduler.replan(Plan(workers=2, split_size=10))
    assert take(scheduler, 1).candidates == 10


def test_order_of_arrival_stays() -> None:
    scheduler = Scheduler(Plan(split_size=10))
    for query in range(20):
        submit(scheduler, query, 10, now=query)
    for _ in range(5):
        scheduler.replan(Plan(split_size=5))
    works, _ = drain(scheduler)
    assert [w.chunks[0].query for w in works] == [n // 2 for n in range(40)]


@pytest.mark.parametrize("policy", ["fixed", "adaptive"])
def test_a_query_begun_by_an_accelerator_that_is_given_up_is_finished_by_cores(
    policy: str,
) -> None:
    scheduler = Scheduler(ACCELERATED)
    assert submit(scheduler, 1, 1_000).chunks > 1
    running = take(scheduler, -1)
    scheduler.replan(Plan(workers=2, policy=policy, service=CORE, split_size=30))  # type: ignore[arg-type]
    submit(scheduler, 2, 50)
    assert scheduler.load().running_candidates == running.candidates
    assert scheduler.next_work(-1, Ns(1)) is None
    assert scheduler.finished(running, Ns(1)) == ()
    works, ended = drain(scheduler, 2)
    assert max(w.candidates for w in works) <= 30
    assert sorted(c.query for c in ended if c.outcome is Outcome.DONE) == [1, 2]
    assert scheduler.load().running_candidates == 0


def test_what_waits_for_accelerators_goes_to_cores_and_may_go_back() -> None:
    plan = Plan(workers=1, split_size=100, accelerators=1, offload_candidates=100)
    scheduler = Scheduler(plan)
    submit(scheduler, 1, 300)
    assert scheduler.next_work(0, Ns(0)) is None
    scheduler.replan(Plan(workers=1, split_size=100))
    assert take(scheduler).candidates == 100
    scheduler.replan(plan)
    submit(scheduler, 2, 300)
    assert take(scheduler, -1).chunks[0].query == 2


def test_fewer_accelerators_keep_what_waits_for_them() -> None:
    plan = Plan(workers=1, accelerators=2, offload_candidates=10)
    scheduler = Scheduler(plan)
    for query in range(3):
        submit(scheduler, query, 50)
    take(scheduler, -1)
    take(scheduler, -2)
    scheduler.replan(Plan(workers=1, accelerators=1, offload_candidates=10))
    assert scheduler.next_work(0, Ns(0)) is None
    assert scheduler.next_work(-2, Ns(0)) is None
    assert take(scheduler, -1).chunks[0].query == 2


def test_learnt_times_stay_also_those_of_accelerators_given_up_for_a_while() -> None:
    learns = Plan(workers=1, policy="adaptive", accelerators=1, refuse_late=False)
    crew = Crew(learns, CORE, FAST)
    for number in range(200):
        crew.submit(100 + number % 300, at=number * MS)
    crew.run()
    learnt = [pool.times.of(200) for pool in crew.scheduler._all]
    assert learnt == pytest.approx([2_090_000, 700_000], rel=0.05)
    crew.scheduler.replan(Plan(workers=2, policy="adaptive"))
    crew.scheduler.replan(learns)
    assert [pool.times.of(200) for pool in crew.scheduler._all] == learnt


def test_given_times_that_stay_the_same_keep_what_was_learnt_of_the_machine() -> None:
    plan = Plan(policy="adaptive", service=CORE, refuse_late=False)
    crew = Crew(plan, tuple((n, 2 * ns) for n, ns in CORE))
    for number in range(300):
        crew.submit(100, at=number * 5 * MS)
    crew.run()
    seen = crew.scheduler._all[0].times.of(100)
    assert seen > 1.9 * 1_090_000
    crew.scheduler.replan(Plan(policy="adaptive", service=CORE, workers=2))
    assert crew.scheduler._all[0].times.of(100) == seen
    crew.scheduler.replan(Plan(policy="adaptive", service=FAST))
    assert crew.scheduler._all[0].times.of(1) == 500_000


def light(**changes: object) -> Scheduler:
    """Return a scheduler whose second query of two is to be answered by the lighter bundle."""
    given = {"service": CORE, "lighter_service": ((1, 10),), "target_ns": Ns(7 * MS)}
    scheduler = Scheduler(Plan(**{**given, "policy": "adaptive", **changes}))  # type: ignore[arg-type]
    submit(scheduler, 1, 500)
    scheduler.finished(take(scheduler), Ns(0), {1})
    submit(scheduler, 1, 500)
    take(scheduler)
    submit(scheduler, 2, 500)
    return scheduler


def test_without_a_lighter_bundle_in_the_new_plan_nothing_is_sent_to_it() -> None:
    assert take(light()).lighter
    scheduler = light()
    scheduler.replan(Plan(policy="adaptive", service=CORE))
    assert not take(scheduler).lighter
    scheduler = light()
    scheduler.replan(Plan())
    assert not take(scheduler).lighter


def test_accelerators_know_no_lighter_bundle() -> None:
    scheduler = light()
    scheduler.replan(
        Plan(
            policy="adaptive",
            service=CORE,
            accelerators=1,
            accelerator_service=FAST,
            lighter_service=((1, 10_000),),
        )
    )
    work = take(scheduler, -1)
    assert [c.query for c in work.chunks] == [2]
    assert not work.lighter


def test_queues_do_not_grow_by_changes_of_plan() -> None:
    scheduler = Scheduler(Plan())
    for query in range(50):
        submit(scheduler, query, 10)
    for _ in range(100):
        scheduler.replan(Plan())
    assert len(scheduler._all[0]._heap) < 250
    assert scheduler.load().waiting_queries == 50
