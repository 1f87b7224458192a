"""The machines of a fleet: who is on, who gets a query, what is lost when one goes away."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

import numpy as np

from headway.core import Ns, Sla, from_seconds
from headway.scheduler import Completion, Outcome
from headway.simulate.account import Account
from headway.simulate.balance import make_balancer
from headway.simulate.faults import Faults, Outage, Stragglers
from headway.simulate.member import MachineKind, Member, Ticket
from headway.simulate.series import Series

Action = Callable[[int], None]
"""Something that happens to the fleet; told when."""


class Crew:
    """All machines, their clock, and the queries that are on their way.

    Attributes:
        account: machine time.
        arrived: queries so far.
        retried: of them sent a second time.
        lightened: of them answered by the lighter bundle.
        agenda: (when, serial, action) of what will happen to the fleet itself.
    """

    def __init__(
        self,
        kinds: tuple[MachineKind, ...],
        balancer: str,
        series: Series,
        sla: Sla,
        faults: Faults,
        rng: np.random.Generator,
    ) -> None:
        """Begin without any machine.

        Args:
            kinds: of machines there may be.
            balancer: name of it.
            series: told how queries end.
            sla: tells what a violation is.
            faults: that happen.
            rng: source of chance.
        """
        self.account = Account(kinds)
        self.arrived = self.retried = self.lightened = 0
        self.agenda: list[tuple[int, int, Action]] = []
        self._kinds, self._faults, self._series = kinds, faults, series
        self._limit = sla.limit_ns
        self._scatter, self._chance, spread = rng.spawn(3)
        self._balancer = make_balancer(balancer, spread)
        self._timeouts = [kind.plan.timeout_ns for kind in kinds]
        self._events: list[Any] = []
        self._serial = count()
        self._on: dict[Member, None] = {}
        self._spent = [0] * len(kinds)
        self._starting: list[list[int]] = [[] for _ in kinds]
        self._born = 0

    # Time.

    def at(self, when: int, action: Action) -> None:
        """Let something happen to the fleet at a moment."""
        heappush(self.agenda, (when, next(self._serial), action))

    def advance(self, until: int | None) -> None:
        """Let the machines work until a moment, or until they are done.

        What happens to the fleet by then must have happened.
        """
        events = self._events
        while events and (until is None or events[0][0] <= until):
            now, _, member, work = heappop(events)
            if not member.gone:
                ended = member.finish(work, now)
                if ended:
                    self._ended(member, ended, now)

    def finish(self) -> None:
        """Let all work end; nothing happens to the fleet any more."""
        self.advance(None)
        # A query past its deadline that nobody works on any more is found by nothing else.
        for member in list(self._on):
            last = Ns(max((ticket[0] for ticket in member.open.values()), default=0))
            late = member.scheduler.expire(Ns(last + self._timeouts[member.kind] + 1))
            self._ended(member, late, last)

    # Queries.

    def arrive(self, query: int, size: int, now: int) -> None:
        """Send a new query to a machine."""
        self.arrived += 1
        window = self._series.now
        window.queries += 1
        window.pending += 1
        if not self._send(query, (now, size, window, False), now):
            window.pending -= 1
            window.refused += 1
            window.violations += 1
            window.latency.add_unanswered()

    def _send(self, query: int, ticket: Ticket, now: int) -> bool:
        balancer = self._balancer
        if not balancer.members:
            return False
        member = balancer.pick(ticket[1], now)
        deadline = ticket[0] + self._timeouts[member.kind]
        if not member.take(query, ticket, deadline, now):
            return False
        balancer.changed(member)
        return True

    def _ended(self, member: Member, ended: tuple[Completion, ...], now: int) -> None:
        for completion in ended:
            arrived, size, window, _ = member.open.pop(completion.query)
            member.candidates -= size
            window.pending -= 1
            if completion.outcome is Outcome.DONE:
                taken = now - arrived
                window.latency.add_one(taken)
                self.lightened += completion.lighter
                if taken > self._limit:
                    window.violations += 1
            else:
                window.late += 1
                window.violations += 1
                window.latency.add_unanswered()
        if member.accepting:
            self._balancer.changed(member)
        elif not member.open:
            self._off(member, now)

    # Machines.

    def join(self, kind: int, now: int) -> None:
        """A machine that is paid for takes queries from now on."""
        member = Member(self._kinds, kind, self._events, self._serial, self._scatter)
        self._on[member] = None
        self.account.change(kind, now, live=1)
        self._balancer.joined(member)
        self._doom(member, now)

    def order(self, kind: int, now: int, startup_ns: int) -> None:
        """Pay for a machine that will take queries when it has started."""
        self.account.change(kind, now, paid=1)
        if not startup_ns:
            self.join(kind, now)
            return
        self._await_machine(kind, now + startup_ns)

    def _await_machine(self, kind: int, when: int) -> None:
        order = next(self._serial)
        self._starting[kind].append(order)
        self.at(when, lambda now: self._started(kind, order, now))

    def _started(self, kind: int, order: int, now: int) -> None:
        if order in self._starting[kind]:
            self._starting[kind].remove(order)
            self.join(kind, now)

    def resize(self, kind: int, wanted: int, now: int, startup_ns: int) -> None:
        """Order machines, or drain the newest, until so many are on or on their way.

        A machine that drains is taken back before a new one is ordered. An order is cancelled,
        or a machine in repair given up, before one that works is drained.
        """
        missing = wanted - self.machines(kind)
        if missing > 0:
            for member in [m for m in self._on if m.kind == kind and not m.accepting][:missing]:
                member.accepting = True
                self._balancer.joined(member)
                missing -= 1
            for _ in range(missing):
                self.order(kind, now, startup_ns)
            return
        starting = self._starting[kind]
        cancelled = min(-missing, len(starting))
        del starting[len(starting) - cancelled :]
        self.account.change(kind, now, paid=-cancelled)
        accepting = [m for m in self._on if m.kind == kind and m.accepting]
        for member in accepting[::-1][: -missing - cancelled]:
            self.drain(member, now)

    def drain(self, member: Member, now: int) -> None:
        """Send a machine no more queries; it is off when it has answered those it has."""
        member.accepting = False
        self._balancer.left(member)
        if not member.open:
            self._off(member, now)

    def machines(self, kind: int) -> int:
        """Return how many are on or on their way, without those that drain."""
        draining = sum(1 for m in self._on if m.kind == kind and not m.accepting)
        return self.account.paid[kind] - draining

    def ready(self, kind: int) -> int:
        """Return how many take queries."""
        return sum(1 for m in self._on if m.kind == kind and m.accepting)

    def busy_ns(self, kind: int) -> int:
        """Return the worker time spent by machines of a kind so far."""
        return self._spent[kind] + sum(m.busy_ns for m in self._on if m.kind == kind)

    def waiting(self) -> int:
        """Return the candidates of unanswered queries."""
        return sum(m.candidates for m in self._on)

    def _off(self, member: Member, now: int) -> None:
        self._leave(member, now)
        self.account.change(member.kind, now, paid=-1)

    def _leave(self, member: Member, now: int) -> None:
        member.gone = True
        del self._on[member]
        self._spent[member.kind] += member.busy_ns
        self.account.change(member.kind, now, live=-1)

    # Faults.

    def begin(self) -> None:
        """Order the machines of the start, and let outages happen when they should."""
        for kind, settings in enumerate(self._kinds):
            for _ in range(settings.count):
                self.order(kind, 0, 0)
        failures = self._faults.failures
        for outage in failures.outages if failures is not None else ():
            self._await(outage)

    def _await(self, outage: Outage) -> None:
        self.at(from_seconds(outage.at_s), lambda now: self._outage(outage.machines, now))

    def _outage(self, machines: int, now: int) -> None:
        self._lose([m for m in self._on if m.accepting][:machines], now)

    def _doom(self, member: Member, now: int) -> None:
        """Plan how a machine that joins will fail or slow down."""
        self._born += 1
        failures, slow = self._faults.failures, self._faults.stragglers
        if failures is not None and failures.mean_s:
            lives = from_seconds(self._chance.exponential(failures.mean_s))
            self.at(now + lives, lambda when: self._lose([member], when))
        if slow is None:
            return
        if slow.of == "time":
            is_slow = self._chance.random() < slow.share
            self._spell(member, slow, now, is_slow=is_slow)
        elif _share_of(self._born, slow.share) > _share_of(self._born - 1, slow.share):
            member.slowdown = slow.factor

    def _spell(self, member: Member, slow: Stragglers, now: int, *, is_slow: bool) -> None:
        """Be slow or as it should be for a time, and the other way round afterwards."""
        if member.gone or not slow.share:
            return
        member.slowdown = slow.factor if is_slow else 1.0
        mean_s = slow.spell_s if is_slow else slow.spell_s * (1 - slow.share) / slow.share
        until = now + max(1, from_seconds(self._chance.exponential(mean_s)))
        self.at(until, lambda when: self._spell(member, slow, when, is_slow=not is_slow))

    def _lose(self, members: list[Member], now: int) -> None:
        """Machines go away together; their queries go elsewhere or have failed."""
        failures = self._faults.failures
        assert failures is not None
        lost = [m for m in members if not m.gone]
        for member in lost:
            if not member.accepting:
                self._off(member, now)
                continue
            self._balancer.left(member)
            self._leave(member, now)
            self._await_machine(member.kind, now + from_seconds(failures.back_s))
        for member in lost:
            for query, ticket in member.open.items():
                self._save(query, ticket, now, again=failures.retry)

    def _save(self, query: int, ticket: Ticket, now: int, *, again: bool) -> None:
        """Send a lost query to another machine, if it may and can; else it has failed."""
        arrived, size, window, lost = ticket
        if again and not lost and self._send(query, (arrived, size, window, True), now):
            self.retried += 1
            return
        window.pending -= 1
        window.failed += 1
        window.violations += 1
        window.latency.add_unanswered()


def _share_of(machines: int, share: float) -> int:
    """Return how many of the first machines are slow, so that one in ten of six is one."""
    return int(machines * share + 0.5)
