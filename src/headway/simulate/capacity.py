"""How much one machine bears, and how many machines a load needs."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, sqrt
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from headway.core import Sla
from headway.measure import (
    LbtPoint,
    LbtResult,
    LbtSettings,
    RunRecord,
    find_lbt,
    queries_to_plan,
)
from headway.simulate.fleet import BalancerName, FleetSpec
from headway.simulate.job import FleetJob, run_job
from headway.simulate.machine import capacity_qps
from headway.simulate.member import MachineKind
from headway.simulate.run import simulate
from headway.workload import Poisson, Workload, draw_schedule

_DRAWN = 20_000
_MOST_TRIES = 6
_MOST_DOUBLINGS = 8
_STEP_UP = 1.02
Positive = Annotated[int, Meta(ge=1)]


class SizingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a number of machines is found.

    Attributes:
        sla: what must hold.
        workload: sizes of queries; arrivals are Poisson, for a rate that lasts.
        balancer: in front of the machines.
        sample: machines at most that stand for all of them; a handful tracks the tail of a
            fleet (Gupta et al., "DeepRecSys", ISCA 2020).
        queries: of one run, or more where the SLA's percentile needs them.
        most_lost: share of the queries that may be refused or late; an SLA of p95 alone would
            let a machine that is always full turn 5 % away.
        headroom: share of a machine's capacity that is kept free in any case: close to
            saturation queues grow for so long that no run tells their end.
        seed: of the first run; every run has its own.
    """

    sla: Sla = Sla()
    workload: Workload = Workload()
    balancer: BalancerName = "least-expected-finish"
    sample: Positive = 8
    queries: Annotated[int, Meta(ge=1000)] = 12_000
    most_lost: Annotated[float, Meta(ge=0, lt=1)] = 0.001
    headroom: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    seed: int = 0

    @property
    def run_queries(self) -> int:
        """Queries of one run: with fewer no run could show that the percentile holds."""
        return max(self.queries, queries_to_plan(self.sla.percentile))


class Sizing(msgspec.Struct, frozen=True, kw_only=True):
    """Machines of one kind for a load; all figures but ``rate_qps`` are simulated.

    Attributes:
        kind: its name.
        rate_qps: that was asked for.
        bound: no fewer can do: every worker always busy at its best batch.
        alone: each with its own share of the queries, at its latency-bounded throughput, which
            may refuse as many as the SLA leaves out.
        machines: behind the balancer, confirmed by a run that did not choose them.
        confirmed: they were; else no number was found that holds the SLA.
        sample: machines that were simulated, each with as many queries as one of all of them.
        lbt_qps: of one machine alone.
        tail_ms: the SLA's percentile in the confirming run.
        p99_ms: of that run.
        utilisation: of that run.
        lost: share of the queries of that run that were refused or late.
        cost_per_hour: of all machines.
        watts: of all machines at that utilisation.
    """

    kind: str
    rate_qps: float
    bound: int
    alone: int
    machines: int
    confirmed: bool
    sample: int
    lbt_qps: float
    tail_ms: float
    p99_ms: float
    utilisation: float
    lost: float
    cost_per_hour: float
    watts: float


def highest_qps(kind: MachineKind, workload: Workload, seed: int = 0) -> float:
    """Return the queries per second that a machine can do at most, whatever their latency."""
    sizes = workload.draw_sizes(_DRAWN, np.random.default_rng([seed, 7]))
    slower = float(np.mean(kind.machine.ratios or (1.0,)))
    return capacity_qps(kind.machine, float(sizes.mean())) / slower


def machine_lbt(
    kind: MachineKind, settings: SizingSettings, progress: Callable[[LbtPoint], None] | None = None
) -> LbtResult:
    """Return the latency-bounded throughput of one simulated machine.

    Args:
        kind: of the machine.
        settings: the SLA, the workload, queries per run and the seed.
        progress: told of every run.
    """
    top = highest_qps(kind, settings.workload, settings.seed)
    sizes = settings.workload.draw_sizes

    def evaluate(rate_qps: float, seed: int) -> RunRecord:
        schedule = draw_schedule(
            rate_qps, settings.run_queries / rate_qps, sizes, np.random.default_rng([seed, 0])
        )
        return simulate(kind.machine, kind.plan, schedule, np.random.default_rng([seed, 1]))

    search = LbtSettings(
        sla=settings.sla,
        start_qps=top / 2,
        growth=2.0,
        tolerance=0.02,
        lowest_qps=top / 1000,
        highest_qps=1.5 * top,
        seed=settings.seed,
    )
    return find_lbt(evaluate, search, progress)


def machines_for(
    rate_qps: float,
    kind: MachineKind,
    settings: SizingSettings,
    progress: Callable[[str], None] | None = None,
) -> Sizing:
    """Return how many machines of a kind a rate needs, found with a sample of them.

    Numbers are tried from what leaves each machine its headroom up to twice what machines on
    their own need, or as often doubled as it takes, by bisection to 2 %, on a sample behind the
    balancer (on all of them where they are few). The answer is confirmed with another seed; where
    that fails, 2 % are added, then 4 %, and so on.

    Args:
        rate_qps: queries per second of all machines together.
        kind: of the machines; its count does not matter.
        settings: how.
        progress: told what is being tried.
    """
    tell = progress or (lambda _: None)
    tell(f"{kind.name}: one machine")
    alone_qps = machine_lbt(kind, settings).lbt_qps
    top = highest_qps(kind, settings.workload, settings.seed)
    bound = ceil(rate_qps / top)
    sample = _Sample(rate_qps, kind, settings, tell)
    if not alone_qps:
        # Where a single machine misses the SLA at any rate, so does any number of them.
        sample.holds(bound)
        return sample.sizing(bound, bound, 0.0, confirmed=False)
    least = ceil(rate_qps / (top * (1 - settings.headroom)))
    machines = sample.search(least, max(least, 2 * ceil(rate_qps / alone_qps)))
    confirmed = sample.holds(machines)
    for tried in range(_MOST_TRIES):
        if confirmed:
            break
        more = 1 + (_STEP_UP - 1) * 2**tried
        machines = max(machines + 1, ceil(machines * more))
        confirmed = sample.holds(machines)
    return sample.sizing(machines, bound, alone_qps, confirmed=confirmed)


class _Sample:
    """Some machines that stand for all; each question is a run of its own."""

    def __init__(
        self,
        rate_qps: float,
        kind: MachineKind,
        settings: SizingSettings,
        tell: Callable[[str], None],
    ) -> None:
        self._rate = rate_qps
        self._kind = kind
        self._settings = settings
        self._tell = tell
        self._runs = 0
        self._last = (float("inf"), float("inf"), 0.0, 1.0)

    def holds(self, machines: int) -> bool:
        """Return whether the SLA holds with so many machines."""
        settings, sla = self._settings, self._settings.sla
        self._tell(f"{self._kind.name}: {machines:,} machines")
        self._runs += 1
        size = self._size(machines)
        rate = self._rate / machines * size
        duration = max(settings.run_queries / rate, 20 * sla.limit_ns / 1e9)
        job = FleetJob(
            spec=FleetSpec(
                kinds=(msgspec.structs.replace(self._kind, count=size),),
                sla=sla,
                balancer=settings.balancer,
            ),
            workload=msgspec.structs.replace(settings.workload, arrivals=Poisson()),
            rate_qps=rate,
            duration_s=duration,
            window_s=duration,
        )
        run = run_job(job, settings.seed + 1000 + self._runs)
        p99, tail = (p.value_ms for p in run.latency.percentiles((99.0, sla.percentile)))
        lost = (run.refused + run.late) / run.queries
        self._last = (tail, p99, run.utilisation, lost)
        return run.met and lost <= settings.most_lost

    def search(self, least: int, most: int) -> int:
        """Return the fewest machines that held, to 2 %; ``most`` is doubled until it holds."""
        low, high = least - 1, most
        for _ in range(_MOST_DOUBLINGS):
            if self.holds(high):
                break
            low, high = high, 2 * high
        while high - low > 1 and high > low * _STEP_UP:
            middle = min(high - 1, max(low + 1, round(sqrt(max(1, low) * high))))
            low, high = (low, middle) if self.holds(middle) else (middle, high)
        return high

    def sizing(self, machines: int, bound: int, alone_qps: float, *, confirmed: bool) -> Sizing:
        """Return what so many machines come to, with the figures of the last run."""
        machine, (tail, p99, busy, lost) = self._kind.machine, self._last
        watts = machine.idle_watts + busy * (machine.busy_watts - machine.idle_watts)
        return Sizing(
            kind=self._kind.name,
            rate_qps=self._rate,
            bound=bound,
            alone=ceil(self._rate / alone_qps) if alone_qps else 0,
            machines=machines,
            confirmed=confirmed,
            sample=self._size(machines),
            lbt_qps=alone_qps,
            tail_ms=tail,
            p99_ms=p99,
            utilisation=busy,
            lost=lost,
            cost_per_hour=machines * machine.price_per_hour,
            watts=machines * watts,
        )

    def _size(self, machines: int) -> int:
        return min(self._settings.sample, machines)
