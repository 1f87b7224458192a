"""A compiled model behind the serving executor in this process, driven open loop and closed loop.

Everything that serves is real: scheduler, worker threads, engines. Only the network is left out,
because on two cores a client in another process would take from the server what it measures.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from stalls import stalls
from steady import Steady

import headway
from headway.core import (
    DeadlineError,
    Knots,
    MonotonicClock,
    OverloadedError,
    Piece,
    Plan,
    Query,
    shortest_ns,
)
from headway.engine import load_model
from headway.loadgen import fire, fire_one_by_one
from headway.loadgen.loop import run as run_loop
from headway.measure import Outcome, RunRecord
from headway.models import build_model, zoo
from headway.scheduler import Completion
from headway.scheduler import Outcome as Ended
from headway.server import ServedModel, ServerSettings
from headway.server.batch import Ticket
from headway.server.executor import Executor
from headway.simulate import Machine, ratios_of
from headway.workload import Schedule, draw_queries, production_sizes

SIZES = (1, 16, 64, 128, 256, 512, 1000)
POOL = 400
GRID = 24
PLAIN = 256
REST_S = 0.01
IN_A_ROW, WARMED = 4, 2
WARM = 24
Round = dict[int, list["Stream"]]
"""By size: of one alone, then of as many streams as there are workers."""
_STATUS = {Ended.DONE: Outcome.OK, Ended.EXPIRED: Outcome.LATE, Ended.FAILED: Outcome.FAILED}


class Stream(NamedTuple):
    """Queries one after the other, in ns.

    Attributes:
        worked_ns: what their workers took.
        latency_ns: until they were answered.
        front_ns: what the event loop took for each.
    """

    worked_ns: list[int]
    latency_ns: list[float]
    front_ns: float


class ExecutorTarget:
    """Hands queries to an executor; what it refuses is recorded as refused.

    Attributes:
        worked_ns: of each query that has ended, from when a worker took it.
    """

    def __init__(self, executor: Executor, clock: MonotonicClock) -> None:
        self.worked_ns: list[int] = []
        self._executor = executor
        self._clock = clock

    def another(self) -> ExecutorTarget:
        """Return one for the same executor that counts for itself."""
        return ExecutorTarget(self._executor, self._clock)

    def busy_ns(self) -> int:
        """Return the worker time spent so far."""
        return self._executor.load().busy_ns

    def prepare(self, query: Query) -> Query:
        """Return the query as it is."""
        return query

    def submit(self, prepared: Query) -> Awaitable[Outcome]:
        """Submit and give how it ended."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def ended(_: Ticket, completion: Completion) -> None:
            self.worked_ns.append(completion.finished - completion.started)
            if not future.done():
                future.set_result(_STATUS.get(completion.outcome, Outcome.UNANSWERED))

        try:
            self._executor.submit(prepared, self._clock.now(), ended)
        except (OverloadedError, DeadlineError):
            future.set_result(Outcome.REFUSED)
        return future


class Host:
    """A model of the zoo, compiled, with a pool of queries of production sizes.

    Attributes:
        pinned: each worker stays on its core.
    """

    def __init__(self, name: str, folder: Path, rows: int, precision: str) -> None:
        made = zoo(name, max_rows=rows)
        model = build_model(made.settings, made.schema).eval()
        headway.compile(model, made.schema, folder / name, precision=precision)
        self._loaded = load_model(folder / name, threads=1)
        self._schema = made.schema
        self._clock = MonotonicClock()
        rng = np.random.default_rng(3)
        self.sizes = production_sizes(POOL, rng)
        self._pool = draw_queries(made.schema, self.sizes, rng)
        # As many different ones as a run has: rows of tables that are met again are in the cache.
        self._grid = {size: draw_queries(made.schema, np.full(GRID, size), rng) for size in SIZES}
        self.pinned = True
        self.steady = Steady(stalls())
        self._rounds: list[Round] = []
        self._towers: list[int] = []

    def open_loop(
        self, plan: Plan, schedule: Schedule, chosen: NDArray[np.int64]
    ) -> tuple[RunRecord, int]:
        """Fire a schedule whose sizes are those of the chosen queries of the pool.

        Returns:
            What became of the queries, and the worker time in ns that they took.
        """
        prepared = [self._pool[i] for i in chosen.tolist()]

        async def drive(target: ExecutorTarget) -> tuple[RunRecord, int]:
            before = target.busy_ns()
            record = await fire(schedule, prepared, target, self._clock, grace_s=1.0)
            return record, target.busy_ns() - before

        return self._serve(plan, drive)

    def calibrate(self, rounds: int, workers: int = 2) -> Machine:
        """Learn this machine as seen through the executor: single queries, rested and at work.

        Earlier calibrations count as well: the more there were, and the further apart, the less
        a moment of the host decides.

        Args:
            rounds: in each all sizes take turns.
            workers: threads, each time as many.
        """
        plan = Plan(workers=workers, split_size=4096)

        async def stream(target: ExecutorTarget, some: Sequence[Query], size: int) -> Stream:
            began = time.thread_time_ns()
            record = await fire_one_by_one(some, size, target, self._clock)
            front_ns = (time.thread_time_ns() - began) / len(some)
            return Stream(target.worked_ns, record.latency_ns.tolist(), front_ns)

        async def measure(target: ExecutorTarget, turn: int) -> Round:
            found: Round = {}
            for size, queries in self._grid.items():
                some = [queries[(IN_A_ROW * turn + i) % GRID] for i in range(IN_A_ROW)]
                await asyncio.sleep(REST_S)
                alone = await stream(target.another(), some, size)
                many = range(workers if workers > 1 else 0)
                busy = await asyncio.gather(*(stream(target.another(), some, size) for _ in many))
                found[size] = [alone, *busy]
            return found

        for _ in range(rounds):
            drive = partial(measure, turn=len(self._rounds))
            self._rounds.append(self.steady.through(partial(self._serve, plan, drive)))
        self._towers += self.steady.through(self._tower_ns)
        return self.machine(workers)

    def machine(self, workers: int) -> Machine:
        """Return what all calibrations so far say, made with as many workers."""
        rested, alone, together = ({size: [] for size in SIZES} for _ in range(3))  # type: ignore[var-annotated]
        for found in self._rounds:
            for size, (single, *others) in found.items():
                rested[size].append(single.worked_ns[0])
                alone[size] += single.worked_ns[WARMED:]
                together[size] += [ns for other in others for ns in other.worked_ns[WARMED:]]
        slower = [np.median(together[s]) / np.median(alone[s]) for s in SIZES[2:] if together[s]]
        # What scatters small ones is the event loop, and that does not grow with the size.
        scatter: Sequence[NDArray[np.int64]] = [
            np.clip(t, np.percentile(t, 1), np.percentile(t, 99)).astype(np.int64)
            for t in (together if workers > 1 else alone).values()
        ]
        service = _knots(alone)
        return Machine(
            cores=workers,
            service=service,
            tower_ns=min(int(np.median(self._towers)), shortest_ns(service)),
            rested_service=_knots(rested),
            front_ns=round(np.median([single.front_ns for single in self._alone()])),
            interference=max(1.0, float(np.median(slower))) if slower else 1.0,
            ratios=ratios_of(scatter[SIZES.index(PLAIN) :], np.random.default_rng(0)),
        )

    def outside_ns(self, count: int, busy: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw by how much queries take longer than their workers, to be called and to be heard.

        Args:
            count: of queries.
            busy: share of the time for which workers are: so many are drawn from calibrations
                with all workers at work, the others from those of one query at a time.
            rng: draws.
        """
        alone, together = (
            np.concatenate([np.subtract(s.latency_ns, s.worked_ns) for s in streams])
            for streams in (self._alone(), self._together() or self._alone())
        )
        crowded = rng.random(count) < busy
        return np.where(crowded, rng.choice(together, count), rng.choice(alone, count))

    def _alone(self) -> list[Stream]:
        return [single for found in self._rounds for single, *_ in found.values()]

    def _together(self) -> list[Stream]:
        streams = (stream for found in self._rounds for stream in found.values())
        return [other for _, *others in streams for other in others]

    def _tower_ns(self) -> list[int]:
        """Return the times of the query tower, within the smallest queries."""
        taken = []
        with closing(self._loaded.runner()) as runner:
            for query in self._grid[SIZES[0]]:
                began = self._clock.now()
                hidden = runner.query(query.context)
                taken.append(self._clock.now() - began)
                out = np.empty((query.size, len(self._schema.tasks)), np.float32)
                runner.candidates([Piece(hidden, query.candidates, 0, query.size, out)])
        return taken

    def _serve(self, plan: Plan, drive):  # type: ignore[no-untyped-def]
        async def whole():  # type: ignore[no-untyped-def]
            model = ServedModel("model", self._schema, plan, self._loaded.runner)
            executor = Executor(model, self._clock, pinned=self.pinned)
            target = ExecutorTarget(executor, self._clock)
            try:
                await fire_one_by_one(self._pool[:WARM], 1, target, self._clock)
                return await drive(target)
            finally:
                executor.close()

        before = sys.getswitchinterval()
        sys.setswitchinterval(ServerSettings().switch_interval_us / 1e6)
        gc.collect()
        gc.disable()
        try:
            return run_loop(whole())
        finally:
            gc.enable()
            sys.setswitchinterval(before)


def _knots(times: dict[int, list[float]]) -> Knots:
    medians = np.maximum.accumulate([np.median(times[size]) for size in SIZES])
    return tuple(zip(SIZES, medians.astype(int).tolist(), strict=True))
