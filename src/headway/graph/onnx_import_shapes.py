"""ONNX operations that move values without changing them, and arithmetic on shapes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from headway.core import CaptureError
from headway.graph.onnx_import_ops import Op, RawShape, Sizes, Step, Value, sizes, tensor

_END = 2**31


def _shape(step: Step, x: Sequence[Value]) -> Value:
    known = isinstance(x[0], Tensor | RawShape)
    shape = list(x[0].shape) if known else _shape_of_sizes(x[0])
    return shape[step.get("start", 0) : step.get("end", len(shape))]


def _shape_of_sizes(value: Value) -> Sizes:
    return [len(value)] if isinstance(value, list) else []


def _size(step: Step, x: Sequence[Value]) -> Value:
    return reduce(operator.mul, _shape(step, x), 1)


def _concat(step: Step, x: Sequence[Value]) -> Value:
    if not any(isinstance(v, Tensor) for v in x):
        return [size for v in x for size in sizes(v)]
    return torch.cat([tensor(v) for v in x], dim=int(step.get("axis", 0)))


def _gather(step: Step, x: Sequence[Value]) -> Value:
    source, places = x[0], x[1]
    if isinstance(source, list):
        picked = [source[int(p)] for p in sizes(places)]
        return picked if isinstance(places, list) else picked[0]
    axis = int(step.get("axis", 0)) % source.dim()
    if isinstance(places, int):
        return source.select(axis, places)
    index = tensor(places)
    if not isinstance(places, Tensor):
        index = torch.where(index < 0, index + source.shape[axis], index)
    if index.dim() == 1:
        return source.index_select(axis, index)
    picked = source.index_select(axis, index.reshape(-1))
    return picked.reshape([*source.shape[:axis], *index.shape, *source.shape[axis + 1 :]])


def _gather_nd(step: Step, x: Sequence[Value]) -> Value:
    """Gather whole rows along one flattened position, as exporters write constant index pairs."""
    source, places = tensor(x[0]), tensor(x[1])
    if step.get("batch_dims", 0):
        raise CaptureError("GatherND with batch_dims is not read; index with constants instead")
    return source[tuple(places.unbind(-1))]


def _reshape(step: Step, x: Sequence[Value]) -> Value:
    target = sizes(x[1])
    if not isinstance(x[0], Tensor):
        return x[0] if target else sizes(x[0])[0]
    if not step.get("allowzero", 0):
        known = x[0].shape
        target = [known[i] if isinstance(n, int) and n == 0 else n for i, n in enumerate(target)]
    return x[0].reshape(target)


def _flatten(step: Step, x: Sequence[Value]) -> Value:
    value = tensor(x[0])
    axis = int(step.get("axis", 1))
    axis = axis + value.dim() if axis < 0 else axis
    if axis == 0:
        return value.reshape(1, -1)
    return value.flatten(axis) if axis == 1 else value.flatten(axis).flatten(0, axis - 1)


def _axes(step: Step, x: Sequence[Value]) -> Sizes:
    return sizes(x[1]) if len(x) > 1 and x[1] is not None else list(step.get("axes", ()))


def _unsqueeze(step: Step, x: Sequence[Value]) -> Value:
    axes = _axes(step, x)
    if not isinstance(x[0], Tensor):
        return [x[0]] if not isinstance(x[0], list) else tensor(x[0])[None]
    value, rank = x[0], x[0].dim() + len(axes)
    for axis in sorted(int(a) % rank for a in axes):
        value = value.unsqueeze(axis)
    return value


def _squeeze(step: Step, x: Sequence[Value]) -> Value:
    axes = _axes(step, x)
    if not isinstance(x[0], Tensor):
        return sizes(x[0])[0]
    value = x[0]
    if not axes:
        axes = [i for i, n in enumerate(value.shape) if n == 1]
    for axis in sorted((int(a) % value.dim() for a in axes), reverse=True):
        value = value.squeeze(axis)
    return value


def _transpose(step: Step, x: Sequence[Value]) -> Value:
    value = tensor(x[0])
    order = step.get("perm") or list(range(value.dim()))[::-1]
    return value.permute([int(a) for a in order])


def _slice(step: Step, x: Sequence[Value]) -> Value:
    del step
    value, starts, ends = x[0], sizes(x[1]), sizes(x[2])
    given = [*x[3:], None, None]
    if not isinstance(value, Tensor):
        return value[_piece(starts[0], ends[0], (given[1] or [1])[0])]
    axes = sizes(given[0]) if given[0] is not None else list(range(len(starts)))
    steps = sizes(given[1]) if given[1] is not None else [1] * len(starts)
    for start, end, axis, stride in zip(starts, ends, axes, steps, strict=True):
        place = [slice(None)] * value.dim()
        place[int(axis) % value.dim()] = _piece(start, end, stride)
        value = value[tuple(place)]
    return value


def _piece(start: Any, end: Any, stride: Any) -> slice:
    if stride < 1:
        raise CaptureError("a slice that runs backwards is not read; reverse the data instead")
    last = None if isinstance(end, int) and end >= _END else end
    return slice(start, last, stride)


def _split(step: Step, x: Sequence[Value]) -> Value:
    value, axis = tensor(x[0]), int(step.get("axis", 0))
    length = value.shape[axis]
    if len(x) > 1 and x[1] is not None:
        parts = [int(n) for n in sizes(x[1])]
    else:
        count = len(step.outputs)
        part = -(-length // count)
        parts = [part] * (count - 1) + [length - part * (count - 1)]
    return tuple(torch.split(value, parts, dim=axis))


def _expand(step: Step, x: Sequence[Value]) -> Value:
    del step
    value, target = tensor(x[0]), list(sizes(x[1]))
    rank = max(value.dim(), len(target))
    target = [1] * (rank - len(target)) + target
    known = [1] * (rank - value.dim()) + list(value.shape)
    # A 1 in the target leaves the axis as it is.
    final = [k if isinstance(t, int) and t == 1 else t for k, t in zip(known, target, strict=True)]
    return value.expand(final)


def _tile(step: Step, x: Sequence[Value]) -> Value:
    del step
    return tensor(x[0]).repeat([int(n) if isinstance(n, int) else n for n in sizes(x[1])])


def _constant_of_shape(step: Step, x: Sequence[Value]) -> Value:
    target, filler = sizes(x[0]), step.get("value")
    value = 0.0 if filler is None else filler.reshape(-1)[0].item()
    if len(target) == 1 and isinstance(target[0], int) and isinstance(value, int):
        return [value] * target[0]
    return torch.full(target, value)


def _range(step: Step, x: Sequence[Value]) -> Value:
    del step
    if all(isinstance(v, int) for v in x):
        return list(range(*x))
    return torch.arange(*x)


def _identity(step: Step, x: Sequence[Value]) -> Value:
    del step
    return x[0]


MOVING_OPS: dict[str, Op] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Identity": _identity,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
_Arithmetic = Callable[[Any, Any], Any]
_ON_SIZES: dict[str, _Arithmetic] = {
    "Add": operator.add,
    "Div": operator.floordiv,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "Less": operator.lt,
    "Max": max,
    "Min": min,
    "Mod": operator.mod,
    "Mul": operator.mul,
    "Sub": operator.sub,
}


def on_sizes(step: Step, x: Sequence[Value]) -> Value:
    """Return the result of arithmetic on shapes, or None where the operation is none."""
    if step.op in _ON_SIZES and len(x) == 2:
        return _spread(_ON_SIZES[step.op], x[0], x[1])
    if step.op == "Cast" and int(step.get("to", 0)) in {6, 7}:
        return x[0]
    if step.op == "Where":
        pairs = zip(sizes(x[0]), _as_long(x[1], x[0]), _as_long(x[2], x[0]), strict=True)
        return [a if chosen else b for chosen, a, b in pairs]
    if step.op == "ReduceProd":
        product = reduce(operator.mul, sizes(x[0]), 1)
        return [product] if step.get("keepdims", 1) else product
    return None


def _spread(function: _Arithmetic, a: Value, b: Value) -> Value:
    if not isinstance(a, list) and not isinstance(b, list):
        return function(a, b)
    count = max(len(sizes(a)), len(sizes(b)))
    pairs = zip(_as_long(a, [0] * count), _as_long(b, [0] * count), strict=True)
    return [function(p, q) for p, q in pairs]


def _as_long(value: Value, like: Value) -> Sizes:
    own = sizes(value)
    return own * len(sizes(like)) if len(own) == 1 else own
