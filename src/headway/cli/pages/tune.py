"""The report of ``headway tune``."""

from __future__ import annotations

from collections.abc import Sequence

from headway import __version__
from headway.cli.pages.html import cards, figure, heading, page, paragraph, table
from headway.cli.pages.plots import COLOURS, Curve, draw, finish, rate_curves
from headway.cli.terminal import milliseconds, number
from headway.cli.tune_report import HEAD, Figures, Row, TuneReport, cells, conclusions, told
from headway.core import Sla, to_ms
from headway.tune import Trial


def build_tune(report: TuneReport, sla: Sla) -> str:
    """Return the page."""
    body = [
        cards(_headline(report)),
        heading("Plans"),
        table(HEAD, [cells(row) for row in report.rows]),
        *(paragraph(line[0].upper() + line[1:] + ".") for line in conclusions(report)),
        heading("Latency over load"),
        *_curves(report, sla),
        heading("The climb over the split size"),
        figure(
            climb_curve(report.trials),
            f"Each point is a plan's latency-bounded throughput, {report.trials_are}. DeepRecSched "
            "goes up from one candidate and stops at the first drop.",
        ),
        heading("Every plan tried"),
        figure(
            trial_points(report.trials, sla),
            f"Throughput against the tail at half of it, {report.trials_are}: right and low is "
            "good.",
        ),
        table(
            ("plan", "step", "queries/s", "tail at half"),
            [
                (
                    told(t.plan),
                    t.purpose,
                    number(t.score.lbt_qps),
                    milliseconds(_tail(t)),
                )
                for t in sorted(report.trials, key=lambda t: -t.score.lbt_qps)
            ],
        ),
        heading("Service times"),
        table(
            ("candidates", "one worker alone"),
            [(f"{n:,}", milliseconds(ns / 1e6)) for n, ns in report.service],
        ),
        paragraph(
            f"With all cores at work each takes {report.interference:.2f} times as long. Measured "
            f"on {report.machine}, fingerprint {report.fingerprint}."
        ),
    ]
    lead = f"{report.bundle}, {report.workload} queries, {sla}; {report.seconds:.0f} s"
    return page("Headway tune", lead, body, f"headway {__version__}")


def climb_curve(trials: Sequence[Trial]) -> str:
    """Draw throughput over the split size for plans with one split size and no batches."""
    plot, axes = draw(6.8, 3.4)
    steps = [t for t in trials if t.plan.policy == "fixed" and not t.plan.batch_candidates]
    steps = sorted(steps, key=lambda t: t.plan.split_size)
    most = max((t.plan.workers for t in steps), default=1)
    shown = [t for t in steps if t.plan.workers == most]
    sizes = [t.plan.split_size for t in shown]
    axes.plot(sizes, [t.score.lbt_qps for t in shown], "-", color=COLOURS[1], lw=1)
    for colour, purpose in zip(COLOURS, ("static", "split"), strict=False):
        own = [t for t in shown if t.purpose == purpose]
        names = {"static": "static baseline", "split": "DeepRecSched's steps"}
        axes.plot(
            [t.plan.split_size for t in own],
            [t.score.lbt_qps for t in own],
            "o",
            color=colour,
            label=names[purpose],
        )
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("split size, candidates")
    axes.set_ylabel("queries/s within the SLA")
    axes.legend(frameon=False, fontsize=8)
    return finish(plot, "Throughput over split size")


def trial_points(trials: Sequence[Trial], sla: Sla) -> str:
    """Draw every plan's tail at half load over its throughput, by policy."""
    plot, axes = draw(6.8, 3.4)
    for colour, policy in zip(COLOURS, ("fixed", "adaptive"), strict=False):
        own = [t for t in trials if t.plan.policy == policy and t.score.half_tail_ms is not None]
        axes.plot(
            [t.score.lbt_qps for t in own],
            [_tail(t) for t in own],
            "o",
            color=colour,
            ms=5,
            alpha=0.7,
            label=policy,
        )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("queries/s within the SLA")
    axes.set_ylabel(f"p{sla.percentile:g} at half of it, ms")
    axes.legend(frameon=False, fontsize=8)
    return finish(plot, "Plans tried")


def _curves(report: TuneReport, sla: Sla) -> list[str]:
    found: list[str] = []
    for word in ("simulated", "measured"):
        curves = [
            _curve(row, figures)
            for row in report.rows
            if (figures := getattr(row, word)) is not None and figures.points
        ]
        if curves:
            drawn = rate_curves(curves, sla.percentile, to_ms(sla.limit_ns))
            found.append(figure(drawn, f"{word.capitalize()}; each point is one run."))
    return found


def _curve(row: Row, figures: Figures) -> Curve:
    points = figures.points
    return Curve(
        row.name,
        [p.rate_qps for p in points],
        [p.tail_ms for p in points],
        [p.p50_ms for p in points],
        figures.lbt_qps,
    )


def _headline(report: TuneReport) -> list[tuple[str, str]]:
    chosen = report.row(report.chosen)
    found: list[tuple[str, str]] = []
    for word in ("simulated", "measured"):
        figures = getattr(chosen, word)
        if figures is not None:
            found.append((number(figures.lbt_qps), f"queries/s, {word}"))
            if figures.half_tail_ms is not None:
                found.append((milliseconds(figures.half_tail_ms), f"tail at half, {word}"))
    return found


def _tail(trial: Trial) -> float:
    tail = trial.score.half_tail_ms
    return float("inf") if tail is None else tail
