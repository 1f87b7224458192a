"""Keeps the books: who waits, who works, and that each query ends exactly once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush

from headway.core import Ns, Plan
from headway.scheduler.adaptive import AdaptivePolicy
from headway.scheduler.decisions import (
    Accepted,
    Admission,
    Arrival,
    Chunk,
    Completion,
    Load,
    Outcome,
    Reason,
    Refused,
    Work,
)
from headway.scheduler.fixed import FixedPolicy
from headway.scheduler.policy import Policy
from headway.scheduler.pools import Pool
from headway.scheduler.queries import Open
from headway.scheduler.times import ServiceTimes

_RETRY_UNKNOWN = Ns(1_000_000_000)
_SHORTEST_RETRY = Ns(1_000_000)
_Running = tuple[tuple[Open, ...], Pool, int]


class Scheduler:
    """Splits queries into chunks and batches chunks of several, as the plan's policy decides.

    Every accepted query gets exactly one ``Completion``, from ``submit``, ``finished``,
    ``expire`` or ``cancel``, whichever ends it. A query is ``DONE`` only if its last chunk
    finished before its deadline. Told the time; owns no thread, socket or tensor. Equal calls
    give equal answers. Not thread-safe.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._policy = make_policy(plan)
        self._all = (
            Pool(0, plan.workers, ServiceTimes(plan.service, plan.tower_ns)),
            Pool(1, plan.accelerators, ServiceTimes(plan.accelerator_service)),
        )
        self._pools = _in_force(plan, self._all)
        self._open: dict[int, Open] = {}
        self._running: dict[int, _Running] = {}
        self._deadlines: list[tuple[Ns, int, Open]] = []
        self._arrivals = 0
        self._works = 0
        self._busy_ns = 0
        self._draining = False

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        return self._plan

    @property
    def policy(self) -> Policy:
        """The policy in force, to be looked at."""
        return self._policy

    @property
    def pools(self) -> Sequence[Pool]:
        """The workers by kind and what waits for them, to be looked at."""
        return self._pools

    def submit(self, arrival: Arrival, now: Ns) -> Admission:
        """Take a query in or refuse it; a query without candidates is done at once.

        It is refused while draining, if its deadline has passed, if its candidates do not fit
        into the queue beside those waiting, or if the policy foresees that it will be late.

        Raises:
            ValueError: for a negative size or an id that is still open.
        """
        if arrival.size < 0 or arrival.id in self._open:
            raise ValueError(f"a query needs a new id and a size of at least 0, not {arrival}")
        refused = self._refuse(arrival, now)
        if refused is not None:
            return refused
        if arrival.size == 0:
            return Accepted(0, Completion(arrival.id, Outcome.DONE, now, now, now))
        query = Open(arrival, now)
        late = self._policy.enter(query, self._pools, now)
        if late is not None:
            return Refused(Reason.UNREACHABLE, max(late, _SHORTEST_RETRY))
        self._open[query.id] = query
        self._pools[query.pool].push(query, self._policy.key(query))
        self._arrivals += 1
        heappush(self._deadlines, (query.deadline, self._arrivals, query))
        return Accepted(-(-query.size // query.step))

    def next_work(self, worker: int, now: Ns) -> Work | None:
        """Hand out what waits and comes first, or None if there is nothing for this worker.

        Workers count from 0, accelerators from -1 downwards, so that a change of plan renames
        none; a number beyond the plan's gets nothing.

        A query's chunks are of equal size (the last may be smaller). Chunks of several queries
        are put together while they fit into the policy's budget; the first is taken in any
        case. Two chunks of one query never are, or splitting it would be undone while another
        worker has nothing to do. A query past its deadline is dropped here, and reported by
        ``expire``.
        """
        pool = self._pool_of(worker)
        if pool is None:
            return None
        query = self._head(pool, now) or self._taken_over(pool, now)
        if query is None:
            return None
        chunks, owners, total = self._gather(pool, query, now)
        lighter = query.lighter
        self._works += 1
        towers = sum(chunk.start == 0 for chunk in chunks)
        # Work for the lighter bundle was predicted with its own times.
        taken = sum(o.step_ns for o in owners) if lighter else pool.times.of(total, towers)
        end = now + int(taken)
        pool.begin(total, end)
        self._running[self._works] = (tuple(owners), pool, end)
        return Work(self._works, worker, tuple(chunks), total, now, lighter, towers)

    def finished(self, work: Work, now: Ns, failed: Collection[int] = ()) -> tuple[Completion, ...]:
        """Take in that a worker is through with its work; return the queries that this ended.

        Args:
            work: what ``next_work`` handed out.
            now: the present moment.
            failed: ids of queries whose chunks could not be scored; they end as ``FAILED``.

        Raises:
            ValueError: if this work is not being worked on.
        """
        running = self._running.pop(work.id, None)
        if running is None:
            raise ValueError(f"work {work.id} is not being worked on")
        owners, pool, end = running
        pool.end(work.candidates, end)
        self._busy_ns += now - work.started
        if not failed:
            # What failed says nothing of how long scoring takes.
            self._policy.observe(pool, work, now - work.started)
        ended: list[Completion] = []
        for chunk, query in zip(work.chunks, owners, strict=True):
            if query.closed:
                continue
            query.unfinished -= chunk.stop - chunk.start
            if query.id in failed:
                ended.append(self._close(query, Outcome.FAILED, now))
            elif query.unfinished == 0:
                late = now >= query.deadline
                ended.append(self._close(query, Outcome.EXPIRED if late else Outcome.DONE, now))
        return tuple(ended)

    def expire(self, now: Ns) -> tuple[Completion, ...]:
        """End every query whose deadline has come, waiting or being worked on."""
        heap = self._deadlines
        if not heap or heap[0][0] > now:
            return ()
        ended: list[Completion] = []
        while heap and (heap[0][2].closed or heap[0][0] <= now):
            query = heappop(heap)[2]
            if not query.closed:
                ended.append(self._close(query, Outcome.EXPIRED, now))
        return tuple(ended)

    def cancel(self, query: int, now: Ns) -> Completion | None:
        """End a query that nobody wants any more; None if it has ended already."""
        found = self._open.get(query)
        return None if found is None else self._close(found, Outcome.CANCELLED, now)

    def next_wakeup(self) -> Ns | None:
        """Return when ``expire`` has something to do next, or None."""
        heap = self._deadlines
        while heap and heap[0][2].closed:
            heappop(heap)
        return heap[0][0] if heap else None

    def replan(self, plan: Plan) -> None:
        """Go over to another plan; no query is lost, none starts again.

        What waits is cut anew unless it has begun; without accelerators, what waits for them
        waits for cores, its rest cut for these. Workers beyond the new number finish what they
        have and get nothing more. Service times that were learnt stay, unless the new plan gives
        others.
        """
        old, self._plan = self._plan, plan
        waiting = sorted(
            (q for q in self._open.values() if q.cursor < q.size), key=lambda q: q.arrived
        )
        cores, accelerators = self._all
        cores.workers, accelerators.workers = plan.workers, plan.accelerators
        if plan.service and (plan.service, plan.tower_ns) != (old.service, old.tower_ns):
            cores.times = ServiceTimes(plan.service, plan.tower_ns)
        if plan.accelerator_service and plan.accelerator_service != old.accelerator_service:
            accelerators.times = ServiceTimes(plan.accelerator_service)
        self._pools = _in_force(plan, self._all)
        self._policy = make_policy(plan)
        for query in waiting:
            self._move(query, self._pools[query.pool if plan.accelerators else 0])

    def drain(self) -> None:
        """Refuse everything from now on; what was accepted goes on."""
        self._draining = True

    @property
    def drained(self) -> bool:
        """Whether draining has begun and every accepted query has ended."""
        return self._draining and not self._open and not self._running

    def load(self) -> Load:
        """Return how much waits and runs, and for how long workers were busy."""
        return Load(
            sum(p.waiting_queries for p in self._all),
            sum(p.waiting_candidates for p in self._all),
            sum(p.running_candidates for p in self._all),
            len(self._open),
            self._busy_ns,
        )

    def _gather(
        self, pool: Pool, query: Open | None, now: Ns
    ) -> tuple[list[Chunk], list[Open], int]:
        """Take chunks from the head of the pool's queue; return them, their queries and size."""
        chunks: list[Chunk] = []
        owners: list[Open] = []
        total, budget = 0, -1
        while query is not None:
            start = query.cursor
            count = min(query.step, query.size - start)
            if chunks:
                if budget < 0:
                    budget = self._policy.budget(pool)
                if total + count > budget or query.lighter is not owners[0].lighter:
                    break
            pool.take(query, count)
            if query.started is None:
                query.started = now
            chunks.append(Chunk(query.id, start, start + count))
            owners.append(query)
            total += count
            if query.cursor < query.size:
                break
            query = self._head(pool, now) if pool.waiting_queries else None
        return chunks, owners, total

    def _refuse(self, arrival: Arrival, now: Ns) -> Refused | None:
        if self._draining:
            return Refused(Reason.DRAINING, _RETRY_UNKNOWN)
        if now >= arrival.deadline:
            return Refused(Reason.DEADLINE_PASSED, Ns(0))
        cores, accelerators = self._all
        waiting = cores.waiting_candidates + accelerators.waiting_candidates
        over = waiting + arrival.size - self._plan.queue_candidates
        if over <= 0 or not arrival.size:
            return None
        needed = self._policy.time_for(over, self._pools[0])
        retry = _RETRY_UNKNOWN if needed is None else max(needed, _SHORTEST_RETRY)
        return Refused(Reason.QUEUE_FULL, retry)

    def _pool_of(self, worker: int) -> Pool | None:
        if worker >= 0:
            return self._all[0] if worker < self._plan.workers else None
        return self._all[1] if -worker <= self._plan.accelerators else None

    def _head(self, pool: Pool, now: Ns) -> Open | None:
        """Return who comes first in the pool; who is past its deadline waits no longer."""
        query = pool.head()
        while query is not None and now >= query.deadline:
            pool.remove(query)
            query = pool.head()
        return query

    def _taken_over(self, pool: Pool, now: Ns) -> Open | None:
        """Take the first query of another pool over, if the policy wants that."""
        if len(self._pools) == 1:
            return None
        source = self._policy.source(pool, self._pools, now)
        query = None if source is None else self._head(source, now)
        if query is None or query.cursor:
            return None
        self._move(query, pool)
        return pool.head()

    def _move(self, query: Open, pool: Pool) -> None:
        """Let a waiting query wait in ``pool``, cut anew unless it has begun in that one."""
        cursor, source = query.cursor, self._all[query.pool]
        source.remove(query)
        query.cursor = cursor
        if not cursor or source is not pool:
            self._policy.place(query, pool)
        pool.push(query, self._policy.key(query))

    def _close(self, query: Open, outcome: Outcome, now: Ns) -> Completion:
        query.closed = True
        del self._open[query.id]
        self._all[query.pool].remove(query)
        self._forget_closed_deadlines()
        return Completion(query.id, outcome, query.arrived, query.started, now, query.lighter)

    def _forget_closed_deadlines(self) -> None:
        # Closed queries leave the heap when their deadline comes; with long deadlines they
        # would pile up, so they are swept out once they are the greater part.
        if len(self._deadlines) > 64 + 2 * len(self._open):
            self._deadlines[:] = [entry for entry in self._deadlines if not entry[2].closed]
            heapify(self._deadlines)


def _in_force(plan: Plan, pools: tuple[Pool, Pool]) -> tuple[Pool, ...]:
    """Return the pools that policies may choose from: those with workers."""
    return pools if plan.accelerators else pools[:1]


def make_policy(plan: Plan) -> Policy:
    """Return the policy that the plan names."""
    return AdaptivePolicy(plan) if plan.policy == "adaptive" else FixedPolicy(plan)
