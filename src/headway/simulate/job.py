"""A fleet, its workload and its seeds: several runs side by side, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from headway.core import Sla
from headway.measure import LatencyHistogram, Percentile
from headway.simulate.fleet import FleetSpec, simulate_fleet
from headway.simulate.scale import Known, Oracle
from headway.simulate.series import FleetRun
from headway.workload import Schedule, Workload, stream_schedule

Positive = Annotated[float, Meta(gt=0)]


class FleetJob(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet under a load.

    Attributes:
        spec: the fleet.
        workload: sizes of queries, and how they arrive.
        rate_qps: mean rate.
        duration_s: of the schedule.
        window_s: of the series.
        lbt_qps: throughput of one machine by kind, for autoscaling; empty where unknown.
    """

    spec: FleetSpec
    workload: Workload
    rate_qps: Positive
    duration_s: Positive
    window_s: Positive
    lbt_qps: tuple[float, ...] = ()


class FleetTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Runs with several seeds as one; counts are sums, the rest means of a run.

    Attributes:
        queries, refused, late, failed, retried, lightened, violations: of all runs.
        percentiles: of all latencies, with intervals; the SLA's is the last.
        met: the SLA holds over all latencies.
        violation_s: seconds in violation.
        utilisation, machine_hours, most_machines, cost, joules: of a run.
        queries_per_joule: answered within the SLA; None where no watts are given.
    """

    queries: int
    refused: int
    late: int
    failed: int
    retried: int
    lightened: int
    violations: int
    percentiles: tuple[Percentile, ...]
    met: bool
    violation_s: float
    utilisation: float
    machine_hours: float
    most_machines: int
    cost: float
    joules: float
    queries_per_joule: float | None


def run_job(job: FleetJob, seed: int, progress: Callable[[int], None] | None = None) -> FleetRun:
    """Simulate a job once; equal seeds give equal runs.

    Raises:
        UsageError: if the job cannot be.
        DataError: if a trace cannot be read.
    """
    return simulate_fleet(
        job.spec,
        _blocks(job, seed),
        job.window_s,
        np.random.default_rng([seed, 1]),
        _known(job, seed),
        progress,
    )


def run_seeds(
    job: FleetJob,
    seeds: Sequence[int],
    processes: int,
    progress: Callable[[int], None] | None = None,
) -> list[FleetRun]:
    """Simulate a job once per seed, in processes of their own.

    Args:
        job: what is simulated.
        seeds: of the runs.
        processes: at the same time; with one, all happens in this process.
        progress: told how many queries have arrived, roughly.

    Returns:
        A run per seed, in their order, whatever the number of processes.

    Raises:
        UsageError: if the job cannot be.
        DataError: if a trace cannot be read.
    """
    tell = progress or (lambda _: None)
    expected = int(job.workload.arrivals.expected(job.rate_qps, job.duration_s))
    if processes <= 1 or len(seeds) == 1:
        return [
            run_job(job, seed, lambda done, before=i * expected: tell(before + done))  # type: ignore[misc]
            for i, seed in enumerate(seeds)
        ]
    context = get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(seeds)), mp_context=context) as pool:
        waiting = [pool.submit(run_job, job, seed) for seed in seeds]
        for count, _ in enumerate(as_completed(waiting), 1):
            tell(count * expected)
        return [future.result() for future in waiting]


def merge_latency(runs: Sequence[FleetRun]) -> LatencyHistogram:
    """Return the latencies of all runs; what is one histogram per run is one for all."""
    merged = LatencyHistogram()
    for run in runs:
        merged.merge(run.latency)
    return merged


def sum_up(runs: Sequence[FleetRun], sla: Sla) -> FleetTotals:
    """Return what several runs say together.

    Args:
        runs: at least one.
        sla: what they are judged by.
    """

    def total(name: str) -> int:
        return sum(getattr(run, name) for run in runs)

    def mean(name: str) -> float:
        return float(np.mean([getattr(run, name) for run in runs]))

    wanted = (50.0, 95.0, 99.0, 99.9, sla.percentile)
    percentiles = merge_latency(runs).percentiles(wanted)
    good, joules = total("queries") - total("violations"), sum(run.joules for run in runs)
    return FleetTotals(
        queries=total("queries"),
        refused=total("refused"),
        late=total("late"),
        failed=total("failed"),
        retried=total("retried"),
        lightened=total("lightened"),
        violations=total("violations"),
        percentiles=percentiles,
        met=percentiles[-1].value_ms * 1e6 <= sla.limit_ns,
        violation_s=mean("violation_s"),
        utilisation=mean("utilisation"),
        machine_hours=mean("machine_hours"),
        most_machines=max(run.most_machines for run in runs),
        cost=mean("cost"),
        joules=mean("joules"),
        queries_per_joule=good / joules if joules else None,
    )


def _blocks(job: FleetJob, seed: int) -> Iterator[Schedule]:
    return stream_schedule(
        job.rate_qps,
        job.duration_s,
        job.workload.draw_sizes,
        np.random.default_rng([seed, 0]),
        job.workload.arrivals,
    )


def _known(job: FleetJob, seed: int) -> Known | None:
    """Return what the autoscaling policy may know; only the oracle sees the schedule."""
    spec, scale = job.spec, job.spec.autoscale
    if scale is None or not job.lbt_qps:
        return None
    others = [
        kind.count * lbt
        for i, (kind, lbt) in enumerate(zip(spec.kinds, job.lbt_qps, strict=True))
        if i != spec.scaled
    ]
    rates: tuple[float, ...] = ()
    if isinstance(scale.policy, Oracle):
        rates = _rates(_blocks(job, seed), scale.look_s, job.duration_s)
    return Known(
        lbt_qps=job.lbt_qps[spec.scaled],
        base_qps=sum(others),
        ahead_s=scale.startup_s + scale.look_s,
        look_s=scale.look_s,
        rates=rates,
    )


def _rates(blocks: Iterator[Schedule], look_s: float, duration_s: float) -> tuple[float, ...]:
    """Return queries per second, look by look."""
    counts = np.zeros(int(np.ceil(duration_s / look_s)) + 1)
    for block in blocks:
        looks = (block.intended_ns / (look_s * 1e9)).astype(np.int64)
        counts += np.bincount(looks, minlength=len(counts))[: len(counts)]
    return tuple((counts / look_s).tolist())
