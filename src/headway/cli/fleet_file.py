"""The config file of ``headway simulate``: machines, load, balancer, faults, autoscaling."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from headway.cli.service_times import ServiceSettings, Timed, service_times
from headway.cli.yaml_file import read_yaml
from headway.core import ConfigError, Ns, Plan, Sla, UsageError, from_ms, parse_sla, shortest_ns
from headway.simulate import (
    Autoscale,
    BalancerName,
    Failures,
    FleetSpec,
    Machine,
    MachineKind,
    Stragglers,
    scaled,
    series_length_s,
)
from headway.workload import Counts, Trace, Workload

_LARGEST = 1000
_MOST_QUERIES = 1e9
_MOST_EVENTS = 1e6
_LARGEST_NUMBER = 1e12
Positive = Annotated[int, Meta(ge=1)]
Amount = Annotated[float, Meta(ge=0)]


class PlanSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scheduler of a machine; workers are all its cores and accelerators.

    Attributes:
        policy: ``adaptive``, sizes that follow the load; or ``fixed``.
        split_size: most candidates of a chunk; 0: with a fixed policy those of the largest query
            over the cores, as in the static baseline, with an adaptive one 1,024.
        batch_candidates: a fixed policy batches chunks up to this; 0: never.
        queue_candidates: that may wait.
        timeout_ms: after which an answer is of no use.
        refuse_late: an adaptive policy turns away what it foresees to miss the SLA.
        lighter: share of the time that a lighter bundle takes, which then answers what would be
            turned away, as far as it is in time; 0: there is none.
        offload_candidates: a fixed policy sends queries from this size on to accelerators.
    """

    policy: Literal["adaptive", "fixed"] = "adaptive"
    split_size: Annotated[int, Meta(ge=0)] = 0
    batch_candidates: Annotated[int, Meta(ge=0)] = 0
    queue_candidates: Positive = 65_536
    timeout_ms: Annotated[float, Meta(gt=0)] = 1000.0
    refuse_late: bool = True
    lighter: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    offload_candidates: Annotated[int, Meta(ge=0)] = 0


class MachineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Machines of one kind.

    Attributes:
        name: of the kind.
        count: at the start.
        cores: of one machine; each is a worker.
        service: times of one core.
        interference: how many times longer a core takes when all are busy; by default as the
            profile says, where there is one, and else 1.
        rested: how many times longer a core takes that had nothing to do for long.
        rest_ms: after so long it is 63 % of the way there.
        tower_ms: part of each time of a core that the query tower takes, once for each query;
            by default as the profile says, where there is one, and else 0.
        front_ms: processor time that a query takes from the process around the workers; matters
            while all cores work.
        accelerators: of one machine.
        accelerator: their times.
        price_per_hour: in any money.
        idle_watts: without work.
        busy_watts: with all workers at work.
        plan: of its scheduler; by default that of the fleet.
    """

    name: Annotated[str, Meta(min_length=1, max_length=60)]
    count: Annotated[int, Meta(ge=0, le=10_000)] = 1
    cores: Annotated[int, Meta(ge=1, le=1024)]
    service: ServiceSettings
    interference: Annotated[float, Meta(ge=1)] | None = None
    rested: Annotated[float, Meta(ge=1)] = 1.0
    rest_ms: Annotated[float, Meta(gt=0)] = 4.0
    tower_ms: Annotated[float, Meta(ge=0)] | None = None
    front_ms: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    accelerators: Annotated[int, Meta(ge=0, le=64)] = 0
    accelerator: ServiceSettings | None = None
    price_per_hour: Amount = 0.0
    idle_watts: Amount = 0.0
    busy_watts: Amount = 0.0
    plan: PlanSettings | None = None


class FleetFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything about one simulation.

    Attributes:
        workload: sizes and arrivals, as keys or in the short form of ``--workload``.
        rate: mean queries per second; that of factor 1 where arrivals go in steps.
        duration_s: of the schedule.
        sla: such as ``p95=25ms``.
        seed: of the first run.
        window_s: of the series over time; 0: at most 120 windows, with enough queries each.
        balancer: how queries are spread.
        plan: of all machines that have none of their own.
        machines: by kind.
        failures: how machines go away.
        stragglers: which are slow.
        autoscale: how the number of machines follows the load.
    """

    workload: str | Workload = "production"
    rate: Annotated[float, Meta(gt=0, le=1e9)]
    duration_s: Annotated[float, Meta(gt=0, le=1e8)]
    sla: str = "p95=25ms"
    seed: Annotated[int, Meta(ge=0)] = 0
    window_s: Amount = 0.0
    balancer: BalancerName = "least-expected-finish"
    plan: PlanSettings = PlanSettings()
    machines: Annotated[tuple[MachineSettings, ...], Meta(min_length=1)]
    failures: Failures | None = None
    stragglers: Stragglers | None = None
    autoscale: Autoscale | None = None


class Simulation(msgspec.Struct, frozen=True):
    """What a file asks for, its times and traces looked into."""

    spec: FleetSpec
    workload: Workload
    rate_qps: float
    duration_s: float
    window_s: float
    seed: int


def read_fleet(path: Path) -> Simulation:
    """Return what a fleet file asks for.

    Paths in it start at its folder; those in a workload's short form at the current one.

    Raises:
        ConfigError: naming the file, the path of the key and the remedy.
        DataError: if a profile or a trace cannot be read.
    """
    file = read_yaml(path, FleetFile)
    try:
        _check_numbers(msgspec.to_builtins(file), "")
        return _simulation(file, path.parent)
    except UsageError as error:
        raise ConfigError(f"{path}: {error}") from error


def _simulation(file: FleetFile, folder: Path) -> Simulation:
    sla = parse_sla(file.sla)
    workload = _workload(file.workload, folder)
    spec = FleetSpec(
        kinds=tuple(_kind(m, m.plan or file.plan, sla, folder) for m in file.machines),
        sla=sla,
        balancer=file.balancer,
        failures=file.failures,
        stragglers=file.stragglers,
        autoscale=file.autoscale,
    )
    if file.window_s > file.duration_s:
        raise UsageError(f"window_s {file.window_s:g} is longer than duration_s")
    _check_effort(file, workload)
    window_s = file.window_s or series_length_s(file.duration_s, file.rate, sla)
    return Simulation(spec, workload, file.rate, file.duration_s, window_s, file.seed)


def _check_numbers(part: object, place: str) -> None:
    """Refuse infinity and what would become it."""
    if isinstance(part, dict):
        for key, inner in part.items():
            _check_numbers(inner, f"{place}.{key}")
    elif isinstance(part, list | tuple):
        for index, inner in enumerate(part):
            _check_numbers(inner, f"{place}[{index}]")
    elif isinstance(part, float) and part > _LARGEST_NUMBER:
        raise UsageError(f"{place[1:]} is {part:g}; give at most {_LARGEST_NUMBER:g}")


def _check_effort(file: FleetFile, workload: Workload) -> None:
    """Refuse a small file that would mean hours of computing, or what would never happen."""
    queries = workload.arrivals.expected(file.rate, file.duration_s)
    if queries > _MOST_QUERIES:
        raise UsageError(
            f"rate, duration_s and workload come to {queries:.3g} queries; at most {_MOST_QUERIES:.0e} are "
            "simulated, lower one of them (a handful of machines tells a fleet's tail)"
        )
    for name, span_s, times in _spans(file):
        if span_s and times * file.duration_s / span_s > _MOST_EVENTS:
            least = times * file.duration_s / _MOST_EVENTS
            raise UsageError(
                f"{name} {span_s:g} is too short for this run; give {least:.2g} or more"
            )
    for outage in file.failures.outages if file.failures is not None else ():
        if outage.at_s > file.duration_s:
            raise UsageError(
                f"failures.outages: at_s {outage.at_s:g} is after the end, duration_s "
                f"{file.duration_s:g}"
            )


def _spans(file: FleetFile) -> Iterator[tuple[str, float, int]]:
    """Yield what happens again and again: key, seconds in between, to how many machines."""
    yield "window_s", file.window_s, 1
    machines = sum(machine.count for machine in file.machines)
    if file.failures is not None:
        yield "failures.mean_s", file.failures.mean_s, machines
    if file.stragglers is not None and file.stragglers.of == "time":
        yield "stragglers.spell_s", file.stragglers.spell_s, machines
    if file.autoscale is not None:
        yield "autoscale.look_s", file.autoscale.look_s, 1


def _workload(given: str | Workload, folder: Path) -> Workload:
    if isinstance(given, str):
        return Workload.parse(given)
    replace = msgspec.structs.replace
    if given.sizes == "histogram":
        given = replace(given, path=str(folder / given.path))
    arrivals = given.arrivals
    if isinstance(arrivals, Trace | Counts):
        given = replace(given, arrivals=replace(arrivals, path=str(folder / arrivals.path)))
    _ = given.draw_sizes
    given.arrivals.check()
    return given


def _kind(given: MachineSettings, plan: PlanSettings, sla: Sla, folder: Path) -> MachineKind:
    place = f"machines {given.name!r}"
    core = service_times(given.service, folder, f"{place}: service")
    helper = Timed()
    if given.accelerator is not None:
        helper = service_times(
            given.accelerator, folder, f"{place}: accelerator", core.knots, given.service.model
        )
    if bool(given.accelerators) != (given.accelerator is not None):
        raise UsageError(f"{place}: accelerators and accelerator go together; give both or none")
    if 0 < given.busy_watts < given.idle_watts:
        raise UsageError(f"{place}: busy_watts {given.busy_watts:g} are below idle_watts")
    for times in (core.knots, helper.knots):
        for (rows, ns), (more, following) in pairwise(times):
            if ns > following:
                raise UsageError(
                    f"{place}: service times must not fall with more candidates, but {rows} take "
                    f"{ns / 1000:g} us and {more} take {following / 1000:g} us"
                )
    ns = shortest_ns(core.knots)
    tower = core.tower_ns if given.tower_ms is None else from_ms(given.tower_ms)
    if tower > ns:
        raise UsageError(
            f"{place}: tower_ms {tower / 1e6:g} is more than the {ns / 1e6:g} ms that the smallest "
            "chunk takes with it; give the part of it that is the query tower's"
        )
    machine = Machine(
        cores=given.cores,
        service=core.knots,
        interference=given.interference or core.interference,
        ratios=core.ratios,
        rested_service=scaled(core.knots, given.rested) if given.rested > 1 else (),
        rest_ns=max(1, from_ms(given.rest_ms)),
        tower_ns=tower,
        front_ns=from_ms(given.front_ms),
        accelerators=given.accelerators,
        accelerator_service=helper.knots,
        price_per_hour=given.price_per_hour,
        idle_watts=given.idle_watts,
        busy_watts=max(given.busy_watts, given.idle_watts),
    )
    return MachineKind(
        name=given.name, machine=machine, plan=_plan(machine, plan, sla), count=given.count
    )


def _plan(machine: Machine, given: PlanSettings, sla: Sla) -> Plan:
    if given.lighter and not (given.policy == "adaptive" and given.refuse_late):
        raise UsageError(
            f"plan.lighter {given.lighter:g} needs policy adaptive and refuse_late true, for the "
            "lighter bundle answers what would be turned away"
        )
    static = max(1, ceil(_LARGEST / machine.cores)) if given.policy == "fixed" else 1024
    return Plan(
        workers=machine.cores,
        policy=given.policy,
        split_size=given.split_size or static,
        batch_candidates=given.batch_candidates,
        queue_candidates=given.queue_candidates,
        timeout_ns=from_ms(given.timeout_ms),
        target_ns=sla.limit_ns,
        refuse_late=given.refuse_late,
        accelerators=machine.accelerators,
        offload_candidates=given.offload_candidates,
        service=machine.service,
        accelerator_service=machine.accelerator_service,
        lighter_service=scaled(machine.service, given.lighter) if given.lighter else (),
        tower_ns=Ns(machine.tower_ns),
    )
