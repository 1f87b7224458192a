"""The demo's result as a table on the terminal and as ``report.html``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from headway import __version__
from headway.cli.pages.html import cards, figure, heading, page, paragraph, table
from headway.cli.pages.plots import (
    Curve,
    guard_interval,
    latency_bars,
    latency_histogram,
    rate_curves,
)
from headway.cli.pages.tables import auc_rows, choice_table, figure_of, interval_of, quality_table
from headway.cli.results import DemoResult, Point
from headway.cli.terminal import milliseconds, number, size
from headway.core import Sla, to_ms

HEAD = ("", "baseline", "optimized", "ratio")


def rows(result: DemoResult) -> list[tuple[str, str, str, str]]:
    """Return the demo's one table, a line per figure."""
    base, best, guard = result.baseline, result.optimized, result.guard
    out = [
        ("AUC", f"{base.auc:.4f}", f"{best.auc:.4f}", ""),
        ("best AUC any model could reach", f"{result.best_auc:.4f}", "", ""),
        (
            "delta AUC, 95 % interval",
            "",
            f"{figure_of(guard.delta_auc, '+.5f')} {interval_of(guard)}",
            guard.verdict,
        ),
        _line("size on disk", size(base.size_bytes), size(best.size_bytes), "size_bytes", result),
    ]
    latency = result.ratio["latency_ms"]
    for n, percentiles in base.latency_ms.items():
        for name, value in percentiles.items():
            ratio = latency[n][name] if isinstance(latency, dict) else float("nan")
            cell = milliseconds(best.latency_ms[n][name])
            out.append((f"latency {name}, N = {n}", milliseconds(value), cell, f"{ratio:.2f}x"))
    out.append(
        _line("LBT, queries/s", number(base.lbt_qps), number(best.lbt_qps), "lbt_qps", result)
    )
    out.append(
        _line("LBT, candidates/s", number(base.lbt_cps), number(best.lbt_cps), "lbt_cps", result)
    )
    low, high = result.lbt_ratio_range
    out.append(("LBT ratio by the brackets of both", "", "", f"{low:.2f}-{high:.2f}x"))
    return out


def _line(word: str, a: str, b: str, key: str, result: DemoResult) -> tuple[str, str, str, str]:
    ratio = result.ratio[key]
    return word, a, b, f"{ratio:.2f}x" if isinstance(ratio, float) else ""


def build(result: DemoResult, sla: Sla, samples_ms: Mapping[str, NDArray[np.float64]]) -> str:
    """Return the whole page.

    Args:
        result: what the demo found.
        sla: the target of the load measurements.
        samples_ms: latencies of every query of one run at the same rate, by side.
    """
    body = [
        cards(_headlines(result)),
        heading("The result"),
        table(HEAD, rows(result)),
        paragraph(
            "Latency by query size is over HTTP, one query at a time on an idle server. LBT is the "
            f"highest open-loop Poisson rate at which {sla} holds, with production query sizes; "
            "latency counts from the intended arrival, refused and late queries are violations. Each "
            "LBT is bracketed by the confirmed rate and the lowest rate above it that failed."
        ),
        heading("Latency over load"),
        figure(_load_plot(result, sla), "Each point is one run with a fresh schedule."),
        figure(
            latency_histogram(samples_ms),
            "Both servers under the same schedule, at half of the baseline's LBT (10 queries/s at "
            "least).",
        ),
        figure(
            latency_bars(
                {"baseline": result.baseline.latency_ms, "optimized": result.optimized.latency_ms}
            ),
            "One query at a time.",
        ),
        heading("Quality"),
        figure(
            guard_interval(
                auc_rows(result.steps),
                result.guard.margin_auc,
                "AUC difference by step",
            ),
            f"Judged on {result.guard.rows:,} rows that neither trained nor chose anything.",
        ),
        quality_table(result.steps),
        heading("What was tried"),
        choice_table(result.choices),
        heading("The harness itself"),
        paragraph(
            f"Against a target that answers at once, at {result.harness.rate_qps:.0f} queries/s: p50 {milliseconds(result.harness.null_p50_ms)}, "
            f"p99 {milliseconds(result.harness.null_p99_ms)}; the generator lagged its schedule by "
            f"{milliseconds(result.harness.lag_p99_ms)} at p99."
        ),
    ]
    lead = f"{result.machine}, {result.date}, {result.seconds:.0f} s in all"
    return page("Headway demo", lead, body, f"headway {__version__}")


def _headlines(result: DemoResult) -> list[tuple[str, str]]:
    latency = result.ratio["latency_ms"]
    lbt = result.ratio["lbt_qps"]
    size_ratio = result.ratio["size_bytes"]
    out = [(f"{lbt:.1f}x", f"queries/s within {result.sla}")]
    if isinstance(latency, dict) and "256" in latency:
        out.append((f"{latency['256']['p50']:.2f}x", "median latency, 256 candidates"))
    out.append((f"{size_ratio:.2f}x", "size on disk"))
    out.append((result.guard.verdict, f"guard: AUC within {result.guard.margin_auc:g}"))
    return out


def _load_plot(result: DemoResult, sla: Sla) -> str:
    def curve(name: str, points: list[Point], lbt: float) -> Curve:
        return Curve(
            name,
            [p.rate_qps for p in points],
            [p.tail_ms for p in points],
            [p.p50_ms for p in points],
            lbt,
        )

    lbt = {"baseline": result.baseline.lbt_qps, "optimized": result.optimized.lbt_qps}
    curves = [curve(name, points, lbt[name]) for name, points in result.points.items()]
    return rate_curves(curves, sla.percentile, to_ms(sla.limit_ns))
