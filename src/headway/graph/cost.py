"""What an operation costs: multiply-adds, and elements that are only moved."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import SymInt, Tensor, fx

from headway.graph.nodes import NOISE, RESHAPES, aten
from headway.graph.recurrent import GRU

ELEMENT = 4
"""What reading and writing an element costs in multiply-adds of a product of matrices."""
_MOVES = {
    *NOISE,
    *RESHAPES,
    aten.cat.default,
    aten.stack.default,
    aten.index_select.default,
    aten.index.Tensor,
    aten.gather.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.unbind.int,
    aten.expand.default,
    aten.repeat.default,
    aten.transpose.int,
    aten.permute.default,
    aten.t.default,
    aten.embedding.default,
    aten.embedding_bag.default,
    aten.embedding_bag.padding_idx,
}
_COPIES = {
    aten.cat.default,
    aten.stack.default,
    aten.index_select.default,
    aten.index.Tensor,
    aten.gather.default,
    aten.expand.default,
    aten.repeat.default,
}
_PRODUCTS = {
    aten.linear.default: 0,
    aten.mm.default: 0,
    aten.bmm.default: 0,
    aten.matmul.default: 0,
    aten.addmm.default: 1,
    aten.baddbmm.default: 1,
}
_GATES = {
    GRU: 1,
    aten.gru.input: 2,
    aten.lstm.input: 2,
    aten.rnn_tanh.input: 2,
    aten.rnn_relu.input: 2,
}
"""Recurrent layers to the place of their weights among the arguments."""


def multiply_adds(node: fx.Node, rows: int) -> int:
    """Return the multiply-adds of an operation on ``rows`` rows.

    Products of matrices count in full, element-wise operations and reductions one per element
    they read or write, whichever is more. Lookups and moves of values are free here.

    Args:
        node: with shapes in ``meta["val"]``; every symbolic size is taken as in ``rows`` rows.
        rows: at least 0.
    """
    if node.op != "call_function" or node.target in _MOVES:
        return 0
    out = sum(prod(shape) for shape in _shapes(node.meta.get("val"), rows))
    sources = [_shapes(n.meta.get("val"), rows) for n in node.all_input_nodes]
    if node.target in _PRODUCTS:
        left = _shapes(_argument(node, _PRODUCTS[node.target]), rows)
        return out * left[0][-1] if left else out
    if node.target is aten.convolution.default:
        weight = _shapes(_argument(node, 1), rows)[0]
        return out * prod(weight[1:])
    if node.target in _GATES:
        return _recurrent(node, rows)
    largest = max((prod(shape) for shapes in sources for shape in shapes), default=0)
    return max(out, largest)


def moved(node: fx.Node, rows: int) -> int:
    """Return the elements that an operation only copies."""
    if node.op != "call_function" or node.target not in _COPIES:
        return 0
    return sum(prod(shape) for shape in _shapes(node.meta.get("val"), rows))


def work(node: fx.Node, rows: int) -> int:
    """Return what an operation costs in multiply-adds of a product of matrices."""
    adds = multiply_adds(node, rows)
    if node.target in _PRODUCTS or node.target in _GATES:
        return adds
    return ELEMENT * (adds + moved(node, rows))


def shape_of(value: object) -> tuple[int | str, ...]:
    """Return a shape with ``rows`` for symbolic sizes; empty for what is no tensor."""
    if isinstance(value, tuple | list) and value:
        value = value[0]
    if not isinstance(value, Tensor):
        return ()
    sizes: tuple[Any, ...] = tuple(value.shape)
    return tuple(s if isinstance(s, int) else "rows" for s in sizes)


def _recurrent(node: fx.Node, rows: int) -> int:
    """Every weight is used once per row and step."""
    source = _shapes(_argument(node, 0), rows)[0]
    weights = [_shapes(w, rows)[0] for w in _argument(node, _GATES[node.target])]
    return prod(source[:2]) * sum(prod(shape) for shape in weights if len(shape) == 2)


def _argument(node: fx.Node, index: int) -> Any:
    return fx.map_arg(node.args[index], lambda n: n.meta["val"])


def _shapes(value: object, rows: int) -> list[tuple[int, ...]]:
    if isinstance(value, tuple | list):
        return [shape for item in value for shape in _shapes(item, rows)]
    if not isinstance(value, Tensor):
        return []
    return [tuple(_size(s, rows) for s in value.shape)]


def _size(size: Any, rows: int) -> int:
    if not isinstance(size, SymInt):
        return int(size)
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, rows)))
