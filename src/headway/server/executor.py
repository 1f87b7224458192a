"""Worker threads around the scheduler: computes what it decides, delivers what it ends."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from headway.core import (
    Clock,
    DeadlineError,
    HeadwayError,
    Hidden,
    NotReadyError,
    Ns,
    OverloadedError,
    Piece,
    Query,
    to_seconds,
)
from headway.scheduler import (
    Accepted,
    Arrival,
    Completion,
    Load,
    Reason,
    Refused,
    Scheduler,
    Work,
)
from headway.server.runners import RETRY_S, LiveRunner, live_runners
from headway.server.settings import ServedModel

_log = logging.getLogger("headway.server")
_JOIN_S = 5.0


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

    def share(self) -> None:
        """Expect chunks of this query on several workers."""
        self._ready = threading.Event()

    def claim(self) -> bool:
        """Return True to the first who asks; that one runs ``compute``, the others ``wait``."""
        first, self._claimed = not self._claimed, True
        return first

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
class _Batch:
    work: Work
    tickets: list[Ticket]
    claimed: list[Ticket]


class Executor:
    """Runs one model: a runner and a thread for each of its plan's workers.

    ``submit``, ``cancel`` and the delivery of completions happen in the event loop that the
    executor is made in; workers only compute. Each accepted query's ticket ends exactly once.
    """

    def __init__(self, model: ServedModel, clock: Clock) -> None:
        self._plan = model.plan
        self._tasks = len(model.schema.tasks)
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._idle: list[threading.Lock] = []
        self._scheduler = Scheduler(model.plan)
        self._tickets: dict[int, Ticket] = {}
        self._ended: deque[tuple[Ticket, Completion]] = deque()
        self._delivering = False
        self._numbers = 0
        self._closing = False
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = Ns(0)
        self.batch_sizes: dict[int, int] = {}
        self._runners = live_runners(model, clock)
        self._threads = [
            threading.Thread(target=self._work, args=(i, r), name=f"{model.name}-{i}", daemon=True)
            for i, r in enumerate(self._runners)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, query: Query, arrived: Ns, ended: Ended) -> Ticket:
        """Accept a checked query and see to it that ``ended`` is called once.

        Its time counts from ``arrived``, which was before it was decoded and checked. A query without candidates ends before this returns.

        Raises:
            OverloadedError: if it would not be answered in time.
            DeadlineError: if its time is up already.
            NotReadyError: while draining.
        """
        ticket = Ticket(self._numbers, query, self._tasks, ended)
        self._numbers += 1
        timeout = self._plan.timeout_ns if query.timeout is None else query.timeout
        arrival = Arrival(ticket.id, query.size, Ns(arrived + timeout))
        now = self._clock.now()
        with self._lock:
            admission = self._scheduler.submit(arrival, now)
            if isinstance(admission, Accepted) and admission.completion is None:
                self._tickets[ticket.id] = ticket
                if admission.chunks > 1:
                    ticket.share()
                for _ in range(min(admission.chunks, len(self._idle))):
                    self._idle.pop().release()
        if isinstance(admission, Refused):
            raise _refusal(admission)
        if admission.completion is not None:
            ended(ticket, admission.completion)
        else:
            self._arm(arrival.deadline, now)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a query that nobody waits for any more, unless it has ended."""
        with self._lock:
            ended = self._scheduler.cancel(ticket.id, self._clock.now())
            if ended is not None:
                self._report((ended,))
        self._wake_loop()

    def load(self) -> Load:
        """Return how much waits and runs."""
        with self._lock:
            return self._scheduler.load()

    @property
    def alive(self) -> bool:
        """Whether every worker has a runner."""
        return all(runner.alive for runner in self._runners)

    def drain(self) -> None:
        """Refuse new queries; those accepted go on."""
        with self._lock:
            self._scheduler.drain()

    def close(self) -> None:
        """Stop the workers after the batch they have; what still waits is not computed."""
        with self._lock:
            self._closing = True
            while self._idle:
                self._idle.pop().release()
        if self._alarm is not None:
            self._alarm.cancel()
        for thread in self._threads:
            thread.join(_JOIN_S)

    # In the worker threads.

    def _work(self, worker: int, runner: LiveRunner) -> None:
        bell = threading.Lock()
        bell.acquire()
        try:
            batch = self._next(worker, bell, None, frozenset())
            while batch is not None:
                failed = _run(runner, batch)
                batch = self._next(worker, bell, batch.work, failed)
        finally:
            runner.close()

    def _next(
        self, worker: int, bell: threading.Lock, done: Work | None, failed: frozenset[int]
    ) -> _Batch | None:
        while True:
            with self._lock:
                now = self._clock.now()
                if done is not None:
                    self._report(self._scheduler.finished(done, now, failed))
                    done = None
                self._report(self._scheduler.expire(now))
                closing = self._closing
                work = None if closing else self._scheduler.next_work(worker, now)
                batch = None if work is None else self._batch(work)
                if batch is None and not closing:
                    self._idle.append(bell)
            # Only now, so that the event loop does not wake up to find Python taken.
            self._wake_loop()
            if batch is not None or closing:
                return batch
            while not bell.acquire(timeout=-1 if self._runners[worker].alive else RETRY_S):
                self._runners[worker].revive()

    def _batch(self, work: Work) -> _Batch:
        size = work.candidates
        self.batch_sizes[size] = self.batch_sizes.get(size, 0) + 1
        tickets = [self._tickets[chunk.query] for chunk in work.chunks]
        return _Batch(work, tickets, [ticket for ticket in tickets if ticket.claim()])

    def _report(self, completions: tuple[Completion, ...]) -> None:
        """Queue completions for the event loop; the lock is held."""
        for completion in completions:
            self._ended.append((self._tickets.pop(completion.query), completion))

    def _wake_loop(self) -> None:
        """See to it that what was reported is delivered."""
        if self._ended and not self._delivering and not self._loop.is_closed():
            self._delivering = True
            self._loop.call_soon_threadsafe(self._deliver)

    # In the event loop.

    def _deliver(self) -> None:
        # In this order: what is reported from here on either is seen below or wakes us again.
        self._delivering = False
        while self._ended:
            ticket, completion = self._ended.popleft()
            try:
                ticket.ended(ticket, completion)
            except Exception:  # noqa: BLE001 - the others that ended must hear of it all the same
                _log.exception("query %r could not be answered", ticket.query.id)

    def _arm(self, deadline: Ns, now: Ns) -> None:
        """See to it that queries end at their deadline even if no worker comes back."""
        if self._alarm is not None:
            if self._alarm_at <= deadline:
                return
            self._alarm.cancel()
        self._alarm_at = deadline
        self._alarm = self._loop.call_later(max(to_seconds(deadline - now), 0.0), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        with self._lock:
            now = self._clock.now()
            self._report(self._scheduler.expire(now))
            following = self._scheduler.next_wakeup()
        self._wake_loop()
        if following is not None:
            self._arm(following, now)


def _run(runner: LiveRunner, batch: _Batch) -> frozenset[int]:
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


def _refusal(refused: Refused) -> HeadwayError:
    if refused.reason is Reason.DRAINING:
        return NotReadyError("the server is shutting down")
    if refused.reason is Reason.DEADLINE_PASSED:
        return DeadlineError("the query's time was up before it could be queued")
    return OverloadedError(
        f"overloaded ({refused.reason}); try again later", to_seconds(refused.retry_after)
    )
