"""The drawing of ``headway inspect --graph``: every operation, its scope and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape

from headway import __version__
from headway.cli.pages.html import cards, heading, page, paragraph, table
from headway.cli.pages.layers import Place, place
from headway.cli.terminal import count_of
from headway.graph import Explanation, NodeCost

COLOURS = {
    "query": "#1f6f8b",
    "candidate": "#b3502d",
    "mixed": "#7a5195",
    "constant": "#8b9398",
}
_MEANINGS = {
    "query": "once per query",
    "candidate": "once per candidate",
    "mixed": "a part of each: its query part is computed once",
    "constant": "the same for all",
}
_STEP_X, _STEP_Y, _WIDE, _HIGH, _EDGE = 122, 62, 108, 38, 14
_STYLE = (
    "<style>.graph{overflow:auto;max-height:46rem;background:#fff;border:1px solid var(--line)}"
    ".graph text{font:11px system-ui,sans-serif;fill:#fff}.graph .small{font-size:9px;opacity:.9}"
    ".graph g:hover rect{stroke:#1d2327;stroke-width:2}.legend span{margin-right:1.2rem}"
    ".legend i{display:inline-block;width:.8rem;height:.8rem;margin-right:.35rem}</style>"
)


def build_graph(name: str, found: Explanation) -> str:
    """Return the page."""
    ratio = found.before / found.after if found.after else float("inf")
    body = [
        _STYLE,
        cards(
            [
                (count_of(found.before), f"multiply-adds a query before, N = {found.rows}"),
                (count_of(found.after), "after"),
                (f"{ratio:.2f}x", "less work"),
            ]
        ),
        paragraph(
            "The candidate tower scores one query at a time."
            if found.per_query
            else "One run of the candidate tower may carry several queries."
        ),
        heading("The model"),
        _legend(),
        paragraph(
            "The dark bar in a box is its cost before, the yellow one after, as a share of the "
            "costliest operation. Hold the pointer over a box for figures."
        ),
        draw(found.nodes, found.rows),
        heading("What was hoisted"),
        _table([node for node in found.nodes if node.rewrite]),
        heading("What could not be, and why"),
        _table([node for node in found.nodes if node.stopped]),
    ]
    if found.query:
        body += [heading("Query tower: runs once per query"), draw(found.query, found.rows)]
    body += [heading("Candidate tower"), draw(found.candidate, found.rows)]
    body += [heading("Notes"), table(("",), [(note,) for note in found.notes])]
    return page(f"{name}: what runs once per query", "", body, f"headway {__version__}")


def shown(nodes: Sequence[NodeCost]) -> list[NodeCost]:
    """Return the nodes worth a box: no parameters, no arithmetic on shapes."""
    hidden = {n.name for n in nodes if n.op == "constant" or "sym_size" in n.op}
    return [n for n in nodes if n.name not in hidden and (n.shape or n.before or n.after)]


def draw(nodes: Sequence[NodeCost], rows: int) -> str:
    """Return a drawing of a graph as SVG in a frame that scrolls."""
    boxes = _without_plumbing(shown(nodes))
    places = place({node.name: node.inputs for node in boxes})
    right = max((p.column for p in places.values()), default=0.0)
    bottom = max((p.row for p in places.values()), default=0)
    width, height = (right + 1) * _STEP_X + 2 * _EDGE, (bottom + 1) * _STEP_Y + 2 * _EDGE
    scope = {node.name: node.scope for node in boxes}
    most = max((max(n.before, n.after) for n in boxes), default=0) or 1
    lines = [
        _edge(places[source], places[node.name], COLOURS.get(scope[source], "#888"))
        for node in boxes
        for source in node.inputs
        if source in places
    ]
    drawn = [_box(node, places[node.name], most, rows) for node in boxes]
    return (
        f'<div class="graph"><svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="graph of {len(boxes)} operations">'
        + "".join(lines)
        + "".join(drawn)
        + "</svg></div>"
    )


def _without_plumbing(nodes: Sequence[NodeCost]) -> list[NodeCost]:
    """Leave out what only hands on: offsets beside their values, and results out of tuples."""
    passed: dict[str, str] = {}
    kept = []
    for node in nodes:
        inputs = tuple(passed.get(name, name) for name in node.inputs)
        if node.op == "getitem" and inputs:
            passed[node.name] = inputs[0]
        elif node.op != "input" or not node.place.startswith(" offsets of "):
            kept.append(replace(node, inputs=inputs))
    return kept


def short(op: str) -> str:
    """Return an operation's name without what all have in common."""
    return op.removeprefix("aten.").removeprefix("_").removesuffix(".default")


def _box(node: NodeCost, at: Place, most: int, rows: int) -> str:
    x, y = _EDGE + at.column * _STEP_X, _EDGE + at.row * _STEP_Y
    label = (node.place.strip() or node.name) if node.op == "input" else short(node.op)
    shape = " x ".join(map(str, node.shape))
    bars = "".join(
        f'<rect x="{x:.1f}" y="{y + _HIGH - 5:.1f}" width="{_WIDE * cost / most:.1f}" height="5" '
        f'fill="{colour}"/>'
        for cost, colour in ((node.before, "#1d2327"), (node.after, "#ffd166"))
        if cost
    )
    return (
        f"<g><title>{escape(_title(node, rows))}</title>"
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{_WIDE}" height="{_HIGH}" rx="4" '
        f'fill="{COLOURS.get(node.scope, "#888")}"/>'
        f'<text x="{x + 6:.1f}" y="{y + 15:.1f}">{escape(_cut(label, 17))}</text>'
        f'<text class="small" x="{x + 6:.1f}" y="{y + 28:.1f}">{escape(_cut(shape, 22))}</text>'
        f"{bars}</g>"
    )


def _title(node: NodeCost, rows: int) -> str:
    lines = [f"{node.name}: {node.op}", f"scope: {node.scope}"]
    lines.append(f"shape: [{', '.join(map(str, node.shape))}]")
    if node.before or node.after:
        before = f"{node.before:,} before, " if node.before else ""
        lines.append(f"multiply-adds a query at N = {rows}: {before}{node.after:,} after")
    lines += [f"moved by: {node.rewrite}"] if node.rewrite else []
    lines += [f"stays with the candidates: {node.stopped}"] if node.stopped else []
    lines += [node.place.strip()] if node.place.strip() else []
    return "\n".join(lines)


def _edge(start: Place, end: Place, colour: str) -> str:
    x1 = _EDGE + start.column * _STEP_X + _WIDE / 2
    x2 = _EDGE + end.column * _STEP_X + _WIDE / 2
    y1, y2 = _EDGE + start.row * _STEP_Y + _HIGH, _EDGE + end.row * _STEP_Y
    bend = max((y2 - y1) / 2, 12)
    return (
        f'<path d="M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} '
        f'{x2:.1f} {y2:.1f}" fill="none" stroke="{colour}" stroke-opacity=".55"/>'
    )


def _legend() -> str:
    items = "".join(
        f'<span><i style="background:{COLOURS[scope]}"></i>{escape(scope)}: {escape(text)}</span>'
        for scope, text in _MEANINGS.items()
    )
    return f'<p class="legend">{items}</p>'


def _table(nodes: Sequence[NodeCost]) -> str:
    if not nodes:
        return paragraph("Nothing.")
    head = ("operation", "why", "before", "after", "place")
    rows = sorted(nodes, key=lambda n: -n.before)
    return table(
        head,
        [
            (
                f"{short(node.op)} ({node.name})",
                node.rewrite or node.stopped,
                count_of(node.before),
                count_of(node.after),
                node.place.strip(),
            )
            for node in rows
        ],
    )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
