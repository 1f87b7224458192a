"""What each prefix of the passes brings: tables and plots for report and terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from headway.cli.pages.html import figure, heading, paragraph, table
from headway.cli.pages.plots import COLOURS, draw, finish, guard_interval
from headway.cli.pages.tables import auc_rows, figure_of, interval_of
from headway.cli.terminal import count_of, number, size
from headway.compress import Chain, Link, Times

Row = tuple[str, ...]
SIZE_HEAD = (
    "up to",
    "parameters",
    "operations / candidate",
    "table bytes / candidate",
    "size",
    "AUC",
    "delta AUC [interval]",
    "verdict",
)


def size_rows(chain: Chain) -> list[Row]:
    """Return size, operations and quality of each prefix, as ``SIZE_HEAD`` names them."""
    return [
        (
            link.name,
            count_of(link.dense_parameters + link.table_parameters),
            count_of(link.flops),
            size(link.candidate_bytes),
            size(link.size_bytes),
            figure_of(link.guard.auc_optimized, ".4f"),
            f"{figure_of(link.guard.delta_auc, '+.5f')} {interval_of(link.guard)}",
            link.guard.verdict,
        )
        for link in chain.links
    ]


def doubts(chain: Chain) -> list[str]:
    """Return why prefixes did not pass, a sentence for each that did not."""
    return [
        f"{link.name}, {link.guard.verdict}: {link.guard.reason}"
        for link in chain.links
        if link.guard.verdict != "pass"
    ]


def speed_head(chain: Chain) -> Row:
    """Return the names of the columns of ``speed_rows``."""
    latency = [f"{way}, ms, N = {n}" for n in _sizes(chain) for way in ("torch", "compiled")]
    return ("up to", *latency, "torch, queries/s", "compiled, queries/s")


def speed_rows(chain: Chain) -> list[Row]:
    """Return latency and simulated throughput of each prefix, in torch and compiled."""
    return [
        (
            link.name,
            *(_times(times, n) for n in _sizes(chain) for times in (link.eager, link.compiled)),
            "none" if link.eager_lbt_qps is None else number(link.eager_lbt_qps),
            number(link.lbt_qps),
        )
        for link in chain.links
    ]


def speed_note(chain: Chain) -> str:
    """Return what the figures of ``speed_rows`` are."""
    return (
        "Latency: p50 / p95 of a whole query on one core. Queries/s: simulated from it, one "
        f"worker, the highest rate with {chain.sla}. Torch has no module with the rounding."
    )


def chain_sections(chain: Chain, margin_auc: float) -> list[str]:
    """Return the part of a page that shows the chain."""
    names = [link.name for link in chain.links]
    latency = [
        figure(
            _latency(chain.links, n),
            f"A whole query of {n} candidates on one core: bar and figure are the median, "
            "the whisker goes to p95.",
        )
        for n in _sizes(chain)
    ]
    body = [
        heading("What each pass brings"),
        paragraph(
            f"Each row has all passes up to its name, from {names[0]} to {names[-1]}, measured "
            f"turn by turn on the same queries. The {chain.looks} verdicts share the guard's "
            "error, so each is held to more than it would be alone."
        ),
        table(SIZE_HEAD, size_rows(chain)),
        *(paragraph(f"{doubt}.") for doubt in doubts(chain)),
        *latency,
        table(speed_head(chain), speed_rows(chain)),
        paragraph(speed_note(chain)),
    ]
    bounded = auc_rows(chain.links)
    if bounded:
        body.append(
            figure(
                guard_interval(bounded, margin_auc, "AUC difference by prefix"),
                "Compiled, against the original, on the rows that judge.",
            )
        )
    body.append(
        figure(
            _shares(chain.links),
            "Size and work as shares of the original's, which is compiled in f32.",
        )
    )
    return body


def _sizes(chain: Chain) -> list[str]:
    return list(chain.links[0].compiled)


def _times(times: Mapping[str, Times] | None, n: str) -> str:
    if times is None:
        return "none"
    return f"{times[n].p50_us / 1000:.3g} / {times[n].p95_us / 1000:.3g}"


def _latency(links: Sequence[Link], n: str) -> str:
    """Draw the latency of each prefix at one query size, torch beside compiled."""
    drawing, axes = draw(6.8, 3.0)
    top = 0.0
    for place, (way, shift) in enumerate((("torch", -0.2), ("compiled", 0.2))):
        found = [(i, t[n]) for i, t in enumerate(_ways(links, way)) if t is not None]
        x = np.array([i + shift for i, _ in found])
        p50 = np.array([t.p50_us / 1000 for _, t in found])
        p95 = np.array([t.p95_us / 1000 for _, t in found])
        axes.bar(x, p50, 0.38, color=COLOURS[place], label=f"{way}, p50 (to p95)")
        whisker = [np.zeros_like(p50), np.maximum(0.0, p95 - p50)]
        axes.errorbar(x, p50, whisker, fmt="none", ecolor="#333333", lw=1)
        for at, low, high in zip(x, p50, p95, strict=True):
            axes.annotate(
                f"{low:.3g}", (at, max(low, high)), (0, 2), textcoords="offset points",
                ha="center", va="bottom", fontsize=8,
            )  # fmt: skip
        top = max([top, *p50, *p95])
    axes.set_ylim(0, top * 1.3)  # room for figures and legend
    axes.set_xticks(range(len(links)), [link.name for link in links])
    axes.grid(visible=False, axis="x")
    axes.set_ylabel(f"latency, N = {n}, ms")
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    return finish(drawing, f"Latency by prefix, N = {n}")


def _ways(links: Sequence[Link], way: str) -> list[Mapping[str, Times] | None]:
    return [link.eager if way == "torch" else link.compiled for link in links]


def _shares(links: Sequence[Link]) -> str:
    """Draw what is left of the original by prefix: size, parameters, operations, bytes."""
    drawing, axes = draw(6.8, 3.0)
    measures = {
        "size on disk": [link.size_bytes for link in links],
        "parameters": [link.dense_parameters + link.table_parameters for link in links],
        "operations / candidate": [link.flops for link in links],
        "table bytes / candidate": [link.candidate_bytes for link in links],
    }
    width = 0.8 / len(measures)
    for i, (name, values) in enumerate(measures.items()):
        x = np.arange(len(links)) + (i - (len(measures) - 1) / 2) * width
        share = [value / max(1, values[0]) for value in values]
        axes.bar(x, share, width * 0.94, color=COLOURS[i], label=name)
    axes.set_ylim(0, 1.3)
    axes.set_xticks(range(len(links)), [link.name for link in links])
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("share of the original's")
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="upper center", columnspacing=1.2)
    return finish(drawing, "Size and operations by prefix")
