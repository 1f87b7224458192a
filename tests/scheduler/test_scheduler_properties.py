from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headway.core import Ns, Plan
from headway.scheduler import Accepted, Arrival, Completion, Outcome, Scheduler, Work


class AnyTraffic(RuleBasedStateMachine):
    """Drives two schedulers with the same calls and keeps its own books."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = Plan(workers=2, split_size=7, batch_candidates=12, queue_candidates=60)
        self.scheduler, self.twin = Scheduler(self.plan), Scheduler(self.plan)
        self.now = 0
        self.next_id = 0
        self.accepted: dict[int, Arrival] = {}
        self.handed_out: Counter[tuple[int, int]] = Counter()
        self.first_order: list[int] = []
        self.scored: Counter[int] = Counter()
        self.running: list[Work] = []
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
            if completion.outcome is Outcome.EXPIRED:
                assert completion.finished >= query.deadline

    @rule(size=st.integers(0, 40), patience=st.integers(-1, 60))
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

    @rule(worker=st.integers(0, 1))
    def take(self, worker: int) -> None:
        work = self.scheduler.next_work(worker, Ns(self.now))
        assert work == self.twin.next_work(worker, Ns(self.now))
        if work is None:
            return
        assert work.candidates == sum(c.stop - c.start for c in work.chunks)
        assert work.candidates <= max(self.plan.batch_candidates, self.plan.split_size)
        self.running.append(work)
        assert len({c.query for c in work.chunks}) == len(work.chunks), "a split is undone"
        for chunk in work.chunks:
            query = self.accepted[chunk.query]
            assert chunk.query not in self.ended
            assert self.now < query.deadline
            assert 0 <= chunk.start < chunk.stop <= query.size
            assert chunk.stop - chunk.start <= self.plan.split_size
            for candidate in range(chunk.start, chunk.stop):
                self.handed_out[chunk.query, candidate] += 1
            if chunk.start == 0:
                self.first_order.append(chunk.query)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), poisoned=st.booleans())
    def finish(self, data: st.DataObject, poisoned: bool) -> None:
        work = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        failed = {work.chunks[-1].query} if poisoned else set()
        for chunk in work.chunks:
            self.scored[chunk.query] += chunk.stop - chunk.start
        ended = self.scheduler.finished(work, Ns(self.now), failed)
        assert ended == self.twin.finished(work, Ns(self.now), failed)
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

    @invariant()
    def queue_is_bounded_and_counted(self) -> None:
        load = self.scheduler.load()
        assert 0 <= load.waiting_candidates <= self.plan.queue_candidates
        assert load.running_candidates == sum(w.candidates for w in self.running)
        assert load.open_queries == len(self.accepted) - len(self.ended)
        assert (load.waiting_queries == 0) == (load.waiting_candidates == 0)

    @invariant()
    def no_candidate_is_handed_out_twice(self) -> None:
        assert all(count == 1 for count in self.handed_out.values())

    @invariant()
    def queries_start_in_the_order_they_came(self) -> None:
        assert self.first_order == sorted(self.first_order)

    def teardown(self) -> None:
        self.scheduler.drain()
        self.twin.drain()
        for _ in range(10_000):
            self.expire()
            while self.running:
                work = self.running.pop()
                for chunk in work.chunks:
                    self.scored[chunk.query] += chunk.stop - chunk.start
                ended = self.scheduler.finished(work, Ns(self.now))
                assert ended == self.twin.finished(work, Ns(self.now))
                self.end(ended)
            self.take(0)
            if not self.running:
                break
        assert self.scheduler.drained
        assert set(self.ended) == set(self.accepted), "an accepted query was lost"


AnyTraffic.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyTraffic = AnyTraffic.TestCase


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
