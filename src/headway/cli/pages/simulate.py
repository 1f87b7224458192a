"""The report of ``headway simulate``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headway import __version__
from headway.cli.pages.html import cards, figure, heading, page, paragraph, table
from headway.cli.pages.plots import COLOURS, draw, finish, latency_histogram
from headway.cli.pages.windows import edges_of, latency_over_time, legend_above
from headway.cli.terminal import milliseconds, number
from headway.core import Sla
from headway.measure import LatencyHistogram
from headway.simulate import FleetTotals, FleetWindow

_QUANTILES = tuple(np.arange(0.25, 100, 0.25).tolist())


def build_simulation(
    title: str,
    totals: FleetTotals,
    windows: Sequence[FleetWindow],
    latency: LatencyHistogram,
    told: tuple[Sla, Sequence[str], Sequence[Sequence[str]], Sequence[str]],
) -> str:
    """Return the page.

    Args:
        title: of what was simulated.
        totals: of all runs.
        windows: of the first run.
        latency: of all runs.
        told: the SLA; head and rows of the table of runs; sentences that belong below.
    """
    sla, head, rows, notes = told
    samples = np.array([p.value_ms for p in latency.percentiles(_QUANTILES)])
    body = [
        cards(_figures(totals, sla)),
        heading("Load and machines over time"),
        figure(
            rate_and_machines(windows),
            f"The first run, in windows of {windows[0].seconds:.3g} s. Machines are those that "
            "take queries or still work on some.",
        ),
        heading("Latency over time"),
        figure(
            latency_over_time(windows, sla, "time of arrival"),
            "Windows that missed the SLA are shaded. What had no answer is drawn at the upper "
            "edge.",
        ),
        heading("Latency of all queries"),
        figure(latency_histogram({"all runs": samples}), "Simulated, all runs together."),
        heading("Runs"),
        table(head, rows),
        *(paragraph(note) for note in notes),
    ]
    lead = "Every figure on this page is simulated, none is measured."
    return page(f"Headway simulate: {title}", lead, body, f"headway {__version__}, simulated")


def rate_and_machines(windows: Sequence[FleetWindow]) -> str:
    """Draw the offered rate and, on an axis of its own, the machines that were on."""
    figure_, axes = draw(6.8, 3.0)
    edges = edges_of(windows)
    axes.stairs([w.offered_qps for w in windows], edges, baseline=None, color="#333333",
                lw=1.4, label="offered queries/s")  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_ylabel("queries/s")
    beside = axes.twinx()
    beside.grid(visible=False)
    beside.stairs([w.machines for w in windows], edges, baseline=None, color=COLOURS[1],
                  lw=1.6, label="machines")  # fmt: skip
    beside.set_ylim(0, 1.1 * max(w.machines for w in windows) + 0.5)
    beside.set_ylabel("machines", color=COLOURS[1])
    # The right-hand axis needs its line, which the house style leaves out.
    beside.spines["right"].set_visible(True)
    axes.set_xlim(0, edges[-1])
    axes.set_xlabel("time, s")
    handles = [*axes.get_legend_handles_labels()[0], *beside.get_legend_handles_labels()[0]]
    legend_above(axes, handles)
    return finish(figure_, "Load and machines over time")


def _figures(totals: FleetTotals, sla: Sla) -> list[tuple[str, str]]:
    tail = totals.percentiles[-1]
    found = [
        ("met" if totals.met else "missed", str(sla)),
        (milliseconds(tail.value_ms), f"p{sla.percentile:g}, simulated"),
        (f"{totals.violation_s:.3g} s", "in violation of the SLA"),
        (number(totals.machine_hours), "machine-hours"),
    ]
    if totals.cost:
        found.append((number(totals.cost), "cost"))
    if totals.joules:
        found.append((f"{number(totals.joules / 3.6e6)} kWh", "energy"))
    return found
