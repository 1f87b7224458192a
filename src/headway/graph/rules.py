"""Which rule may move the work of which operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from headway.graph import (
    rules_arithmetic,
    rules_elementwise,
    rules_linear,
    rules_reduce,
    rules_shape,
)
from headway.graph.forms import Form, Operand
from headway.graph.nodes import aten
from headway.graph.towers import Towers

Rule = Callable[[Towers, fx.Node, list[Operand]], Form | None]
"""Returns the node's value as a form, or None where the rule does not apply."""

RULES: dict[Any, Rule] = {
    aten.cat.default: rules_shape.join,
    aten.reshape.default: rules_shape.reshape,
    aten.expand.default: rules_shape.expand,
    aten.permute.default: rules_shape.permute,
    aten.transpose.int: rules_shape.permute,
    aten.t.default: rules_shape.permute,
    aten.select.int: rules_shape.select,
    aten.slice.Tensor: rules_shape.cut,
    aten.index_select.default: rules_shape.pick,
    aten.index.Tensor: rules_shape.index,
    aten.linear.default: rules_linear.linear,
    aten.add.Tensor: rules_arithmetic.add,
    aten.sub.Tensor: rules_arithmetic.subtract,
    aten.mul.Tensor: rules_arithmetic.multiply,
    aten.div.Tensor: rules_arithmetic.divide,
    aten.neg.default: rules_arithmetic.negate,
    aten.sum.dim_IntList: rules_reduce.total,
    aten.mean.dim: rules_reduce.total,
    aten.bmm.default: rules_reduce.product,
    aten.matmul.default: rules_reduce.product,
    **dict.fromkeys(rules_elementwise.FUNCTIONS, rules_elementwise.function),
}
"""Operation to the rule that may hoist it; what no rule covers is gathered."""

BROADCASTS = {
    *rules_elementwise.FUNCTIONS,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.neg.default,
    aten.where.self,
    aten.maximum.default,
    aten.minimum.default,
    aten.masked_fill.Scalar,
    aten.logical_and.default,
    aten.logical_or.default,
    aten.logical_not.default,
    aten.pow.Tensor_Tensor,
}
"""Operations whose operands broadcast, so that nothing need be repeated for them."""
