"""``headway inspect --graph``: what runs once per query, what it saves and what stayed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from headway.bundle import read_bundle
from headway.cli.pages.graph import build_graph, shown
from headway.cli.terminal import Terminal, count_of
from headway.compress import GRAPH_PROFILE
from headway.core import BundleError, UsageError
from headway.graph import Explanation, capture, explain, partition
from headway.models import load_checkpoint


def show_graph(path: Path, page: Path | None, terminal: Terminal) -> None:
    """Print every operation with its scope and cost, and draw it if a page is asked for.

    Raises:
        UsageError: if there is neither a bundle nor a checkpoint, or the bundle keeps no account.
    """
    name, found = _explanation(path, terminal)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(build_graph(name, found), encoding="utf-8")
    _show(name, found, terminal)
    if page is not None:
        terminal.say(f"drawn: {page}")
    terminal.object(found)


def _explanation(path: Path, terminal: Terminal) -> tuple[str, Explanation]:
    if (path / "model.json").exists():
        checkpoint = load_checkpoint(path)
        with terminal.step("capturing the model"):
            captured = capture(checkpoint.model, checkpoint.schema)
            return path.name, explain(captured, partition(captured))
    if not (path / "manifest.json").exists():
        raise UsageError(
            f"{path} holds neither a bundle (manifest.json) nor a checkpoint (model.json)"
        )
    bundle = read_bundle(path)
    kept = bundle.profiles.get(GRAPH_PROFILE)
    if kept is None:
        raise UsageError(
            f"the bundle {path} keeps no account of its graph; write it again with this version "
            "of Headway, or give a checkpoint"
        )
    try:
        return bundle.manifest.name, msgspec.json.decode(kept, type=Explanation)
    except msgspec.MsgspecError as error:
        raise BundleError(f"the bundle's account of its graph cannot be read: {error}") from error


def _show(name: str, found: Explanation, terminal: Terminal) -> None:
    boxes = [n for n in shown(found.nodes) if n.before or n.after or n.rewrite or n.stopped]
    terminal.table(
        f"{name}: multiply-adds a query, N = {found.rows}",
        ("operation", "scope", "before", "after", "moved by, or why not"),
        [
            (n.name, n.scope, count_of(n.before), count_of(n.after), n.rewrite or n.stopped)
            for n in boxes
        ],
    )
    ratio = found.before / found.after if found.after else float("inf")
    once = sum(n.after for n in found.query)
    terminal.result(
        f"{count_of(found.before)} before, {count_of(found.after)} after ({ratio:.2f}x less): "
        f"{count_of(once)} once per query, {count_of(found.after - once)} with the candidates"
    )
    terminal.result("shown is what costs or moved; --page FILE.html draws all operations")
