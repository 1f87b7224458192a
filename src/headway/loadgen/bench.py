"""Benches of a running server: one rate, one query at a time, or the highest rate for an SLA."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from headway.core import (
    Clock,
    MonotonicClock,
    NotReadyError,
    Query,
    Schema,
    Sla,
    UsageError,
    from_seconds,
    to_seconds,
)
from headway.loadgen.discover import fetch_schema
from headway.loadgen.fire import fire, fire_one_by_one
from headway.loadgen.http import HttpTarget
from headway.loadgen.loop import run
from headway.loadgen.pool import places_of
from headway.measure import (
    LbtPoint,
    LbtResult,
    LbtSettings,
    Outcome,
    RunRecord,
    find_lbt,
    queries_to_plan,
)
from headway.workload import Schedule, Workload, draw_queries, draw_schedule

Positive = Annotated[float, Meta(gt=0)]
_CALM_LIMIT_S = 30.0
_FEWEST_QUERIES = 20


class BenchSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a server is measured.

    Attributes:
        workload: which queries arrive.
        seconds: length of a run; longer where a percentile needs more queries.
        max_seconds: but never longer than this.
        warmup_s: comes before, and is not counted.
        pool: distinct queries that take turns; more than caches hold.
        connections: open before a run starts.
        max_connections: opened at most; queries beyond wait in the client.
        grace_s: how long stragglers are waited for.
        seed: of the pool of queries, and added to the seed of each run.
    """

    workload: Workload = Workload()
    seconds: Positive = 5.0
    max_seconds: Positive = 60.0
    warmup_s: Annotated[float, Meta(ge=0)] = 0.5
    pool: Annotated[int, Meta(ge=1)] = 1000
    connections: Annotated[int, Meta(ge=1)] = 16
    max_connections: Annotated[int, Meta(ge=1)] = 200
    grace_s: Annotated[float, Meta(ge=0)] = 2.0
    seed: int = 0


DEFAULTS = BenchSettings()


class Bench:
    """A server, a model and a pool of encoded queries; runs may follow one another."""

    def __init__(
        self,
        url: str,
        model: str,
        settings: BenchSettings = DEFAULTS,
        *,
        schema: Schema | None = None,
        sizes: NDArray[np.int64] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Draw and encode the pool, and have the server answer one query of it.

        Args:
            url: ``http://host:port``.
            model: name of the model on that server.
            settings: how to measure.
            schema: what queries fit; asked of the server if None.
            sizes: int64 ``[queries]``, candidates of the queries of the pool; drawn as the
                workload says if None.
            clock: real time.

        Raises:
            HeadwayError: if the server is not there or does not score the query.
        """
        self._url, self._model, self._settings = url, model, settings
        self._schema = fetch_schema(url, model) if schema is None else schema
        self._clock = clock or MonotonicClock()
        rng = np.random.default_rng([settings.seed, 1])
        self._sizes = settings.workload.draw_sizes(settings.pool, rng) if sizes is None else sizes
        target = self._target()
        self._pool = [target.prepare(q) for q in self._draw(self._sizes, rng)]
        self.scores(self._draw(self._sizes[:1], rng)[0])

    def scores(self, query: Query) -> NDArray[np.float32]:
        """Return the server's scores of one query.

        Raises:
            HeadwayError: with what the server said, if it gave none.
        """

        async def ask() -> NDArray[np.float32]:
            async with self._target() as target:
                return await target.infer(query)

        return run(ask())

    def rate(self, rate_qps: float, seed: int = 0, sla: Sla | None = None) -> RunRecord:
        """Draw a schedule and play it; arguments are those of ``draw``."""
        return self.play(self.draw(rate_qps, seed, sla), seed)

    def draw(self, rate_qps: float, seed: int = 0, sla: Sla | None = None) -> Schedule:
        """Return a schedule that begins with the warm-up, of sizes that the pool has.

        Args:
            rate_qps: mean offered rate.
            seed: of the schedule.
            sla: its percentile decides how many queries there must be.
        """
        settings = self._settings
        wanted = queries_to_plan(sla.percentile) if sla else _FEWEST_QUERIES
        needed = wanted / rate_qps
        seconds = min(max(settings.seconds, needed), max(settings.seconds, settings.max_seconds))
        return draw_schedule(
            rate_qps,
            settings.warmup_s + seconds,
            lambda count, source: source.choice(self._sizes, size=count),
            np.random.default_rng([settings.seed, 2, seed]),
            settings.workload.arrivals,
        )

    def play(self, schedule: Schedule, seed: int = 0) -> RunRecord:
        """Fire a schedule at the server, once it is calm, and return what was recorded.

        Args:
            schedule: its first ``warmup_s`` are not counted.
            seed: of which queries of the pool are taken, among those of a size.

        Raises:
            UsageError: if the pool has no query of a size, or all queries come in the warm-up.
        """
        settings = self._settings
        if not (schedule.intended_ns >= from_seconds(settings.warmup_s)).any():
            raise UsageError(
                f"the schedule lasts {to_seconds(schedule.duration_ns):g} s and no query comes "
                f"after the first {settings.warmup_s:g} s, which are warm-up; give a longer one"
            )
        rng = np.random.default_rng([settings.seed, 4, seed])
        prepared = [self._pool[i] for i in places_of(self._sizes, schedule.sizes, rng).tolist()]

        async def drive() -> RunRecord:
            async with self._target() as target:
                await self._calm(target)
                return await fire(schedule, prepared, target, self._clock, grace_s=settings.grace_s)

        with _no_collection():
            return run(drive()).after(from_seconds(settings.warmup_s))

    def one_by_one(self, size: int, count: int, seed: int = 0) -> RunRecord:
        """Send queries of one size, each when the one before is answered.

        Shows the latency of an idle server; of a busy one it says nothing.

        Args:
            size: candidates of every query.
            count: queries counted; a tenth more come first and are not.
            seed: of the queries.
        """
        rng = np.random.default_rng([self._settings.seed, 3, seed])
        warmup = 1 + count // 10

        async def drive() -> RunRecord:
            async with self._target() as target:
                await self._calm(target)
                queries = self._draw(np.full(warmup + count, size, np.int64), rng)
                prepared = [target.prepare(q) for q in queries]
                await fire_one_by_one(prepared[:warmup], size, target, self._clock)
                return await fire_one_by_one(prepared[warmup:], size, target, self._clock)

        with _no_collection():
            return run(drive())

    def lbt(
        self, settings: LbtSettings, progress: Callable[[LbtPoint], None] | None = None
    ) -> LbtResult:
        """Return the highest rate at which the server meets the SLA."""
        return find_lbt(
            lambda r, seed: self.rate(r, seed, settings.sla), self.within_reach(settings), progress
        )

    def within_reach(self, settings: LbtSettings) -> LbtSettings:
        """Return the search without rates so low that the longest run would prove nothing."""
        seconds = max(self._settings.seconds, self._settings.max_seconds)
        lowest = queries_to_plan(settings.sla.percentile) / seconds
        return msgspec.structs.replace(settings, lowest_qps=max(settings.lowest_qps, lowest))

    def _target(self) -> HttpTarget:
        return HttpTarget(
            self._url,
            self._model,
            self._schema,
            connections=self._settings.connections,
            limit=self._settings.max_connections,
        )

    def _draw(self, sizes: NDArray[np.int64], rng: np.random.Generator) -> list[Query]:
        workload = self._settings.workload
        return draw_queries(self._schema, sizes, rng, ids=workload.ids, exponent=workload.exponent)

    async def _calm(self, target: HttpTarget) -> None:
        """Wait until the server has got over an earlier run: it answers, one at a time."""
        limit = self._clock.now() + from_seconds(_CALM_LIMIT_S)
        good = 0
        while good < min(3, len(self._pool)):
            good = good + 1 if await target.submit(self._pool[good]) is Outcome.OK else 0
            if self._clock.now() > limit:
                raise NotReadyError(
                    f"the server at {self._url} does not answer single queries; {target.fault}"
                )
            if not good:
                await asyncio.sleep(0.05)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from stopping the generator in the middle of a run."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
