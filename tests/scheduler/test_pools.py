"""Sums over workers and queues: exact, and no heavier than what waits."""

from __future__ import annotations

import pytest

from headway.core import Ns
from headway.scheduler import Arrival, ServiceTimes
from headway.scheduler.pools import Pool
from headway.scheduler.queries import Open


def pool(workers: int = 2) -> Pool:
    return Pool(0, workers, ServiceTimes(((1, 100),)))


def waiting(number: int, size: int = 10, step: int = 3, step_ns: int = 100) -> Open:
    query = Open(Arrival(number, size, Ns(10**9)), Ns(0))
    query.step, query.step_ns = step, step_ns
    return query


def test_nobody_waits_while_a_worker_is_idle() -> None:
    cores = pool(2)
    cores.push(waiting(1), 0)
    cores.begin(5, 1_000)
    assert cores.idle == 1
    assert cores.wait_ns(0) == 0.0


def test_one_worker_is_waited_for_to_the_end_of_all_before() -> None:
    cores = pool(1)
    cores.begin(5, 1_000)
    cores.push(waiting(1, size=9), 0)
    assert cores.wait_ns(400) == 600 + 300


def test_of_many_workers_the_first_is_free_after_half_a_piece_of_work() -> None:
    cores = pool(100)
    for _ in range(100):
        cores.begin(1, 1_000)
    assert cores.wait_ns(0) == pytest.approx(1_000 * 101 / 200)


def test_work_past_its_predicted_end_is_waited_for_no_longer() -> None:
    cores = pool(1)
    cores.begin(5, 1_000)
    assert cores.wait_ns(5_000) == 0.0


def test_sums_are_exact_after_any_number_of_queries() -> None:
    cores, now = pool(3), 10**18
    cores.begin(1, now)
    for number in range(20_000):
        query = waiting(number, size=7 + number % 31, step=1 + number % 7, step_ns=number % 97)
        cores.push(query, -number)
        assert cores.head() is query
        if number % 3:
            cores.take(query, min(query.step, query.size))
        if query.cursor < query.size:
            cores.remove(query)
        cores.begin(3, now + 7 * number)
        cores.end(3, now + 7 * number)
    assert (cores.waiting_ns, cores.waiting_queries, cores.waiting_candidates) == (0, 0, 0)
    cores.end(1, now)
    assert (cores._ends_ns, cores.running, cores.running_candidates) == (0, 0, 0)


def test_queries_that_wait_no_longer_do_not_pile_up() -> None:
    cores = pool()
    cores.push(waiting(0), 0)
    for number in range(1, 1_000):
        query = waiting(number)
        cores.push(query, number)
        cores.remove(query)
    assert len(cores._heap) < 100


def test_a_query_queued_anew_counts_once_and_in_its_new_place() -> None:
    cores, one, two = pool(), waiting(1), waiting(2)
    cores.push(one, 1)
    cores.push(two, 2)
    for _ in range(1_000):
        cores.remove(one)
        one.cursor = 0
        cores.push(one, 3)
    assert cores.waiting_queries == 2
    assert len(cores._heap) < 100
    assert cores.head() is two


def test_a_query_that_moved_is_passed_over_where_it_was() -> None:
    cores, other, query = pool(), Pool(1, 1, ServiceTimes()), waiting(1)
    cores.push(query, 0)
    cores.remove(query)
    query.cursor, query.pool = 0, 1
    other.push(query, 0)
    assert cores.head() is None
    assert other.head() is query
