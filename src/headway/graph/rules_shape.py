"""Changes of shape act on each part and each term, so that values stay apart by scope."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import fx

from headway.graph.builder import TowerBuilder
from headway.graph.dots import chosen
from headway.graph.forms import (
    Blocks,
    Constant,
    Dots,
    Form,
    Operand,
    PerTower,
    Sizes,
    Terms,
    sizes_of,
    waits,
)
from headway.graph.nodes import aten
from headway.graph.parts import alike, each_node, joined, span
from headway.graph.towers import Towers


def join(towers: Towers, node: fx.Node, args: list[Operand]) -> Form | None:
    """Keep a concatenation as parts, also those of its parts.

    Not emitting it yet is what lets the next operation treat each part by its scope.
    """
    sizes = sizes_of(node.meta["val"])
    axis = args[1] if len(args) > 1 else 0
    if sizes is None or axis % (len(sizes) + 1) == 0:
        return None
    axis %= len(sizes) + 1
    parts: list[Terms] = []
    order: list[int] = []
    for source in args[0]:
        found = _parts(towers, source, axis)
        if found is None:
            return None
        start = len(order)
        parts += found.parts
        order += [start + i for i in found.order or range(found.sizes[axis - 1])]
    if all(p.query is None and not waits(p) for p in parts):
        return None
    plain = order == list(range(len(order)))
    return Blocks(axis, tuple(parts), None if plain else tuple(order))


def _parts(towers: Towers, source: Operand, axis: int) -> Blocks | None:
    """Return an operand of a concatenation as parts on its axis."""
    if isinstance(source, Dots):
        return chosen(towers, source) if axis == 1 and len(source.sizes) == 1 else None
    if isinstance(source, Blocks):
        return source if source.axis == axis else Blocks(axis, (towers.whole(source),))
    if isinstance(source, Terms):
        return Blocks(axis, (source,))
    own = alike(towers, source) if isinstance(source, PerTower) else None
    return None if own is None else Blocks(axis, (own,))


def reshape(towers: Towers, node: fx.Node, args: list[Operand]) -> Form | None:
    """Follow a change of shape that keeps the rows."""
    source, sizes = args[0], sizes_of(node.meta["val"])
    if sizes is None or 0 in sizes or not towers.is_rows(node.meta["val"].shape[0]):
        return None
    if isinstance(source, Dots):
        return Dots(source.vectors, source.pairs.reshape(sizes))
    if isinstance(source, Terms):
        return _reshaped(towers, source, sizes)
    if isinstance(source, Blocks) and source.order is None:
        return _reshaped_blocks(towers, source, sizes)
    return None


def _reshaped(towers: Towers, source: Terms, sizes: Sizes) -> Terms:
    groups = _groups(source.sizes, sizes)

    def change(tower: TowerBuilder, node: fx.Node) -> fx.Node:
        own = tuple(node.meta["val"].shape[1:])
        target = _target(own, source.sizes, sizes, groups)
        if target is None:
            node = tower.call(aten.expand.default, node, [-1, *source.sizes])
            target = sizes
        return tower.reshape(node, target)

    return each_node(towers, source, sizes, change)


def _groups(before: Sizes, after: Sizes) -> list[tuple[range, range]]:
    """Return the smallest runs of axes that hold the same number of elements."""
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        first, second = i, j
        left = right = 1
        if i < len(before) and j < len(after) and before[i] == after[j]:
            i, j = i + 1, j + 1
        elif i < len(before) and before[i] == 1:
            i += 1
        elif j < len(after) and after[j] == 1:
            j += 1
        else:
            left, right = before[i], after[j]
            i, j = i + 1, j + 1
            while left != right:
                if left < right:
                    left, i = left * before[i], i + 1
                else:
                    right, j = right * after[j], j + 1
        groups.append((range(first, i), range(second, j)))
    return groups


def _target(
    own: Sizes, before: Sizes, after: Sizes, groups: list[tuple[range, range]]
) -> Sizes | None:
    """Return the new sizes of a node that is not broadcast yet; None if it must be first."""
    target: list[int] = []
    for old, new in groups:
        if all(own[i] == before[i] for i in old):
            target += [after[j] for j in new]
        elif all(own[i] == 1 for i in old):
            target += [1] * len(new)
        else:
            return None
    return tuple(target)


def _reshaped_blocks(towers: Towers, source: Blocks, sizes: Sizes) -> Blocks | None:
    """Find the axis of the new shape that the parts lie along."""
    old, axis = source.sizes, source.axis
    outer, inner = prod(old[: axis - 1]), prod(old[axis:])
    for new in range(1, len(sizes) + 1):
        rest = prod(sizes[new:])
        widths = [p.sizes[axis - 1] * inner for p in source.parts]
        if prod(sizes[: new - 1]) != outer or any(w % rest for w in widths):
            continue
        parts = [
            _reshaped(towers, p, (*sizes[: new - 1], w // rest, *sizes[new:]))
            for p, w in zip(source.parts, widths, strict=True)
        ]
        return Blocks(new, tuple(parts))
    return None


def expand(towers: Towers, node: fx.Node, args: list[Operand]) -> Form | None:
    """Put a broadcast off."""
    source, sizes = args[0], sizes_of(node.meta["val"])
    if sizes is None or not towers.is_rows(node.meta["val"].shape[0]):
        return None
    if isinstance(source, Terms) and len(source.sizes) == len(sizes):
        return Terms(sizes, source.query, source.candidate, source.products)
    if not isinstance(source, Blocks) or len(source.sizes) != len(sizes):
        return None
    at = source.axis - 1
    if source.sizes[at] != sizes[at]:
        return None
    parts = [
        Terms((*sizes[:at], p.sizes[at], *sizes[at + 1 :]), p.query, p.candidate, p.products)
        for p in source.parts
    ]
    return Blocks(source.axis, tuple(parts), source.order)


def permute(towers: Towers, node: fx.Node, args: list[Operand]) -> Form | None:
    """Turn axes of each part; the rows stay first."""
    source, axes = args[0], _axes(node, args)
    if axes[0] != 0:
        return None
    if isinstance(source, Dots):
        return Dots(source.vectors, source.pairs.permute([a - 1 for a in axes[1:]]).contiguous())
    if isinstance(source, Terms):
        return _permuted(towers, source, axes)
    if isinstance(source, Blocks):
        parts = tuple(_permuted(towers, p, axes) for p in source.parts)
        return Blocks(axes.index(source.axis), parts, source.order)
    return None


def _axes(node: fx.Node, args: list[Operand]) -> list[int]:
    rank = len(node.meta["val"].shape)
    axes = list(range(rank))
    if node.target is aten.permute.default:
        return [a % rank for a in args[1]]
    if rank > 1:
        first, second = (args[1] % rank, args[2] % rank) if len(args) > 2 else (0, 1)
        axes[first], axes[second] = second, first
    return axes


def _permuted(towers: Towers, source: Terms, axes: list[int]) -> Terms:
    sizes = tuple(source.sizes[a - 1] for a in axes[1:])

    def turn(tower: TowerBuilder, node: fx.Node) -> fx.Node:
        return tower.call(aten.permute.default, node, axes)

    return each_node(towers, source, sizes, turn)


def select(towers: Towers, _node: fx.Node, args: list[Operand]) -> Form | None:
    """Take one position of an axis."""
    source, axis, index = args[0], args[1], args[2]
    if not isinstance(source, Terms | Blocks | Dots) or not isinstance(index, int):
        return None
    axis %= len(source.sizes) + 1
    if axis == 0:
        return None
    index %= source.sizes[axis - 1]
    if isinstance(source, Dots):
        return Dots(source.vectors, source.pairs.select(axis - 1, index))
    found = span(towers, source, axis, index, index + 1)
    sizes = tuple(s for i, s in enumerate(found.sizes, start=1) if i != axis)
    if isinstance(found, Terms):
        return _reshaped(towers, found, sizes)
    return _reshaped_blocks(towers, found, sizes) if found.order is None else None


def cut(towers: Towers, node: fx.Node, args: list[Operand]) -> Form | None:
    """Take neighbouring positions of an axis."""
    defaults: list[Operand] = [None, 0, None, None, 1]
    source, axis, start, stop, step = args + defaults[len(args) :]
    if not isinstance(source, Terms | Blocks | Dots) or step != 1:
        return None
    if not all(isinstance(end, int | None) for end in (start, stop)):
        return None
    axis %= len(source.sizes) + 1
    sizes = sizes_of(node.meta["val"])
    if axis == 0 or sizes is None:
        return None
    size = source.sizes[axis - 1]
    start, stop, _ = slice(start, stop).indices(size)
    stop = max(start, stop)
    if start == stop:
        return None
    if isinstance(source, Dots):
        return Dots(source.vectors, source.pairs.narrow(axis - 1, start, stop - start))
    return span(towers, source, axis, start, stop)


def pick(towers: Towers, _node: fx.Node, args: list[Operand]) -> Form | None:
    """Take known positions of an axis."""
    source, axis, index = args
    if not isinstance(index, Constant) or not isinstance(source, Terms | Blocks | Dots):
        return None
    axis %= len(source.sizes) + 1
    if axis == 0:
        return None
    if isinstance(source, Dots):
        return Dots(source.vectors, source.pairs.index_select(axis - 1, index.value))
    size = source.sizes[axis - 1]
    places = [int(i) % size for i in index.value.tolist()]
    if isinstance(source, Blocks) and (source.axis == axis or source.order is not None):
        return _picked(towers, source, axis, places)
    change = _picker(axis, torch.tensor(places))
    if isinstance(source, Blocks):
        parts = (
            each_node(towers, p, _resized(p.sizes, axis, len(places)), change) for p in source.parts
        )
        return Blocks(source.axis, tuple(parts))
    return each_node(towers, source, _resized(source.sizes, axis, len(places)), change)


def _picker(axis: int, places: torch.Tensor) -> Callable[[TowerBuilder, fx.Node], fx.Node]:
    def change(tower: TowerBuilder, node: fx.Node) -> fx.Node:
        if node.meta["val"].shape[axis] == 1:
            return node
        return tower.call(aten.index_select.default, node, axis, tower.constant(places))

    return change


def _resized(sizes: Sizes, axis: int, size: int) -> Sizes:
    return (*sizes[: axis - 1], size, *sizes[axis:])


def _picked(towers: Towers, source: Blocks, axis: int, places: list[int]) -> Form | None:
    """Take runs of the concatenation, if they are few."""
    if source.order is not None:
        return None
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([place, place + 1])
    if len(runs) > 2 * len(source.parts):
        return None
    pieces = [span(towers, source, axis, start, stop) for start, stop in runs]
    parts = [
        p for piece in pieces for p in (piece.parts if isinstance(piece, Blocks) else (piece,))
    ]
    return joined(axis, parts)


def index(_towers: Towers, node: fx.Node, args: list[Operand]) -> Form | None:
    """Take known elements of the dot products of all pairs."""
    source, places = args
    if not isinstance(source, Dots) or places[0] is not None or len(places) > 1 + len(source.sizes):
        return None
    known = [p.value if isinstance(p, Constant) else p for p in places[1:]]
    if any(k is not None and not isinstance(k, torch.Tensor) for k in known):
        return None
    chosen = source.pairs[tuple(slice(None) if k is None else k for k in known)]
    if tuple(chosen.shape) != sizes_of(node.meta["val"]):
        return None
    return Dots(source.vectors, chosen)
