"""One machine on a virtual clock: the scheduler that serves, and workers that only take time."""

from __future__ import annotations

from heapq import heappush
from itertools import count
from math import expm1

import numpy as np

from headway.core import Ns, Plan
from headway.scheduler import (
    Accepted,
    Arrival,
    Completion,
    Refused,
    Scheduler,
    ServiceTimes,
    Work,
)
from headway.simulate.machine import Machine

_LONG_AGO = 10**18
Event = tuple[int, int, "Host", Work]
"""(when, serial, host, work that is then finished)."""


class Host:
    """Runs a plan on a machine; told when queries arrive and when its work is finished.

    Attributes:
        scheduler: the one that serves.
        busy_ns: worker time spent.
        slowdown: factor on all service times, 1.0 for a healthy machine.
    """

    __slots__ = (
        "_cores",
        "_ended",
        "_events",
        "_factors",
        "_front_ns",
        "_held_up_ns",
        "_idle",
        "_lighter",
        "_place",
        "_ratios",
        "_rest_ns",
        "_rested",
        "_serial",
        "_times",
        "_tower_ns",
        "_towers",
        "busy_ns",
        "scheduler",
        "slowdown",
    )

    def __init__(
        self,
        machine: Machine,
        plan: Plan,
        events: list[Event],
        serial: count[int],
        rng: np.random.Generator,
    ) -> None:
        """Put a machine that has nothing to do on a clock.

        Args:
            machine: what its workers can do; the plan may use fewer.
            plan: of its scheduler.
            events: heap in which finished work is put, shared by all hosts of a clock.
            serial: breaks ties between events of one moment, shared likewise.
            rng: orders the scatter of service times.
        """
        self.scheduler = Scheduler(plan)
        self.busy_ns = 0
        self.slowdown = 1.0
        self._events = events
        self._serial = serial
        self._cores = cores = min(plan.workers, machine.cores)
        accelerators = min(plan.accelerators, machine.accelerators)
        self._idle = [list(range(cores - 1, -1, -1)), [-1 - i for i in range(accelerators)]]
        self._times = [ServiceTimes(machine.service)]
        # Its times are the plan's: a machine is described by those of the bundle it serves.
        self._lighter = ServiceTimes(plan.lighter_service)
        if accelerators:
            self._times.append(ServiceTimes(machine.accelerator_service))
        self._rested = ServiceTimes(machine.rested_service) if machine.rested_service else None
        self._rest_ns = machine.rest_ns
        self._ended = [-_LONG_AGO] * cores
        self._front_ns = machine.front_ns // 2
        self._held_up_ns = [0] * cores
        self._tower_ns = machine.tower_ns
        self._towers: dict[int, int] = {}
        self._factors = [machine.factors(max(1, busy)) for busy in range(cores + 1)]
        self._ratios = rng.permutation(machine.ratios or (1.0,)).tolist()
        self._place = 0

    def arrive(self, query: int, size: int, deadline: int, now: int) -> Accepted | Refused:
        """Submit a query, and let idle workers begin what there is."""
        if self._front_ns and not self._idle[0]:
            self._hold_up(1)
        admission = self.scheduler.submit(Arrival(query, size, Ns(deadline)), Ns(now))
        if type(admission) is Accepted:
            self._start(now)
        return admission

    def finish(self, work: Work, now: int) -> tuple[Completion, ...]:
        """Take in finished work, and let its worker begin anew; return what that ended."""
        if self._front_ns and work.worker >= 0 and self._held_up_ns[work.worker]:
            self._go_on(work, now)
            return ()
        scheduler = self.scheduler
        ended = scheduler.finished(work, Ns(now))
        late = scheduler.expire(Ns(now))
        if late:
            ended += late
        if self._tower_ns:
            for completion in ended:
                self._towers.pop(completion.query, None)
        worker = work.worker
        following = scheduler.next_work(worker, Ns(now))
        if following is None:
            self._idle[worker < 0].append(worker)
        else:
            self._begin(following, now)
        if self._front_ns and ended and not self._idle[0]:
            self._hold_up(len(ended))
        return ended

    def _hold_up(self, times: int) -> None:
        """Let the process around the workers take its time from one of them, each in turn."""
        self._place = place = (self._place + 1) % len(self._ratios)
        self._held_up_ns[place % self._cores] += times * self._front_ns

    def _go_on(self, work: Work, now: int) -> None:
        """Finish work as much later as its worker was held up."""
        longer = self._held_up_ns[work.worker]
        self._held_up_ns[work.worker] = 0
        self._ended[work.worker] = now + longer
        self.busy_ns += longer
        heappush(self._events, (now + longer, next(self._serial), self, work))

    def _start(self, now: int) -> None:
        next_work = self.scheduler.next_work
        for idle in self._idle:
            while idle:
                work = next_work(idle[-1], Ns(now))
                if work is None:
                    break
                idle.pop()
                self._begin(work, now)

    def _begin(self, work: Work, now: int) -> None:
        kind = work.worker < 0
        ratios = self._ratios
        self._place = place = (self._place + 1) % len(ratios)
        times = self._lighter if work.lighter else self._times[kind]
        taken = times.of(work.candidates)
        slower = ratios[place] * self.slowdown
        if not kind:
            if self._rested is not None and not work.lighter:
                rest = now - self._ended[work.worker]
                more = self._rested.of(work.candidates) - taken
                taken -= more * expm1(-rest / self._rest_ns)
            slower *= self._factors[self._cores - len(self._idle[0])]
        taken *= slower
        if self._tower_ns and not kind and not work.lighter:
            taken = self._with_towers(work, taken, self._tower_ns * slower, now)
        length = max(1, round(taken))
        if self._rested is not None and not kind:
            self._ended[work.worker] = now + length
        self.busy_ns += length
        heappush(self._events, (now + length, next(self._serial), self, work))

    def _with_towers(self, work: Work, taken: float, tower: float, now: int) -> float:
        """Return the time of work whose query towers are run here, or waited for, or done."""
        known = self._towers
        until = now + round(work.towers * tower)
        for chunk in work.chunks:
            if chunk.start:
                until = max(until, known.get(chunk.query, 0))
            else:
                known[chunk.query] = until
        return until - now + taken - tower
