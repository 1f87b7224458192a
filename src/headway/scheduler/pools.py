"""Workers of one kind, what they are busy with, and what waits for them."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from headway.scheduler.queries import Open
from headway.scheduler.times import ServiceTimes

_SLACK = 64


class Pool:
    """A kind of worker, its queue, and sums over both that policies decide by.

    All sums are of integers: they do not drift, however long the queue is never empty.

    Attributes:
        number: 0 for cores, 1 for accelerators.
        workers: how many there are.
        times: how long one of them takes.
        running: how many of them work.
        running_candidates: what they work on.
        waiting_queries: queries with candidates that no worker has yet.
        waiting_candidates: those candidates.
        waiting_ns: predicted work of those candidates.
    """

    __slots__ = (
        "_ends_ns",
        "_heap",
        "_serial",
        "number",
        "running",
        "running_candidates",
        "times",
        "waiting_candidates",
        "waiting_ns",
        "waiting_queries",
        "workers",
    )

    def __init__(self, number: int, workers: int, times: ServiceTimes) -> None:
        self.number = number
        self.workers = workers
        self.times = times
        self.running = 0
        self.running_candidates = 0
        self.waiting_queries = 0
        self.waiting_candidates = 0
        self.waiting_ns = 0
        self._ends_ns = 0
        self._heap: list[tuple[float, int, Open]] = []
        self._serial = 0

    @property
    def idle(self) -> int:
        """How many workers have nothing to do."""
        return self.workers - self.running

    def push(self, query: Open, key: float) -> None:
        """Let a query wait; the smallest key goes first, equal keys in order of arrival."""
        self._serial = query.entry = self._serial + 1
        self.waiting_queries += 1
        left = query.size - query.cursor
        self.waiting_candidates += left
        self.waiting_ns += query.work_ns(left)
        heappush(self._heap, (key, query.entry, query))

    def head(self) -> Open | None:
        """Return who goes first, or None; queries that stopped waiting are passed over."""
        heap = self._heap
        while heap:
            _, entry, query = heap[0]
            if query.entry == entry and query.pool == self.number:
                return query
            heappop(heap)
        return None

    def take(self, query: Open, count: int) -> None:
        """Hand out that many candidates of the query that ``head`` returned."""
        left = query.size - query.cursor
        self.waiting_candidates -= count
        self.waiting_ns -= query.work_ns(left)
        query.cursor += count
        if left > count:
            self.waiting_ns += query.work_ns(left - count)
        else:
            self.waiting_queries -= 1
            query.entry = 0
            heappop(self._heap)

    def remove(self, query: Open) -> None:
        """Let a query wait no longer, if it does."""
        left = query.size - query.cursor
        if not left:
            return
        self.waiting_queries -= 1
        self.waiting_candidates -= left
        self.waiting_ns -= query.work_ns(left)
        query.cursor = query.size
        query.entry = 0
        # Left in the heap, it is passed over; with many such the heap is swept.
        if len(self._heap) > _SLACK + 2 * self.waiting_queries:
            number = self.number
            self._heap = [e for e in self._heap if e[2].entry == e[1] and e[2].pool == number]
            heapify(self._heap)

    def begin(self, candidates: int, end_ns: int) -> None:
        """A worker begins what it is predicted to be through with at ``end_ns``."""
        self.running += 1
        self.running_candidates += candidates
        self._ends_ns += end_ns

    def end(self, candidates: int, end_ns: int) -> None:
        """A worker is through with what it was predicted to be at ``end_ns``."""
        self.running -= 1
        self.running_candidates -= candidates
        self._ends_ns -= end_ns

    def wait_ns(self, now: int) -> float:
        """Return the predicted time until a new query would be begun.

        With one worker that is all work before it; of many busy ones, the first to be free is
        so after about half of a piece of work divided by them.
        """
        if self.running < self.workers:
            return 0.0
        workers = self.workers
        rest = max(0, self._ends_ns - self.running * now)
        return (self.waiting_ns + rest * (workers + 1) / (2 * workers)) / workers
