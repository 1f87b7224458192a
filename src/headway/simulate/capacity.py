"""How much one machine bears, and how many machines a load needs."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from headway.core import Sla
from headway.measure import LbtPoint, LbtResult, LbtSettings, RunRecord, find_lbt
from headway.simulate.fleet import BalancerName, FleetSpec
from headway.simulate.job import FleetJob, run_job
from headway.simulate.machine import capacity_qps
from headway.simulate.member import MachineKind
from headway.simulate.run import simulate
from headway.workload import Poisson, Workload, draw_schedule

_DRAWN = 20_000
_STEPS = 6
_MOST_TRIES = 6
_STEP_UP = 1.02
Positive = Annotated[int, Meta(ge=1)]


class SizingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a number of machines is found.

    Attributes:
        sla: what must hold.
        workload: sizes of queries; arrivals are Poisson, for a rate that lasts.
        balancer: in front of the machines.
        sample: machines that stand for all of them; a handful tracks the tail of a fleet
            (Gupta et al., "DeepRecSys", ISCA 2020).
        queries: of one run.
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


class Sizing(msgspec.Struct, frozen=True, kw_only=True):
    """Machines of one kind for a load; all figures but ``rate_qps`` are simulated.

    Attributes:
        kind: its name.
        rate_qps: that was asked for.
        bound: no fewer can do: every worker always busy at its best batch.
        alone: each with its own share of the queries, at its latency-bounded throughput.
        machines: behind the balancer, confirmed by a run that did not choose them.
        confirmed: they were; else no number was found that holds the SLA.
        lbt_qps: of one machine alone.
        tail_ms: the SLA's percentile in the confirming run.
        p99_ms: of that run.
        utilisation: of that run.
        cost_per_hour: of all machines.
        watts: of all machines at that utilisation.
    """

    kind: str
    rate_qps: float
    bound: int
    alone: int
    machines: int
    confirmed: bool
    lbt_qps: float
    tail_ms: float
    p99_ms: float
    utilisation: float
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
            rate_qps, settings.queries / rate_qps, sizes, np.random.default_rng([seed, 0])
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

    The load of one machine is searched from half of its latency-bounded throughput alone up to
    its capacity less the headroom, by bisection on a sample behind the balancer, and confirmed with another seed,
    stepping down by 2 % where that fails.

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
    sample = _Sample(rate_qps, ceil(rate_qps / top), kind, settings, tell)
    # Where a single machine misses the SLA at any rate, so does any number of them.
    most = top * (1 - settings.headroom)
    low = sample.search(min(alone_qps, most) / 2, most) if alone_qps else top
    confirmed = sample.holds(low)
    tries = _MOST_TRIES if alone_qps else 0
    while not confirmed and tries:
        low, tries = low / _STEP_UP, tries - 1
        confirmed = sample.holds(low)
    return sample.sizing(low, alone_qps, confirmed=confirmed)


class _Sample:
    """Some machines that stand for all; each question is a run of its own."""

    def __init__(
        self,
        rate_qps: float,
        bound: int,
        kind: MachineKind,
        settings: SizingSettings,
        tell: Callable[[str], None],
    ) -> None:
        self._rate = rate_qps
        self._bound = bound
        self._kind = kind
        self._settings = settings
        self._tell = tell
        self._size = min(settings.sample, bound)
        self._runs = 0
        self._last = (float("inf"), float("inf"), 0.0)

    def holds(self, machine_qps: float) -> bool:
        """Return whether the SLA holds with so many queries per second for each machine."""
        settings, sla = self._settings, self._settings.sla
        self._tell(f"{self._kind.name}: {ceil(self._rate / machine_qps):,} machines")
        self._runs += 1
        rate = machine_qps * self._size
        duration = max(settings.queries / rate, 20 * sla.limit_ns / 1e9)
        job = FleetJob(
            spec=FleetSpec(
                kinds=(msgspec.structs.replace(self._kind, count=self._size),),
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
        self._last = (tail, p99, run.utilisation)
        return run.met and run.refused + run.late <= settings.most_lost * run.queries

    def search(self, low: float, high: float) -> float:
        """Return the highest load of a machine that held, from one that is taken to hold."""
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.holds(middle) else (low, middle)
        return low

    def sizing(self, machine_qps: float, alone_qps: float, *, confirmed: bool) -> Sizing:
        """Return what so many queries per second for each machine come to."""
        machine, (tail, p99, busy) = self._kind.machine, self._last
        machines = max(self._bound, ceil(self._rate / machine_qps))
        watts = machine.idle_watts + busy * (machine.busy_watts - machine.idle_watts)
        return Sizing(
            kind=self._kind.name,
            rate_qps=self._rate,
            bound=self._bound,
            alone=ceil(self._rate / alone_qps) if alone_qps else 0,
            machines=machines,
            confirmed=confirmed,
            lbt_qps=alone_qps,
            tail_ms=tail,
            p99_ms=p99,
            utilisation=busy,
            cost_per_hour=machines * machine.price_per_hour,
            watts=machines * watts,
        )
