"""Open loop means: the schedule alone decides when a query is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import numpy as np
import pytest

from headway.core import MonotonicClock, Query, UsageError, from_ms
from headway.loadgen import NullTarget, fire, fire_one_by_one
from headway.loadgen.loop import LoopAlarm, new_alarm, run
from headway.measure import NEVER, Outcome, RunRecord
from headway.workload import Schedule

CLOCK = MonotonicClock()
QUERY = Query("q", {}, {}, 1)


def every(milliseconds: float, count: int) -> Schedule:
    intended = np.arange(count, dtype=np.int64) * from_ms(milliseconds)
    return Schedule(intended, np.full(count, 3, np.int64), from_ms(milliseconds * count))


class Scripted:
    """Answers when its last query is in, so a generator that waits for replies hangs."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.all_in = asyncio.Event()

    def prepare(self, query: Query) -> Query:
        return query

    async def submit(self, prepared: Query) -> Outcome:
        self.left -= 1
        if not self.left:
            self.all_in.set()
        await self.all_in.wait()
        return Outcome.OK


class Faulty:
    """Fails in each way there is, by turns."""

    def prepare(self, query: Query) -> int:
        return int(query.id)

    def submit(self, prepared: int) -> Awaitable[Outcome]:
        if prepared == 0:
            raise ConnectionError
        return self._later(prepared)

    async def _later(self, prepared: int) -> Outcome:
        if prepared == 1:
            raise ConnectionError
        if prepared == 2:
            await asyncio.Event().wait()
        return Outcome.REFUSED if prepared == 3 else Outcome.OK


async def test_no_query_waits_for_the_reply_to_another() -> None:
    record = await fire(every(1, 20), [QUERY] * 20, Scripted(20), CLOCK)
    assert (record.status == Outcome.OK).all()
    # All replies came when the last query was in.
    assert (record.done_ns >= record.sent_ns[-1]).all()
    assert record.latency_ns[0] >= from_ms(19)


async def test_nothing_is_sent_before_its_time_and_latency_contains_the_lag() -> None:
    record = await fire(every(2, 30), [QUERY] * 30, NullTarget(), CLOCK)
    assert (record.sent_ns >= record.intended_ns).all()
    assert (record.latency_ns >= record.lag_ns).all()
    assert record.sizes.tolist() == [3] * 30
    assert record.duration_ns == from_ms(60)


async def test_a_blocked_generator_counts_its_own_delay_as_latency() -> None:
    class Blocking(NullTarget):
        def submit(self, prepared: Query) -> Awaitable[Outcome]:
            until = CLOCK.now() + from_ms(5)
            while CLOCK.now() < until:
                pass
            return super().submit(prepared)

    record = await fire(every(1, 5), [QUERY] * 5, Blocking(), CLOCK)
    # Five submits of 5 ms each were due within 4 ms.
    assert record.lag_ns[-1] >= from_ms(16)
    assert record.latency_ns[-1] >= from_ms(21)


async def test_every_way_to_fail_has_its_outcome_and_the_run_goes_on() -> None:
    target = Faulty()
    prepared = [target.prepare(Query(str(i), {}, {}, 1)) for i in range(5)]
    record = await fire(every(1, 5), prepared, target, CLOCK, grace_s=0.05)
    expected = [
        Outcome.FAILED,
        Outcome.FAILED,
        Outcome.UNANSWERED,
        Outcome.REFUSED,
        Outcome.OK,
    ]
    assert record.status.tolist() == expected
    assert record.done_ns[2] == NEVER
    assert np.isfinite(record.latency_ns).tolist() == [False] * 4 + [True]


async def test_a_run_that_cannot_send_everything_in_time_says_so() -> None:
    class Slow(NullTarget):
        def submit(self, prepared: Query) -> Awaitable[Outcome]:
            until = CLOCK.now() + from_ms(30)
            while CLOCK.now() < until:
                pass
            return super().submit(prepared)

    schedule = Schedule(np.array([0, 10**9]), np.ones(2, np.int64), 10**9)
    task = asyncio.ensure_future(fire(schedule, [QUERY] * 2, Slow(), CLOCK, grace_s=-0.9))
    record = await task
    assert record.status.tolist() == [Outcome.OK, Outcome.UNSENT]
    assert record.sent_ns[1] == NEVER


async def test_a_schedule_and_its_queries_must_be_equally_many() -> None:
    with pytest.raises(UsageError, match="1 queries for a schedule of 2"):
        await fire(every(1, 2), [QUERY], NullTarget(), CLOCK)
    empty = Schedule(np.empty(0, np.int64), np.empty(0, np.int64), 5)
    with pytest.raises(UsageError, match="0 arrivals"):
        await fire(empty, [], NullTarget(), CLOCK)


async def test_one_by_one_sends_after_the_reply_before() -> None:
    record = await fire_one_by_one([QUERY] * 5, 7, NullTarget(), CLOCK)
    assert (record.sent_ns[1:] >= record.done_ns[:-1]).all()
    assert record.sizes.tolist() == [7] * 5
    with pytest.raises(UsageError, match="at least one"):
        await fire_one_by_one([], 7, NullTarget(), CLOCK)


@pytest.mark.parametrize("kind", [new_alarm, LoopAlarm])
async def test_an_alarm_rings_once_after_its_delay_and_not_when_closed(kind: type) -> None:
    loop = asyncio.get_running_loop()
    rung = asyncio.Event()
    times: list[int] = []

    def ring() -> None:
        times.append(CLOCK.now())
        rung.set()

    alarm = kind(loop, ring)
    start = CLOCK.now()
    alarm.set(from_ms(500))
    alarm.set(from_ms(2))
    await asyncio.wait_for(rung.wait(), 5)
    # The portable alarm may be early by the resolution of the loop's clock.
    assert times[0] - start >= from_ms(1)
    rung.clear()
    alarm.set(0)
    await asyncio.wait_for(rung.wait(), 5)
    alarm.set(from_ms(1))
    alarm.close()
    alarm.close()
    done = loop.create_future()
    loop.call_later(0.01, done.set_result, None)
    await done
    assert len(times) == 2


def test_runs_work_in_the_fast_loop_too() -> None:
    async def main() -> RunRecord:
        return await fire(every(1, 5), [QUERY] * 5, NullTarget(), CLOCK)

    assert (run(main()).status == Outcome.OK).all()
