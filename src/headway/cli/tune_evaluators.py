"""What a plan is worth: on the simulated machine, and on a real server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.cli.benching import point_of, points_of
from headway.cli.tune_report import Figures
from headway.core import Clock, Plan, Sla, shortest_ns, to_seconds
from headway.engine import LoadedModel, Profile, ProfileSettings, profile, usable_cores
from headway.loadgen import Bench, BenchSettings
from headway.measure import (
    LbtPoint,
    LbtResult,
    LbtSettings,
    RunRecord,
    find_lbt,
    queries_to_plan,
)
from headway.scheduler import ServiceTimes
from headway.simulate import Machine, busy_qps, knots_of, simulate
from headway.tune import Score
from headway.workload import Workload, draw_schedule

_ROWS = (1, 4, 16, 64, 256)
_SIZES = 4096
_SCATTER = 1000
_FEWEST = 250
_MANY_CHUNKS = 10
_START = 0.6
_LOW = (0.1, 0.25, 0.75)
_SIMULATED_RUNS = 12
_REAL_RUNS, _FEW_REAL_RUNS = 10, 7
_ASKED = 20
_WARMUP_S = 0.5
_POOL = 200
_POOL_CANDIDATES = 200_000


class Demand:
    """Queries of a workload and the target they come with.

    Attributes:
        workload: as asked for.
        sla: the target.
        sizes: some thousand query sizes.
        seed: of everything drawn.
    """

    def __init__(self, workload: Workload, sla: Sla, seed: int) -> None:
        self.workload, self.sla, self.seed = workload, sla, seed
        rng = np.random.default_rng([seed, 11])
        self.sizes: NDArray[np.int64] = workload.draw_sizes(_SIZES, rng)

    @property
    def largest(self) -> int:
        """Candidates of the largest query seen."""
        return int(self.sizes.max())

    @property
    def decisive(self) -> int:
        """The size at the SLA's percentile: most queries that must be in time are smaller."""
        return int(np.percentile(self.sizes, self.sla.percentile, method="inverted_cdf"))


def measure_service(
    loaded: LoadedModel,
    demand: Demand,
    seconds: float,
    clock: Clock,
    progress: Callable[[str, int, int], None],
) -> Profile:
    """Measure whole queries up to the largest, one at a time and on all cores at once.

    Args:
        loaded: the model.
        demand: decides ids and sizes.
        seconds: to take, roughly.
        clock: what tells the time.
        progress: as of ``engine.profile``.
    """
    rows = (*(n for n in _ROWS if n < demand.largest), demand.largest)
    cores = usable_cores()
    settings = ProfileSettings(
        rows=rows,
        concurrency=(1, cores) if cores > 1 else (1,),
        ids=(demand.workload.ids,),
        seconds=seconds,
        ceilings=False,
    )
    return profile(loaded, settings, clock, np.random.default_rng([demand.seed, 12]), progress)


def machine_of(found: Profile) -> Machine:
    """Return this machine for the simulator, as its profile shows it."""
    alone, full = found.loads[0].latency, found.loads[-1].latency
    ratios = [full.at(n, 50.0) / alone.at(n, 50.0) for n in alone.rows]
    service = knots_of(alone)
    return Machine(
        cores=found.loads[-1].concurrency,
        service=service,
        tower_ns=min(found.loads[0].tower_ns, shortest_ns(service)),
        interference=max(1.0, float(np.exp(np.mean(np.log(ratios))))),
        ratios=_scatter(found),
    )


def _scatter(found: Profile) -> tuple[float, ...]:
    """Return how service times spread about their median, from the percentiles measured."""
    latency = found.loads[-1].latency
    marks = np.array([0.0, *latency.percentiles])
    lines = np.array([[line[0], *line] for line in latency.ns])
    mean = (lines / lines[:, :1]).mean(axis=0)
    at = (np.arange(_SCATTER) + 0.5) / _SCATTER * 100
    return tuple(np.interp(at, marks, mean).tolist())


class OnSimulator:
    """Evaluates plans on a virtual clock; remembers the figures of each.

    Every plan meets the same seeds, so that differences are the plans' own.
    """

    def __init__(self, machine: Machine, demand: Demand, clock: Clock, queries: int) -> None:
        """Take in what is simulated.

        Args:
            machine: as measured.
            demand: what arrives.
            clock: real time, for the cost of an evaluation.
            queries: in one run; fewer where they are cut into very many chunks, but always as
                many as the SLA's percentile needs.
        """
        self.figures: dict[Plan, Figures] = {}
        self._machine, self._demand = machine, demand
        self._clock, self._queries = clock, queries
        self._fewest = max(_FEWEST, queries_to_plan(demand.sla.percentile))

    def __call__(self, plan: Plan) -> Score:
        """Find the plan's throughput, and its tail at half of it."""
        begun = self._clock.now()
        sla = self._demand.sla
        if self.alone_ns(plan) > sla.limit_ns:
            # Too late even with the machine to itself: no rate needs to be tried.
            note = f"a query of {self._demand.decisive:,} candidates alone misses the SLA"
            self.figures[plan] = Figures(
                lbt_qps=0.0, confirmed=True, half_tail_ms=None, points=[], note=note
            )
            return score_of(self.figures[plan], 0.0)
        settings = LbtSettings(
            sla=sla,
            start_qps=_START * self.expected_qps(plan),
            growth=1.5,
            evaluations=_SIMULATED_RUNS,
            seed=self._demand.seed,
        )
        found = find_lbt(lambda rate, seed: self._run(plan, rate, seed), settings)
        half = self._run(plan, found.lbt_qps / 2, -1) if found.lbt_qps else None
        self.figures[plan] = figures_of(found, half, sla)
        return score_of(self.figures[plan], to_seconds(self._clock.now() - begun))

    def add_low_rates(self, plan: Plan) -> None:
        """Add runs well below the throughput to the plan's figures, for a curve to draw."""
        known = self.figures[plan]
        rates = [share * known.lbt_qps for share in _LOW if known.lbt_qps]
        points = [point_of(self._run(plan, rate, -1), self._demand.sla) for rate in rates]
        points = sorted([*points, *known.points], key=lambda p: p.rate_qps)
        self.figures[plan] = msgspec.structs.replace(known, points=points)

    def alone_ns(self, plan: Plan) -> float:
        """Return what the decisive query takes at least, if it meets no other."""
        size, cores = self._demand.decisive, min(plan.workers, self._machine.cores)
        times = ServiceTimes(self._machine.service)
        if plan.policy == "adaptive":
            return times.of(-(-size // cores))
        chunks = -(-size // plan.split_size)
        one = times.of(-(-size // chunks))
        return one + (one - self._machine.tower_ns) * (-(-chunks // cores) - 1)

    def expected_qps(self, plan: Plan) -> float:
        """Return the rate in queries/s that would keep all workers at work, roughly."""
        return busy_qps(self._machine, plan, self._demand.sizes)

    def _run(self, plan: Plan, rate: float, seed: int) -> RunRecord:
        demand = self._demand
        rng = np.random.default_rng([demand.seed, 13, seed + 1])
        queries = max(self._fewest, int(self._queries / (1 + self._chunks(plan) / _MANY_CHUNKS)))
        seconds = queries / rate
        workload = demand.workload
        schedule = draw_schedule(rate, seconds, workload.draw_sizes, rng, workload.arrivals)
        return simulate(self._machine, plan, schedule, rng)

    def _chunks(self, plan: Plan) -> float:
        """Return into how many chunks a query is cut on average."""
        if plan.policy == "adaptive":
            return 1.0
        return float((-(-self._demand.sizes // plan.split_size)).mean())


class OnServer:
    """Evaluates plans by serving them: a server process for each, and open-loop load."""

    def __init__(
        self,
        bundle: Path,
        demand: Demand,
        clock: Clock,
        guess: Callable[[Plan], float],
        progress: Callable[[str], None],
    ) -> None:
        """Take in what is served.

        Args:
            bundle: the model.
            demand: what arrives.
            clock: real time.
            guess: rate in queries/s at which a search begins.
            progress: told of every run.
        """
        self.run_s = 2.0
        self.figures: dict[Plan, Figures] = {}
        self._bundle, self._demand, self._clock = bundle, demand, clock
        self._guess, self._progress = guess, progress

    def __call__(self, plan: Plan) -> Score:
        """Find the plan's throughput, and its tail at half of it.

        Raises:
            HeadwayError: if the server does not come up or does not score.
        """
        from headway.cli.processes import ServerProcess

        begun = self._clock.now()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "plan.json"
            file.write_bytes(msgspec.json.encode(plan))
            with ServerProcess(self._bundle, ("--plan", str(file))) as server:
                ready = server.ready
                found, half = self._measure(ready.url, ready.model, plan)
        self.figures[plan] = figures_of(found, half, self._demand.sla)
        return score_of(self.figures[plan], to_seconds(self._clock.now() - begun))

    def _measure(self, url: str, model: str, plan: Plan) -> tuple[LbtResult, RunRecord | None]:
        demand = self._demand
        settings = BenchSettings(
            workload=demand.workload,
            seconds=self.run_s,
            max_seconds=max(10.0, self.run_s),
            warmup_s=min(_WARMUP_S, self.run_s / 2),
            pool=max(8, min(_POOL, _POOL_CANDIDATES // demand.largest)),
            seed=demand.seed,
        )
        bench = Bench(url, model, settings)
        search = LbtSettings(
            sla=demand.sla,
            start_qps=max(1.0, min(self._guess(plan), self._wire_qps(bench))),
            growth=1.5,
            tolerance=0.08,
            evaluations=_REAL_RUNS if self.run_s >= 1 else _FEW_REAL_RUNS,
        )
        found = bench.lbt(search, self._tell)
        half = bench.rate(found.lbt_qps / 2, 10_000, demand.sla) if found.lbt_qps else None
        return found, half

    def _wire_qps(self, bench: Bench) -> float:
        """Return a rate that leaves the wire time: asking costs, even where scoring is cheap."""
        size = int(np.median(self._demand.sizes))
        record = bench.one_by_one(size, _ASKED, self._demand.seed)
        return 1e9 / max(1.0, float(np.median(record.latency_ns)))

    def _tell(self, point: LbtPoint) -> None:
        word = "met" if point.verdict.met else "missed"
        self._progress(f"{point.rate_qps:.0f} queries/s: {word}")


def figures_of(found: LbtResult, half: RunRecord | None, sla: Sla) -> Figures:
    """Return a search and the run at half its answer as figures."""
    points = points_of(found)
    tail = None
    if half is not None:
        points.append(point_of(half, sla))
        tail = points[-1].tail_ms
    return Figures(
        lbt_qps=found.lbt_qps,
        confirmed=found.confirmed,
        half_tail_ms=tail,
        points=sorted(points, key=lambda p: p.rate_qps),
        note=found.note,
    )


def score_of(figures: Figures, cost_s: float) -> Score:
    """Return figures as searches take them."""
    return Score(
        lbt_qps=figures.lbt_qps,
        confirmed=figures.confirmed,
        half_tail_ms=figures.half_tail_ms,
        cost_s=cost_s,
    )
