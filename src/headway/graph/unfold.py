"""Rows folded together with another axis are told apart again, so that rows stay rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, fx

from headway.graph.nodes import aten, emit, value_of

_EACH = (
    aten.relu.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.gelu.default,
    aten.silu.default,
    aten.leaky_relu.default,
    aten.elu.default,
    aten.hardtanh.default,
    aten.softplus.default,
    aten.exp.default,
    aten.log.default,
    aten.sqrt.default,
    aten.rsqrt.default,
    aten.neg.default,
    aten.rsub.Scalar,
    aten.pow.Tensor_Scalar,
    aten.clamp.default,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.maximum.default,
    aten.minimum.default,
)
_OVER_AXES = (aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default)


def unfold_rows(module: fx.GraphModule) -> None:
    """Rewrite the graph in place: ``[rows * n, d]`` from ``[rows, n, d]`` stays ``[rows, n, d]``.

    Attention units are often applied to a history folded into the rows, ``x.view(-1, d)``, and
    their results told apart after. Operations on each row alone give the same either way.
    """
    apart: dict[fx.Node, fx.Node] = {}
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        with module.graph.inserting_before(node):
            if node.target is aten.reshape.default:
                _reshape(node, apart)
            elif any(n in apart for n in node.all_input_nodes):
                _row_wise(module, node, apart)


def _reshape(node: fx.Node, apart: dict[fx.Node, fx.Node]) -> None:
    source = cast("fx.Node", node.args[0])
    if source in apart:
        _unfolded(node, apart[source], apart)
        return
    before, after = source.meta["val"].shape, node.meta["val"].shape
    if len(before) != len(after) + 1 or len(after) < 2 or not _known(before):
        return
    folded = before[0] * before[1]
    if str(after[0]) == str(folded) and list(after[1:]) == list(before[2:]) and before[1] != 1:
        apart[node] = source


def _unfolded(node: fx.Node, source: fx.Node, apart: dict[fx.Node, fx.Node]) -> None:
    """Change the shape of what was never folded."""
    before, after = source.meta["val"].shape, node.meta["val"].shape
    if not _known(after):
        folded = before[0] * before[1]
        if str(after[0]) == str(folded) and all(isinstance(s, int) for s in after[1:]):
            sizes = [-1, before[1], *after[1:]]
            apart[node] = emit(node.graph, aten.reshape.default, source, sizes)
        return
    made = emit(node.graph, aten.reshape.default, source, [-1, *after[1:]])
    made.meta = {**node.meta, "val": node.meta["val"]}
    node.replace_all_uses_with(made)


def _known(shape: Sequence[Any]) -> bool:
    """Tell whether the first size is a plain number of rows and the others are fixed."""
    first = shape[0]
    plain = not isinstance(first, int) and first.node.expr.is_symbol
    return bool(plain and all(isinstance(s, int) for s in shape[1:]))


def _row_wise(module: fx.GraphModule, node: fx.Node, apart: dict[fx.Node, fx.Node]) -> None:
    """Make the same operation on what was never folded, if it treats each row alone."""
    folded = [n for n in node.all_input_nodes if n in apart]
    others = [n for n in node.all_input_nodes if n not in apart]
    constants = [value_of(module, n) for n in others]
    if any(value is None for value in constants) or len({_lead(apart[n]) for n in folded}) > 1:
        return
    if node.target is aten.cat.default:
        fits = not others and node.args[1] in {-1, len(node.meta["val"].shape) - 1}
        sources = cast("Sequence[fx.Node]", node.args[0])
        arguments: tuple[Any, ...] = ([apart[n] for n in sources], -1) if fits else ()
    elif node.target in _OVER_AXES:
        fits, arguments = _shifted(node, apart[folded[0]])
    else:
        fits = _fits(node, [v for v in constants if v is not None])
        arguments = fx.map_arg(node.args, lambda n: apart.get(n, n)) if fits else ()
    if fits:
        made = emit(module.graph, node.target, *arguments, **node.kwargs)
        made.meta = {**node.meta, "val": made.meta["val"]}
        apart[node] = made


def _shifted(node: fx.Node, source: fx.Node) -> tuple[bool, tuple[Any, ...]]:
    """Return a reduction's arguments with axes counted from the end, rows not among them."""
    rank = len(source.meta["val"].shape) - 1
    dims = cast("Sequence[int] | None", node.args[1] if len(node.args) > 1 else None)
    if not dims or any(d % rank == 0 for d in dims) or node.kwargs:
        return False, ()
    return True, (source, [d % rank - rank for d in dims], *node.args[2:])


def _lead(node: fx.Node) -> tuple[str, str]:
    shape = node.meta["val"].shape
    return str(shape[0]), str(shape[1])


def _fits(node: fx.Node, constants: Sequence[Tensor]) -> bool:
    if node.target not in (*_EACH, aten.linear.default, aten.prelu.default):
        return False
    rank = len(node.meta["val"].shape)
    if node.target is aten.linear.default:
        return True
    if node.target is aten.prelu.default:
        return all(value.numel() == 1 for value in constants)
    tensors = [a for a in node.args if isinstance(a, fx.Node)]
    same_rank = all(len(n.meta["val"].shape) == rank for n in tensors if n.op != "get_attr")
    # A constant with as many axes as the value would meet the axis that comes apart.
    return same_rank and all(value.dim() < rank for value in constants)
