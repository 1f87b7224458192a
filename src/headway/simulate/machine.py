"""A machine to simulate: its cores, its accelerators, and how busy cores hold each other up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, log
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from headway.core import Knots, Plan, UsageError, check_tower
from headway.measure import LatencyProfile
from headway.scheduler import ServiceTimes

Positive = Annotated[int, Meta(ge=1)]
_RATIOS = 4096
Speedups = tuple[tuple[int, float], ...]
"""(batch, times as fast as one core), batches rising."""

GTX_1080_TI: Mapping[str, Speedups] = {
    name: tuple(zip((1, 4, 16, 64, 256, 1024), values, strict=True))
    for name, values in {
        "wnd": (0.47, 0.62, 0.82, 1.63, 3.29, 4.62),
        "mt-wnd": (0.43, 0.60, 0.75, 1.38, 2.67, 3.97),
        "rmc3": (0.70, 1.37, 1.83, 2.45, 3.05, 3.13),
        "ncf": (0.25, 0.33, 0.37, 0.95, 1.71, 2.92),
        "dien": (0.37, 0.43, 0.52, 0.80, 1.45, 1.99),
        "din": (0.25, 0.28, 0.42, 0.54, 0.97, 1.36),
        "rmc2": (0.44, 0.72, 1.02, 1.19, 1.18, 1.17),
        "rmc1": (0.37, 0.51, 0.83, 1.02, 1.13, 1.11),
    }.items()
}
"""Speed over one Skylake core, loading of the inputs included, from the figures published with
DeepRecSys (Gupta et al., ISCA 2020)."""


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one machine can do.

    Attributes:
        cores: workers of the first kind at most.
        service: nanoseconds of one core, alone on the machine, by candidates.
        interference: how many times longer a core takes when all cores are busy; in between in
            proportion to the busy ones.
        ratios: what a piece of work takes over what ``service`` says, drawn evenly; empty: as it
            says.
        rested_service: of a core that had nothing to do for long, so that caches hold others'
            rows and weights; empty: as ``service``.
        tower_ns: part of ``service`` that the query tower takes, once for each query.
        front_ns: processor time that a query takes from the process around the workers, half as
            it comes and half as its answer goes; a core without work has it to spare, else one
            that works is held up.
        rest_ns: after so long without work a core is as good as rested (63 % of the way).
        accelerators: workers of the second kind.
        accelerator_service: nanoseconds of one of them, by candidates.
        price_per_hour: of the machine, in any money.
        idle_watts: power without work.
        busy_watts: power with all cores and accelerators at work.
    """

    cores: Positive
    service: Knots
    interference: Annotated[float, Meta(ge=1)] = 1.0
    ratios: tuple[float, ...] = ()
    rested_service: Knots = ()
    tower_ns: Annotated[int, Meta(ge=0)] = 0
    front_ns: Annotated[int, Meta(ge=0)] = 0
    rest_ns: Positive = 4_000_000
    accelerators: Annotated[int, Meta(ge=0)] = 0
    accelerator_service: Knots = ()
    price_per_hour: Annotated[float, Meta(ge=0)] = 0.0
    idle_watts: Annotated[float, Meta(ge=0)] = 0.0
    busy_watts: Annotated[float, Meta(ge=0)] = 0.0

    def __post_init__(self) -> None:
        """Refuse a machine that cannot compute.

        Raises:
            UsageError: naming what is missing.
        """
        if not self.service:
            raise UsageError("a machine needs the service times of a core; give machine.service")
        if self.accelerators and not self.accelerator_service:
            raise UsageError(
                f"{self.accelerators} accelerators need service times; give "
                "machine.accelerator_service"
            )
        check_tower("machine", self.tower_ns, self.service)
        if any(r <= 0 for r in self.ratios):
            raise UsageError("machine.ratios must be positive")

    def workers(self, plan: Plan) -> int:
        """Return how many of its cores and accelerators a plan uses."""
        return min(plan.workers, self.cores) + min(plan.accelerators, self.accelerators)

    def factors(self, busy: int) -> float:
        """Return how much longer work takes while so many cores are busy, itself included."""
        if self.cores == 1:
            return 1.0
        return 1 + (self.interference - 1) * (busy - 1) / (self.cores - 1)


def knots_of(profile: LatencyProfile, percentile: float = 50.0) -> Knots:
    """Return a profile's service times, made to rise with the candidates."""
    times = np.maximum.accumulate([profile.at(n, percentile) for n in profile.rows])
    return tuple(zip(profile.rows, times.astype(int).tolist(), strict=True))


def ratios_of(
    samples_ns: Sequence[NDArray[np.int64]], rng: np.random.Generator
) -> tuple[float, ...]:
    """Return how much measured times scatter about the median of their size.

    Args:
        samples_ns: times of one size each.
        rng: draws equally from all sizes.
    """
    each = _RATIOS // max(1, len(samples_ns))
    drawn = [rng.choice(s, each) / np.median(s) for s in samples_ns if len(s)]
    return tuple(np.concatenate(drawn).tolist()) if drawn else ()


def scaled(service: Knots, factor: float) -> Knots:
    """Return service times that are all so many times as long."""
    return tuple((n, max(1, round(ns * factor))) for n, ns in service)


def accelerated(service: Knots, speedups: Speedups) -> Knots:
    """Return an accelerator's times from those of a core and its speed beside it.

    The speed between two batches is interpolated over the logarithm of the batch; outside it
    stays as it is at the end.
    """
    rows = sorted({n for n, _ in speedups} | {n for n, _ in service})
    alone = ServiceTimes(service)
    core = np.array([alone.of(n) for n in rows])
    batches = [log(n) for n, _ in speedups]
    speed = np.interp([log(n) for n in rows], batches, [s for _, s in speedups])
    times = np.maximum.accumulate(core / speed)
    return tuple(zip(rows, np.rint(times).astype(int).tolist(), strict=True))


def best_rate(
    service: Knots, most: int = 1024, within_ns: float = inf, tower_ns: float = 0.0
) -> float:
    """Return candidates per nanosecond of a worker that always has its best batch size.

    Args:
        service: nanoseconds by candidates.
        most: candidates in a batch.
        within_ns: batches that take longer do not count; 0.0 if all do.
        tower_ns: part of each time that is counted elsewhere.
    """
    times = np.array(ServiceTimes(service).curve(most)[1:])
    rates = np.arange(1, most + 1) / np.maximum(1.0, times - tower_ns)
    return float(rates[times <= within_ns].max(initial=0.0))


def capacity_qps(
    machine: Machine, mean_size: float, most: int = 1024, within_ns: float = inf
) -> float:
    """Return the queries per second with every worker always busy at its best batch size.

    Args:
        machine: all of it.
        mean_size: candidates of a query; each query pays its query tower beside them.
        most: candidates in a batch.
        within_ns: batches that take longer do not count.
    """
    slower, tower = machine.interference, machine.tower_ns
    best = best_rate(machine.service, most, within_ns / slower, tower)
    rate = machine.cores / slower / (mean_size / best + tower) if best else 0.0
    if machine.accelerators:
        best = best_rate(machine.accelerator_service, most, within_ns)
        rate += machine.accelerators * best / mean_size
    return rate * 1e9


def busy_qps(machine: Machine, plan: Plan, sizes: NDArray[np.int64]) -> float:
    """Return the queries per second at which a plan's cores or accelerators are never idle.

    No rate above it can be served for long. An adaptive plan is taken to find the best batches
    up to its split size, on all cores.

    Args:
        machine: which runs the plan.
        plan: fixed or adaptive.
        sizes: int64 ``[queries]`` that stand for those that arrive.
    """
    if plan.policy == "adaptive":
        return capacity_qps(machine, float(sizes.mean()), plan.split_size)
    away = (sizes >= plan.offload_candidates) & bool(plan.offload_candidates)
    chunks = -(-sizes // plan.split_size)
    largest = int(sizes.max())
    alone = np.array(ServiceTimes(machine.service).curve(largest))
    queries = chunks * alone[-(-sizes // chunks)] - (chunks - 1) * machine.tower_ns
    work = float((queries * ~away).mean()) * machine.interference
    needs = work / min(plan.workers, machine.cores)
    if plan.offload_candidates:
        whole = np.array(ServiceTimes(machine.accelerator_service).curve(largest))
        needs = max(needs, float((whole[sizes] * away).mean()) / machine.accelerators)
    return 1e9 / needs
