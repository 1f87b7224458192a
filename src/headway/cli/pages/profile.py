"""The report of ``headway profile``."""

from __future__ import annotations

from headway import __version__
from headway.cli.pages.html import cards, figure, heading, page, paragraph, table
from headway.cli.pages.profile_plots import latency_curves, limit_bars
from headway.cli.profile_tables import (
    ceiling_table,
    engine_table,
    latency_table,
    limit_table,
    tower_table,
)
from headway.engine import Profile


def build_profile(found: Profile) -> str:
    """Return the page."""
    facts = found.machine
    body = [
        cards(_headline(found)),
        heading("Latency"),
        figure(
            latency_curves(found.loads),
            "Whole queries, warm; p50 with p99 dotted. Queries rotate, so that no cache holds "
            "what they look up. Uniform ids are the worst case.",
        ),
        table(*latency_table(found)),
        heading("What the towers do"),
        table(*tower_table(found)),
    ]
    if found.engines:
        body += [
            heading("What could run them"),
            paragraph(
                "Every engine was timed on the machine that made the bundle, turn by turn; one "
                "whose outputs differ too much from ONNX Runtime's is refused before its time "
                "counts. Errors are shares of the outputs' spread."
            ),
            table(*engine_table(found)),
        ]
    if found.limits:
        body += [
            heading("Distance to the limit"),
            figure(
                limit_bars(found.limits),
                "Candidate tower, one thread: the machine's limit of the lookups, of the products, "
                "and the time measured.",
            ),
            paragraph(
                "Lookups are held against this machine reading the same tables at ids drawn "
                "likewise; products against the best rate of any engine here; curves are "
                "sigmoids and the like. They are taken not to overlap."
            ),
            table(*limit_table(found)),
        ]
    if found.ceilings is not None:
        body += [heading("Ceilings of one core"), table(*ceiling_table(found.ceilings))]
        body += [paragraph(note) for note in found.ceilings.notes]
    lead = f"{facts.cpu}, {facts.usable_cores} usable cores, fingerprint {found.fingerprint}"
    return page(f"{found.bundle}: latency and limits", lead, body, f"headway {__version__}")


def _headline(found: Profile) -> list[tuple[str, str]]:
    first = found.loads[0]
    rows = min(first.latency.rows, key=lambda n: abs(n - 256))
    items = [(f"{first.latency.at(rows, 50.0) / 1e6:.3g} ms", f"median, {rows} candidates")]
    near = [x for x in found.limits if x.rows == rows and x.tower == "candidate"]
    items += [(f"{x.distance:.2f}x", f"of the limit, {x.ids} ids") for x in near]
    return items
