import pytest

from headway.core import Ns, Plan
from headway.scheduler import (
    Accepted,
    Arrival,
    Chunk,
    Completion,
    Outcome,
    Reason,
    Refused,
    Scheduler,
)

LATE = Ns(10**15)


def arrival(query: int, size: int, deadline: int = LATE) -> Arrival:
    return Arrival(query, size, Ns(deadline))


def test_chunks_are_of_even_size_and_at_most_the_split_size() -> None:
    scheduler = Scheduler(Plan(split_size=100))
    assert scheduler.submit(arrival(1, 201), Ns(0)) == Accepted(3)
    works = [scheduler.next_work(0, Ns(0)) for _ in range(4)]
    assert [w.chunks if w else None for w in works] == [
        (Chunk(1, 0, 67),),
        (Chunk(1, 67, 134),),
        (Chunk(1, 134, 201),),
        None,
    ]


def test_small_queries_share_a_batch_up_to_the_budget() -> None:
    scheduler = Scheduler(Plan(workers=2, split_size=100, batch_candidates=100))
    for query, size in enumerate([40, 40, 40, 10]):
        scheduler.submit(arrival(query, size), Ns(0))
    first, second = scheduler.next_work(0, Ns(0)), scheduler.next_work(1, Ns(0))
    assert first is not None
    assert second is not None
    assert [c.query for c in first.chunks] == [0, 1]
    assert [c.query for c in second.chunks] == [2, 3]


def test_a_chunk_over_the_batch_budget_is_still_handed_out() -> None:
    scheduler = Scheduler(Plan(split_size=100, batch_candidates=10))
    scheduler.submit(arrival(1, 100), Ns(0))
    work = scheduler.next_work(0, Ns(0))
    assert work is not None
    assert work.candidates == 100


def test_a_query_without_candidates_is_done_at_once() -> None:
    admission = Scheduler(Plan()).submit(arrival(7, 0), Ns(5))
    assert admission == Accepted(0, Completion(7, Outcome.DONE, Ns(5), Ns(5), Ns(5)))


def test_a_query_is_done_when_its_last_chunk_is() -> None:
    scheduler = Scheduler(Plan(workers=2, split_size=5))
    scheduler.submit(arrival(1, 10), Ns(0))
    first, second = scheduler.next_work(0, Ns(1)), scheduler.next_work(1, Ns(2))
    assert first is not None
    assert second is not None
    assert scheduler.finished(second, Ns(3)) == ()
    assert scheduler.finished(first, Ns(4)) == (Completion(1, Outcome.DONE, Ns(0), Ns(1), Ns(4)),)


def test_work_cannot_be_finished_twice() -> None:
    scheduler = Scheduler(Plan())
    scheduler.submit(arrival(1, 10), Ns(0))
    work = scheduler.next_work(0, Ns(0))
    assert work is not None
    scheduler.finished(work, Ns(1))
    with pytest.raises(ValueError, match="not being worked on"):
        scheduler.finished(work, Ns(2))


def test_an_open_id_cannot_be_submitted_again() -> None:
    scheduler = Scheduler(Plan())
    scheduler.submit(arrival(1, 10), Ns(0))
    with pytest.raises(ValueError, match="new id"):
        scheduler.submit(arrival(1, 10), Ns(0))


def test_a_full_queue_refuses_and_room_made_by_work_accepts() -> None:
    scheduler = Scheduler(Plan(queue_candidates=100))
    scheduler.submit(arrival(1, 90), Ns(0))
    refused = scheduler.submit(arrival(2, 20), Ns(0))
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.QUEUE_FULL
    assert refused.retry_after > 0
    scheduler.next_work(0, Ns(0))
    assert isinstance(scheduler.submit(arrival(2, 20), Ns(0)), Accepted)


def test_a_query_past_its_deadline_is_refused_at_the_door() -> None:
    refused = Scheduler(Plan()).submit(arrival(1, 5, deadline=10), Ns(10))
    assert refused == Refused(Reason.DEADLINE_PASSED, Ns(0))


def test_an_expired_query_is_never_handed_out_and_is_reported_once() -> None:
    scheduler = Scheduler(Plan())
    scheduler.submit(arrival(1, 5, deadline=10), Ns(0))
    scheduler.submit(arrival(2, 5), Ns(0))
    assert scheduler.next_wakeup() == 10
    work = scheduler.next_work(0, Ns(10))
    assert work is not None
    assert [c.query for c in work.chunks] == [2]
    assert scheduler.expire(Ns(10)) == (Completion(1, Outcome.EXPIRED, Ns(0), None, Ns(10)),)
    assert scheduler.expire(Ns(11)) == ()


def test_a_query_that_runs_past_its_deadline_expires_and_its_late_work_is_ignored() -> None:
    scheduler = Scheduler(Plan())
    scheduler.submit(arrival(1, 5, deadline=10), Ns(0))
    work = scheduler.next_work(0, Ns(1))
    assert work is not None
    assert [c.outcome for c in scheduler.expire(Ns(12))] == [Outcome.EXPIRED]
    assert scheduler.finished(work, Ns(13)) == ()


def test_work_finished_at_the_deadline_is_late() -> None:
    scheduler = Scheduler(Plan())
    scheduler.submit(arrival(1, 5, deadline=10), Ns(0))
    work = scheduler.next_work(0, Ns(1))
    assert work is not None
    assert [c.outcome for c in scheduler.finished(work, Ns(10))] == [Outcome.EXPIRED]


def test_a_cancelled_query_makes_room_and_its_rest_is_not_scored() -> None:
    scheduler = Scheduler(Plan(split_size=5, queue_candidates=10))
    scheduler.submit(arrival(1, 10), Ns(0))
    work = scheduler.next_work(0, Ns(0))
    assert work is not None
    done = scheduler.cancel(1, Ns(1))
    assert done is not None
    assert done.outcome is Outcome.CANCELLED
    assert scheduler.cancel(1, Ns(2)) is None
    assert scheduler.load().waiting_candidates == 0
    assert scheduler.next_work(0, Ns(2)) is None
    assert scheduler.finished(work, Ns(3)) == ()


def test_a_cancelled_id_may_come_again_while_its_old_work_runs() -> None:
    scheduler = Scheduler(Plan())
    scheduler.submit(arrival(1, 10), Ns(0))
    old = scheduler.next_work(0, Ns(0))
    assert old is not None
    scheduler.cancel(1, Ns(1))
    scheduler.submit(arrival(1, 10), Ns(2))
    assert scheduler.finished(old, Ns(3)) == ()
    new = scheduler.next_work(0, Ns(4))
    assert new is not None
    assert [c.outcome for c in scheduler.finished(new, Ns(5))] == [Outcome.DONE]


def test_a_failed_chunk_fails_its_query_alone() -> None:
    scheduler = Scheduler(Plan(batch_candidates=100))
    scheduler.submit(arrival(1, 10), Ns(0))
    scheduler.submit(arrival(2, 10), Ns(0))
    work = scheduler.next_work(0, Ns(0))
    assert work is not None
    ended = scheduler.finished(work, Ns(1), failed={2})
    assert {c.query: c.outcome for c in ended} == {1: Outcome.DONE, 2: Outcome.FAILED}


def test_a_deadline_out_of_reach_is_refused_only_while_others_wait() -> None:
    scheduler = Scheduler(Plan(split_size=100))
    scheduler.submit(arrival(0, 100), Ns(0))
    work = scheduler.next_work(0, Ns(0))
    assert work is not None
    scheduler.finished(work, Ns(1_000_000_000))  # 100 candidates a second
    now = Ns(1_000_000_000)
    assert isinstance(scheduler.submit(arrival(1, 100, now + 1_000), now), Accepted)
    refused = scheduler.submit(arrival(2, 100, now + 1_500_000_000), now)
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.UNREACHABLE
    assert refused.retry_after > 400_000_000
    assert isinstance(scheduler.submit(arrival(3, 100, now + 3_000_000_000), now), Accepted)


def test_a_rate_that_was_once_low_is_forgotten_at_once_when_work_is_fast() -> None:
    scheduler = Scheduler(Plan(split_size=100))
    now = 0
    for query, busy in enumerate([10**9, 1000]):
        scheduler.submit(arrival(query, 100), Ns(now))
        work = scheduler.next_work(0, Ns(now))
        assert work is not None
        now += busy
        scheduler.finished(work, Ns(now))
    scheduler.submit(arrival(8, 100), Ns(now))
    assert isinstance(scheduler.submit(arrival(9, 100, now + 100_000), Ns(now)), Accepted)


def test_draining_refuses_new_queries_and_finishes_the_old() -> None:
    scheduler = Scheduler(Plan())
    scheduler.submit(arrival(1, 5), Ns(0))
    scheduler.drain()
    refused = scheduler.submit(arrival(2, 5), Ns(0))
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.DRAINING
    assert not scheduler.drained
    work = scheduler.next_work(0, Ns(0))
    assert work is not None
    scheduler.finished(work, Ns(1))
    assert scheduler.drained


def test_ended_queries_with_far_deadlines_do_not_pile_up() -> None:
    scheduler = Scheduler(Plan())
    for query in range(1000):
        scheduler.submit(arrival(query, 1), Ns(query))
        scheduler.cancel(query, Ns(query))
    assert len(scheduler._deadlines) <= 65
    assert scheduler.next_wakeup() is None


def test_failed_work_teaches_no_rate() -> None:
    scheduler = Scheduler(Plan(split_size=100))
    for query, failed in enumerate([(), (1,)]):
        scheduler.submit(arrival(query, 100), Ns(0))
        work = scheduler.next_work(0, Ns(0))
        assert work is not None
        # One second for what is scored, a nanosecond for what fails.
        scheduler.finished(work, Ns(1 if failed else 10**9), failed)
    scheduler.submit(arrival(8, 100), Ns(0))
    refused = scheduler.submit(arrival(9, 100, deadline=10**9), Ns(0))
    assert isinstance(refused, Refused), "a failure in no time must not pass for speed"
