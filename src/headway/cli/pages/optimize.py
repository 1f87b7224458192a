"""The report of ``headway optimize``; it travels inside the bundle."""

from __future__ import annotations

from headway import __version__
from headway.bundle import GuardEntry
from headway.cli.pages.guard import guard_table, slice_text
from headway.cli.pages.html import cards, figure, heading, page, paragraph, table
from headway.cli.pages.plots import guard_interval, latency_bars
from headway.cli.pages.tables import auc_rows, choice_table, quality_table
from headway.cli.results import OptimizeReport
from headway.cli.terminal import size


def build_optimize(report: OptimizeReport) -> str:
    """Return the page."""
    guard = report.guard
    taken = report.latency_us.get(report.composition, {})
    original = report.latency_us.get("original", {})
    first = next(iter(taken), "")
    headline: list[tuple[str, str]] = [(guard.verdict, f"guard: AUC within {guard.margin_auc:g}")]
    if first and first in original:
        headline.append((f"{taken[first] / original[first]:.2f}x", f"median latency, N = {first}"))
    headline.append((f"{report.size_bytes / report.original_bytes:.2f}x", "size"))
    bars = {
        name: {
            n: {"p50": value / 1000, "p95": value / 1000, "p99": value / 1000}
            for n, value in by_size.items()
        }
        for name, by_size in report.latency_us.items()
    }
    body = [
        cards(headline),
        paragraph(
            f"Taken: {report.composition}. {size(report.original_bytes)} became "
            f"{size(report.size_bytes)}. {guard.reason}."
        ),
        heading("Quality"),
        figure(
            guard_interval(
                auc_rows(report.steps),
                guard.margin_auc,
                "AUC difference by composition",
            ),
            f"Judged on {guard.rows:,} rows that neither trained nor chose anything.",
        ),
        quality_table(report.steps),
        heading("What the guard holds the taken composition to"),
        guard_table(guard),
        paragraph(_shared(guard)),
        heading("Latency"),
        figure(latency_bars(bars), "A whole query on one core of the machine that made this."),
        heading("What was tried"),
        choice_table(report.choices),
        heading("What runs once per query"),
        table(("",), [(note,) for note in report.notes]),
    ]
    if report.warnings:
        body += [heading("Warnings"), table(("",), [(warning,) for warning in report.warnings])]
    return page(
        f"{report.name}: what was done and what it cost", "", body, f"headway {__version__}"
    )


def _shared(guard: GuardEntry) -> str:
    """Return what the rows and slices were, in a sentence each."""
    told = [
        (
            f"Each bound holds with a confidence of {guard.confidence:.2%}, which "
            f"{guard.looks} candidates share."
        )
    ]
    if guard.worst_slice is not None:
        told.append(f"Slice {slice_text(guard)}.")
    if guard.shared_rows is not None:
        told.append(f"{guard.shared_rows:.2%} of the rows stand among the training rows too.")
    return " ".join(told)
