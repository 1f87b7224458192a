"""What goes into the scheduler and what comes out: plain facts, no behaviour."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from headway.core import Ns


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A query at the door.

    Attributes:
        id: the caller's number for it; unique among the queries not yet completed.
        size: number of candidates.
        deadline: the moment from which its scores are of no use.
    """

    id: int
    size: int
    deadline: Ns


class Outcome(StrEnum):
    """How an accepted query ended."""

    DONE = "done"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Reason(StrEnum):
    """Why a query was not accepted."""

    QUEUE_FULL = "queue full"
    DEADLINE_PASSED = "deadline passed"
    UNREACHABLE = "deadline out of reach"
    DRAINING = "draining"


class Completion(msgspec.Struct, frozen=True, gc=False):
    """The one and only end of an accepted query.

    Attributes:
        query: its id.
        outcome: how it ended.
        arrived: when it was submitted.
        started: when its first chunk was handed out, or None if none ever was.
        finished: when it ended.
        lighter: the lighter bundle answered.
    """

    query: int
    outcome: Outcome
    arrived: Ns
    started: Ns | None
    finished: Ns
    lighter: bool = False


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The query will get exactly one completion.

    Attributes:
        chunks: into how many chunks it is cut; so many workers can help it. One that has not
            begun may yet be cut anew, by a change of plan or a worker of another kind.
        completion: that completion, if the query had no candidates and is done already.
    """

    chunks: int
    completion: Completion | None = None


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The query was not taken in; it gets no completion.

    Attributes:
        reason: why.
        retry_after: how long the caller had better wait before trying again.
    """

    reason: Reason
    retry_after: Ns


Admission = Accepted | Refused


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Candidates ``start:stop`` of one query."""

    query: int
    start: int
    stop: int


class Work(msgspec.Struct, frozen=True):
    """Chunks for one worker to score in one batch.

    Attributes:
        id: unique in this scheduler.
        worker: who got it.
        chunks: of one or several queries, in the order the queries came.
        candidates: how many candidates the chunks have together.
        started: when it was handed out.
        lighter: to be scored by the lighter bundle.
        towers: queries that begin with it, whose query towers this worker runs.
    """

    id: int
    worker: int
    chunks: tuple[Chunk, ...]
    candidates: int
    started: Ns
    lighter: bool = False
    towers: int = 1


class Load(msgspec.Struct, frozen=True, gc=False):
    """How much is waiting and how much is being worked on.

    Attributes:
        waiting_queries: accepted queries with candidates that no worker has yet.
        waiting_candidates: those candidates.
        running_candidates: candidates that workers have.
        open_queries: accepted queries without a completion.
        busy_ns: worker time that finished work took, since the start.
    """

    waiting_queries: int
    waiting_candidates: int
    running_candidates: int
    open_queries: int
    busy_ns: int
