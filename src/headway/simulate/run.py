"""A schedule on one simulated machine, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop
from itertools import count

import msgspec
import numpy as np

from headway.core import Ns, Plan
from headway.measure import NEVER, LatencyHistogram, RunRecord
from headway.measure import Outcome as Recorded
from headway.scheduler import Accepted, Outcome
from headway.simulate.host import Event, Host
from headway.simulate.machine import Machine
from headway.workload import Schedule

_STATUS = {
    Outcome.DONE: Recorded.OK,
    Outcome.EXPIRED: Recorded.LATE,
    Outcome.CANCELLED: Recorded.UNANSWERED,
    Outcome.FAILED: Recorded.FAILED,
}


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """A long run in numbers.

    Attributes:
        queries: that arrived.
        refused: of them, at the door.
        late: accepted, but not done by their deadline.
        latency: of all; what was refused or late counts as infinite.
        busy: share of the machine's worker time spent.
        duration_ns: until the last event.
    """

    queries: int
    refused: int
    late: int
    latency: LatencyHistogram
    busy: float
    duration_ns: int


def simulate(
    machine: Machine, plan: Plan, schedule: Schedule, rng: np.random.Generator
) -> RunRecord:
    """Return what a machine would have recorded of a schedule; equal seeds, equal records.

    The scheduler is the one that serves; only computing is replaced by the time it takes.

    Args:
        machine: its service times and their scatter.
        plan: of the scheduler.
        schedule: intended arrivals.
        rng: orders the scatter.
    """
    return simulate_busy(machine, plan, schedule, rng)[0]


def simulate_busy(
    machine: Machine, plan: Plan, schedule: Schedule, rng: np.random.Generator
) -> tuple[RunRecord, int]:
    """Return what ``simulate`` does, and the worker time in ns that the queries took."""
    size = len(schedule)
    done, status = [NEVER] * size, [int(Recorded.UNANSWERED)] * size
    intended = schedule.intended_ns.tolist()

    def ended(query: int, outcome: Recorded, now: int) -> None:
        done[query], status[query] = now, int(outcome)

    clock = _Clock(machine, plan, rng)
    clock.run([schedule], ended)
    record = RunRecord(
        intended_ns=schedule.intended_ns,
        sent_ns=np.array(intended, np.int64),
        done_ns=np.array(done, np.int64),
        status=np.array(status, np.uint8),
        sizes=schedule.sizes,
        duration_ns=schedule.duration_ns,
    )
    return record, clock.host.busy_ns


def simulate_stream(
    machine: Machine,
    plan: Plan,
    blocks: Iterable[Schedule],
    rng: np.random.Generator,
    progress: Callable[[int], None] | None = None,
) -> Simulated:
    """Run consecutive blocks of a schedule in flat memory, however many there are.

    Args:
        machine: its service times and their scatter.
        plan: of the scheduler.
        blocks: of one schedule, one after the other, times from its start.
        rng: orders the scatter.
        progress: told how many queries have arrived, after each block.
    """
    latency = LatencyHistogram()
    arrived: dict[int, int] = {}
    counts = dict.fromkeys(Recorded, 0)

    def begun(query: int, now: int) -> None:
        arrived[query] = now

    def ended(query: int, outcome: Recorded, now: int) -> None:
        since = arrived.pop(query)
        counts[outcome] += 1
        if outcome is Recorded.OK:
            latency.add_one(now - since)
        else:
            latency.add_unanswered()

    clock = _Clock(machine, plan, rng)
    queries = clock.run(blocks, ended, begun, progress)
    return Simulated(
        queries=queries,
        refused=counts[Recorded.REFUSED],
        late=counts[Recorded.LATE],
        latency=latency,
        busy=clock.host.busy_ns / max(1, clock.now * machine.workers(plan)),
        duration_ns=clock.now,
    )


class _Clock:
    """Virtual time of one host."""

    def __init__(self, machine: Machine, plan: Plan, rng: np.random.Generator) -> None:
        self.events: list[Event] = []
        self.host = Host(machine, plan, self.events, count(), rng)
        self.now = 0
        self._timeout = plan.timeout_ns

    def run(
        self,
        blocks: Iterable[Schedule],
        ended: Callable[[int, Recorded, int], None],
        begun: Callable[[int, int], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Let every query of the blocks arrive, then all work end; return how many arrived."""
        number, timeout = 0, self._timeout
        arrive, drain = self.host.arrive, self._work_until
        for block in blocks:
            for now, size in zip(block.intended_ns.tolist(), block.sizes.tolist(), strict=True):
                drain(now, ended)
                if begun is not None:
                    begun(number, now)
                if type(arrive(number, size, now + timeout, now)) is not Accepted:
                    ended(number, Recorded.REFUSED, now)
                number += 1
                self.now = now
            if progress is not None:
                progress(number)
        drain(None, ended)
        for completion in self.host.scheduler.expire(Ns(self.now + timeout + 1)):
            ended(completion.query, _STATUS[completion.outcome], completion.finished)
        return number

    def _work_until(self, until: int | None, ended: Callable[[int, Recorded, int], None]) -> None:
        events, finish = self.events, self.host.finish
        while events and (until is None or events[0][0] <= until):
            now, _, _, work = heappop(events)
            self.now = now
            for completion in finish(work, now):
                ended(completion.query, _STATUS[completion.outcome], now)
