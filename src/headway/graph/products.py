"""Products of matrices in one form: what is linear is ``linear``, what is a scaling is ``mul``."""

from __future__ import annotations

from typing import cast

from torch import fx

from headway.graph.nodes import aten, constant, emit, reshaped, static, value_of


def product(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Turn a product with a constant matrix into a linear."""
    matrix = value_of(module, node.args[1])
    if matrix is None:
        return outer(module, node) or _product_from_left(module, node)
    if matrix.dim() != 2:
        return None
    turned = constant(module, matrix.t().contiguous(), node)
    return emit(module.graph, aten.linear.default, node.args[0], turned)


def _product_from_left(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Turn ``W x`` over columns, ``[rows, k, n]``, into a linear over their transposes."""
    matrix, columns = value_of(module, node.args[0]), cast("fx.Node", node.args[1])
    shape = columns.meta["val"].shape
    if matrix is None or matrix.dim() != 2 or len(shape) != 3 or not static(shape[2]):
        return None
    graph, axes = module.graph, [0, 2, 1]
    if shape[2] == 1:
        turned = emit(graph, aten.reshape.default, columns, [-1, shape[1]])
        made = emit(graph, aten.linear.default, turned, node.args[0])
        return reshaped(node, made)
    turned = emit(graph, aten.permute.default, columns, axes)
    made = emit(graph, aten.linear.default, turned, node.args[0])
    return emit(graph, aten.permute.default, made, axes)


def added_product(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Turn a product with a constant matrix and a bias into a linear."""
    bias, matrix = value_of(module, node.args[0]), value_of(module, node.args[2])
    if bias is None or matrix is None or bias.dim() != 1 or node.kwargs:
        return None
    turned = constant(module, matrix.t().contiguous(), node)
    return emit(module.graph, aten.linear.default, node.args[1], turned, node.args[0])


def outer(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Turn a product of columns ``[rows, n, 1]`` with lines ``[rows, 1, m]`` into ``mul``."""
    left, right = (cast("fx.Node", a).meta["val"].shape for a in node.args[:2])
    if len(left) != 3 or len(right) != 3 or left[2] != 1 or right[1] != 1:
        return None
    if str(left[0]) != str(right[0]):
        return None
    return emit(module.graph, aten.mul.Tensor, *node.args[:2])


def tensordot(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Turn a sum over one axis of a column and of a constant matrix into a linear."""
    source, matrix = cast("fx.Node", node.args[0]), value_of(module, node.args[1])
    shape = source.meta["val"].shape
    if matrix is None or matrix.dim() != 2 or len(shape) != 3 or shape[2] != 1:
        return None
    if list(cast("list[int]", node.args[2])) != [1] or len(cast("list[int]", node.args[3])) != 1:
        return None
    over = cast("list[int]", node.args[3])[0] % 2
    turned = constant(module, (matrix.t() if over == 0 else matrix).contiguous(), node)
    flat = emit(module.graph, aten.reshape.default, source, [-1, shape[1]])
    return reshaped(node, emit(module.graph, aten.linear.default, flat, turned))
