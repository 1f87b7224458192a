"""Places for the nodes of a graph: layers from top to bottom, few crossings, short edges."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SWEEPS = 6
_MOST_IN_A_ROW = 11


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands: ``column`` in units of boxes, ``row`` counted from the top."""

    column: float
    row: int


def place(inputs: Mapping[str, Sequence[str]]) -> dict[str, Place]:
    """Return a place for every node.

    Layers are the longest paths from the inputs, inputs standing just above what reads them;
    within a layer nodes follow the middle of their neighbours (Sugiyama, Tagawa and Toda 1981,
    "Methods for visual understanding of hierarchical system structures"). Wide layers are broken
    into several rows.

    Args:
        inputs: names that each node reads, in topological order; unknown names are left out.
    """
    edges = {name: [n for n in reads if n in inputs] for name, reads in inputs.items()}
    users: dict[str, list[str]] = defaultdict(list)
    for name, reads in edges.items():
        for source in reads:
            users[source].append(name)
    layers = _ordered(_layers(edges, users), edges, users)
    rows = [row for layer in layers for row in _broken(layer)]
    columns: dict[str, float] = {}
    for row in rows:
        columns |= _columns(row, edges, columns)
    for row in reversed(rows):
        columns |= _columns(row, users, columns)
    left = min(columns.values(), default=0.0)
    return {name: Place(columns[name] - left, i) for i, row in enumerate(rows) for name in row}


def _layers(
    edges: Mapping[str, Sequence[str]], users: Mapping[str, Sequence[str]]
) -> list[list[str]]:
    depth: dict[str, int] = {}
    for name, reads in edges.items():
        depth[name] = max((depth[n] + 1 for n in reads), default=0)
    for name, reads in edges.items():
        if not reads and users.get(name):
            depth[name] = min(depth[user] for user in users[name]) - 1
    first = min(depth.values(), default=0)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) - first + 1)]
    for name, level in depth.items():
        layers[level - first].append(name)
    return layers


def _ordered(
    layers: list[list[str]],
    edges: Mapping[str, Sequence[str]],
    users: Mapping[str, Sequence[str]],
) -> list[list[str]]:
    """Sort each layer by the mean position of its neighbours, down and up in turn."""
    position = {name: float(i) for layer in layers for i, name in enumerate(layer)}
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            near = edges if down else users
            keys = {}
            for name in layer:
                around = [position[n] for n in near.get(name, ())]
                keys[name] = sum(around) / len(around) if around else position[name]
            layer.sort(key=lambda name: keys[name])
            position |= {name: float(i) for i, name in enumerate(layer)}
    return layers


def _broken(layer: list[str]) -> list[list[str]]:
    count = -(-len(layer) // _MOST_IN_A_ROW)
    return [layer[i::count] for i in range(count)]


def _columns(
    row: Sequence[str], near: Mapping[str, Sequence[str]], known: Mapping[str, float]
) -> dict[str, float]:
    """Put each node below the middle of its neighbours, one box apart at least."""
    middle = (len(row) - 1) / 2
    wanted = []
    for i, name in enumerate(row):
        around = [known[n] for n in near.get(name, ()) if n in known]
        here = known.get(name, i - middle)
        wanted.append(sum(around) / len(around) if around else here)
    placed: list[float] = []
    for want in wanted:
        placed.append(max(want, placed[-1] + 1) if placed else want)
    # Pushed to the right only; half of the push goes back.
    shift = sum(p - w for p, w in zip(placed, wanted, strict=True)) / max(len(row), 1)
    return {name: p - shift for name, p in zip(row, placed, strict=True)}
