"""A scheduler and workers that take exactly as long as a curve says, in virtual time."""

from __future__ import annotations

from heapq import heappop, heappush

from headway.core import Knots, Ns, Plan
from headway.scheduler import (
    Accepted,
    Admission,
    Arrival,
    Completion,
    Scheduler,
    ServiceTimes,
    Work,
)

MS = 1_000_000
CORE: Knots = ((1, 100_000), (1_001, 10_100_000))
"""Ten microseconds per candidate, and ninety for each piece of work."""
LATER = 10**12


class Crew:
    """Submits at given moments; workers begin as soon as there is something for them."""

    def __init__(self, plan: Plan, *curves: Knots) -> None:
        self.scheduler = Scheduler(plan)
        self.times = [ServiceTimes(curve) for curve in curves or (CORE,)]
        self.idle = [*range(plan.workers), *(-1 - i for i in range(plan.accelerators))]
        self.now = 0
        self.works: list[Work] = []
        self.ended: dict[int, Completion] = {}
        self.admitted: list[Admission] = []
        self._events: list[tuple[int, int, Work]] = []

    def submit(self, size: int, at: int | None = None, patience: int = LATER) -> Admission:
        """Let time pass, then submit a query; its id is the number of those before it."""
        self.run(self.now if at is None else at)
        arrival = Arrival(len(self.admitted), size, Ns(self.now + patience))
        self.admitted.append(self.scheduler.submit(arrival, Ns(self.now)))
        self._start()
        return self.admitted[-1]

    def chunks(self, size: int, at: int | None = None) -> int:
        """Return into how many chunks a query is cut that comes now."""
        admission = self.submit(size, at)
        assert isinstance(admission, Accepted)
        return admission.chunks

    def run(self, until: int = LATER) -> None:
        """Let workers work until then, or until all is done."""
        while self._events and self._events[0][0] <= until:
            self.now, _, work = heappop(self._events)
            for completion in self.scheduler.finished(work, Ns(self.now)):
                self.ended[completion.query] = completion
            self.idle.append(work.worker)
            self._start()
        if until < LATER:
            self.now = until

    def latency(self, query: int) -> int:
        """Return how long a query that ended took."""
        return self.ended[query].finished - self.ended[query].arrived

    def _start(self) -> None:
        for worker in sorted(self.idle, key=lambda number: (number < 0, abs(number))):
            work = self.scheduler.next_work(worker, Ns(self.now))
            if work is not None:
                self.idle.remove(worker)
                self.works.append(work)
                end = self.now + round(self.times[worker < 0].of(work.candidates))
                heappush(self._events, (end, work.id, work))
