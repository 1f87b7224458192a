"""What adds zeros goes: a recurrence starts from them."""

from __future__ import annotations

from typing import Any, cast

from torch import fx

from headway.graph.nodes import aten, emit

_FRESH = (aten.zeros_like.default, aten.zeros.default, aten.new_zeros.default)
_KEEP = {
    aten.linear.default,
    aten.mul.Tensor,
    aten.neg.default,
    aten.relu.default,
    aten.tanh.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.expand.default,
}
"""Operations that give zeros if any value they read is zeros, constants apart."""


def drop_zeros(module: fx.GraphModule) -> None:
    """Rewrite the graph in place: ``x + 0``, ``x - 0`` and ``0 - x`` lose their zeros."""
    zeros: set[fx.Node] = set()
    for node in list(module.graph.nodes):
        if _is_zero(node, zeros):
            zeros.add(node)
        elif node.target in {aten.add.Tensor, aten.sub.Tensor} and not node.kwargs:
            with module.graph.inserting_before(node):
                better = _without(node, zeros)
            if better is not None:
                node.replace_all_uses_with(better)
                module.graph.erase_node(node)


def _is_zero(node: fx.Node, zeros: set[fx.Node]) -> bool:
    if node.target in _FRESH:
        return True
    if node.target is aten.full.default:
        return bool(node.args[1] == 0)
    if node.target is aten.linear.default and len(node.args) > 2 and node.args[2] is not None:
        return False
    return node.target in _KEEP and any(n in zeros for n in node.all_input_nodes)


def _without(node: fx.Node, zeros: set[fx.Node]) -> fx.Node | None:
    first, second = node.args[:2]
    if second in zeros and _fits(first, node):
        return cast("fx.Node", first)
    if first not in zeros or not _fits(second, node):
        return None
    if node.target is aten.add.Tensor:
        return cast("fx.Node", second)
    return emit(node.graph, aten.neg.default, second)


def _fits(value: Any, node: fx.Node) -> bool:
    """Tell whether a value has the shape and type of a node, so that nothing is broadcast."""
    if not isinstance(value, fx.Node):
        return False
    own, whole = value.meta["val"], node.meta["val"]
    return own.dtype == whole.dtype and list(map(str, own.shape)) == list(map(str, whole.shape))
