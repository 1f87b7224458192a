"""What ``headway tune`` found, in the form it is printed, drawn and given to machines."""

from __future__ import annotations

from math import inf
from typing import Literal

import msgspec

from headway.cli.results import Point
from headway.cli.terminal import Terminal, milliseconds, number
from headway.core import Knots, Plan, Sla
from headway.tune import Trial

Evaluator = Literal["simulated", "real", "both"]
Search = Literal["adaptive", "climb", "joint", "bayes", "grid"]
HEAD = ("plan", "what", "simulated queries/s", "tail at half", "measured queries/s", "tail at half")


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan is worth by one way of finding out.

    Attributes:
        lbt_qps: latency-bounded throughput; 0 if no rate met the SLA.
        confirmed: an independent run at that rate met it too.
        half_tail_ms: the SLA's percentile at half that rate; None if no rate met the SLA.
        points: every run, by rising rate.
        note: what limits the answer.
    """

    lbt_qps: float
    confirmed: bool
    half_tail_ms: float | None
    points: list[Point]
    note: str = ""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A plan beside the others; ``simulated`` and ``measured`` are never mixed."""

    name: str
    plan: Plan
    simulated: Figures | None = None
    measured: Figures | None = None


class TuneReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything ``headway tune`` found.

    Attributes:
        bundle: what was tuned.
        sla, workload: for what.
        machine, fingerprint: where the service times were measured.
        service: nanoseconds of one worker alone, by candidates.
        interference: how many times longer one takes when all compute.
        evaluator, search: as asked for.
        met: the chosen plan meets the SLA.
        chosen: name of its row.
        written: whether it stands in the bundle now.
        rows: static baseline, DeepRecSched, the adaptive policy, and what was chosen.
        trials: every plan evaluated, ``trials_are`` says how.
        notes: what limits the answer.
        seconds: that it took.
    """

    bundle: str
    sla: str
    workload: str
    machine: str
    fingerprint: str
    service: Knots
    interference: float
    evaluator: Evaluator
    search: Search
    met: bool
    chosen: str
    written: bool
    rows: list[Row]
    trials: list[Trial]
    trials_are: Literal["simulated", "measured"]
    notes: list[str]
    seconds: float

    def row(self, name: str) -> Row:
        """Return the row of that name."""
        return next(row for row in self.rows if row.name == name)


def told(plan: Plan) -> str:
    """Return the settings of a plan that matter under its policy, in words."""
    parts = [f"split {plan.split_size:,}", f"{plan.workers} worker{'s' * (plan.workers > 1)}"]
    if plan.policy == "adaptive":
        late = "refuses what would be late" if plan.refuse_late else "refuses nothing early"
        return ", ".join(["adaptive", f"chunks to {plan.split_size:,}", parts[1], late])
    if plan.batch_candidates:
        parts.append(f"batches to {plan.batch_candidates:,}")
    if plan.offload_candidates:
        parts.append(f"offloads from {plan.offload_candidates:,}")
    return ", ".join(["fixed", *parts])


def cells(row: Row) -> tuple[str, ...]:
    """Return a row as text, in the order of ``HEAD``."""
    return (row.name, told(row.plan), *_pair(row.simulated), *_pair(row.measured))


def show(report: TuneReport, sla: Sla, terminal: Terminal) -> None:
    """Print the report."""
    terminal.table(
        f"{report.bundle} with {sla}, {report.workload} queries; tail: p{sla.percentile:g}",
        HEAD,
        [cells(row) for row in report.rows],
    )
    for line in conclusions(report):
        terminal.result(line)
    terminal.object(report)


def conclusions(report: TuneReport) -> list[str]:
    """Return what follows from the figures, a sentence each."""
    lines: list[str] = []
    chosen = report.row(report.chosen)
    if report.met:
        lines.append(f"chosen: {chosen.name} ({told(chosen.plan)})")
    else:
        lines.append(f"no plan meets {report.sla} at any rate that was tried")
    if chosen.simulated and chosen.measured and chosen.measured.lbt_qps:
        off = chosen.simulated.lbt_qps / chosen.measured.lbt_qps
        lines.append(
            f"the simulator foretold {off:.2f}x the throughput that was measured; it knows "
            "neither the wire nor the load generator, which compute on the same machine"
        )
    lines += [f"note: {note}" for note in report.notes]
    lines.append(
        f"the plan stands in the bundle {report.bundle}"
        if report.written
        else "the bundle keeps the plan it had"
    )
    return lines


def _pair(figures: Figures | None) -> tuple[str, str]:
    if figures is None:
        return "", ""
    sure = "" if figures.confirmed or not figures.lbt_qps else " (unconfirmed)"
    tail = inf if figures.half_tail_ms is None else figures.half_tail_ms
    return number(figures.lbt_qps) + sure, milliseconds(tail)
