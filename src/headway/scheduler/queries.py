"""Accepted queries, from submission to their one completion."""

from __future__ import annotations

from headway.core import Ns
from headway.scheduler.decisions import Arrival


class Open:
    """An accepted query without a completion.

    Attributes:
        id: the caller's number.
        size: candidates.
        deadline: from then on its scores are of no use.
        arrived: when it was submitted.
        started: when its first chunk was handed out.
        pool: of the workers that it waits for.
        step: candidates of its chunks, the last one's perhaps fewer.
        step_ns: predicted time of the first, when it came in.
        spared_ns: part of it that the others do not take.
        cursor: candidates handed out.
        entry: its number in the queue it waits in, 0 while it waits in none.
        unfinished: candidates not yet scored.
        lighter: to be scored by the lighter bundle.
        closed: it has its completion.
    """

    __slots__ = (
        "arrived",
        "closed",
        "cursor",
        "deadline",
        "entry",
        "id",
        "lighter",
        "pool",
        "size",
        "spared_ns",
        "started",
        "step",
        "step_ns",
        "unfinished",
    )

    def __init__(self, arrival: Arrival, now: Ns) -> None:
        self.id = arrival.id
        self.size = arrival.size
        self.deadline = arrival.deadline
        self.arrived = now
        self.started: Ns | None = None
        self.pool = 0
        self.step = arrival.size
        self.step_ns = 0
        self.spared_ns = 0
        self.cursor = 0
        self.entry = 0
        self.unfinished = arrival.size
        self.lighter = False
        self.closed = False

    def work_ns(self, left: int) -> int:
        """Return the predicted time of so many candidates that are left of it."""
        work = (self.step_ns - self.spared_ns) * left // self.step
        return work + self.spared_ns if left == self.size else work
