"""Moves of values as ONNX: joins, cuts, other shapes and other types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from onnx import helper
from torch import fx

from headway.graph.nodes import CASTS, NOISE, aten
from headway.graph.onnx_arguments import arguments, axis_of, fixed, shape_of
from headway.graph.onnx_writer import KINDS, NotWrittenError, Rule, Writer, kind_of

_MOST = 2**62


def _join(writer: Writer, node: fx.Node) -> str:
    sources, axis = arguments(node, None, 0)
    names = [writer.name(n) for n in sources]
    return writer.call("Concat", *names, axis=axis_of(axis, sources[0]))


def _stack(writer: Writer, node: fx.Node) -> str:
    sources, axis = arguments(node, None, 0)
    place = writer.integers(axis_of(axis, node))
    names = [writer.call("Unsqueeze", writer.name(n), place) for n in sources]
    return writer.call("Concat", *names, axis=axis_of(axis, node))


def _slice(writer: Writer, node: fx.Node) -> str:
    source, axis, start, stop, step = arguments(node, None, 0, None, None, 1)
    start, stop = 0 if start is None else start, _MOST if stop is None else stop
    if not all(isinstance(n, int) for n in (start, stop, step)):
        raise NotWrittenError("a slice to a computed place")
    ends = [writer.integers(n) for n in (start, stop, axis_of(axis, source), step)]
    return writer.call("Slice", writer.name(source), *ends)


def _select(writer: Writer, node: fx.Node) -> str:
    source, axis, place = arguments(node, None, 0, 0)
    if not isinstance(place, int):
        raise NotWrittenError("an element at a computed place")
    at = writer.constant(np.array(place, np.int64))
    return writer.call("Gather", writer.name(source), at, axis=axis_of(axis, source))


def _pick(writer: Writer, node: fx.Node) -> str:
    source, axis, index = arguments(node, None, 0, None)
    names = writer.name(source), writer.name(index)
    return writer.call("Gather", *names, axis=axis_of(axis, source))


def _reshape(writer: Writer, node: fx.Node) -> str:
    source, sizes = arguments(node, None, None)
    return writer.call("Reshape", writer.name(source), writer.integers(*fixed(sizes)))


def _expand(writer: Writer, node: fx.Node) -> str:
    source, sizes = arguments(node, None, None)
    target = [1 if s == -1 else s for s in fixed(sizes)]
    return writer.call("Expand", writer.name(source), writer.integers(*target))


def _unsqueeze(writer: Writer, node: fx.Node) -> str:
    _, axis = arguments(node, None, None)
    source = writer.name(node.args[0])
    return writer.call("Unsqueeze", source, writer.integers(axis_of(axis, node)))


def _squeeze(writer: Writer, node: fx.Node) -> str:
    source, axis = arguments(node, None, None)
    if shape_of(source)[axis_of(axis, source)] != 1:
        raise NotWrittenError("a squeeze of more than one")
    return writer.call("Squeeze", writer.name(source), writer.integers(axis_of(axis, source)))


def _permute(writer: Writer, node: fx.Node) -> str:
    source, *rest = node.args
    axes = list(range(len(shape_of(source))))
    if node.target is aten.permute.default:
        axes = [axis_of(a, source) for a in cast("Sequence[int]", rest[0])]
    else:
        first, second = (axis_of(a, source) for a in (rest or (0, 1)))
        axes[first], axes[second] = axes[second], axes[first]
    return writer.call("Transpose", writer.name(source), perm=axes)


def _full(writer: Writer, node: fx.Node) -> str:
    sizes, value = fixed(node.args[0]), node.args[1]
    return writer.constant(np.full(sizes, value, kind_of(node)))


def _zeros(writer: Writer, node: fx.Node) -> str:
    shape = writer.call("Shape", writer.name(node.args[0]))
    filling = helper.make_tensor("filling", KINDS[kind_of(node)], [1], [0])
    return writer.call("ConstantOfShape", shape, value=filling)


def _same(writer: Writer, node: fx.Node) -> str:
    return writer.name(node.args[0])


def _cast(writer: Writer, node: fx.Node) -> str:
    source = cast("fx.Node", node.args[0])
    before, after = kind_of(source), kind_of(node)
    name = writer.name(source)
    return name if before == after else writer.call("Cast", name, to=KINDS[after])


MOVES: dict[Any, Rule] = {
    aten.cat.default: _join,
    aten.stack.default: _stack,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.index_select.default: _pick,
    aten.reshape.default: _reshape,
    aten.expand.default: _expand,
    aten.unsqueeze.default: _unsqueeze,
    aten.squeeze.dim: _squeeze,
    **dict.fromkeys((aten.permute.default, aten.transpose.int, aten.t.default), _permute),
    aten.full.default: _full,
    aten.zeros_like.default: _zeros,
    **dict.fromkeys(CASTS, _cast),
    **dict.fromkeys(NOISE, _same),
}
"""Operation to the rule that writes it."""
