"""The policy that follows the load, on workers that keep to their predicted times."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.scheduler.crew import CORE, MS, Crew

from headway.core import Knots, Ns, Plan
from headway.scheduler import Accepted, AdaptivePolicy, Reason, Refused

FAST: Knots = ((1, 500_000), (1_001, 1_500_000))
LIGHT: Knots = ((1, 20_000), (1_001, 2_020_000))


def adaptive(**changes: object) -> Plan:
    given = {"workers": 4, "policy": "adaptive", "service": CORE, "split_size": 1_024}
    return Plan(**{**given, **changes})  # type: ignore[arg-type]


def split(crew: Crew) -> int:
    policy = crew.scheduler.policy
    assert isinstance(policy, AdaptivePolicy)
    return policy.split


def calm(plan: Plan) -> Crew:
    """Return a crew that has seen queries of 400 candidates, one at a time."""
    crew = Crew(plan)
    for number in range(60):
        crew.submit(400, at=number * 20 * MS)
    crew.run()
    return crew


def test_while_calm_a_query_is_split_over_the_idle_workers() -> None:
    crew = calm(adaptive())
    assert crew.chunks(400) >= 4
    crew.run()
    assert crew.latency(60) < 0.4 * 4.09 * MS


def test_the_first_query_that_an_idle_machine_meets_is_split_too() -> None:
    assert Crew(adaptive()).chunks(400) >= 4


def test_two_workers_share_a_query_too() -> None:
    crew = calm(adaptive(workers=2))
    assert crew.chunks(400) == 2


def test_one_worker_gets_queries_whole() -> None:
    assert calm(adaptive(workers=1)).chunks(400) == 1


def test_while_busy_queries_stay_whole() -> None:
    crew = Crew(adaptive(refuse_late=False))
    for number in range(2_000):
        crew.submit(400, at=int(number * MS * 1.05))
    chunks = [a.chunks for a in crew.admitted if isinstance(a, Accepted)]
    assert sum(chunks[1_000:]) < 1.3 * 1_000


def test_while_busy_small_queries_share_batches() -> None:
    crew = Crew(adaptive(refuse_late=False))
    for number in range(3_000):
        # Alone each takes 0.19 ms; four workers would need 0.0475 ms each.
        crew.submit(10, at=number * 40_000)
    crew.run()
    assert max(crew.latency(n) for n in range(1_000, 3_000)) < 25 * MS
    assert len(crew.works) < 2_900


def test_small_queries_wait_for_a_worker_s_share_of_a_large_one_not_for_all_of_it() -> None:
    crew = calm(adaptive())
    start = crew.now
    assert crew.chunks(1_000) >= 4
    for number in range(20):
        crew.submit(10, at=start + 1 + number * 20_000)
    crew.run()
    assert len(crew.ended) == len(crew.admitted)
    assert crew.latency(60) < 0.4 * 10.09 * MS
    assert max(crew.latency(61 + n) for n in range(20)) < 0.4 * 10.09 * MS


def test_what_is_foreseen_late_is_refused_only_while_all_workers_are_busy() -> None:
    crew = Crew(adaptive(workers=1, target_ns=Ns(3 * MS)))
    # Longer than the target even alone, but the worker is free, and may be quicker than thought.
    assert isinstance(crew.submit(500), Accepted)
    refused = crew.submit(500)
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.UNREACHABLE
    assert refused.retry_after >= 5 * MS
    crew.run(6 * MS)
    assert isinstance(crew.submit(500), Accepted)


def test_what_waits_briefly_and_ends_in_time_is_let_in() -> None:
    crew = Crew(adaptive(workers=1, target_ns=Ns(3 * MS)))
    assert isinstance(crew.submit(100), Accepted)
    assert isinstance(crew.submit(100), Accepted)
    assert isinstance(crew.submit(100), Refused)


def test_who_need_not_keep_the_target_is_let_in_until_the_deadline() -> None:
    crew = Crew(adaptive(workers=1, target_ns=Ns(3 * MS), refuse_late=False))
    found = [crew.submit(500, patience=16 * MS) for _ in range(4)]
    assert [isinstance(a, Accepted) for a in found] == [True, True, True, False]


def test_before_refusing_the_lighter_bundle_is_asked() -> None:
    crew = Crew(adaptive(workers=1, target_ns=Ns(7 * MS), lighter_service=LIGHT))
    assert isinstance(crew.submit(500), Accepted)
    assert isinstance(crew.submit(500), Accepted)
    assert isinstance(crew.submit(1_000), Refused), "nor can the lighter one be in time"
    crew.run()
    assert [work.lighter for work in crew.works] == [False, True]
    assert [crew.ended[n].lighter for n in (0, 1)] == [False, True]


def test_the_lighter_bundle_answers_no_query_whose_chunks_would_all_be_late() -> None:
    # One chunk of it would be in time, the last of twenty would not.
    plan = adaptive(workers=1, split_size=50, target_ns=Ns(2 * MS), lighter_service=LIGHT)
    crew = Crew(plan)
    assert isinstance(crew.submit(50), Accepted)
    assert isinstance(crew.submit(1_000), Refused)
    assert isinstance(crew.submit(60), Accepted)


def with_accelerator(**changes: object) -> Plan:
    return adaptive(**{"accelerators": 1, "accelerator_service": FAST, **changes})


@pytest.mark.parametrize(("size", "worker"), [(1_000, -1), (5, 0)])
def test_a_query_goes_where_it_is_done_first(size: int, worker: int) -> None:
    crew = Crew(with_accelerator(workers=1), CORE, FAST)
    crew.submit(size)
    assert [work.worker for work in crew.works] == [worker]


def test_a_busy_accelerator_is_waited_for_where_that_is_earlier() -> None:
    crew = Crew(with_accelerator(workers=1), CORE, FAST)
    for _ in range(3):
        crew.submit(1_000)
    crew.run()
    assert [work.worker for work in crew.works] == [-1, -1, -1]


def test_an_idle_core_takes_over_from_a_busy_accelerator() -> None:
    distant: Knots = ((1, 3_000_000), (1_001, 4_000_000))
    plan = with_accelerator(workers=1, accelerator_service=distant, refuse_late=False)
    crew = Crew(plan, CORE, distant)
    for size in (1_000, 350, 100, 351):
        crew.submit(size)
    assert [(w.worker, w.candidates) for w in crew.works] == [(-1, 1_000), (0, 350)]
    # Because of the third, the fourth would have been done earlier on the accelerator.
    crew.scheduler.cancel(2, Ns(0))
    crew.run()
    assert crew.works[-1].worker == 0
    assert crew.works[-1].candidates == 351


def test_a_core_leaves_to_the_accelerator_what_is_done_earlier_there() -> None:
    crew = Crew(with_accelerator(workers=1, refuse_late=False), CORE, FAST)
    for _ in range(5):
        crew.submit(1_000)
    crew.run()
    assert {w.worker for w in crew.works} == {-1}


def test_an_accelerator_of_unknown_speed_comes_to_be_known() -> None:
    crew = Crew(with_accelerator(workers=1, accelerator_service=(), refuse_late=False), CORE, FAST)
    for _ in range(40):
        crew.submit(300)
    crew.run()
    by_accelerator = [work for work in crew.works if work.worker < 0]
    assert len(by_accelerator) >= 16
    assert crew.scheduler._all[1].times.of(300) == pytest.approx(800_000, rel=0.05)


def test_a_burst_is_answered_within_one_look() -> None:
    crew = calm(adaptive(refuse_late=False))
    fine = split(crew)
    assert fine <= 200
    start = crew.now + 100 * MS
    for number in range(200):
        crew.submit(400, at=start + number)
    # A fifth of the target later, while the smoothed rate has hardly moved.
    crew.submit(400, at=start + 5 * MS + 1)
    assert split(crew) >= 400


@pytest.mark.parametrize("begin", [Crew, calm])
def test_a_burst_is_not_cut_as_finely_as_its_first_query(begin: Callable[[Plan], Crew]) -> None:
    crew = begin(adaptive(refuse_late=False))
    first, start = len(crew.admitted), crew.now + 100 * MS
    for number in range(200):  # all of them before the next look is due
        crew.submit(400, at=start + number)
    chunks = [a.chunks for a in crew.admitted[first:] if isinstance(a, Accepted)]
    assert chunks[0] >= 4
    assert sum(chunks[20:]) < 1.1 * 180


@pytest.mark.parametrize("begin", [Crew, calm])
def test_after_a_burst_splits_are_fine_again(begin: Callable[[Plan], Crew]) -> None:
    fine = split(calm(adaptive(refuse_late=False)))
    crew = begin(adaptive(refuse_late=False))
    start = crew.now + 100 * MS
    for number in range(60):
        crew.submit(400, at=start + number)
    for number in range(100):
        crew.submit(400, at=start + (200 + 20 * number) * MS)
    assert split(crew) <= 1.5 * fine  # neighbours that are as good keep their place


def test_without_service_times_the_plan_holds_until_they_are_learnt() -> None:
    crew = Crew(adaptive(service=(), split_size=512))
    assert crew.chunks(1_000) == 2
    for number in range(1, 300):
        crew.submit(40 + number % 7 * 150, at=number * 20 * MS)
    assert crew.chunks(1_000, at=301 * 20 * MS) > 2


def test_a_slower_machine_than_promised_is_believed() -> None:
    slow: Knots = tuple((n, 3 * ns) for n, ns in CORE)
    crew = Crew(adaptive(workers=1, target_ns=Ns(15 * MS)), slow)
    for number in range(300):
        crew.submit(200, at=number * 20 * MS)
    crew.run()
    start = crew.now
    assert isinstance(crew.submit(200, at=start), Accepted)
    assert isinstance(crew.submit(200, at=start), Accepted)
    assert isinstance(crew.submit(200, at=start), Refused), "two before it take 12 ms, not 4"


def test_without_a_queue_batches_are_made_only_where_they_save_work() -> None:
    dear: Knots = ((1, 5 * MS), (1_001, 10 * MS))
    straight: Knots = ((1, 10_000), (1_001, 10 * MS))
    for curve, saves in ((dear, True), (straight, False)):
        crew = calm(adaptive(service=curve, target_ns=Ns(100 * MS)))
        policy = crew.scheduler.policy
        assert isinstance(policy, AdaptivePolicy)
        assert policy.budget(crew.scheduler.pools[0]) == (policy.split if saves else 0)


def test_a_queue_is_batched_only_where_batches_save_work() -> None:
    dear: Knots = ((1, 5 * MS), (1_001, 10 * MS))
    straight: Knots = ((1, 10_000), (1_001, 10 * MS))
    for curve, saves in ((dear, True), (straight, False)):
        crew = calm(adaptive(workers=1, service=curve, refuse_late=False, target_ns=Ns(900 * MS)))
        start = crew.now
        for number in range(30):
            crew.submit(100, at=start + number)
        crew.run()
        several = [work for work in crew.works if len({c.query for c in work.chunks}) > 1]
        assert bool(several) == saves
