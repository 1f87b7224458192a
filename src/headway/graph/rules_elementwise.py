"""Element-wise functions of one value act on each part in its own tower."""

from __future__ import annotations

from torch import fx

from headway.core import Scope
from headway.graph.dots import chosen
from headway.graph.forms import Blocks, Dots, Form, Operand, Terms, is_mixed, scope_of, waits
from headway.graph.nodes import aten
from headway.graph.parts import alone, merged
from headway.graph.rewrites import Rewrite
from headway.graph.towers import Towers

FUNCTIONS = (
    aten.relu.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.gelu.default,
    aten.silu.default,
    aten.leaky_relu.default,
    aten.elu.default,
    aten.hardtanh.default,
    aten.exp.default,
    aten.log.default,
    aten.abs.default,
    aten.sqrt.default,
    aten.rsqrt.default,
    aten.reciprocal.default,
    aten.softplus.default,
    aten.clamp.default,
    aten.clamp_min.default,
    aten.pow.Tensor_Scalar,
    aten.rsub.Scalar,
)
Number = int | float | None


def function(towers: Towers, node: fx.Node, args: list[Operand]) -> Form | None:
    """Apply a function of one value to each part in its own tower."""
    source, rest = args[0], args[1:]
    if not all(isinstance(a, Number) for a in rest) or not towers.allows(Rewrite.BLOCKS):
        return None
    if isinstance(source, Dots):
        source = chosen(towers, source) if len(source.sizes) == 1 else towers.whole(source)
    if isinstance(source, Terms):
        return _applied(towers, node, source) if waits(source) else None
    if not isinstance(source, Blocks):
        return None
    source = merged(towers, source)
    parts = tuple(_applied(towers, node, p) for p in source.parts)
    if any(scope_of(p) is Scope.QUERY for p in source.parts):
        towers.apply(Rewrite.BLOCKS)
    return Blocks(source.axis, parts, source.order)


def _applied(towers: Towers, node: fx.Node, part: Terms) -> Terms:
    if is_mixed(part):
        towers.stop()
    part = towers.whole(part)
    value = part.query if part.query is not None else part.candidate
    assert value is not None
    tower = towers.owner(value)
    made = tower.call(node.target, value, *node.args[1:], **node.kwargs)
    return alone(tower.scope, part.sizes, made)
