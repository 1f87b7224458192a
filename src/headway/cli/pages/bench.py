"""The report of ``headway bench``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headway import __version__
from headway.cli.pages.html import cards, figure, heading, page, table
from headway.cli.pages.plots import Curve, latency_histogram, rate_curves
from headway.cli.results import BenchReport
from headway.cli.terminal import milliseconds, number
from headway.core import Sla, to_ms


def build_bench(report: BenchReport, sla: Sla, samples_ms: NDArray[np.float64]) -> str:
    """Return the page.

    Args:
        report: what was found.
        sla: the target.
        samples_ms: latencies of one run, float64 ``[queries]``.
    """
    points = report.points
    curve = Curve(
        report.model,
        [p.rate_qps for p in points],
        [p.tail_ms for p in points],
        [p.p50_ms for p in points],
        report.lbt_qps,
    )
    figures = [("met" if report.met else "missed", str(sla))]
    if report.lbt_qps is not None:
        figures = [
            (number(report.lbt_qps), f"queries/s with {sla}"),
            (number(report.lbt_cps or 0), "candidates/s"),
        ]
    body = [
        cards(figures),
        heading("Latency over load"),
        figure(
            rate_curves([curve], sla.percentile, to_ms(sla.limit_ns)),
            "Open loop: each point is one run of a fresh Poisson schedule; latency counts from "
            "the intended arrival.",
        ),
        figure(latency_histogram({report.model: samples_ms}), "Latency of every query of one run."),
        heading("Runs"),
        table(
            ("offered queries/s", "p50", f"p{sla.percentile:g}", "queries", "SLA"),
            [
                (
                    number(p.rate_qps),
                    milliseconds(p.p50_ms),
                    milliseconds(p.tail_ms),
                    f"{p.queries:,}",
                    "met" if p.met else "missed",
                )
                for p in points
            ],
        ),
    ]
    lead = (
        f"{report.model} at {report.url}; the harness itself: p50 "
        f"{milliseconds(report.harness.null_p50_ms)}, p99 {milliseconds(report.harness.null_p99_ms)}"
    )
    return page("Headway bench", lead, body, f"headway {__version__}")
