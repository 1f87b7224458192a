"""Decides who works on what and when; told the time, owns no thread, socket or tensor."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from heapq import heapify, heappop, heappush

from headway.core import Ns, Plan
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
from headway.scheduler.rate import ServiceRate

_RETRY_UNKNOWN = Ns(1_000_000_000)
_SHORTEST_RETRY = Ns(1_000_000)


class _Open:
    """An accepted query without a completion."""

    __slots__ = (
        "arrived",
        "closed",
        "cursor",
        "deadline",
        "id",
        "size",
        "started",
        "step",
        "unfinished",
    )

    def __init__(self, arrival: Arrival, step: int, now: Ns) -> None:
        self.id = arrival.id
        self.size = arrival.size
        self.deadline = arrival.deadline
        self.arrived = now
        self.started: Ns | None = None
        self.step = step
        self.cursor = 0
        self.unfinished = arrival.size
        self.closed = False


class Scheduler:
    """First come, first served: splits queries into chunks and batches chunks of several.

    Every accepted query gets exactly one ``Completion``, from ``submit``, ``finished``,
    ``expire`` or ``cancel``, whichever ends it. A query is ``DONE`` only if its last chunk
    finished before its deadline. Equal calls give equal answers. Not thread-safe.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._open: dict[int, _Open] = {}
        self._waiting: OrderedDict[int, _Open] = OrderedDict()
        self._running: dict[int, tuple[_Open, ...]] = {}
        self._deadlines: list[tuple[Ns, int, _Open]] = []
        self._rate = ServiceRate()
        self._waiting_candidates = 0
        self._running_candidates = 0
        self._arrivals = 0
        self._works = 0
        self._draining = False

    def submit(self, arrival: Arrival, now: Ns) -> Admission:
        """Take a query in or refuse it; a query without candidates is done at once.

        It is refused while draining, if its deadline has passed, if its candidates do not fit
        into the queue beside those waiting, or if others wait and its deadline is out of reach
        even at the best rate seen of late. With nobody waiting it is never refused on a
        prediction, so that a wrong estimate corrects itself.

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
        chunks = -(-arrival.size // self._plan.split_size)
        query = _Open(arrival, -(-arrival.size // chunks), now)
        self._open[query.id] = query
        self._waiting[query.id] = query
        self._waiting_candidates += query.size
        self._arrivals += 1
        heappush(self._deadlines, (query.deadline, self._arrivals, query))
        return Accepted(-(-query.size // query.step))

    def next_work(self, worker: int, now: Ns) -> Work | None:
        """Hand out the oldest waiting chunks, or None if nothing waits.

        A query's chunks are of equal size (the last may be smaller), at most ``split_size``.
        Chunks of several queries are put together while they fit into ``batch_candidates``; the
        first is taken in any case. Two chunks of one query never are, or splitting it would be
        undone while another worker has nothing to do. A query past its deadline is dropped here, and reported by ``expire``.
        """
        chunks: list[Chunk] = []
        owners: list[_Open] = []
        total = 0
        while self._waiting:
            query = next(iter(self._waiting.values()))
            if now >= query.deadline:
                self._stop_waiting(query)
                continue
            stop = min(query.cursor + query.step, query.size)
            count = stop - query.cursor
            if chunks and total + count > self._plan.batch_candidates:
                break
            chunks.append(Chunk(query.id, query.cursor, stop))
            owners.append(query)
            total += count
            self._advance(query, stop, now)
            if query.cursor < query.size or total >= self._plan.batch_candidates:
                break
        if not chunks:
            return None
        self._works += 1
        self._running[self._works] = tuple(owners)
        self._running_candidates += total
        return Work(self._works, worker, tuple(chunks), total, now)

    def finished(self, work: Work, now: Ns, failed: Collection[int] = ()) -> tuple[Completion, ...]:
        """Take in that a worker is through with its work; return the queries that this ended.

        Args:
            work: what ``next_work`` handed out.
            now: the present moment.
            failed: ids of queries whose chunks could not be scored; they end as ``FAILED``.

        Raises:
            ValueError: if this work is not being worked on.
        """
        owners = self._running.pop(work.id, None)
        if owners is None:
            raise ValueError(f"work {work.id} is not being worked on")
        self._running_candidates -= work.candidates
        if not failed:
            # What failed says nothing of how long scoring takes.
            self._rate.observe(work.candidates, now - work.started)
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
        ended: list[Completion] = []
        heap = self._deadlines
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

    def drain(self) -> None:
        """Refuse everything from now on; what was accepted goes on."""
        self._draining = True

    @property
    def drained(self) -> bool:
        """Whether draining has begun and every accepted query has ended."""
        return self._draining and not self._open and not self._running

    def load(self) -> Load:
        """Return how much waits and runs."""
        return Load(
            len(self._waiting), self._waiting_candidates, self._running_candidates, len(self._open)
        )

    def _refuse(self, arrival: Arrival, now: Ns) -> Refused | None:
        if self._draining:
            return Refused(Reason.DRAINING, _RETRY_UNKNOWN)
        if now >= arrival.deadline:
            return Refused(Reason.DEADLINE_PASSED, Ns(0))
        over = self._waiting_candidates + arrival.size - self._plan.queue_candidates
        if over > 0 and arrival.size:
            return Refused(Reason.QUEUE_FULL, self._retry(over))
        if not self._waiting or not arrival.size:
            return None
        backlog = self._waiting_candidates + arrival.size
        needed = self._rate.time_for(backlog, self._plan.workers)
        if needed is None or now + needed < arrival.deadline:
            return None
        late = now + needed - arrival.deadline
        return Refused(Reason.UNREACHABLE, max(Ns(late), _SHORTEST_RETRY))

    def _retry(self, candidates: int) -> Ns:
        needed = self._rate.time_for(candidates, self._plan.workers)
        return _RETRY_UNKNOWN if needed is None else max(needed, _SHORTEST_RETRY)

    def _advance(self, query: _Open, stop: int, now: Ns) -> None:
        if query.started is None:
            query.started = now
        self._waiting_candidates -= stop - query.cursor
        query.cursor = stop
        if stop == query.size:
            del self._waiting[query.id]

    def _stop_waiting(self, query: _Open) -> None:
        if self._waiting.pop(query.id, None) is not None:
            self._waiting_candidates -= query.size - query.cursor

    def _close(self, query: _Open, outcome: Outcome, now: Ns) -> Completion:
        query.closed = True
        del self._open[query.id]
        self._stop_waiting(query)
        self._forget_closed_deadlines()
        return Completion(query.id, outcome, query.arrived, query.started, now)

    def _forget_closed_deadlines(self) -> None:
        # Closed queries leave the heap when their deadline comes; with long deadlines they
        # would pile up, so they are swept out once they are the greater part.
        if len(self._deadlines) > 64 + 2 * len(self._open):
            self._deadlines[:] = [entry for entry in self._deadlines if not entry[2].closed]
            heapify(self._deadlines)
