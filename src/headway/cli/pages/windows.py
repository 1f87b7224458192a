"""Latency over the windows of a run, measured or simulated, and what plots over time share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from headway.cli.pages.plots import COLOURS, draw, finish
from headway.core import Sla, to_ms

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from headway.measure import RunWindow
    from headway.simulate import FleetWindow

    Windows = Sequence[RunWindow] | Sequence[FleetWindow]


def latency_over_time(windows: Windows, sla: Sla, time: str) -> str:
    """Draw the percentiles of every window; windows that missed the SLA are shaded.

    Args:
        windows: in order, without holes.
        sla: its percentile is drawn beside the usual ones, its limit as a line.
        time: what the horizontal axis counts.
    """
    figure, axes = draw(6.8, 3.4)
    limit_ms, edges = to_ms(sla.limit_ns), edges_of(windows)
    lines = {
        "p50": [w.p50_ms for w in windows],
        "p95": [w.p95_ms for w in windows],
        "p99": [w.p99_ms for w in windows],
        f"p{sla.percentile:g}": [w.sla_ms for w in windows],
    }
    # What has no answer is drawn at the upper end, far above all that was answered.
    finite = [v for line in lines.values() for v in line if np.isfinite(v)]
    top = 4 * max([limit_ms, *finite])
    for colour, (name, line) in zip((*COLOURS[1:], COLOURS[0]), lines.items(), strict=False):
        heights = np.minimum(np.asarray(line, np.float64), top)
        axes.stairs(heights, edges, baseline=None, color=colour, lw=1.4, label=name)
    label = "SLA missed"
    for w in windows:
        if w.missed:
            end = w.start_s + w.seconds
            axes.axvspan(w.start_s, end, color=COLOURS[0], alpha=0.15, lw=0, label=label)
            label = "_"  # named once in the legend
    axes.axhline(limit_ms, color="#333333", lw=1, label=f"limit {limit_ms:g} ms")
    axes.set_yscale("log")
    axes.set_xlim(0, edges[-1])
    axes.set_xlabel(f"{time}, s")
    axes.set_ylabel("latency, ms")
    legend_above(axes)
    return finish(figure, "Latency over time")


def legend_above(axes: Axes, handles: Sequence[object] | None = None) -> None:
    """Name the lines above the plot, where nothing can lie under the names.

    Args:
        axes: of the plot.
        handles: of the lines; those of ``axes`` unless told.
    """
    own = axes.get_legend_handles_labels()[0] if handles is None else handles
    axes.legend(handles=own, frameon=False, fontsize=8, ncols=6, loc="lower right",
                bbox_to_anchor=(1, 1))  # fmt: skip


def edges_of(windows: Windows) -> list[float]:
    """Return where windows begin, and where the last one ends."""
    return [*(w.start_s for w in windows), windows[-1].start_s + windows[-1].seconds]
