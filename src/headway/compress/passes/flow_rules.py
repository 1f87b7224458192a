"""How each operation hands positions on: products, lookups, and arithmetic by element."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import fx

from headway.compress.passes.flow import Flow, Product, argument, plain, sizes
from headway.compress.passes.flow_shapes import SHAPE_RULES
from headway.compress.passes.labels import ANY, Labels, Value, any_late, combined, fixed
from headway.graph import GRU

aten = torch.ops.aten
Rule = Callable[[Flow, fx.Node], Value | tuple[Value, ...]]
GATES = 3


def _linear(flow: Flow, node: fx.Node) -> Value:
    given, weight = flow.value(node.args[0]), flow.value(node.args[1])
    outer = _joined(flow, weight.axes[0], *_biases(flow, argument(node, 2)))
    inner = _joined(flow, given.last, weight.axes[1])
    flow.products.append(Product(flow.times(node.args[0]), inner, outer, given.late))
    return Value((*given.axes[:-1], outer), np.full(len(outer), given.late.any()))


def _matrix(flow: Flow, node: fx.Node) -> Value:
    """Follow a product of two values; where the second is constant it is a linear layer."""
    given, other = flow.value(node.args[0]), flow.value(node.args[1])
    if len(given.axes) < 2 or len(other.axes) < 2:
        return cast("Value", flow.unknown(node))
    inner = _joined(flow, given.last, other.axes[-2])
    both = _has_labels(given) and _has_labels(other)
    if both and len(other.axes) > 2:
        flow.classes.bend(given.last, other.axes[-2], other.last)
    count = flow.times(node.args[0])
    flow.products.append(
        Product(count, inner, other.last, combined([given.late, any_late(other)], len(inner)))
    )
    batch = given.axes[:-1] if len(given.axes) >= len(other.axes) else other.axes[:-2]
    late = np.full(len(other.last), given.late.any() or other.late.any())
    return Value((*batch, other.axes[-1]), late)


def _addmm(flow: Flow, node: fx.Node) -> Value:
    bias, given, weight = (flow.value(source) for source in node.args[:3])
    inner = _joined(flow, given.last, weight.axes[0])
    outer = _joined(flow, weight.axes[1], bias.last)
    flow.products.append(Product(flow.times(node.args[1]), inner, outer, given.late))
    return Value((*given.axes[:-1], outer), np.full(len(outer), given.late.any()))


def _embedding(flow: Flow, node: fx.Node) -> Value:
    table, (ids, *_) = flow.look_up(node)
    width = len(table.last)
    return Value((*ids.axes, table.axes[1]), np.full(width, ids.late.any()))


def _bag(flow: Flow, node: fx.Node) -> tuple[Value, ...]:
    table, lists = flow.look_up(node)
    late = any(value.late.any() for value in lists)
    pooled = Value((None, table.axes[1]), np.full(len(table.last), late))
    return pooled, *(plain(part, late=late) for part in node.meta["val"][1:])


def _gru(flow: Flow, node: fx.Node) -> Value:
    given = flow.value(node.args[0])
    weights = [flow.value(weight) for weight in cast("Sequence[fx.Node]", node.args[1])]
    inner = _joined(flow, given.last, weights[0].axes[1])
    hidden = cast("Labels", weights[1].axes[1])
    for weight in weights:
        for gate in np.split(cast("Labels", weight.axes[0]), GATES):
            hidden = _joined(flow, hidden, gate)
    flow.classes.bend(inner, hidden)
    late = given.late
    outer = np.tile(hidden, GATES)
    count = flow.times(node.args[0])
    flow.products.append(Product(count, inner, outer, late))
    flow.products.append(Product(count, hidden, outer, np.full(len(hidden), late.any())))
    return Value((*given.axes[:-1], hidden), np.full(len(hidden), late.any()))


def _bent(flow: Flow, node: fx.Node) -> Value:
    """Follow a function of each element that is not linear."""
    value = flow.value(node.args[0])
    flow.classes.bend(*value.axes)
    return value


def _same(flow: Flow, node: fx.Node) -> Value:
    return flow.value(node.args[0])


def _sum_of(flow: Flow, node: fx.Node) -> Value:
    result = _by_element(flow, node)
    if len(node.all_input_nodes) < 2:  # a number added is not linear
        flow.classes.bend(*result.axes)
    return result


def _product_of(flow: Flow, node: fx.Node) -> Value:
    values = [flow.value(source) for source in node.all_input_nodes]
    if sum(map(_has_labels, values)) > 1 or node.args[0] is argument(node, 1):
        for value in values:
            flow.classes.bend(*value.axes)
    return _by_element(flow, node)


def _choice(flow: Flow, node: fx.Node) -> Value:
    for source in node.all_input_nodes:
        flow.classes.bend(*flow.value(source).axes)
    return _by_element(flow, node)


def _by_element(flow: Flow, node: fx.Node) -> Value:
    """Join the axes of all that is combined element by element, aligned from the last."""
    values = [flow.value(source) for source in node.all_input_nodes]
    result = node.meta["val"]
    axes: list[Labels | None] = []
    for place in range(-len(result.shape), 0):
        found = [v.axes[place] for v in values if len(v.axes) >= -place]
        known = [axis for axis in found if axis is not None]
        if not isinstance(result.shape[place], int):
            flow.classes.freeze(*[axis for axis in known if len(axis) > 1])
            axes.append(None)
        else:
            axes.append(_joined(flow, *known))
    width = len(axes[-1]) if axes and axes[-1] is not None else 1
    return Value(tuple(axes), combined([value.late for value in values], width))


def _prelu(flow: Flow, node: fx.Node) -> Value:
    value, slope = flow.value(node.args[0]), flow.value(node.args[1])
    flow.classes.bend(*value.axes)
    if len(slope.last) == 1:
        return value
    axes = list(value.axes)
    axes[1] = _joined(flow, axes[1], slope.axes[0])
    return Value(tuple(axes), value.late)


def _batch_norm(flow: Flow, node: fx.Node) -> Value | tuple[Value, ...]:
    value = flow.value(node.args[0])
    axes = list(value.axes)
    for source in node.args[1:5]:
        if isinstance(source, fx.Node):
            axes[1] = _joined(flow, axes[1], flow.value(source).axes[0])
    flow.classes.bend(*axes)
    result = Value(tuple(axes), value.late)
    if isinstance(node.meta["val"], torch.Tensor):
        return result
    return result, *(plain(part, late=False) for part in node.meta["val"][1:])


def _softmax(flow: Flow, node: fx.Node) -> Value:
    value = flow.value(node.args[0])
    if value.axes:
        flow.classes.freeze(value.axes[cast("int", node.args[1])])
    flow.classes.bend(*value.axes)
    return value


def _total(flow: Flow, node: fx.Node) -> Value:
    """Follow a sum over axes; a mean over positions that may go would change its divisor."""
    value = flow.value(node.args[0])
    rank = len(value.axes)
    dims = {d % rank for d in argument(node, 1) or range(rank)}
    keep = bool(argument(node, 2, default=False))
    axes: list[Labels | None] = []
    for place, axis in enumerate(value.axes):
        if place not in dims:
            axes.append(axis)
            continue
        if node.target is aten.mean.dim:
            flow.classes.freeze(axis)
        flow.classes.bend(axis)
        if keep:
            axes.append(fixed(1))
    if rank - 1 in dims:
        width = len(axes[-1]) if axes and axes[-1] is not None else 1
        return Value(tuple(axes), np.full(width, value.late.any()))
    return Value(tuple(axes), value.late)


def _zeros(_: Flow, node: fx.Node) -> Value:
    shape = node.meta["val"].shape
    axes = tuple(np.full(n, ANY) if isinstance(n, int) else None for n in shape)
    width = sizes(node.meta["val"])[-1] if shape else 1
    return Value(axes, np.zeros(width if axes and axes[-1] is not None else 1, np.bool_))


def _joined(flow: Flow, first: Labels | None, *others: Labels | None) -> Labels:
    total = fixed(1) if first is None else first
    for other in others:
        total = flow.classes.join(total, fixed(1) if other is None else other)
    return total


def _biases(flow: Flow, bias: object) -> list[Labels | None]:
    return [flow.value(bias).axes[0]] if isinstance(bias, fx.Node) else []


def _has_labels(value: Value) -> bool:
    return any(axis is not None and bool((axis >= 0).any()) for axis in value.axes)


_NOT_LINEAR = [
    *(aten.relu.default, aten.sigmoid.default, aten.tanh.default, aten.gelu.default),
    *(aten.silu.default, aten.elu.default, aten.leaky_relu.default, aten.softplus.default),
    *(aten.exp.default, aten.log.default, aten.log1p.default, aten.sqrt.default),
    *(aten.rsqrt.default, aten.abs.default, aten.square.default, aten.reciprocal.default),
    *(aten.pow.Tensor_Scalar, aten.clamp.default, aten.clamp_min.default, aten.hardtanh.default),
    *(aten.sign.default, aten.hardsigmoid.default, aten.hardswish.default, aten.mish.default),
    *(aten.log_sigmoid_forward.default, aten.selu.default, aten.relu6.default),
]
RULES: dict[Any, Rule] = {
    **SHAPE_RULES,
    **dict.fromkeys(_NOT_LINEAR, _bent),
    **dict.fromkeys([aten.neg.default, aten.mul.Scalar, aten.div.Scalar], _same),
    **dict.fromkeys([aten.add.Tensor, aten.sub.Tensor, aten.rsub.Scalar], _sum_of),
    **dict.fromkeys([aten.mul.Tensor, aten.div.Tensor], _product_of),
    **dict.fromkeys(
        [aten.where.self, aten.masked_fill.Scalar, aten.maximum.default, aten.minimum.default],
        _choice,
    ),
    **dict.fromkeys([aten.bmm.default, aten.matmul.default, aten.mm.default], _matrix),
    **dict.fromkeys([aten.sum.dim_IntList, aten.mean.dim], _total),
    **dict.fromkeys([aten.softmax.int, aten._softmax.default], _softmax),  # noqa: SLF001
    **dict.fromkeys(
        [
            aten.batch_norm.default,
            aten._native_batch_norm_legit_no_training.default,  # noqa: SLF001
        ],
        _batch_norm,
    ),
    **dict.fromkeys(
        [
            aten.zeros_like.default,
            aten.zeros.default,
            aten.new_zeros.default,
            aten.full.default,
            aten.full_like.default,
            aten.ones_like.default,
        ],
        _zeros,
    ),
    aten.linear.default: _linear,
    aten.addmm.default: _addmm,
    aten.embedding.default: _embedding,
    aten.embedding_bag.padding_idx: _bag,
    aten.prelu.default: _prelu,
    GRU: _gru,
    operator.getitem: lambda flow, node: flow.several(node.args[0])[cast("int", node.args[1])],
}
