"""Two linear maps with nothing between them become one, where that is less work."""

from __future__ import annotations

from typing import cast

from torch import Tensor, fx

from headway.graph.nodes import aten, constant, value_of


def merge_linear(module: fx.GraphModule) -> fx.GraphModule:
    """Return the graph with ``V (W x + a) + b`` as ``(V W) x + (V a + b)``.

    Only a map whose result nothing else reads is merged, and only if the one map has fewer
    weights than the two. Products are made in float64. The module given stays as it is.
    """
    copied = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    result = copied.graph_copy(module.graph, values)
    copied.output(result)
    for old, new in values.items():
        new.meta = dict(old.meta)
    merged = fx.GraphModule(module, copied)
    for node in merged.graph.find_nodes(op="call_function", target=aten.linear.default):
        with merged.graph.inserting_before(node):
            _merge(merged, node)
    merged.graph.eliminate_dead_code()
    return merged


def _merge(module: fx.GraphModule, node: fx.Node) -> None:
    first = cast("fx.Node", node.args[0])
    if first.target is not aten.linear.default or len(first.users) != 1:
        return
    inner, outer = value_of(module, first.args[1]), value_of(module, node.args[1])
    if inner is None or outer is None:
        return
    width, middle, outputs = inner.shape[1], inner.shape[0], outer.shape[0]
    if width * outputs >= width * middle + middle * outputs:
        return
    biases = [_bias(module, n) for n in (first, node)]
    if biases[0] is False or biases[1] is False:
        return
    kind = outer.dtype
    weight = constant(module, (outer.double() @ inner.double()).to(kind), node)
    shift: Tensor | None = None
    if isinstance(biases[0], Tensor):
        shift = outer.double() @ biases[0].double()
    if isinstance(biases[1], Tensor):
        shift = biases[1].double() if shift is None else shift + biases[1].double()
    extra = () if shift is None else (constant(module, shift.to(kind), node),)
    node.args = (first.args[0], weight, *extra)


def _bias(module: fx.GraphModule, node: fx.Node) -> Tensor | bool | None:
    """Return a layer's bias, None if it has none, False if it is not known."""
    if len(node.args) < 3 or node.args[2] is None:
        return None
    value = value_of(module, node.args[2])
    return False if value is None else value
