"""The report of ``headway optimize``; it travels inside the bundle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from headway import __version__
from headway.bundle import GuardEntry
from headway.cli.pages.chain import chain_sections
from headway.cli.pages.guard import guard_table, slice_text
from headway.cli.pages.html import cards, figure, heading, page, paragraph, table
from headway.cli.pages.plots import COLOURS, draw, finish, folded, guard_interval
from headway.cli.pages.tables import auc_rows, choice_table, quality_table
from headway.cli.terminal import size
from headway.compress import PassSummary, Summary


def build_optimize(report: Summary) -> str:
    """Return the page."""
    guard = report.guard
    taken = report.latency_us.get(report.composition, {})
    original = report.latency_us.get("original", {})
    first = next(iter(taken), "")
    headline: list[tuple[str, str]] = [(guard.verdict, f"guard: AUC within {guard.margin_auc:g}")]
    if first and first in original:
        headline.append((f"{taken[first] / original[first]:.2f}x", f"median latency, N = {first}"))
    headline.append((f"{report.size_bytes / report.original_bytes:.2f}x", "size"))
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
        figure(
            _latency(report.latency_us),
            "Median of a whole query on one core of the machine that made this; original is the "
            "module in torch.",
        ),
        *_chain(report),
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


def _chain(report: Summary) -> list[str]:
    """Return what the passes did and, where it was measured, what each of them brings."""
    body = []
    if report.chain is not None:
        body += chain_sections(report.chain, report.guard.margin_auc)
    if report.passes:
        lines = [
            (f"{done.name} ({done.seconds:.1f} s): {text}",)
            for done in report.passes
            for text in facts_of(done)
        ]
        body += [heading("What the passes did to the module"), table(("",), lines)]
    return body


def _latency(latency_us: Mapping[str, Mapping[str, float]]) -> str:
    """Draw the median latency of every composition, a bar for each query size."""
    names = list(latency_us)
    sizes = list(next(iter(latency_us.values())))
    drawing, axes = draw(6.8, 1.0 + 0.18 * len(names) * len(sizes))
    height = 0.8 / len(sizes)
    for i, n in enumerate(sizes):
        y = np.arange(len(names)) + (i - (len(sizes) - 1) / 2) * height
        ms = [latency_us[name][n] / 1000 for name in names]
        drawn = axes.barh(y, ms, height, color=COLOURS[i % len(COLOURS)], label=f"N = {n}")
        axes.bar_label(drawn, [f"{value:.3g}" for value in ms], padding=2, fontsize=8)
    axes.set_yticks(range(len(names)), [folded(name) for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.02)  # room for the figures
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("latency, ms")
    axes.legend(
        frameon=False, fontsize=8, ncols=len(sizes), loc="lower right", bbox_to_anchor=(1, 1)
    )
    return finish(drawing, "Latency of the compositions")


def facts_of(done: PassSummary) -> list[str]:
    """Return what a pass did, a line for each kind of change."""
    lines = []
    for name, value in done.facts.items():
        if isinstance(value, Mapping):
            lines.append(f"{name}: " + ", ".join(f"{k} {_from_to(v)}" for k, v in value.items()))
        elif isinstance(value, list | tuple):
            lines += [f"{name}: {text}" for text in value]
        else:
            lines.append(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    return [line for line in lines if not line.endswith(": ")] or ["nothing"]


def _from_to(value: object) -> str:
    return " -> ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


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
