"""A machine of a fleet, in one life: from when it takes queries until it is gone."""

from __future__ import annotations

from itertools import count
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from headway.core import Plan
from headway.scheduler import Accepted
from headway.simulate.host import Event, Host
from headway.simulate.machine import Machine
from headway.simulate.series import OpenWindow

Ticket = tuple[int, int, OpenWindow, bool]
"""(arrived, size, window of the arrival, whether it was already lost once)."""


class MachineKind(msgspec.Struct, frozen=True, kw_only=True):
    """Machines that are alike.

    Attributes:
        name: of the kind.
        machine: what one can do, costs and draws.
        plan: of each one's scheduler.
        count: machines at the start.
    """

    name: str
    machine: Machine
    plan: Plan
    count: Annotated[int, Meta(ge=0)]

    @property
    def workers(self) -> int:
        """Cores and accelerators of one machine that work."""
        return self.machine.workers(self.plan)


class Member(Host):
    """A host with what a load balancer knows of it.

    Attributes:
        kind: index of its kind.
        candidates: of queries that were sent here and not answered yet.
        open: those queries.
        accepting: whether queries are sent here.
        gone: it is off; what was being worked on is lost.
        rank: of its latest entry in a ranking.
    """

    __slots__ = ("accepting", "candidates", "gone", "kind", "open", "rank")

    def __init__(
        self,
        kinds: tuple[MachineKind, ...],
        kind: int,
        events: list[Event],
        serial: count[int],
        rng: np.random.Generator,
    ) -> None:
        """Put an idle machine of ``kinds[kind]`` on a clock, as ``Host`` does."""
        super().__init__(kinds[kind].machine, kinds[kind].plan, events, serial, rng)
        self.kind = kind
        self.candidates = 0
        self.open: dict[int, Ticket] = {}
        self.accepting = True
        self.gone = False
        self.rank = -1

    def take(self, query: int, ticket: Ticket, deadline: int, now: int) -> bool:
        """Submit a query; return whether it was let in."""
        size = ticket[1]
        if type(self.arrive(query, size, deadline, now)) is not Accepted:
            return False
        self.open[query] = ticket
        self.candidates += size
        return True

    def expected_ns(self, size: int, now: int) -> float:
        """Return in how many nanoseconds a query sent now is predicted to be answered.

        By the machine's own scheduler: its queue, what its workers are busy with, and the
        service times it was given or has learnt.
        """
        pools = self.scheduler.pools
        policy = self.scheduler.policy
        best = float("inf")
        for pool in pools:
            if not policy.may_take(pool, size):
                continue
            workers = pool.workers
            split = size if pool.number else policy.split
            chunks = -(-size // split)
            step_ns = pool.times.of(-(-size // chunks))
            idle = workers - pool.running
            wait = 0.0
            if idle <= 0:
                wait = pool.wait_ns(now)
                if not pool.waiting_ns and pool.waiting_candidates:
                    # A policy that predicts nothing leaves the queue's work unsaid.
                    wait += step_ns * chunks / size * pool.waiting_candidates / workers
                idle = workers
            later_ns = step_ns - pool.times.tower_ns * pool.times.scale
            best = min(best, wait + step_ns + later_ns * max(0.0, chunks / idle - 1))
        return best
