"""``headway simulate``: a fleet under a load, or how many machines a load needs."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from headway.cli.terminal import Terminal, milliseconds, number
from headway.core import NotProvenError, Sla, UsageError

if TYPE_CHECKING:  # the command line's help must not wait for the simulator
    from headway.cli.fleet_file import Simulation
    from headway.simulate import FleetRun, FleetTotals, Sizing, SizingSettings

EPILOG = (
    "Examples: headway simulate examples/fleet.yaml --report out/fleet.html | "
    "headway simulate examples/fleet.yaml --seeds 3 --json | "
    "headway simulate examples/fleet.yaml --machines-for 10e6"
)
_FIGURES = ("queries", "p50", "p95", "p99", "violations", "SLA", "missed for", "refused", "failed",
            "late", "busy", "machine-hours", "most machines")  # fmt: skip
_MOST_COLUMNS = 5
Row = list[str]


class SimulateReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ``headway simulate FLEET --json`` prints; every figure is simulated.

    Attributes:
        simulated: always true.
        sla: the target.
        met: it holds over all runs.
        seeds: of the runs.
        totals: of all runs.
        runs: by seed, in their order; latencies as counts in buckets.
        lbt_qps: throughput of one machine by kind, where autoscaling was told.
    """

    simulated: bool = True
    sla: str
    met: bool
    seeds: list[int]
    totals: FleetTotals
    runs: list[dict[str, Any]]
    lbt_qps: dict[str, float]


class SizingReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ``headway simulate FLEET --machines-for RATE --json`` prints, all of it simulated."""

    simulated: bool = True
    sla: str
    met: bool
    rate_qps: float
    kinds: list[Sizing]


def simulate_command(
    fleet: Annotated[Path, typer.Argument(metavar="FLEET.yaml", help="See examples/fleet.yaml.")],
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, max=100, help="Independent runs, side by side.")
    ] = 1,
    machines_for: Annotated[
        float | None,
        typer.Option(
            "--machines-for",
            metavar="RATE",
            help="Instead: how many machines of each kind bear so many queries/s.",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write an HTML page with plots here.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run a fleet of machines on a virtual clock; every figure is simulated.

    The scheduler is the one that serves. Exits with 3 if the SLA is missed.
    """
    from headway.cli.fleet_file import read_fleet

    if machines_for is not None and not 1e-3 <= machines_for <= 1e12:
        raise UsageError(
            f"--machines-for is a rate of 0.001 to 1e12 queries/s, not {machines_for:g}"
        )
    if machines_for is not None and (report is not None or seeds > 1):
        raise UsageError("--machines-for goes with --json only, not with --report or --seeds")
    terminal = Terminal(json=json)
    simulation = read_fleet(fleet)
    if machines_for is not None:
        raise typer.Exit(_size(simulation, machines_for, terminal))
    raise typer.Exit(_fly(simulation, fleet.stem, seeds, report, terminal))


def _fly(
    simulation: Simulation, title: str, seeds: int, page: Path | None, terminal: Terminal
) -> int:
    from headway.engine import usable_cores
    from headway.simulate import FleetJob, run_seeds, sum_up

    if page is not None:  # found out now rather than after the simulation
        if page.is_dir():
            raise UsageError(
                f"--report {page} is a folder; name a file in it, like {page}/fleet.html"
            )
        page.parent.mkdir(parents=True, exist_ok=True)
        page.touch()
    spec, numbers = simulation.spec, [simulation.seed + i for i in range(seeds)]
    lbt = _throughputs(simulation, terminal)
    job = FleetJob(
        spec=spec,
        workload=simulation.workload,
        rate_qps=simulation.rate_qps,
        duration_s=simulation.duration_s,
        window_s=simulation.window_s,
        lbt_qps=tuple(lbt.values()),
    )
    expected = int(simulation.workload.arrivals.expected(job.rate_qps, job.duration_s)) * seeds
    machines = sum(kind.count for kind in spec.kinds)
    text = f"simulating {machines:,} machines, about {expected:,} queries"
    with terminal.step(text, expected) as step:
        runs = run_seeds(job, numbers, usable_cores(), lambda done: step.at(done, expected))
    totals = sum_up(runs, spec.sla)
    _show(totals, runs, numbers, spec.sla, terminal)
    if page is not None:
        _write_page(page, title, totals, runs, numbers, spec.sla)
        terminal.result(f"report: {page}")
    terminal.object(
        SimulateReport(
            sla=str(spec.sla),
            met=totals.met,
            seeds=numbers,
            totals=totals,
            runs=[_plain(run) for run in runs],
            lbt_qps=lbt,
        )
    )
    return 0 if totals.met else 3


def _plain(run: FleetRun) -> dict[str, Any]:
    return {**msgspec.structs.asdict(run), "latency": msgspec.Raw(run.latency.to_json())}


def _throughputs(simulation: Simulation, terminal: Terminal) -> dict[str, float]:
    """Return what one machine of each kind bears, if an autoscaling policy asks for it."""
    from headway.simulate import Forecast, Oracle, SizingSettings, machine_lbt

    spec = simulation.spec
    scale = spec.autoscale
    if scale is None or not isinstance(scale.policy, Forecast | Oracle):
        return {}
    settings = SizingSettings(
        sla=spec.sla, workload=simulation.workload, queries=1500, seed=simulation.seed
    )
    found = {}
    for i, kind in enumerate(spec.kinds):
        if scale.lbt_qps and i == spec.scaled:
            found[kind.name] = scale.lbt_qps
            continue
        with terminal.step(f"how much one machine {kind.name!r} bears, simulated") as step:
            found[kind.name] = machine_lbt(
                kind,
                settings,
                lambda p, s=step: s.note(f"{p.rate_qps:.0f} queries/s"),  # type: ignore[misc]
            ).lbt_qps
        if not found[kind.name] and i == spec.scaled:
            raise NotProvenError(
                f"a machine {kind.name!r} misses {spec.sla} at any rate, so no number of them is "
                "right; loosen the sla, or give autoscale.lbt_qps"
            )
    return found


def _size(simulation: Simulation, rate_qps: float, terminal: Terminal) -> int:
    from headway.simulate import SizingSettings, machines_for

    spec = simulation.spec
    settings = SizingSettings(
        sla=spec.sla,
        workload=simulation.workload,
        balancer=spec.balancer,
        seed=simulation.seed,
    )
    found: list[Sizing] = []
    with terminal.step(f"machines for {number(rate_qps)} queries/s") as step:
        found.extend(machines_for(rate_qps, kind, settings, step.note) for kind in spec.kinds)
    met = any(sizing.confirmed for sizing in found)
    figures = ("no fewer than", "each alone", "machines", "simulated of them", "one alone bears, queries/s",
               f"p{spec.sla.percentile:g}", "p99", "refused or late", "busy", "cost per hour", "kW",
               "confirmed by a run of its own")  # fmt: skip
    terminal.table(
        f"machines of one kind for {number(rate_qps)} queries/s within {spec.sla}, simulated",
        ["", *(sizing.kind for sizing in found)],
        [
            list(row)
            for row in zip(figures, *(_sizing_column(s, settings) for s in found), strict=True)
        ],
    )
    terminal.result(
        f"found with at most {settings.sample} machines that stand for all, behind the balancer "
        f"{spec.balancer}, Poisson arrivals at this rate"
    )
    terminal.result(
        f"stricter than {spec.sla} alone, which lets {100 - spec.sla.percentile:g} % be refused, as "
        f'"each alone" may: at most {settings.most_lost:.1%} are refused or late, and '
        f"{settings.headroom:.0%} of what a machine can do stays free"
    )
    left_out = [n for n in ("failures", "stragglers", "autoscale") if getattr(spec, n) is not None]
    if left_out:
        terminal.result(f"of the file not looked at here: {', '.join(left_out)}")
    terminal.object(SizingReport(sla=str(spec.sla), met=met, rate_qps=rate_qps, kinds=found))
    return 0 if met else 3


def _sizing_column(s: Sizing, settings: SizingSettings) -> Row:
    lost = s.tail_ms * 1e6 <= settings.sla.limit_ns and s.lost > settings.most_lost
    why = "no: too many refused or late" if lost else "no: SLA missed"
    return [
        f"{s.bound:,}",
        f"{s.alone:,}" if s.alone else "none",
        f"{s.machines:,}" if s.confirmed else "none",
        f"{s.sample:,}",
        number(s.lbt_qps),
        milliseconds(s.tail_ms),
        milliseconds(s.p99_ms),
        f"{s.lost:.2%}",
        f"{s.utilisation:.0%}",
        number(s.cost_per_hour) if s.cost_per_hour else "-",
        number(s.watts / 1000) if s.watts else "-",
        "yes" if s.confirmed else why,
    ]


def _show(
    totals: FleetTotals, runs: list[FleetRun], seeds: list[int], sla: Sla, terminal: Terminal
) -> None:
    terminal.table(f"simulated, {sla}", *_runs_table(totals, runs, seeds, sla))
    for note in _notes(totals, sla):
        terminal.result(note)


def _runs_table(
    totals: FleetTotals, runs: list[FleetRun], seeds: list[int], sla: Sla
) -> tuple[Row, list[Row]]:
    """Return head and rows: a column per run where they are few, and one of all runs."""
    from headway.simulate import percentiles_ms

    columns = {}
    if len(runs) <= _MOST_COLUMNS:
        columns = {
            f"seed {seed}": _column(run, percentiles_ms(run.latency, (50.0, 95.0, 99.0), sla)[:3])
            for seed, run in zip(seeds, runs, strict=True)
        }
    if len(runs) > 1:
        columns["all"] = _column(totals, [p.value_ms for p in totals.percentiles[:3]])
    return ["", *columns], [list(row) for row in zip(_FIGURES, *columns.values(), strict=True)]


def _column(of: FleetRun | FleetTotals, percentiles: list[float]) -> Row:
    return [
        f"{of.queries:,}",
        *(milliseconds(value) for value in percentiles),
        f"{of.violations / of.queries:.2%}",
        "met" if of.met else "missed",
        f"{of.violation_s:.3g} s",
        f"{of.refused:,}",
        f"{of.failed:,}",
        f"{of.late:,}",
        f"{of.utilisation:.0%}",
        f"{of.machine_hours:.3g}",
        f"{of.most_machines:,}",
    ]


def _notes(totals: FleetTotals, sla: Sla) -> list[str]:
    tail = totals.percentiles[-1]
    low, high = milliseconds(tail.low_ms), milliseconds(tail.high_ms)
    first = f"p{sla.percentile:g} of all runs, simulated: {milliseconds(tail.value_ms)}"
    notes = [f"{first}, 95 % interval {low} to {high}"]
    if not isfinite(tail.value_ms):
        notes.append("none: a refused, failed or late query counts as one that takes for ever")
    if totals.lightened:
        notes.append(f"answered by the lighter bundle: {totals.lightened:,} queries")
    if totals.retried:
        notes.append(f"lost with a machine and sent to another: {totals.retried:,} queries")
    if totals.cost:
        notes.append(
            f"cost of a run, simulated: {number(totals.cost)} in the money of price_per_hour"
        )
    if totals.queries_per_joule is not None:
        notes.append(
            f"energy of a run, simulated: {number(totals.joules / 3.6e6)} kWh, "
            f"{number(totals.queries_per_joule)} queries within the SLA per joule"
        )
    return notes


def _write_page(
    path: Path,
    title: str,
    totals: FleetTotals,
    runs: list[FleetRun],
    seeds: list[int],
    sla: Sla,
) -> None:
    from headway.cli.pages.simulate import build_simulation
    from headway.simulate import merge_latency

    told = (sla, *_runs_table(totals, runs, seeds, sla), _notes(totals, sla))
    path.write_text(build_simulation(title, totals, runs[0].windows, merge_latency(runs), told))
