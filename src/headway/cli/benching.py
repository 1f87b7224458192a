"""``headway bench``: open-loop load on a running server, or on a bundle served for the purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from headway.cli.bench_run import meters_of, run_notes, run_of
from headway.cli.pages.bench import build_bench
from headway.cli.results import BenchReport, Harness, Point
from headway.cli.terminal import Terminal, milliseconds, number
from headway.core import MonotonicClock, Ns, Sla, UsageError, to_seconds
from headway.loadgen import Bench, fetch_models, null_run, sizes_for
from headway.loadgen import BenchSettings as RunSettings
from headway.measure import (
    EnergyUse,
    LbtPoint,
    LbtResult,
    LbtSettings,
    RunRecord,
    judge_sla,
    summarize_latency,
)
from headway.workload import Schedule, Workload

_HIGHEST_QPS = 1e6
_FEWEST, _DRAWN = 8, 1000
_POOL_CANDIDATES = 1_000_000
"""Of all queries that take turns, so that huge ones do not fill the memory."""


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What the command line said."""

    sla: Sla
    workload: str
    rate: float | None
    seconds: float
    seed: int
    report: Path | None
    schedule: Path | None = None
    save_schedule: Path | None = None


def run_bench(target: str, model: str | None, settings: BenchSettings, terminal: Terminal) -> int:
    """Measure and print; returns the exit code, 3 if the SLA was not met."""
    workload = Workload.parse(settings.workload)
    usual = workload.draw_sizes(_DRAWN, np.random.default_rng([settings.seed, 6])).mean()
    run = RunSettings(
        workload=workload,
        seconds=settings.seconds,
        seed=settings.seed,
        pool=max(_FEWEST, min(1000, int(_POOL_CANDIDATES / usual))),
    )
    if settings.rate is not None and not 0 < settings.rate <= _HIGHEST_QPS:
        raise UsageError(
            f"--rate lies between 0 and {_HIGHEST_QPS:g} queries/s, not {settings.rate:g}"
        )
    _check_schedules(settings, workload)
    given, sizes = None, None
    if settings.schedule is not None:
        given = Schedule.load(settings.schedule)
        rng = np.random.default_rng([settings.seed, 5])
        # What a pool came to by chance when the schedule was drawn, it may come to again.
        most = max(2 * _POOL_CANDIDATES, _FEWEST * int(given.sizes.max(initial=1)))
        sizes = sizes_for(given, run.pool, rng, most)
    if settings.report is not None:  # found out now rather than after the measurement
        settings.report.parent.mkdir(parents=True, exist_ok=True)
        settings.report.touch()
    with _served(target, terminal) as url:
        name = model or only_model(url)
        with terminal.step("measuring the harness itself"):
            harness = measure_harness(settings.seed)
        bench = Bench(url, name, run, sizes=sizes)
        nothing = BenchReport(
            url=url,
            model=name,
            sla=str(settings.sla),
            met=False,
            warmup_s=run.warmup_s,
            harness=harness,
            points=[],
        )
        if settings.rate is not None:
            given = bench.draw(settings.rate, 0, settings.sla)
        if given is not None and settings.save_schedule is not None:
            settings.save_schedule.parent.mkdir(parents=True, exist_ok=True)
            given.save(settings.save_schedule)
        report, record = _measure(bench, given, settings, terminal, nothing)
    if settings.report is not None:
        settings.report.write_text(build_bench(report, settings.sla, record))
    _show(report, settings, terminal)
    return 0 if report.met else 3


def _check_schedules(settings: BenchSettings, workload: Workload) -> None:
    if settings.schedule is not None:
        if settings.rate is not None:
            raise UsageError("--schedule says when queries come; leave --rate out")
        if settings.save_schedule is not None:
            raise UsageError("--schedule is a schedule that is kept already; leave one out")
        if msgspec.structs.replace(workload, ids=Workload().ids) != Workload():
            raise UsageError(
                f"--schedule says when queries come and how large they are; of --workload "
                f"{settings.workload!r} only the ids can be chosen, as in production,uniform"
            )
    if settings.save_schedule is not None and settings.rate is None:
        raise UsageError("--save-schedule keeps the schedule of one run; give its --rate")
    if settings.save_schedule is not None and settings.save_schedule.is_dir():
        raise UsageError(f"--save-schedule {settings.save_schedule} is a folder; name a file in it")


def _measure(
    bench: Bench,
    given: Schedule | None,
    settings: BenchSettings,
    terminal: Terminal,
    report: BenchReport,
) -> tuple[BenchReport, RunRecord | None]:
    """Return the report with what a schedule, or the search, gave; and the run it looks at."""
    sla = settings.sla
    replace = msgspec.structs.replace
    if given is not None:
        rate = settings.rate or len(given) / to_seconds(given.duration_ns)
        with terminal.step(f"firing {number(rate)} queries/s"):
            record, energy = _fire(bench, given, 0, report.url)
        point = point_of(record, sla)
        run = run_of(record, sla, energy)
        return replace(report, met=point.met, points=[point], run=run), record
    found = search_lbt(bench, sla, terminal, f"searching the highest rate with {sla}", 50.0)
    report = replace(
        report,
        met=found.lbt_qps > 0,
        lbt_qps=found.lbt_qps,
        lbt_cps=found.lbt_cps,
        confirmed=found.confirmed,
        note=found.note,
        points=points_of(found),
    )
    if not found.lbt_qps:
        return report, None
    with terminal.step(f"one more run at {number(found.lbt_qps)} queries/s, to look at closely"):
        last = bench.draw(found.lbt_qps, 10_000, sla)
        record, energy = _fire(bench, last, 10_000, report.url)
    return replace(report, run=run_of(record, sla, energy)), record


def _fire(bench: Bench, schedule: Schedule, seed: int, url: str) -> tuple[RunRecord, EnergyUse]:
    clock = MonotonicClock()
    meters, start = meters_of(url), clock.now()
    record = bench.play(schedule, seed)
    return record, meters.used(Ns(clock.now() - start))


def _show(report: BenchReport, settings: BenchSettings, terminal: Terminal) -> None:
    sla = settings.sla
    terminal.table(
        f"{report.model} at {report.url}, {settings.schedule or settings.workload} queries, open loop",
        ("offered queries/s", "p50", f"p{sla.percentile:g}", "queries", str(sla)),
        [
            (
                number(p.rate_qps),
                milliseconds(p.p50_ms),
                milliseconds(p.tail_ms),
                f"{p.queries:,}",
                "met" if p.met else "missed",
            )
            for p in report.points
        ],
    )
    if report.lbt_qps is not None:
        word = "confirmed by a run of its own" if report.confirmed else "not confirmed"
        terminal.result(
            f"latency-bounded throughput: {number(report.lbt_qps)} queries/s, "
            f"{number(report.lbt_cps or 0)} candidates/s, {word}"
        )
    if report.note:
        terminal.result(f"note: {report.note}")
    if report.run is not None:
        for line in run_notes(report.run, sla, report.warmup_s):
            terminal.result(line)
    cost = report.harness
    terminal.result(
        f"the harness itself at {cost.rate_qps:.0f} queries/s: p50 {milliseconds(cost.null_p50_ms)}, "
        f"p99 {milliseconds(cost.null_p99_ms)}, lag p99 {milliseconds(cost.lag_p99_ms)}"
    )
    if settings.report is not None:
        terminal.result(f"report: {settings.report}")
    terminal.object(report)


def search_lbt(bench: Bench, sla: Sla, terminal: Terminal, text: str, start: float) -> LbtResult:
    """Find the LBT with a line of progress per run."""
    settings = LbtSettings(sla=sla, start_qps=start, evaluations=14)
    with terminal.step(text, settings.evaluations) as step:
        done = 0

        def show(point: LbtPoint) -> None:
            nonlocal done
            done += 1
            word = "met" if point.verdict.met else "missed"
            step.at(done, settings.evaluations, f"{point.rate_qps:.0f} queries/s: {word}")

        return bench.lbt(settings, show)


def points_of(result: LbtResult) -> list[Point]:
    """Return the runs of a search by rising rate."""
    points = [
        Point(
            rate_qps=p.rate_qps,
            p50_ms=p.latency.at(50.0).value_ms,
            tail_ms=p.verdict.value_ms,
            queries=p.latency.queries,
            met=p.verdict.met,
        )
        for p in result.points
    ]
    return sorted(points, key=lambda p: p.rate_qps)


def point_of(record: RunRecord, sla: Sla) -> Point:
    """Return one run as a point."""
    verdict, latency = judge_sla(record, sla), summarize_latency(record)
    return Point(
        rate_qps=latency.offered_qps,
        p50_ms=latency.at(50.0).value_ms,
        tail_ms=verdict.value_ms,
        queries=latency.queries,
        met=verdict.met,
    )


def measure_harness(seed: int, rate_qps: float = 200.0) -> Harness:
    """Return what the load generator and the loopback cost by themselves, at a rate."""
    cost = null_run(max(rate_qps, 50.0), seed=seed)
    return Harness(
        rate_qps=cost.rate_qps,
        null_p50_ms=cost.http.at(50.0).value_ms,
        null_p99_ms=cost.http.at(99.0).value_ms,
        lag_p99_ms=next(p.value_ms for p in cost.http.lag if p.percentile == 99.0),
    )


def only_model(url: str) -> str:
    """Return the name of the server's only model.

    Raises:
        UsageError: if it serves several.
    """
    names = fetch_models(url)
    if len(names) != 1:
        raise UsageError(f"the server at {url} has the models {names}; choose with --model")
    return names[0]


@contextmanager
def _served(target: str, terminal: Terminal) -> Iterator[str]:
    if target.startswith(("http://", "https://")):
        yield target
        return
    if not Path(target).is_dir():
        raise UsageError(
            f"{target!r} is neither an address like http://127.0.0.1:8000 nor a folder"
        )
    from headway.cli.processes import ServerProcess

    with terminal.step(f"starting a server for {target}"):
        server = ServerProcess(Path(target)).__enter__()
    try:
        yield server.ready.url
    finally:
        server.__exit__(None, None, None)
