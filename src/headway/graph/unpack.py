"""Slices of concatenations become their parts, and ids that went through floats become ids."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import SymInt, fx

from headway.graph.nodes import CASTS, NOISE, RESHAPES, aten, emit, whole_slice

_SPLITS = (
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.unbind.int,
    aten.tensor_split.sections,
)


def unpack(module: fx.GraphModule) -> None:
    """Rewrite the graph in place so that features packed in one tensor are features again.

    Some libraries take one float matrix and cut columns out of it, ids among them. Ids beyond
    2**24 do not survive that in float32; here they do, and so score as they were meant to.
    """
    rules: dict[Any, Callable[[fx.Node], fx.Node | None]] = {
        operator.getitem: _piece,
        aten.slice.Tensor: _slice,
        aten.select.int: _select,
        aten.new_zeros.default: _filled,
        aten.new_ones.default: _filled,
        aten.new_full.default: _filled,
        aten.add.Tensor: _nothing_added,
        **dict.fromkeys(CASTS, _cast),
    }
    for node in list(module.graph.nodes):
        rule = rules.get(node.target) if node.op == "call_function" else None
        if rule is None:
            continue
        with module.graph.inserting_before(node):
            better = rule(node)
        if better is not None and better is not node:
            better.meta = {**node.meta, **better.meta}
            node.replace_all_uses_with(better)
            module.graph.erase_node(node)


def _piece(node: fx.Node) -> fx.Node | None:
    """Turn one result of a split into a slice."""
    split, place = cast("tuple[fx.Node, int]", node.args)
    if split.target not in _SPLITS:
        return None
    source = cast("fx.Node", split.args[0])
    position = 1 if split.target is aten.unbind.int else 2
    given = split.args[position] if len(split.args) > position else split.kwargs.get("dim", 0)
    pieces = split.meta["val"]
    dim = cast("int", given) % len(source.meta["val"].shape)
    place %= len(pieces)
    if split.target is aten.unbind.int:
        return emit(node.graph, aten.select.int, source, dim, place)
    widths = [p.shape[dim] for p in pieces]
    if any(isinstance(w, SymInt) for w in widths):
        return None
    start = sum(widths[:place])
    cut = emit(node.graph, aten.slice.Tensor, source, dim, start, start + widths[place])
    return _slice(cut) or cut


def _slice(node: fx.Node) -> fx.Node | None:
    """Take a slice of a concatenation from the parts it lies in."""
    source = cast("fx.Node", node.args[0])
    while source.target in NOISE or whole_slice(source):
        source = cast("fx.Node", source.args[0])
    if source.target is not aten.cat.default:
        return None
    rank = len(node.meta["val"].shape)
    dim = cast("int", node.args[1]) % rank if len(node.args) > 1 else 0
    joined = cast("int", source.args[1]) % rank if len(source.args) > 1 else 0
    size, width = source.meta["val"].shape[dim], node.meta["val"].shape[dim]
    step = node.args[4] if len(node.args) > 4 else 1
    if dim != joined or step != 1 or isinstance(size, SymInt) or isinstance(width, SymInt):
        return None
    start = node.args[2] if len(node.args) > 2 else 0
    if not isinstance(start, int | None) or width == 0:
        return None
    first = slice(start, None).indices(size)[0]
    parts: list[fx.Node] = []
    offset = 0
    for part in cast("Sequence[fx.Node]", source.args[0]):
        own = part.meta["val"].shape[dim]
        low, high = max(first - offset, 0), min(first + width - offset, own)
        offset += own
        if low >= high:
            continue
        whole = (low, high) == (0, own)
        cut = part if whole else emit(node.graph, aten.slice.Tensor, part, dim, low, high)
        parts.append(cut)
    return parts[0] if len(parts) == 1 else emit(node.graph, aten.cat.default, parts, dim)


def _select(node: fx.Node) -> fx.Node | None:
    """Take a single column as a slice without its axis, so that it may be a whole part."""
    source = cast("fx.Node", node.args[0])
    rank = len(source.meta["val"].shape)
    dim, place = cast("int", node.args[1]) % rank, node.args[2]
    size = source.meta["val"].shape[dim]
    if isinstance(size, SymInt) or not isinstance(place, int):
        return None
    place %= size
    cut = emit(node.graph, aten.slice.Tensor, source, dim, place, place + 1)
    found = _slice(cut)
    if found is None:
        node.graph.erase_node(cut)
        return None
    return emit(node.graph, aten.squeeze.dim, found, dim)


def _cast(node: fx.Node) -> fx.Node | None:
    """Undo a cast of ids to floats and back."""
    kind = node.meta["val"].dtype
    source = cast("fx.Node", node.args[0])
    casts = 0
    while source.target in (*CASTS, *RESHAPES, *NOISE):
        casts += source.target in CASTS
        source = cast("fx.Node", source.args[0])
    before = source.meta["val"]
    if not casts or kind.is_floating_point or before.dtype != kind:
        return None
    sizes = [s if isinstance(s, int) else -1 for s in node.meta["val"].shape]
    if sizes.count(-1) > 1 or 0 in sizes:
        return None
    if [str(s) for s in before.shape] == [str(s) for s in node.meta["val"].shape]:
        return source
    made = emit(node.graph, aten.reshape.default, source, sizes)
    made.meta["val"] = node.meta["val"]
    return made


def _filled(node: fx.Node) -> fx.Node:
    """Say what a fresh tensor holds without the tensor that its type was taken from."""
    value = node.args[2] if node.target is aten.new_full.default else 0
    if node.target is aten.new_ones.default:
        value = 1
    made = node.graph.call_function(
        aten.full.default,
        (node.args[1], value),
        {"dtype": node.meta["val"].dtype, "pin_memory": False},
    )
    made.meta["val"] = node.meta["val"]
    return made


def _nothing_added(node: fx.Node) -> fx.Node | None:
    for zero, other in (node.args[:2], node.args[1::-1]):
        if not isinstance(zero, fx.Node) or not isinstance(other, fx.Node) or node.kwargs:
            continue
        shapes = [[str(s) for s in n.meta["val"].shape] for n in (other, node)]
        same = shapes[0] == shapes[1] and other.meta["val"].dtype == node.meta["val"].dtype
        if zero.target is aten.full.default and zero.args[1] == 0 and same:
            return other
    return None
