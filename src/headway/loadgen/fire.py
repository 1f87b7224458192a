"""Open loop: queries go out when the schedule says, whatever became of the earlier ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from headway.core import Clock, UsageError, from_ms, to_seconds
from headway.loadgen.loop import new_alarm
from headway.loadgen.target import Target
from headway.measure import NEVER, Outcome, RunRecord
from headway.workload import Schedule

P = TypeVar("P")
_LEAD = from_ms(20)


async def fire(
    schedule: Schedule,
    prepared: Sequence[P],
    target: Target[P],
    clock: Clock,
    *,
    grace_s: float = 2.0,
) -> RunRecord:
    """Send every query at its intended time and return when each was sent and answered.

    Never waits for a reply before sending. Ends when all replies are there, or ``grace_s``
    after the schedule's end; what is unanswered then is cancelled and recorded as such.

    Args:
        schedule: when queries arrive.
        prepared: what ``target.prepare`` made, one per arrival; entries may repeat.
        target: what is driven.
        clock: real time.
        grace_s: how long stragglers are waited for.

    Raises:
        UsageError: if the schedule is empty or another number of queries is given.
    """
    if not len(schedule) or len(schedule) != len(prepared):
        raise UsageError(f"{len(prepared)} queries for a schedule of {len(schedule)} arrivals")
    return await _Run(schedule, prepared, target, clock).run(grace_s)


async def fire_one_by_one(
    prepared: Sequence[P], size: int, target: Target[P], clock: Clock
) -> RunRecord:
    """Send each query when the one before is answered: an idle system's latency, no schedule.

    Args:
        prepared: what ``target.prepare`` made.
        size: candidates of every query.
        target: what is driven.
        clock: real time.

    Raises:
        UsageError: if there are no queries.
    """
    if not prepared:
        raise UsageError("one query at a time needs at least one query")
    start = clock.now()
    sent, done, status = [], [], []
    for entry in prepared:
        sent.append(clock.now() - start)
        status.append(await target.submit(entry))
        done.append(clock.now() - start)
    return RunRecord(
        intended_ns=np.array(sent, np.int64),
        sent_ns=np.array(sent, np.int64),
        done_ns=np.array(done, np.int64),
        status=np.array(status, np.uint8),
        sizes=np.full(len(prepared), size, np.int64),
        duration_ns=max(1, done[-1]),
    )


class _Run(Generic[P]):
    """One run: plain lists, since they are written one element at a time."""

    def __init__(
        self, schedule: Schedule, prepared: Sequence[P], target: Target[P], clock: Clock
    ) -> None:
        self._schedule = schedule
        self._intended: list[int] = schedule.intended_ns.tolist()
        self._prepared = prepared
        self._target = target
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._alarm = new_alarm(self._loop, self._send_due)
        self._over: asyncio.Future[None] = self._loop.create_future()
        count = len(schedule)
        self._sent = [NEVER] * count
        self._done = [NEVER] * count
        self._status = [Outcome.UNSENT] * count
        self._open: dict[int, asyncio.Future[Outcome]] = {}
        self._next = 0
        self._start = 0

    async def run(self, grace_s: float) -> RunRecord:
        self._start = self._clock.now() + _LEAD
        limit = to_seconds(self._schedule.duration_ns + _LEAD) + grace_s
        self._alarm.set(_LEAD + self._intended[0])
        try:
            async with asyncio.timeout(limit):
                await self._over
        except TimeoutError:
            pass
        finally:
            self._alarm.close()
            await self._drop_open()
        return self._record()

    def _send_due(self) -> None:
        intended = self._intended
        now = self._clock.now() - self._start
        while self._next < len(intended) and intended[self._next] <= now:
            self._send(self._next, now)
            self._next += 1
            now = self._clock.now() - self._start
        if self._next < len(intended):
            self._alarm.set(intended[self._next] - now)

    def _send(self, index: int, now: int) -> None:
        self._sent[index] = now
        self._status[index] = Outcome.UNANSWERED
        try:
            reply = asyncio.ensure_future(self._target.submit(self._prepared[index]))
        except Exception:  # noqa: BLE001 - a failing target fails its query, not the run
            self._end(index, Outcome.FAILED)
            return
        self._open[index] = reply
        reply.add_done_callback(partial(self._ended, index))

    def _ended(self, index: int, reply: asyncio.Future[Outcome]) -> None:
        if self._open.pop(index, None) is None:
            return
        failed = reply.cancelled() or reply.exception() is not None
        self._end(index, Outcome.FAILED if failed else reply.result())

    def _end(self, index: int, outcome: Outcome) -> None:
        self._done[index] = self._clock.now() - self._start
        self._status[index] = outcome
        if not self._open and self._sent[-1] != NEVER and not self._over.done():
            self._over.set_result(None)

    async def _drop_open(self) -> None:
        """Cancel what is unanswered; its callbacks find nothing to write to."""
        left, self._open = list(self._open.values()), {}
        for reply in left:
            reply.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _record(self) -> RunRecord:
        return RunRecord(
            intended_ns=self._schedule.intended_ns,
            sent_ns=np.array(self._sent, np.int64),
            done_ns=np.array(self._done, np.int64),
            status=np.array(self._status, np.uint8),
            sizes=self._schedule.sizes,
            duration_ns=self._schedule.duration_ns,
        )
