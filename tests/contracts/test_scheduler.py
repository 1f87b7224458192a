"""What the scheduler promises under every plan, in any traffic, also while plans change."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from headway.core import Ns, Plan
from headway.scheduler import (
    Accepted,
    AdaptivePolicy,
    Arrival,
    Completion,
    Outcome,
    Scheduler,
    ServiceTimes,
    Work,
)

QUEUE = 60
CORE = ((1, 5), (8, 12), (16, 30), (40, 90))
FAST = ((1, 9), (40, 20))
LIGHT = ((1, 2), (40, 30))


def fixed(**changes: object) -> Plan:
    return Plan(**{"workers": 2, "split_size": 7, "queue_candidates": QUEUE, **changes})  # type: ignore[arg-type]


def adaptive(**changes: object) -> Plan:
    split = {"policy": "adaptive", "split_size": 16, "target_ns": Ns(60)}
    return fixed(**{**split, **changes})


PLANS = {
    "fixed": fixed(),
    "fixed, batches": fixed(batch_candidates=12, workers=3),
    "fixed, offload": fixed(accelerators=1, offload_candidates=20),
    "adaptive": adaptive(service=CORE),
    "adaptive, one knot": adaptive(service=((10, 20),), workers=1),
    "adaptive, learns": adaptive(refuse_late=False),
    "adaptive, accelerators": adaptive(
        service=CORE, accelerators=2, accelerator_service=FAST, split_size=9
    ),
    "adaptive, accelerators learn": adaptive(service=CORE, accelerators=1),
    "adaptive, lighter": adaptive(service=CORE, lighter_service=LIGHT),
    "adaptive, lighter and accelerator": adaptive(
        service=CORE, lighter_service=LIGHT, accelerators=1, accelerator_service=FAST
    ),
    "adaptive, query towers": adaptive(service=CORE, tower_ns=Ns(4)),
    "adaptive, query towers, all kinds": adaptive(
        service=CORE,
        tower_ns=Ns(5),
        lighter_service=LIGHT,
        accelerators=1,
        accelerator_service=FAST,
    ),
}


class AnyTraffic(RuleBasedStateMachine):
    """Drives two schedulers with the same calls and keeps its own books."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.plan = PLANS[name]
        self.plans = {name}
        self.scheduler, self.twin = Scheduler(self.plan), Scheduler(self.plan)
        self.now = 0
        self.next_id = 0
        self.accepted: dict[int, Arrival] = {}
        self.handed_out: Counter[tuple[int, int]] = Counter()
        self.limit: dict[int, int] = {}
        self.lighter: dict[int, bool] = {}
        self.scored: Counter[int] = Counter()
        self.running: list[Work] = []
        self.busy = 0
        self.ended: dict[int, Completion] = {}

    def end(self, completions: tuple[Completion, ...]) -> None:
        for completion in completions:
            assert completion.query in self.accepted
            assert completion.query not in self.ended, "a second completion"
            self.ended[completion.query] = completion
            query = self.accepted[completion.query]
            if completion.outcome is Outcome.DONE:
                assert completion.finished < query.deadline
                assert self.scored[query.id] == query.size
                assert completion.lighter == self.lighter.get(query.id, False)
            if completion.outcome is Outcome.EXPIRED:
                assert completion.finished >= query.deadline

    @rule(size=st.integers(0, 40), patience=st.one_of(st.integers(-1, 60), st.just(10**6)))
    def submit(self, size: int, patience: int) -> None:
        arrival = Arrival(self.next_id, size, Ns(self.now + patience))
        self.next_id += 1
        admission = self.scheduler.submit(arrival, Ns(self.now))
        assert admission == self.twin.submit(arrival, Ns(self.now))
        if isinstance(admission, Accepted):
            assert patience > 0
            self.accepted[arrival.id] = arrival
            if admission.completion is not None:
                self.end((admission.completion,))

    @rule(worker=st.integers(-4, 4))
    def take(self, worker: int) -> None:
        work = self.scheduler.next_work(worker, Ns(self.now))
        assert work == self.twin.next_work(worker, Ns(self.now))
        if work is None:
            return
        assert -self.plan.accelerators <= worker < self.plan.workers
        assert work.worker == worker
        assert work.candidates == sum(c.stop - c.start for c in work.chunks)
        assert len({c.query for c in work.chunks}) == len(work.chunks), "a split is undone"
        if len(work.chunks) > 1:
            assert work.candidates <= max(self.plan.batch_candidates, self.plan.split_size)
        self.in_order(work)
        self.running.append(work)
        for chunk in work.chunks:
            query = self.accepted[chunk.query]
            assert query.id not in self.ended
            assert self.now < query.deadline
            assert 0 <= chunk.start < chunk.stop <= query.size
            self.limit.setdefault(query.id, self.plan.split_size)
            if worker >= 0:
                assert chunk.stop - chunk.start <= self.limit[query.id]
            for candidate in range(chunk.start, chunk.stop):
                self.handed_out[query.id, candidate] += 1
            assert work.lighter == self.lighter.setdefault(query.id, work.lighter)
        if work.lighter:
            assert worker >= 0, "only cores have the lighter bundle"

    def in_order(self, work: Work) -> None:
        """First come, first served, among those that wait for the same kind of worker."""
        plans = [PLANS[name] for name in self.plans]
        if any(p.policy != "fixed" for p in plans) or (len(plans) > 1 and any_offload(plans)):
            return
        kind = partial(goes_to_accelerator, self.plan)
        for chunk in work.chunks:
            waiting = (
                q.id
                for q in self.accepted.values()
                if q.id not in self.limit and q.id not in self.ended and self.now < q.deadline
                if kind(q.size) == kind(self.accepted[chunk.query].size)
                if q.id not in {c.query for c in work.chunks}
            )
            assert chunk.query < min(waiting, default=self.next_id)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), poisoned=st.booleans())
    def finish(self, data: st.DataObject, poisoned: bool) -> None:
        work = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        failed = {data.draw(st.sampled_from(work.chunks)).query} if poisoned else set()
        self.finish_one(work, failed)

    def finish_one(self, work: Work, failed: set[int]) -> None:
        for chunk in work.chunks:
            self.scored[chunk.query] += chunk.stop - chunk.start
        self.busy += self.now - work.started
        ended = self.scheduler.finished(work, Ns(self.now), failed)
        assert ended == self.twin.finished(work, Ns(self.now), failed)
        assert failed <= set(self.ended) | {c.query for c in ended}
        self.end(ended)

    @rule()
    def expire(self) -> None:
        ended = self.scheduler.expire(Ns(self.now))
        assert ended == self.twin.expire(Ns(self.now))
        self.end(ended)
        wakeup = self.scheduler.next_wakeup()
        still_open = [q.deadline for q in self.accepted.values() if q.id not in self.ended]
        assert wakeup == min(still_open, default=None)
        assert wakeup is None or wakeup > self.now

    @precondition(lambda self: self.next_id)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        query = data.draw(st.integers(0, self.next_id - 1))
        completion = self.scheduler.cancel(query, Ns(self.now))
        assert completion == self.twin.cancel(query, Ns(self.now))
        assert (completion is not None) == (query in self.accepted and query not in self.ended)
        if completion is not None:
            self.end((completion,))

    @rule(step=st.integers(1, 40))
    def wait(self, step: int) -> None:
        self.now += step

    @rule(name=st.sampled_from(sorted(PLANS)))
    def replan(self, name: str) -> None:
        self.plan = PLANS[name]
        self.plans.add(name)
        before = self.scheduler.load()
        self.scheduler.replan(self.plan)
        self.twin.replan(self.plan)
        assert self.scheduler.load() == before, "a change of plan drops nothing"
        assert self.scheduler.plan is self.plan
        # Who has begun is cut no finer by a plan that comes later.
        for query, limit in self.limit.items():
            self.limit[query] = max(limit, self.plan.split_size)

    @invariant()
    def queue_is_bounded_and_counted(self) -> None:
        load = self.scheduler.load()
        assert load == self.twin.load()
        assert 0 <= load.waiting_candidates <= QUEUE
        assert load.running_candidates == sum(w.candidates for w in self.running)
        assert load.busy_ns == self.busy
        assert load.open_queries == len(self.accepted) - len(self.ended)
        assert (load.waiting_queries == 0) == (load.waiting_candidates == 0)

    @invariant()
    def predicted_work_is_the_sum_over_those_waiting(self) -> None:
        for pool in self.scheduler._all:
            waiting = [
                q
                for q in self.scheduler._open.values()
                if q.pool == pool.number and q.cursor < q.size
            ]
            left = [
                (q.step_ns - q.spared_ns) * (q.size - q.cursor) // q.step
                + (q.spared_ns if not q.cursor else 0)
                for q in waiting
            ]
            assert pool.waiting_ns == sum(left) >= 0
            assert all(ns >= 0 for ns in left)
            assert pool.waiting_queries == len(waiting)
            assert pool.waiting_candidates == sum(q.size - q.cursor for q in waiting)
            assert pool.waiting_queries == 0 or pool.workers > 0, "nobody will come for it"

    @invariant()
    def no_candidate_is_handed_out_twice(self) -> None:
        assert all(count == 1 for count in self.handed_out.values())

    @invariant()
    def policy_is_that_of_the_plan(self) -> None:
        policy = self.scheduler.policy
        assert isinstance(policy, AdaptivePolicy) == (self.plan.policy == "adaptive")
        if isinstance(policy, AdaptivePolicy):
            assert 1 <= policy.split <= self.plan.split_size

    def teardown(self) -> None:
        self.scheduler.drain()
        self.twin.drain()
        self.expire()
        workers = range(-self.plan.accelerators, self.plan.workers)
        for _ in range(QUEUE + 1):
            while self.running:
                self.finish_one(self.running.pop(), set())
            for worker in workers:
                self.take(worker)
        assert not self.running, "every take hands out a candidate at least"
        assert self.scheduler.drained
        assert set(self.ended) == set(self.accepted), "an accepted query was lost"


def any_offload(plans: list[Plan]) -> bool:
    return any(plan.offload_candidates for plan in plans)


def goes_to_accelerator(plan: Plan, size: int) -> bool:
    return 0 < plan.offload_candidates <= size


@pytest.mark.parametrize("name", PLANS)
def test_any_traffic_is_served_by_the_rules(name: str) -> None:
    run_state_machine_as_test(
        partial(AnyTraffic, name),  # type: ignore[arg-type]
        settings=settings(max_examples=40, stateful_step_count=40, deadline=None),
    )


class Crew:
    """Workers that take a turn of equal length each; notes in which order queries begin."""

    def __init__(self, plan: Plan) -> None:
        self.scheduler = Scheduler(plan)
        self.workers = range(-plan.accelerators, plan.workers)
        self.running: dict[int, Work] = {}
        self.order: list[int] = []

    def turn(self, now: Ns) -> None:
        for worker in self.workers:
            if worker in self.running:
                self.scheduler.finished(self.running.pop(worker), now)
            work = self.scheduler.next_work(worker, now)
            if work is not None:
                self.running[worker] = work
                self.order += [c.query for c in work.chunks if c.start == 0]


@pytest.mark.parametrize("name", PLANS)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=60), gap=st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_who_came_later_passes_only_within_the_time_of_a_chunk(
    name: str, sizes: list[int], gap: int
) -> None:
    crew, came = Crew(PLANS[name]), {}
    for query, size in enumerate(sizes):
        now = Ns(query * gap)
        arrival = Arrival(query, size, Ns(now + 10**9))
        if isinstance(crew.scheduler.submit(arrival, now), Accepted):
            came[query] = now
        if query % 2:
            crew.turn(now)
    for later in range(QUEUE + 2):
        crew.turn(Ns(len(sizes) * gap + later))
    assert sorted(crew.order) == sorted(came), "every accepted query has its turn"
    # A prediction is believed to be off by a factor of four at most.
    longest = 4 * max(ServiceTimes(k).of(40) for k in (CORE, LIGHT, ((10, 20),)))
    for place, query in enumerate(crew.order if not PLANS[name].accelerators else ()):
        overtaken = [came[o] for o in crew.order[place + 1 :] if o < query]
        assert came[query] - min(overtaken, default=came[query]) <= longest


@given(
    size=st.integers(2, 100),
    split=st.integers(1, 50),
    batch=st.integers(1, 500),
    others=st.booleans(),
)
def test_two_idle_workers_share_a_split_query(
    size: int, split: int, batch: int, others: bool
) -> None:
    scheduler = Scheduler(Plan(workers=2, split_size=min(split, size - 1), batch_candidates=batch))
    for query in range(3 if others else 1):
        scheduler.submit(Arrival(query, size, Ns(10)), Ns(0))
    works = [scheduler.next_work(worker, Ns(0)) for worker in (0, 1)]
    assert all(work is not None and work.chunks[0].query == 0 for work in works)
