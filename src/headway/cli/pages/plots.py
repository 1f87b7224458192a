"""Plots as inline SVG, so that a report opens offline and prints sharply."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headway.core import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#b3502d", "#1f6f8b", "#5b7f3a", "#7a5195")
_STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "font.size": 10,
    "svg.hashsalt": "headway",
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of latency over offered rate.

    Attributes:
        name: label in the legend.
        rate: offered queries per second.
        tail_ms: the SLA's percentile at each rate, in milliseconds.
        median_ms: p50 at each rate, in milliseconds.
        lbt: latency-bounded throughput in queries/s, marked by a vertical line; None if unknown.
    """

    name: str
    rate: Sequence[float]
    tail_ms: Sequence[float]
    median_ms: Sequence[float]
    lbt: float | None = None


def rate_curves(curves: Sequence[Curve], percentile: float, limit_ms: float) -> str:
    """Draw latency over offered rate, with the SLA's limit and each LBT."""
    figure, axes = draw(6.8, 3.8)
    top = limit_ms * 4
    for colour, curve in zip(COLOURS, curves, strict=False):
        order = np.argsort(curve.rate)
        rate = np.asarray(curve.rate)[order]
        tail = np.minimum(np.asarray(curve.tail_ms)[order], top)
        median = np.minimum(np.asarray(curve.median_ms)[order], top)
        axes.plot(rate, tail, "o-", color=colour, ms=4, label=f"{curve.name}, p{percentile:g}")
        axes.plot(rate, median, ":", color=colour, lw=1.2, label=f"{curve.name}, p50")
        if curve.lbt:
            axes.axvline(curve.lbt, color=colour, lw=0.8, ls="--")
    axes.axhline(limit_ms, color="#333333", lw=1, label=f"limit {limit_ms:g} ms")
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel("offered rate, queries/s (dashed: latency-bounded throughput)")
    axes.set_ylabel("latency from intended arrival, ms")
    axes.legend(frameon=False, fontsize=8)
    return finish(figure, "Latency over offered rate")


def latency_histogram(samples_ms: Mapping[str, NDArray[np.float64]]) -> str:
    """Draw the distribution of latencies of each name over common logarithmic bins."""
    figure, axes = draw(6.8, 3.2)
    finite = {name: s[np.isfinite(s) & (s > 0)] for name, s in samples_ms.items()}
    both = np.concatenate([*finite.values()]) if finite else np.empty(0)
    if len(both):
        bins = np.geomspace(both.min(), both.max() * 1.0001, 60)
        for colour, (name, sample) in zip(COLOURS, finite.items(), strict=False):
            weights = np.full(len(sample), 100 / max(1, len(sample)))
            axes.hist(
                sample, bins=bins.tolist(), weights=weights, alpha=0.6, color=colour, label=name
            )
        axes.set_xscale("log")
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("% of queries")
    return finish(figure, "Latency histogram")


def latency_bars(latency_ms: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Draw p50 by query size, with a whisker to p99, for each name.

    Args:
        latency_ms: name to query size to ``{"p50", "p95", "p99"}`` in milliseconds.
    """
    figure, axes = draw(6.8, 3.2)
    names = list(latency_ms)
    sizes = list(next(iter(latency_ms.values()))) if names else []
    width = 0.8 / max(1, len(names))
    for i, name in enumerate(names):
        x = np.arange(len(sizes)) + (i - (len(names) - 1) / 2) * width
        p50 = np.array([latency_ms[name][n]["p50"] for n in sizes])
        p99 = np.array([latency_ms[name][n]["p99"] for n in sizes])
        axes.bar(x, p50, width, color=COLOURS[i % len(COLOURS)], label=f"{name}, p50 (to p99)")
        axes.errorbar(
            x, p50, [np.zeros_like(p50), np.maximum(0, p99 - p50)], fmt="none", ecolor="#333", lw=1
        )
    axes.set_xticks(range(len(sizes)), [f"N = {n}" for n in sizes])
    axes.set_ylabel("latency, ms")
    axes.legend(frameon=False, fontsize=8)
    return finish(figure, "Latency by query size")


def guard_interval(
    rows: Sequence[tuple[str, float, float, float]], margin: float, title: str
) -> str:
    """Draw each step's AUC difference with its interval against the margin.

    Args:
        rows: (name, delta, low, high) of each step.
        margin: the loss that is still allowed, positive.
        title: read out by screen readers.
    """
    figure, axes = draw(6.8, 0.9 + 0.42 * max(1, len(rows)))
    for i, (_, delta, low, high) in enumerate(rows):
        axes.plot([low, high], [i, i], color=COLOURS[1], lw=2)
        axes.plot(delta, i, "o", color=COLOURS[1], ms=5)
    axes.axvline(-margin, color=COLOURS[0], ls="--", lw=1, label=f"margin {-margin:g}")
    axes.axvline(0, color="#333333", lw=0.8)
    axes.set_yticks(range(len(rows)), [folded(name) for name, *_ in rows])
    axes.locator_params(axis="x", nbins=5)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.invert_yaxis()
    axes.set_xlabel("AUC minus the baseline's, paired, with interval")
    # Above the plot, where no interval can lie under it.
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1))
    return finish(figure, title)


def folded(name: str) -> str:
    """Return the name of a composition in two lines where it is of a smaller model."""
    return name.replace(", tables", ",\ntables")


def draw(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty plot in the house style, sizes in inches.

    Raises:
        MissingDependencyError: without the ``optimize`` extra.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure as NewFigure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "optimize", "drawing a report") from error
    with rc_context(_STYLE):
        figure = NewFigure(figsize=(width, height))
        return figure, figure.add_subplot()


def finish(figure: Figure, title: str) -> str:
    """Return a plot as SVG; the title is read out by screen readers."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
