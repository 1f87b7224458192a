"""Latency over rows and concurrency, and the distance of each tower to the machine's limit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from headway.bundle import EngineTrial
from headway.core import Clock, Piece, Query, Runner, Scope, UsageError, check_fields, from_seconds
from headway.engine.ceilings import Ceilings, measure_ceilings
from headway.engine.loading import LoadedModel
from headway.engine.machine import MachineFacts, machine_facts, usable_cores
from headway.engine.roofline import TowerLimit, TowerWork, row_limit_ns, tower_limit, tower_work
from headway.measure import LatencyProfile, profile_of
from headway.workload import Skew, draw_queries

Progress = Callable[[str, int, int], None]
Positive = Annotated[int, Meta(ge=1)]
_CACHE_BYTES = 64 << 20
_MOST_IDS = 1 << 21
_MOST_QUERIES = 256
_LEAST_ROUNDS = 5
_WARM_ROUNDS = 3


class ProfileSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is measured.

    Attributes:
        rows: numbers of candidates, rising.
        concurrency: numbers of threads, each with a runner of its own; empty: 1 to the usable
            cores.
        ids: how they are drawn; ``uniform`` is the worst case for caches.
        seconds: for everything together, roughly.
        ceilings: whether the machine's limits are measured too.
    """

    rows: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (1, 4, 16, 64, 256, 1000)
    concurrency: tuple[Positive, ...] = ()
    ids: Annotated[tuple[Skew, ...], Meta(min_length=1)] = ("zipf", "uniform")
    seconds: Annotated[float, Meta(gt=0)] = 30.0
    ceilings: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            UsageError: naming the setting.
        """
        check_fields(self)
        if sorted(set(self.rows)) != list(self.rows):
            raise UsageError(f"profile.rows must rise: {list(self.rows)}")


class LoadProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Latency of whole queries while so many threads compute at the same time.

    Attributes:
        ids: how they were drawn.
        concurrency: threads.
        latency: by candidates.
        tower_ns: median time of the query tower in queries of the fewest candidates, part of
            each latency.
    """

    ids: Skew
    concurrency: int
    latency: LatencyProfile
    tower_ns: int = 0


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that was measured of a bundle on one machine.

    Attributes:
        bundle: its name.
        machine: where it was measured.
        fingerprint: equal for machines of one kind; figures of another kind do not apply.
        loads: latency by ids and concurrency.
        towers: what each has to do.
        ceilings: of the machine; None if not measured.
        limits: of each tower at each number of rows, one thread; empty without ceilings.
        engines: what could have run each tower where the bundle was made, with times and reasons.
    """

    bundle: str
    machine: MachineFacts
    fingerprint: str
    loads: tuple[LoadProfile, ...]
    towers: tuple[TowerWork, ...]
    ceilings: Ceilings | None = None
    limits: tuple[TowerLimit, ...] = ()
    engines: tuple[EngineTrial, ...] = ()


def fingerprint(facts: MachineFacts) -> str:
    """Return what names a kind of machine: processor, cores, vector units, memory, page setting."""
    told = [
        facts.cpu,
        facts.architecture,
        facts.usable_cores,
        sorted(facts.vector_features),
        round(facts.memory_bytes / 2**30),
        facts.huge_pages,
    ]
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:16]


def profile(
    loaded: LoadedModel,
    settings: ProfileSettings,
    clock: Clock,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> Profile:
    """Measure a bundle on this machine: warm, with rotating queries that no cache holds.

    Args:
        loaded: the model.
        settings: what is measured.
        clock: what tells the time.
        rng: draws queries.
        progress: told what comes next, how many measurements are done, and of how many.
    """
    threads = settings.concurrency or tuple(range(1, usable_cores() + 1))
    cells = [(ids, rows) for ids in settings.ids for rows in settings.rows]
    share = settings.seconds * (0.7 if settings.ceilings else 1.0) / (len(cells) * len(threads))
    tell = progress or (lambda *_: None)
    towers, limits = tower_work(loaded), _Limits(loaded, clock, rng)
    if settings.ceilings:
        tell("ceilings", 0, len(cells) + 1)
        limits.ceilings = measure_ceilings(clock, rng, seconds=settings.seconds * 0.2)
    samples: dict[tuple[Skew, int], dict[int, NDArray[np.int64]]] = {}
    towers_ns: dict[tuple[Skew, int], int] = {}
    for done, (ids, rows) in enumerate(cells, start=1):
        tell(f"{rows} rows, {ids} ids", done, len(cells) + 1)
        queries = rotating_queries(loaded, rows, ids, rng)
        for count in threads:
            taken = _at_once(loaded, queries, count, clock, share)
            samples.setdefault((ids, count), {})[rows] = taken.sum(axis=1)
            # As part of the fewest rows: beside more it finds the caches empty, and may take
            # longer than all of a small query.
            towers_ns.setdefault((ids, count), int(np.median(taken[:, 0])))
            if count == threads[0] == 1:
                limits.add(towers, (ids, queries), taken)
    facts = machine_facts()
    return Profile(
        bundle=loaded.manifest.name,
        machine=facts,
        fingerprint=fingerprint(facts),
        loads=tuple(
            LoadProfile(
                ids=ids,
                concurrency=count,
                latency=profile_of(by_rows),
                tower_ns=towers_ns[ids, count],
            )
            for (ids, count), by_rows in samples.items()
        ),
        towers=towers,
        ceilings=limits.ceilings,
        limits=tuple(limits.found),
        engines=loaded.manifest.engines,
    )


def rotating_queries(
    loaded: LoadedModel, rows: int, ids: Skew, rng: np.random.Generator
) -> list[Query]:
    """Return queries of one size that look up more than the caches hold, as far as that pays.

    Args:
        loaded: the model.
        rows: candidates of each.
        ids: how ids are drawn.
        rng: draws them.
    """
    schema = loaded.manifest.schema
    looked_up, read = 1, 1
    for feature in schema.id_features():
        count = getattr(feature, "max_length", 1) * (
            rows if feature.scope is Scope.CANDIDATE else 1
        )
        looked_up += count
        read += count * loaded.model.tables[feature.table].records.shape[1]
    wanted = min(_MOST_QUERIES, _CACHE_BYTES // read + 1, max(1, _MOST_IDS // looked_up))
    sizes = np.full(max(4, wanted), rows, np.int64)
    return draw_queries(schema, sizes, rng, ids=ids)


class _Limits:
    """Gathers the towers' limits, if the machine's ceilings are known."""

    def __init__(self, loaded: LoadedModel, clock: Clock, rng: np.random.Generator) -> None:
        self.ceilings: Ceilings | None = None
        self.found: list[TowerLimit] = []
        self._measure = (loaded, clock, rng)
        self._row_ns: dict[tuple[Skew, Scope], float] = {}

    def add(
        self,
        towers: Sequence[TowerWork],
        drawn: tuple[Skew, Sequence[Query]],
        taken: NDArray[np.int64],
    ) -> None:
        """Add the towers at one size, measured ``[queries, (query tower, candidate tower)]``."""
        if self.ceilings is None:
            return
        loaded, clock, rng = self._measure
        ids, queries = drawn
        for work in towers:
            key = ids, work.tower
            if key not in self._row_ns:
                self._row_ns[key] = row_limit_ns(loaded, work, ids, clock, rng)
            times = taken[:, 0 if work.tower is Scope.QUERY else 1]
            measured = ids, queries, times
            limit = tower_limit(loaded, work, measured, self.ceilings, self._row_ns[key])
            self.found.append(limit)


def _at_once(
    loaded: LoadedModel, queries: Sequence[Query], count: int, clock: Clock, seconds: float
) -> NDArray[np.int64]:
    """Return what ``count`` threads took per query, ``[queries, (query tower, candidates)]``."""
    tasks = len(loaded.manifest.schema.tasks)
    runners = [loaded.runner() for _ in range(count)]
    for runner in runners:
        for query in queries[:_WARM_ROUNDS]:
            _timed(runner, query, clock, tasks)
    end = clock.now() + from_seconds(seconds)

    def work(number: int) -> list[tuple[int, int]]:
        first = len(queries) * number // count
        taken: list[tuple[int, int]] = []
        while len(taken) < _LEAST_ROUNDS or clock.now() < end:
            query = queries[(first + len(taken)) % len(queries)]
            taken.append(_timed(runners[number], query, clock, tasks))
        return taken

    with ThreadPoolExecutor(count) as pool:
        pairs = [pair for taken in pool.map(work, range(count)) for pair in taken]
    for runner in runners:
        runner.close()
    return np.array(pairs, np.int64)


def _timed(runner: Runner, query: Query, clock: Clock, tasks: int) -> tuple[int, int]:
    out: NDArray[Any] = np.empty((query.size, tasks), np.float32)
    start = clock.now()
    hidden = runner.query(query.context)
    middle = clock.now()
    runner.candidates([Piece(hidden, query.candidates, 0, query.size, out)])
    return middle - start, clock.now() - middle
