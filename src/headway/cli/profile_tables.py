"""What ``headway profile`` found, as tables for the terminal and for the page."""

from __future__ import annotations

from headway.cli.terminal import count_of, size
from headway.engine import Ceilings, Profile, RandomRead

Lines = list[tuple[str, ...]]
Shown = tuple[tuple[str, ...], Lines]
"""Head and rows of a table."""


def latency_table(found: Profile) -> Shown:
    """Return latency by ids, threads and rows, with the rate of all threads together."""
    head = ("ids", "threads", "rows", "p50, us", "p95, us", "p99, us", "queries/s")
    lines: Lines = []
    for load in found.loads:
        table = load.latency
        for rows in table.rows:
            at = [table.at(rows, percentile) for percentile in (50.0, 95.0, 99.0)]
            named = load.ids if load.ids == "zipf" else f"{load.ids} (worst case)"
            figures = [*(us(ns) for ns in at), f"{load.concurrency * 1e9 / at[0]:,.0f}"]
            lines.append((named, str(load.concurrency), str(rows), *figures))
    return head, lines


def us(ns: float) -> str:
    """Return nanoseconds as microseconds for people."""
    return f"{ns / 1000:,.0f}" if ns >= 1e5 else f"{ns / 1000:.1f}"


def ceiling_table(ceilings: Ceilings) -> Shown:
    """Return what one core does at best."""
    lines: Lines = [
        (f"read {size(read.size_bytes)} in order", f"{read.bytes_per_s / 1e9:.3g} GB/s")
        for read in ceilings.sequential
    ]
    lines += [
        (
            f"read {read.row_bytes} B at random in {size(read.region_bytes)}, {_pages(read)} pages",
            f"{read.ns_per_row:.3g} ns",
        )
        for read in ceilings.random
    ]
    lines += [
        (
            f"{rate.precision} products {rate.rows} x {rate.inner} x {rate.columns}, {rate.engine}",
            f"{rate.multiply_adds_per_s / 1e9:.3g}G multiply-adds/s",
        )
        for rate in ceilings.products
    ]
    if ceilings.curves_per_s:
        lines.append(("sigmoids in f32, headway", f"{ceilings.curves_per_s / 1e9:.3g}G/s"))
    return ("ceiling", ""), lines


def _pages(read: RandomRead) -> str:
    return "large" if read.huge_pages else "small"


def tower_table(found: Profile) -> Shown:
    """Return what each tower has to do per row."""
    head = ("tower", "products", "weights", "multiply-adds a row", "lookups of")
    lines: Lines = [
        (
            str(work.tower),
            work.precision,
            size(work.weight_bytes),
            f"{work.multiply_adds:,.0f}" + ("" if work.counted else " (guessed from the weights)"),
            ", ".join(work.features) or "nothing",
        )
        for work in found.towers
    ]
    return head, lines


def limit_table(found: Profile) -> Shown:
    """Return each tower's work per query, its limits and its time in us, and time over limits.

    The work is rows of tables read, their bytes, and multiply-adds; curves are its sigmoids.
    """
    head = (
        "tower",
        "ids",
        "rows",
        "reads",
        "bytes",
        "MACs",
        "tables",
        "dense",
        "curves",
        "took",
        "over",
    )
    lines: Lines = [
        (
            str(limit.tower),
            limit.ids,
            str(limit.rows),
            count_of(round(limit.looked_up)),
            count_of(round(limit.looked_up_bytes)),
            count_of(round(limit.multiply_adds)),
            us(limit.lookups_ns),
            us(limit.dense_ns),
            us(limit.curves_ns),
            us(limit.measured_ns),
            f"{limit.distance:.1f}x",
        )
        for limit in found.limits
    ]
    return head, lines


def engine_table(found: Profile) -> Shown:
    """Return what could run each tower where the bundle was made: times in us by rows, and why."""
    counts = sorted({int(rows) for trial in found.engines for rows in trial.latency_us})
    head = ("tower", "products", "engine", *(f"{n} rows, us" for n in counts), "error", "verdict")
    lines: Lines = []
    for trial in found.engines:
        times = [trial.latency_us.get(str(count)) for count in counts]
        shown = ["-" if taken is None else us(1000 * taken) for taken in times]
        verdict = f"runs it: {trial.reason}" if trial.chosen else trial.reason
        named = (str(trial.tower), trial.precision, trial.engine)
        lines.append((*named, *shown, f"{trial.error:.1g}", verdict))
    return head, lines
