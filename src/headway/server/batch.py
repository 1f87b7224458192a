"""Accepted queries on their way through the workers, and the scoring of one batch of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from headway.core import Hidden, Piece, Query
from headway.scheduler import Completion, Work
from headway.server.runners import LiveRunner

Ended = Callable[["Ticket", Completion], None]


class Ticket:
    """An accepted query, from submission to reply.

    Attributes:
        id: the scheduler's number for it.
        query: what was asked.
        out: float32 ``[size, tasks]`` raw outputs, complete once it ended as ``DONE``.
        ended: called in the event loop with this ticket and the query's one completion.
    """

    __slots__ = ("_claimed", "_failed", "_hidden", "_ready", "ended", "id", "out", "query")

    def __init__(self, number: int, query: Query, tasks: int, ended: Ended) -> None:
        self.id = number
        self.query = query
        self.out = np.empty((query.size, tasks), np.float32)
        self.ended = ended
        self._hidden: Hidden = None
        self._ready: threading.Event | None = None
        self._claimed = False
        self._failed = False

    def claim(self, count: int) -> bool:
        """Return True to the first who asks; that one runs ``compute``, the others ``wait``.

        Args:
            count: candidates of the chunk at hand; others are expected if it is not all.
        """
        if self._claimed:
            return False
        self._claimed = True
        if count < self.query.size:
            self._ready = threading.Event()
        return True

    def compute(self, runner: LiveRunner) -> None:
        """Run the query tower and let those who wait go on, also when it fails."""
        try:
            self._hidden = runner.query(self.query.context)
        except Exception as error:  # noqa: BLE001 - fails this query only
            self._failed = True
            runner.failed(f"the query tower on query {self.query.id[:64]!r}", error)
        finally:
            if self._ready is not None:
                self._ready.set()

    def wait(self) -> None:
        """Return once the query tower has run or failed."""
        if self._ready is not None:
            self._ready.wait()

    def piece(self, start: int, stop: int) -> Piece | None:
        """Return the piece of these candidates, or None if the query tower failed."""
        if self._failed:
            return None
        return Piece(self._hidden, self.query.candidates, start, stop, self.out)


@dataclass(slots=True)
class Batch:
    """Work with the tickets it is for.

    Attributes:
        work: what the scheduler handed out.
        tickets: one for each of its chunks.
        claimed: those whose query tower is this worker's to run.
    """

    work: Work
    tickets: list[Ticket]
    claimed: list[Ticket]


def score_batch(runner: LiveRunner, batch: Batch) -> frozenset[int]:
    """Score a batch; return the queries that failed.

    All towers of this batch are computed before any other is waited for, so two workers never
    wait for each other.
    """
    for ticket in batch.claimed:
        ticket.compute(runner)
    pieces: list[Piece] = []
    owners: list[int] = []
    failed: set[int] = set()
    for chunk, ticket in zip(batch.work.chunks, batch.tickets, strict=True):
        ticket.wait()
        piece = ticket.piece(chunk.start, chunk.stop)
        if piece is None:
            failed.add(chunk.query)
        else:
            pieces.append(piece)
            owners.append(chunk.query)
    if pieces:
        failed.update(_score(runner, pieces, owners))
    return frozenset(failed)


def _score(runner: LiveRunner, pieces: list[Piece], owners: list[int]) -> set[int]:
    """Score pieces together; if that fails, one by one, so that only the culprit fails."""
    try:
        runner.candidates(pieces)
    except Exception as error:  # noqa: BLE001 - fails the culprit only
        if len(pieces) == 1:
            runner.failed("the candidate tower", error)
            return {owners[0]}
    else:
        return set()
    failed: set[int] = set()
    for piece, owner in zip(pieces, owners, strict=True):
        failed |= _score(runner, [piece], [owner])
    return failed
