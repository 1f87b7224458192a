"""Split and batch sizes that follow the load, routing by predicted finish, refusals foreseen."""

from __future__ import annotations

from collections.abc import Sequence
from math import expm1, inf

from headway.core import Ns, Plan
from headway.scheduler.decisions import Work
from headway.scheduler.pools import Pool
from headway.scheduler.queries import Open
from headway.scheduler.split import Choice, largest_useful, splits_for
from headway.scheduler.times import ServiceTimes

_MEMORY = 20
_LOOKS = 5
_SIZES = 512
_SHARE = 0.95
_MOST = 4096
_SAVES = 0.15


class AdaptivePolicy:
    """Small chunks while workers idle, whole queries and batches while they do not.

    - **Split size** follows the arrival rate: at regular looks it becomes the one with the
      shortest predicted tail (``Choice``) for the sizes seen of late, the service times
      and the workers. What waits counts as load that comes on top, so a burst is answered at
      once and not only when the smoothed rate has risen.
    - **Batches** of several queries hold an even share of the queue among the workers, where
      four average queries in one batch save work; or up to the split size, where two halves of
      that do. Where they do not, a batch only makes each wait for the others.
    - **Order** is by slack: due time less the predicted time of one chunk.
    - **Routing**: a query goes where it is predicted to be done first; an idle worker of the
      other kind takes it over if it would be done earlier there.
    - **Admission**: while all workers are busy, a query that is predicted to miss its due time
      is given to the lighter bundle if that will be in time, and else turned away, before
      anything is computed in vain.

    The rate is smoothed over ``20`` targets and looked at ``5`` times per target, or sooner if
    more work has come than all workers could do until then: a burst on an idle machine would
    else be cut as finely as its first query was.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._target = plan.target_ns
        self._lighter = ServiceTimes(plan.lighter_service) if plan.lighter_service else None
        self._sizes: list[int] = []
        self._seen = 0
        self._next_sizes = 1
        self._choice: Choice | None = None
        self._most = [plan.split_size, plan.split_size]
        self._split = plan.split_size
        self._mean = 1
        self._pairs = self._shares = True
        self._arrived = 0
        self._rate = 0.0
        self._look = Ns(0)
        self._enough = inf
        self._looked: Ns | None = None
        self._begun = Ns(0)

    @property
    def split(self) -> int:
        """The present split size."""
        return self._split

    @property
    def rate(self) -> float:
        """Candidates per second that arrived of late."""
        return self._rate * 1e9

    def wait_for(self, pool: Pool, now: Ns) -> float | None:
        """Return the wait that the queue and what is worked on make."""
        return pool.wait_ns(now) if pool.times.known else None

    def may_take(self, pool: Pool, size: int) -> bool:  # noqa: ARG002
        """Return True: what is predicted to be done first may be either."""
        return True

    def enter(self, query: Open, pools: Sequence[Pool], now: Ns) -> Ns | None:
        """Count it, choose where it is predicted to be done first, and foresee whether in time."""
        self._count(query.size)
        if now >= self._look or self._arrived > self._enough:
            self._replan(pools, now)
        pool = pools[0]
        self.place(query, pool)
        if not pool.times.known:
            return None
        wait = pool.wait_ns(now)
        finish = wait + self._alone(query, pool, query.step_ns, query.spared_ns)
        if len(pools) > 1 and pools[1].times.known:
            other_wait = pools[1].wait_ns(now)
            other = other_wait + pools[1].times.of(query.size)
            if other < finish:
                self.place(query, pools[1])
                pool, wait, finish = pools[1], other_wait, other
        if wait <= 0.0:
            return None
        late = now + finish - self._due(query)
        if late <= 0 or self._has_lighter(query, pool, now):
            return None
        return Ns(int(late) + 1)

    def place(self, query: Open, pool: Pool) -> None:
        """Cut evenly by the present split size; accelerators take as much as pays.

        Only cores have the lighter bundle.
        """
        query.pool = pool.number
        split = self._most[1] if pool.number else self._split
        step = -(-query.size // -(-query.size // split))
        query.step = step
        times = pool.times
        if query.lighter:
            if self._lighter is not None and not pool.number:
                times = self._lighter
            else:
                query.lighter = query.started is not None
        query.step_ns = int(times.of(step))
        query.spared_ns = int(times.tower_ns * times.scale)

    def key(self, query: Open) -> float:
        """Return the last moment at which a chunk should begin."""
        return self._due(query) - query.step_ns

    def budget(self, pool: Pool) -> int:
        """Return an even share of the queue or the split size, if batches of it save work."""
        most = self._most[pool.number]
        if pool.number:
            return most
        share = pool.waiting_candidates // pool.workers if self._shares else 0
        return min(most, max(share, self._split if self._pairs else 0))

    def source(self, pool: Pool, pools: Sequence[Pool], now: Ns) -> Pool | None:
        """Return the other pool if its first query would be done earlier here.

        Of accelerators with unknown times that is assumed, or they would never become known.
        """
        if len(pools) == 1 or not (pool.number or pool.times.known):
            return None
        other = pools[1 - pool.number]
        query = other.head()
        if query is None or query.cursor:
            return None
        if not pool.times.known:
            return other
        there = other.wait_ns(now) - other.waiting_ns / other.workers + query.step_ns
        step = query.size if pool.number else min(query.size, self._split)
        return other if pool.times.of(step) < there else None

    def observe(self, pool: Pool, work: Work, busy: int) -> None:
        """Learn the service times."""
        if work.lighter:
            if self._lighter is not None:
                self._lighter.observe(work.candidates, busy)
        elif pool.times.observe(work.candidates, busy, work.towers):
            self._next_sizes = min(self._next_sizes, self._seen + 1)

    def time_for(self, candidates: int, pool: Pool) -> Ns | None:
        """Return the time that all workers of the pool together need."""
        if not pool.times.known:
            return None
        step = max(1, min(candidates, self._most[pool.number]))
        return Ns(int(pool.times.of(step) * candidates / step / pool.workers) + 1)

    def _count(self, size: int) -> None:
        self._arrived += size
        if len(self._sizes) < _SIZES:
            self._sizes.append(size)
        else:
            self._sizes[self._seen % _SIZES] = size
        self._seen += 1

    def _due(self, query: Open) -> float:
        if self._plan.refuse_late:
            return min(query.deadline, query.arrived + self._target)
        return query.deadline

    def _alone(self, query: Open, pool: Pool, step_ns: int, spared_ns: int) -> float:
        """Predicted time from the first chunk's start to the last one's end."""
        chunks = -(-query.size // query.step)
        if chunks <= max(1, pool.idle):
            return step_ns
        return step_ns + (step_ns - spared_ns) * (chunks - 1) / pool.workers

    def _has_lighter(self, query: Open, pool: Pool, now: Ns) -> bool:
        """Give the query to the lighter bundle if that will be in time."""
        if self._lighter is None or pool.number:
            return False
        step_ns = int(self._lighter.of(query.step))
        finish = pool.wait_ns(now) + self._alone(query, pool, step_ns, 0)
        if now + finish > self._due(query):
            return False
        query.lighter, query.step_ns, query.spared_ns = True, step_ns, 0
        return True

    def _replan(self, pools: Sequence[Pool], now: Ns) -> None:
        self._look = Ns(now + max(1, self._target // _LOOKS))
        if self._looked is not None:
            passed = max(1, now - self._looked)
            rate = self._arrived / passed
            # Of a short past its mean is taken, so that its first moment does not outlast it.
            memory = _MEMORY * self._target
            weight = expm1(-passed / memory) / expm1(-max(passed, now - self._begun) / memory)
            self._rate += weight * (rate - self._rate)
        else:
            self._begun = now
        self._arrived, self._looked = 0, now
        cores = pools[0]
        if not cores.times.known:
            return
        if self._seen >= self._next_sizes:
            self._next_sizes = self._seen + min(4 * _SIZES, 3 * self._seen)
            self._describe(pools)
        if self._choice is not None:
            # What waits should be gone within half a target.
            extra = 2 * cores.waiting_candidates / self._target
            share = self._share(pools)
            load = (self._rate * share + extra) * cores.times.scale
            split = self._choice.at(load, self._split)
            self._split = split.size
            work_ns = split.ns_per_candidate * cores.times.scale
            self._enough = cores.workers * self._target / _LOOKS / work_ns / share
            self._pairs = _saves(cores.times, -(-self._split // 2), 2)
            self._shares = _saves(cores.times, min(self._mean, self._split), 4)

    def _describe(self, pools: Sequence[Pool]) -> None:
        """See anew what each split size would mean."""
        self._mean = max(1, sum(self._sizes) // len(self._sizes))
        most = min(self._plan.split_size, _MOST)
        for pool in pools:
            if pool.times.known:
                limit = _SHARE * self._target / pool.times.scale
                curve = pool.times.curve(most)
                self._most[pool.number] = largest_useful(curve, limit, most)
                if not pool.number:
                    splits = splits_for(self._sizes, curve, self._most[0], pool.times.tower_ns)
                    self._choice = Choice(splits, pool.workers)

    def _share(self, pools: Sequence[Pool]) -> float:
        """Part of the candidates that the cores get when all kinds are busy."""
        if len(pools) == 1 or not pools[1].times.known:
            return 1.0
        rates = [p.workers * m / p.times.of(m) for p, m in zip(pools, self._most, strict=False)]
        return rates[0] / sum(rates)


def _saves(times: ServiceTimes, candidates: int, pieces: int) -> bool:
    """Return whether so many equal pieces of different queries take much less in one batch."""
    batch = times.of(pieces * candidates, towers=pieces)
    return batch <= (1 - _SAVES) * pieces * times.of(candidates)
