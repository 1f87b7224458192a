"""Worker threads around the scheduler: computes what it decides, delivers what it ends."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque

import msgspec

from headway.core import (
    Clock,
    DeadlineError,
    HeadwayError,
    NotReadyError,
    Ns,
    OverloadedError,
    Plan,
    Query,
    UsageError,
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
from headway.server.batch import Batch, Ended, Ticket, score_batch
from headway.server.runners import RETRY_S
from headway.server.settings import Priority, ServedModel
from headway.server.threads import cores_for, give_way
from headway.server.timing import with_times
from headway.server.workers import Worker, hire

_log = logging.getLogger("headway.server")


class Standing(msgspec.Struct, frozen=True):
    """How a model is served at present.

    Attributes:
        plan: the plan in force.
        split_size: most candidates in a chunk; moves if the policy is adaptive.
        arrival_rate: candidates per second of late, where the policy counts them.
        wait_s: predicted time until a new query would be begun, if anything is known yet.
        load: how much waits and runs.
    """

    plan: Plan
    split_size: int
    arrival_rate: float | None
    wait_s: float | None
    load: Load


class Executor:
    """Runs one model: a thread and runners for each of its plan's workers.

    ``submit``, ``cancel`` and the delivery of completions happen in the event loop that the
    executor is made in; workers only compute. Each accepted query's ticket ends exactly once.
    ``replan``, ``load`` and ``standing`` may be called from any thread.

    Attributes:
        batch_sizes: candidates in a batch to number of such batches.
        refused: queries turned away, by reason.
    """

    def __init__(
        self,
        model: ServedModel,
        clock: Clock,
        *,
        max_workers: int = 256,
        priority: Priority = "batch",
        pinned: bool = True,
    ) -> None:
        self._model = model
        self._tasks = len(model.schema.tasks)
        self._clock = clock
        self._max_workers = max_workers
        self._priority: Priority = priority
        self._pinned = pinned
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._replanning = threading.Lock()
        self._idle: list[Worker] = []
        self._tickets: dict[int, Ticket] = {}
        self._ended: deque[tuple[Ticket, Completion]] = deque()
        self._delivering = False
        self._numbers = 0
        self._closing = False
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = Ns(0)
        self.batch_sizes: dict[int, int] = {}
        self.refused = dict.fromkeys(Reason, 0)
        self._check(model.plan)
        self._plan = with_times(model.plan, model, clock, learnt=False)
        self._scheduler = Scheduler(self._plan)
        self._leaving: list[Worker] = []
        self._staff = self._hire(self._plan, 0)
        self._place()
        for worker in self._staff:
            worker.bell.release()

    def submit(self, query: Query, arrived: Ns, ended: Ended) -> Ticket:
        """Accept a checked query and see to it that ``ended`` is called once.

        Its time counts from ``arrived``, which was before it was decoded and checked. A query
        without candidates ends before this returns.

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
                for _ in range(min(admission.chunks, len(self._idle))):
                    self._idle.pop().bell.release()
        if isinstance(admission, Refused):
            self.refused[admission.reason] += 1
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

    def standing(self) -> Standing:
        """Return how the model is served at present."""
        with self._lock:
            scheduler = self._scheduler
            policy = scheduler.policy
            wait = policy.wait_for(scheduler.pools[0], self._clock.now())
            wait_s = None if wait is None else wait / 1e9
            return Standing(scheduler.plan, policy.split, policy.rate, wait_s, scheduler.load())

    def replan(self, plan: Plan) -> None:
        """Go over to another plan while serving; no query is lost or scored twice.

        New workers are made before anything changes, which may take a while; workers that are
        too many leave after the batch they have. If anything is raised, the old plan holds.

        Raises:
            UsageError: naming what this executor cannot change or carry out.
            NotReadyError: when it is closed meanwhile.
            HeadwayError: if service times are needed and cannot be measured.
        """
        with self._replanning:
            self._check(plan)
            plan = self._completed(plan)
            hired = self._hire(plan, len(self._staff))
            with self._lock:
                closing = self._closing
                if not closing:
                    self._go_over_to(plan, hired)
            if closing:
                for worker in hired:
                    worker.leave()
                raise NotReadyError("the server is shutting down")

    @property
    def alive(self) -> bool:
        """Whether every worker has its runners."""
        return all(worker.alive for worker in self._staff)

    def drain(self) -> None:
        """Refuse new queries; those accepted go on."""
        with self._lock:
            self._scheduler.drain()

    def close(self) -> None:
        """Stop the workers after the batch they have; what still waits is not computed."""
        with self._lock:
            self._closing = True
            self._wake_all()
        if self._alarm is not None:
            self._alarm.cancel()
        for worker in (*self._staff, *self._leaving):
            worker.join()

    # Changes of plan.

    def _check(self, plan: Plan) -> None:
        """Refuse what the executor cannot carry out."""
        first = self._model.plan
        if plan.accelerators:
            raise UsageError(
                f"plan.accelerators is {plan.accelerators}; this server has none, set it to 0"
            )
        if plan is first:
            return
        most = max(self._max_workers, first.workers)
        if plan.workers > most:
            raise UsageError(f"plan.workers is {plan.workers}; at most {most} while serving")
        if plan.threads != first.threads:
            raise UsageError(
                f"plan.threads is {plan.threads}; it stays {first.threads} while serving"
            )
        if plan.lighter_service and self._model.lighter is None:
            raise UsageError("plan.lighter_service is given; there is no lighter bundle")

    def _completed(self, plan: Plan) -> Plan:
        with self._lock:
            learnt = self._scheduler.pools[0].times.known
        return with_times(plan, self._model, self._clock, learnt=learnt)

    def _hire(self, plan: Plan, first: int) -> list[Worker]:
        """Return the workers of a plan from some number on."""
        numbers = range(first, plan.workers)
        return hire(self._model, numbers, self._clock, self._work, self._priority)

    def _place(self) -> None:
        """Say on which cores each worker may run, now that there are so many."""
        if self._pinned:
            for worker, cores in zip(self._staff, cores_for(self._plan), strict=False):
                worker.keep_to(cores)

    def _go_over_to(self, plan: Plan, hired: list[Worker]) -> None:
        """Change the plan; the lock is held."""
        self._scheduler.replan(plan)
        self._plan = plan
        surplus = self._staff[plan.workers :]
        for worker in surplus:
            worker.retired = True
        self._leaving = [w for w in self._leaving if not w.gone] + surplus
        self._staff = self._staff[: plan.workers] + hired
        self._place()
        # What waits was cut anew, and a bell that has rung may be that of one who leaves.
        self._wake_all()
        for worker in hired:
            worker.bell.release()

    def _wake_all(self) -> None:
        while self._idle:
            self._idle.pop().bell.release()

    # In the worker threads.

    def _work(self, worker: Worker) -> None:
        worker.bell.acquire()
        try:
            batch = self._next(worker, None, frozenset())
            while batch is not None:
                failed = score_batch(worker.runners[batch.work.lighter], batch)
                batch = self._next(worker, batch.work, failed)
        finally:
            worker.close()

    def _next(self, worker: Worker, done: Work | None, failed: frozenset[int]) -> Batch | None:
        while True:
            with self._lock:
                now = self._clock.now()
                if done is not None:
                    self._report(self._scheduler.finished(done, now, failed))
                    done = None
                self._report(self._scheduler.expire(now))
                leaving = self._closing or worker.retired
                able = not leaving and self._is_able(worker)
                work = self._scheduler.next_work(worker.number, now) if able else None
                batch = None if work is None else self._batch(work)
                if batch is None and not leaving:
                    # The last is called first; who could only fail is called when no other can be.
                    self._idle.insert(len(self._idle) if worker.alive else 0, worker)
            # Only now, so that the event loop does not wake up to find Python taken.
            woken = self._wake_loop()
            if batch is not None or leaving:
                if woken:
                    give_way()
                return batch
            self._await_bell(worker)

    def _is_able(self, worker: Worker) -> bool:
        """Whether it should have work; failing takes no time, so it would get most of it."""
        return worker.alive or not any(other.alive for other in self._staff)

    def _await_bell(self, worker: Worker) -> None:
        """Return when the worker is called, or has its runners again."""
        while not worker.bell.acquire(timeout=-1 if worker.alive else RETRY_S):
            worker.revive()
            with self._lock:
                if worker.alive and worker in self._idle:
                    self._idle.remove(worker)
                    return

    def _batch(self, work: Work) -> Batch:
        size = work.candidates
        self.batch_sizes[size] = self.batch_sizes.get(size, 0) + 1
        tickets = [self._tickets[chunk.query] for chunk in work.chunks]
        claimed = [
            ticket
            for ticket, chunk in zip(tickets, work.chunks, strict=True)
            if ticket.claim(chunk.stop - chunk.start)
        ]
        return Batch(work, tickets, claimed)

    def _report(self, completions: tuple[Completion, ...]) -> None:
        """Queue completions for the event loop; the lock is held."""
        for completion in completions:
            self._ended.append((self._tickets.pop(completion.query), completion))

    def _wake_loop(self) -> bool:
        """See to it that what was reported is delivered; return whether the loop was woken."""
        if not self._ended or self._delivering or self._loop.is_closed():
            return False
        self._delivering = True
        self._loop.call_soon_threadsafe(self._deliver)
        return True

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


def _refusal(refused: Refused) -> HeadwayError:
    if refused.reason is Reason.DRAINING:
        return NotReadyError("the server is shutting down")
    if refused.reason is Reason.DEADLINE_PASSED:
        return DeadlineError("the query's time was up before it could be queued")
    return OverloadedError(
        f"overloaded ({refused.reason}); try again later", to_seconds(refused.retry_after)
    )
