"""One split size for all queries, and perhaps a size from which accelerators take them whole."""

from __future__ import annotations

from collections.abc import Sequence

from headway.core import Ns, Plan
from headway.scheduler.decisions import Work
from headway.scheduler.pools import Pool
from headway.scheduler.queries import Open
from headway.scheduler.rate import ServiceRate


class FixedPolicy:
    """First come, first served, as DeepRecSched runs what it tuned.

    Queries of at least ``offload_candidates`` go to the accelerators as one request; the others
    are cut into equal chunks of at most ``split_size`` (Gupta et al., "DeepRecSys", ISCA 2020,
    section IV). With the largest query divided by the cores as split size, and no offloading,
    this is the static baseline of that paper. Beyond the paper, chunks may be batched, and a
    query is turned away if others wait and its deadline is out of reach even at the best rate
    seen of late; with nobody waiting it never is, so that a wrong estimate corrects itself.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rates = (ServiceRate(), ServiceRate())

    @property
    def split(self) -> int:
        """The plan's."""
        return self._plan.split_size

    @property
    def rate(self) -> float | None:
        """None: arrivals are not counted."""
        return None

    def wait_for(self, pool: Pool, now: Ns) -> float | None:
        """Return the time for what waits, at the best rate seen of late."""
        return self.time_for(pool.waiting_candidates, pool)

    def may_take(self, pool: Pool, size: int) -> bool:
        """Return whether it is the one pool that the size decides for."""
        return pool.number == self._pool_for(size)

    def enter(self, query: Open, pools: Sequence[Pool], now: Ns) -> Ns | None:
        """Choose by size alone."""
        pool = pools[self._pool_for(query.size)]
        self.place(query, pool)
        if not pool.waiting_queries:
            return None
        needed = self.time_for(pool.waiting_candidates + query.size, pool)
        if needed is None or now + needed < query.deadline:
            return None
        return Ns(now + needed - query.deadline)

    def place(self, query: Open, pool: Pool) -> None:
        """Cut evenly, or not at all for an accelerator; there is no lighter bundle."""
        query.pool, query.step_ns, query.spared_ns = pool.number, 0, 0
        if query.started is None:
            query.lighter = False
        if pool.number:
            query.step = query.size
        else:
            chunks = -(-query.size // self._plan.split_size)
            query.step = -(-query.size // chunks)

    def key(self, query: Open) -> float:
        """First come, first served."""
        return 0.0

    def budget(self, pool: Pool) -> int:
        """Return the plan's, and none for accelerators, which take one query at a time."""
        return 0 if pool.number else self._plan.batch_candidates

    def source(self, pool: Pool, pools: Sequence[Pool], now: Ns) -> Pool | None:
        """Return None: the threshold alone divides the work."""
        return None

    def observe(self, pool: Pool, work: Work, busy: int) -> None:
        """Learn the rate."""
        if not work.lighter:
            self._rates[pool.number].observe(work.candidates, busy)

    def time_for(self, candidates: int, pool: Pool) -> Ns | None:
        """Return the time at the best rate seen of late."""
        return self._rates[pool.number].time_for(candidates, pool.workers)

    def _pool_for(self, size: int) -> int:
        return int(0 < self._plan.offload_candidates <= size)
