"""Plots of latency over rows and threads, and of the machine's limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from headway.cli.pages.plots import COLOURS, draw, finish
from headway.engine import LoadProfile, TowerLimit

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def latency_curves(loads: Sequence[LoadProfile]) -> str:
    """Draw p50 and p99 over the number of candidates for each kind of ids and threads."""
    plot, axes = draw(6.8, 3.8)
    for place, load in enumerate(loads):
        colour, table = COLOURS[place % len(COLOURS)], load.latency
        label = f"{load.ids} ids, {load.concurrency} thread{'s' * (load.concurrency > 1)}"
        for percentile, style in ((50.0, "o-"), (99.0, ":")):
            times = [table.at(rows, percentile) / 1e6 for rows in table.rows]
            named = label if percentile == 50.0 else None
            axes.plot(table.rows, times, style, color=colour, ms=4, label=named)
    axes.set_xscale("log")
    axes.set_yscale("log")
    rows = sorted({rows for load in loads for rows in load.latency.rows})
    axes.set_xticks(rows, [str(count) for count in rows])
    axes.minorticks_off()
    axes.set_xlabel("candidates in a query")
    axes.set_ylabel("latency, ms (dotted: p99)")
    _legend(axes)
    return finish(plot, "Latency over candidates")


def limit_bars(limits: Sequence[TowerLimit]) -> str:
    """Draw the candidate tower's limits beside what was measured, at each number of rows."""
    shown = [limit for limit in limits if limit.tower == "candidate"]
    plot, axes = draw(6.8, 3.2)
    x = np.arange(len(shown))
    lookups = np.array([limit.lookups_ns for limit in shown]) / 1e3
    dense = np.array([limit.dense_ns + limit.curves_ns for limit in shown]) / 1e3
    measured = np.array([limit.measured_ns for limit in shown]) / 1e3
    # Side by side and not stacked: on a logarithmic scale heights do not add up.
    for place, (values, label) in enumerate(
        ((lookups, "limit: lookups"), (dense, "limit: dense"), (measured, "measured"))
    ):
        axes.bar(x + 0.27 * (place - 1), values, 0.27, color=COLOURS[place], label=label)
    axes.set_yscale("log")
    axes.set_xticks(x, [f"{limit.rows}\n{limit.ids}" for limit in shown], fontsize=7)
    axes.set_xlabel("candidates in a query, ids")
    axes.set_ylabel("us")
    _legend(axes)
    return finish(plot, "The machine's limit and the time measured")


def _legend(axes: Axes) -> None:
    """Put the legend above the plot, where it covers nothing."""
    axes.legend(frameon=False, fontsize=8, ncol=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
