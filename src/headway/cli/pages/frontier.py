"""The points of a search: cost against quality, and what came of each."""

from __future__ import annotations

from collections.abc import Sequence

from headway.cli.pages.html import figure, heading, page, paragraph, table
from headway.cli.pages.plots import COLOURS, draw, finish
from headway.compress import PointReport, SearchReport, frontier

HEAD = (
    "point",
    "rung",
    "cost / original",
    "delta AUC",
    "interval",
    "margins lost",
    "why no further",
)
_AXES = {
    "latency": "median latency over that of the original in f32",
    "lbt": "time of a query at the highest rate, over that of the original in f32",
}


def frontier_page(report: SearchReport, name: str) -> str:
    """Return a page that shows what a search tried and found.

    Args:
        report: of ``search_model``.
        name: of the model.
    """
    tried = sum(point.rung is not None for point in report.points)
    lead = (
        f"{tried} of {len(report.points)} points tried in {report.seconds:.0f} s; {report.stopped}."
    )
    return page(
        f"Search: {name}",
        lead,
        [
            _outcome(report),
            heading("Cost and quality"),
            figure(frontier_plot(report), _caption(report)),
            heading("Every point"),
            table(HEAD, point_rows(report)),
        ],
        "AUC is compared on the choosing rows; the verdict came from rows that chose nothing.",
    )


def frontier_plot(report: SearchReport) -> str:
    """Draw every point that was measured: cost against delta AUC, the frontier as a line."""
    plot, axes = draw(6.8, 4.0)
    groups = {
        "fits": [p for p in report.points if p.fits],
        "does not fit": [p for p in report.points if not p.fits],
    }
    for colour, (label, points) in zip(COLOURS[1::-1], groups.items(), strict=True):
        shown = _places(points)
        if shown:
            axes.errorbar(
                [x for x, *_ in shown],
                [y for _, y, _, _ in shown],
                [[low for *_, low, _ in shown], [high for *_, high in shown]],
                fmt="o",
                color=colour,
                ms=5,
                lw=0.8,
                label=f"{label}, with interval",
            )
    line = _places(frontier(report.points))
    axes.step(
        [x for x, *_ in line], [y for _, y, _, _ in line], where="post", color="#333333", lw=1,
        label="frontier",
    )  # fmt: skip
    for point in report.points:
        if point.name == report.taken and (place := _places([point])):
            axes.plot(*place[0][:2], "o", ms=12, mfc="none", mec="#333333", label="published")
    axes.axhline(0, color="#333333", lw=0.6)
    axes.set_xlabel(_AXES[report.objective])
    axes.set_ylabel("AUC minus the original's, choosing rows")
    axes.legend(frameon=False, fontsize=8)
    return finish(plot, "Cost against quality of every point measured")


def point_rows(report: SearchReport) -> list[tuple[str, ...]]:
    """Return what came of each point, the cheapest first and those never measured last."""

    def order(point: PointReport) -> tuple[float, bool]:
        return (float("inf") if point.ratio is None else point.ratio, point.rung is None)

    return [_row(point) for point in sorted(report.points, key=order)]


def _row(point: PointReport) -> tuple[str, ...]:
    quality = point.quality
    delta = low = over = ""
    if quality is not None:
        delta = "none" if quality.delta_auc is None else f"{quality.delta_auc:+.5f}"
        if quality.delta_auc_low is not None and quality.delta_auc_high is not None:
            low = f"[{quality.delta_auc_low:+.5f}, {quality.delta_auc_high:+.5f}]"
        over = f"{quality.over:.2f}"
    reached = point.finish is not None and bool(point.finish.composition)
    return (
        point.name,
        "never" if point.rung is None else str(point.rung),
        "" if point.ratio is None else f"{point.ratio:.3f}",
        delta,
        low,
        over,
        point.dropped or ("at the end" if reached else ""),
    )


def _places(points: Sequence[PointReport]) -> list[tuple[float, float, float, float]]:
    """Return cost, delta AUC and the interval's reach to both sides of what was measured."""
    found = []
    for point in points:
        quality, ratio = point.quality, point.ratio
        if quality is None or ratio is None or quality.delta_auc is None:
            continue
        delta = quality.delta_auc
        low, high = quality.delta_auc_low, quality.delta_auc_high
        reach = [0.0 if end is None else abs(end - delta) for end in (low, high)]
        found.append((ratio, delta, reach[0], reach[1]))
    return found


def _outcome(report: SearchReport) -> str:
    if not report.taken:
        return paragraph(f"Not judged yet; the best so far is '{report.best}'.")
    if report.taken == report.best:
        return paragraph(f"Published is '{report.taken}': {report.verdict}.")
    return paragraph(
        f"Published is '{report.taken}': {report.verdict}. The fastest that was expected to pass, "
        f"'{report.best}', did not on the test rows."
    )


def _caption(report: SearchReport) -> str:
    cheap = sum(point.ratio is None for point in report.points)
    return f"Points that were measured; {cheap} were decided without. Left and up is better."
