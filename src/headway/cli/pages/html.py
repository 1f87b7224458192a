"""Pages that open offline: one file, no script, no address outside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_CSS = """
:root { --ink: #1d2327; --soft: #5c666d; --line: #dfe3e6; --back: #fbfaf8; --mark: #1f6f8b; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 56rem; margin: 0 auto; padding: 2rem 1.2rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { margin: 2.4rem 0 .6rem; font-size: 1.2rem; }
p.lead { color: var(--soft); margin-top: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  background: #fff; }
th, td { padding: .38rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid var(--ink); font-weight: 600; }
figure { margin: 1rem 0; background: #fff; border: 1px solid var(--line); padding: .6rem; }
figure svg { width: 100%; height: auto; } figcaption { color: var(--soft); font-size: .9rem; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.card { background: #fff; border: 1px solid var(--line); padding: .7rem 1rem; min-width: 9rem; }
.card b { display: block; font-size: 1.5rem; color: var(--mark); }
.card span { color: var(--soft); font-size: .85rem; }
footer { color: var(--soft); font-size: .85rem; margin-top: 3rem; }
"""


def page(title: str, lead: str, body: Iterable[str], foot: str) -> str:
    """Return a whole page; ``body`` holds finished HTML, the rest is escaped."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        '</title><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_CSS}</style></head>\n<body><main><h1>{escape(title)}</h1>"
        f'<p class="lead">{escape(lead)}</p>\n'
        + "\n".join(body)
        + f"\n<footer>{escape(foot)}</footer></main></body></html>\n"
    )


def heading(text: str) -> str:
    """Return a section heading."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Return a paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the first column is text, the others are figures."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>\n{lines}</tbody></table></div>"
    )


def figure(svg: str, caption: str) -> str:
    """Return a drawing with its caption."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def cards(items: Iterable[tuple[str, str]]) -> str:
    """Return large figures with a small word below each."""
    inner = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(word)}</span></div>'
        for value, word in items
    )
    return f'<div class="cards">{inner}</div>'
