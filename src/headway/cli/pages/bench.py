"""The report of ``headway bench``."""

from __future__ import annotations

import numpy as np

from headway import __version__
from headway.cli.bench_run import run_notes
from headway.cli.pages.html import cards, figure, heading, page, paragraph, table
from headway.cli.pages.plots import COLOURS, Curve, draw, finish, latency_histogram, rate_curves
from headway.cli.pages.windows import edges_of, latency_over_time, legend_above
from headway.cli.results import BenchReport
from headway.cli.terminal import milliseconds, number
from headway.core import Sla, to_ms
from headway.measure import RunRecord, RunWindow


def build_bench(report: BenchReport, sla: Sla, record: RunRecord | None) -> str:
    """Return the page.

    Args:
        report: what was found.
        sla: the target.
        record: the run that the report looks at closely; None without one.
    """
    samples_ms = np.empty(0) if record is None else record.latency_ns / 1e6
    body = [
        cards(_figures(report, sla)),
        heading("Latency over load"),
        figure(
            rate_curves([_curve(report)], sla.percentile, to_ms(sla.limit_ns)),
            "Open loop: each point is one run of a fresh Poisson schedule; latency counts from "
            f"the intended arrival. The first {report.warmup_s:g} s of every run are warm-up and "
            "not counted.",
        ),
        figure(latency_histogram({report.model: samples_ms}), "Latency of every query of one run."),
        *_one_run(report, sla),
        heading("Runs"),
        _runs(report, sla),
    ]
    lead = (
        f"{report.model} at {report.url}; the harness itself: p50 "
        f"{milliseconds(report.harness.null_p50_ms)}, p99 {milliseconds(report.harness.null_p99_ms)}"
    )
    return page("Headway bench", lead, body, f"headway {__version__}")


def rate_over_time(windows: list[RunWindow]) -> str:
    """Draw offered and achieved queries, and those that violated the SLA, per second."""
    figure_, axes = draw(6.8, 2.8)
    edges = edges_of(windows)
    over = [w.violations / w.seconds for w in windows]
    axes.stairs(over, edges, fill=True, color=COLOURS[0], alpha=0.5, label="over the limit")
    axes.stairs([w.offered_qps for w in windows], edges, baseline=None, color="#333333",
                lw=1.2, ls="--", label="offered")  # fmt: skip
    axes.stairs([w.achieved_qps for w in windows], edges, baseline=None, color=COLOURS[1],
                lw=1.4, label="answered")  # fmt: skip
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("time, s")
    axes.set_ylabel("queries/s")
    legend_above(axes)
    return finish(figure_, "Rate over time")


def _one_run(report: BenchReport, sla: Sla) -> list[str]:
    run = report.run
    if run is None:
        return []
    bad = {
        name: sum(w.outcomes[name] for w in run.windows)
        for name in run.windows[0].outcomes
        if name != "ok"
    }
    told = ", ".join(f"{count:,} {name}" for name, count in bad.items() if count)
    return [
        heading("One run over time"),
        figure(
            latency_over_time(run.windows, sla, "time of intended arrival"),
            f"Windows of {run.windows[0].seconds:.3g} s; those whose p{sla.percentile:g} is over "
            "the limit are shaded. What had no answer is drawn at the upper edge.",
        ),
        figure(
            rate_over_time(run.windows),
            f"Queries that were not answered: {told or 'none'}.",
        ),
        *(
            paragraph(note[0].upper() + note[1:] + ".")
            for note in run_notes(run, sla, report.warmup_s)
        ),
    ]


def _figures(report: BenchReport, sla: Sla) -> list[tuple[str, str]]:
    found = [("met" if report.met else "missed", str(sla))]
    if report.lbt_qps is not None:
        found = [
            (number(report.lbt_qps), f"queries/s with {sla}"),
            (number(report.lbt_cps or 0), "candidates/s"),
        ]
    if report.run is not None:
        found.append((f"{report.run.violation_seconds:.3g} s", "in violation of the SLA"))
        if report.run.queries_per_joule is not None:
            found.append((number(report.run.queries_per_joule), "queries per joule"))
    return found


def _curve(report: BenchReport) -> Curve:
    points = report.points
    return Curve(
        report.model,
        [p.rate_qps for p in points],
        [p.tail_ms for p in points],
        [p.p50_ms for p in points],
        report.lbt_qps,
    )


def _runs(report: BenchReport, sla: Sla) -> str:
    return table(
        ("offered queries/s", "p50", f"p{sla.percentile:g}", "queries", "SLA"),
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
