"""How operations that only move values hand positions on."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, cast

import numpy as np
import torch
from torch import fx

from headway.compress.passes.flow import Flow, argument, nodes_of, sizes
from headway.compress.passes.labels import ANY, Labels, Value, any_late, combined, fixed
from headway.graph import NOISE

aten = torch.ops.aten
_END = 2**62


def _cat(flow: Flow, node: fx.Node) -> Value:
    values = [flow.value(part) for part in nodes_of(node)]
    rank = len(values[0].axes)
    dim = cast("int", argument(node, 1, 0)) % rank
    axes: list[Labels | None] = []
    for place in range(rank):
        parts = [value.axes[place] for value in values]
        known = [axis for axis in parts if axis is not None]
        if len(known) < len(parts):
            flow.classes.freeze(*known)
            axes.append(None)
        else:
            axes.append(np.concatenate(known) if place == dim else _together(flow, known))
    width = len(axes[-1]) if axes[-1] is not None else 1
    if dim == rank - 1 and axes[-1] is not None:
        return Value(tuple(axes), np.concatenate([_late(value) for value in values]))
    return Value(tuple(axes), combined([value.late for value in values], width))


def _stack(flow: Flow, node: fx.Node) -> Value:
    values = [flow.value(part) for part in nodes_of(node)]
    rank = len(values[0].axes) + 1
    dim = cast("int", argument(node, 1, 0)) % rank
    axes: list[Labels | None] = []
    for place in range(rank - 1):
        known = [axis for value in values if (axis := value.axes[place]) is not None]
        axes.append(_together(flow, known) if len(known) == len(values) else None)
    axes.insert(dim, fixed(len(values)))
    return _with_last(axes, combined([v.late for v in values], len(_late(values[0]))))


def _pieces(flow: Flow, node: fx.Node) -> tuple[Value, ...]:
    """Follow a cut into pieces along one axis."""
    value = flow.value(node.args[0])
    rank = len(value.axes)
    dim = cast("int", argument(node, 2, 0)) % rank
    found, start = [], 0
    for part in node.meta["val"]:
        stop = start + sizes(part)[dim]
        found.append(_cut(value, dim, slice(start, stop)))
        start = stop
    return tuple(found)


def _slice(flow: Flow, node: fx.Node) -> Value:
    value = flow.value(node.args[0])
    dim = cast("int", argument(node, 1, 0)) % len(value.axes)
    start, stop, step = argument(node, 2), argument(node, 3, _END), argument(node, 4, 1)
    if value.axes[dim] is None:
        return value
    if not all(isinstance(bound, int) or bound is None for bound in (start, stop, step)):
        return cast("Value", flow.unknown(node))
    return _cut(value, dim, slice(start, stop, step))


def _select(flow: Flow, node: fx.Node) -> Value:
    value = flow.value(node.args[0])
    dim = cast("int", argument(node, 1, 0)) % len(value.axes)
    flow.classes.freeze(value.axes[dim])
    axes = [axis for place, axis in enumerate(value.axes) if place != dim]
    return _with_last(axes, value.late if dim < len(value.axes) - 1 else any_late(value))


def _unsqueeze(flow: Flow, node: fx.Node) -> Value:
    value = flow.value(node.args[0])
    rank = len(value.axes) + 1
    axes = list(value.axes)
    axes.insert(cast("int", node.args[1]) % rank, fixed(1))
    return _with_last(axes, value.late)


def _expand(flow: Flow, node: fx.Node) -> Value:
    """Follow a broadcast: positions that repeat one may be any number."""
    value = flow.value(node.args[0])
    shape = node.meta["val"].shape
    before: list[Labels | None] = [fixed(1)] * (len(shape) - len(value.axes))
    before += list(value.axes)
    axes: list[Labels | None] = []
    for axis, size in zip(before, shape, strict=True):
        wide = isinstance(size, int) and axis is not None and len(axis) == 1 and size > 1
        axes.append(np.full(size, ANY) if wide else axis if isinstance(size, int) else None)
    return _with_last(axes, value.late)


def _permute(flow: Flow, node: fx.Node) -> Value:
    value = flow.value(node.args[0])
    rank = len(value.axes)
    order = list(range(rank))
    if node.target is aten.permute.default:
        order = [d % rank for d in cast("list[int]", node.args[1])]
    else:
        first, second = (0, 1) if node.target is aten.t.default else _two(node, rank)
        order[first], order[second] = order[second], order[first]
    late = value.late if order[-1] == rank - 1 else any_late(value)
    return _with_last([value.axes[place] for place in order], late)


def _reshape(flow: Flow, node: fx.Node) -> Value:
    """Follow a change of shape: axes that are merged or cut apart hand their labels on."""
    value = flow.value(node.args[0])
    source = cast("fx.Node", node.args[0]).meta["val"]
    result = node.meta["val"]
    axes: list[Labels | None] = []
    for old, new in _groups(sizes(source), sizes(result)):
        axes += _regrouped(flow, [value.axes[p] for p in old], [result.shape[p] for p in new])
    last = axes[-1] if axes else None
    same = last is not None and len(value.late) == len(last)
    return _with_last(axes, value.late if same else any_late(value))


def _groups(old: list[int], new: list[int]) -> list[tuple[list[int], list[int]]]:
    """Return which axes of one shape make up which of the other."""
    found: list[tuple[list[int], list[int]]] = []
    a = b = 0
    while a < len(old) or b < len(new):
        left, right = ([a] if a < len(old) else []), ([b] if b < len(new) else [])
        a, b = a + len(left), b + len(right)
        while prod(old[p] for p in left) != prod(new[p] for p in right):
            if prod(old[p] for p in left) < prod(new[p] for p in right) and a < len(old):
                left.append(a)
                a += 1
            elif b < len(new):
                right.append(b)
                b += 1
            else:
                break
        found.append((left, right))
    return found


def _regrouped(flow: Flow, old: list[Labels | None], new: list[Any]) -> list[Labels | None]:
    """Return the axes of one group after the change of shape."""
    static = [axis for axis in old if axis is not None]
    if len(static) == len(old) and all(isinstance(size, int) for size in new):
        carrying = [place for place, axis in enumerate(static) if (axis >= 0).any()]
        if len(carrying) <= 1:
            spread = _spread(static, carrying)
            return _split(flow, spread, new)
    if len(old) == len(new) == 1:
        return [old[0] if isinstance(new[0], int) else None]
    flow.classes.freeze(*static)
    return [fixed(size) if isinstance(size, int) else None for size in new]


def _spread(axes: list[Labels], carrying: list[int]) -> Labels:
    shape = [len(axis) for axis in axes]
    if not carrying:
        return fixed(prod(shape))
    (place,) = carrying
    around = [1] * len(shape)
    around[place] = shape[place]
    return np.broadcast_to(axes[place].reshape(around), shape).reshape(-1)


def _split(flow: Flow, labels: Labels, shape: list[int]) -> list[Labels | None]:
    block = labels.reshape(shape)
    for place in range(len(shape)):
        moved = np.moveaxis(block, place, -1).reshape(-1, shape[place])
        if (moved == moved[:1]).all():
            axes: list[Labels | None] = [fixed(size) for size in shape]
            axes[place] = moved[0]
            return axes
    flow.classes.freeze(labels)
    return [fixed(size) for size in shape]


def _same(flow: Flow, node: fx.Node) -> Value:
    return flow.value(node.args[0])


def _cut(value: Value, dim: int, part: slice) -> Value:
    axes = list(value.axes)
    axis = axes[dim]
    if axis is None:
        return value
    axes[dim] = axis[part]
    last = dim == len(axes) - 1
    return Value(tuple(axes), _late(value)[part] if last else value.late)


def _together(flow: Flow, axes: list[Labels]) -> Labels:
    total = axes[0]
    for axis in axes[1:]:
        total = flow.classes.join(total, axis)
    return total


def _late(value: Value) -> Any:
    return combined([value.late], len(value.last))


def _with_last(axes: list[Labels | None], late: Any) -> Value:
    """Return a value whose last axis may be another than before."""
    width = len(axes[-1]) if axes and axes[-1] is not None else 1
    return Value(tuple(axes), combined([late], width))


def _two(node: fx.Node, rank: int) -> tuple[int, int]:
    first, second = cast("tuple[int, int]", node.args[1:3])
    return first % rank, second % rank


_RESHAPES = (
    aten.view.default,
    aten._unsafe_view.default,  # noqa: SLF001
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
_CASTS = (aten.to.dtype, aten._to_copy.default, aten.type_as.default)  # noqa: SLF001
SHAPE_RULES: dict[Any, Callable[[Flow, fx.Node], Value | tuple[Value, ...]]] = {
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys([*NOISE, *_CASTS], _same),
    **dict.fromkeys([aten.expand.default, aten.expand_as.default], _expand),
    **dict.fromkeys([aten.transpose.int, aten.permute.default, aten.t.default], _permute),
    **dict.fromkeys(
        [aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default], _pieces
    ),
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.unsqueeze.default: _unsqueeze,
}
