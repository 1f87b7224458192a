"""Products, sums, functions and reductions as ONNX."""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import sqrt
from typing import Any, cast

import numpy as np
from torch import fx

from headway.graph.nodes import aten, value_of
from headway.graph.onnx_arguments import arguments, axis_of, shape_of
from headway.graph.onnx_writer import NotWrittenError, Rule, Writer, array_of, kind_of


def _operands(writer: Writer, node: fx.Node) -> list[str]:
    """Return operands of one type; numbers become constants of it."""
    args = arguments(node, None, None)
    kinds = {kind_of(a) for a in args if isinstance(a, fx.Node)}
    if len(kinds) != 1:
        raise NotWrittenError(f"{node.target} of {kinds}")
    kind = kinds.pop()
    if kind != "float32" and any(isinstance(a, float) for a in args):
        raise NotWrittenError(f"{node.target} of {kind} and a fraction")
    return [
        writer.name(a) if isinstance(a, fx.Node) else writer.constant(np.array(a, kind))
        for a in args
    ]


def _binary(operation: str) -> Rule:
    return lambda writer, node: writer.call(operation, *_operands(writer, node))


def _turned(operation: str) -> Rule:
    return lambda writer, node: writer.call(operation, *reversed(_operands(writer, node)))


def _unary(*operations: str) -> Rule:
    def rule(writer: Writer, node: fx.Node) -> str:
        result = writer.name(arguments(node, None)[0])
        for operation in operations:
            result = writer.call(operation, result)
        return result

    return rule


def _logical(operation: str, rule: Callable[[str], Rule]) -> Rule:
    def checked(writer: Writer, node: fx.Node) -> str:
        if kind_of(node) != "bool":
            raise NotWrittenError(f"{node.target} of numbers")
        return rule(operation)(writer, node)

    return checked


def _differ(writer: Writer, node: fx.Node) -> str:
    return writer.call("Not", writer.call("Equal", *_operands(writer, node)))


def _linear(writer: Writer, node: fx.Node) -> str:
    source, weight, bias = arguments(node, None, None, None)
    name = writer.name(source)
    if len(shape_of(source)) == 2 and bias is not None:
        return writer.call("Gemm", name, writer.name(weight), writer.name(bias), transB=1)
    matrix = value_of(writer.module, weight)
    if matrix is None:
        turned = writer.call("Transpose", writer.name(weight), perm=[1, 0])
    else:
        turned = writer.constant(array_of(matrix.t()))
    product = writer.call("MatMul", name, turned)
    return product if bias is None else writer.call("Add", product, writer.name(bias))


def _added_product(writer: Writer, node: fx.Node) -> str:
    shift, left, right = (writer.name(a) for a in arguments(node, None, None, None))
    return writer.call("Gemm", left, right, shift)


def _reduced(operation: str) -> Rule:
    def rule(writer: Writer, node: fx.Node) -> str:
        source, dims, keep = arguments(node, None, None, 0)
        if not dims or kind_of(source) != "float32":
            raise NotWrittenError(f"{node.target} over {dims}")
        axes = writer.integers(*sorted(axis_of(d, source) for d in dims))
        return writer.call(operation, writer.name(source), axes, keepdims=int(bool(keep)))

    return rule


def _softmax(writer: Writer, node: fx.Node) -> str:
    source, axis, _ = arguments(node, None, -1, None)
    return writer.call("Softmax", writer.name(source), axis=axis_of(axis, source))


def _where(writer: Writer, node: fx.Node) -> str:
    return writer.call("Where", *(writer.name(a) for a in arguments(node, None, None, None)))


def _masked(writer: Writer, node: fx.Node) -> str:
    source, mask, value = arguments(node, None, None, None)
    filling = writer.constant(np.array(value, kind_of(source)))
    return writer.call("Where", writer.name(mask), filling, writer.name(source))


def _power(writer: Writer, node: fx.Node) -> str:
    name, times = _operands(writer, node)[0], node.args[1]
    if times == 2:
        return writer.call("Mul", name, name)
    return writer.call("Sqrt", name) if times == 0.5 else _binary("Pow")(writer, node)


def _clip(writer: Writer, node: fx.Node) -> str:
    default = (-1.0, 1.0) if node.target is aten.hardtanh.default else (None, None)
    source, *ends = arguments(node, None, *default)
    kind = kind_of(source)
    names = ["" if e is None else writer.constant(np.array(e, kind)) for e in ends]
    return writer.call("Clip", writer.name(source), *names)


def _leaky(writer: Writer, node: fx.Node) -> str:
    source, slope = arguments(node, None, 0.01)
    return writer.call("LeakyRelu", writer.name(source), alpha=float(slope))


def _elu(writer: Writer, node: fx.Node) -> str:
    source, alpha, *scales = arguments(node, None, 1.0, 1.0, 1.0)
    if scales != [1, 1]:
        raise NotWrittenError(f"{node.target} with {node.args[1:]}")
    return writer.call("Elu", writer.name(source), alpha=float(alpha))


def _softplus(writer: Writer, node: fx.Node) -> str:
    source, beta, _ = arguments(node, None, 1.0, 20.0)
    if beta != 1:
        raise NotWrittenError(f"{node.target} with {node.args[1:]}")
    return writer.call("Softplus", writer.name(source))


def _gelu(writer: Writer, node: fx.Node) -> str:
    # ONNX's own Gelu is not in every engine; the error function is.
    x = writer.name(arguments(node, None)[0])
    one, half, scale = (
        writer.constant(np.array(v, np.float32)) for v in (1.0, 0.5, 1.0 / sqrt(2.0))
    )
    error = writer.call("Erf", writer.call("Mul", x, scale))
    return writer.call("Mul", writer.call("Mul", x, half), writer.call("Add", error, one))


def _silu(writer: Writer, node: fx.Node) -> str:
    name = writer.name(arguments(node, None)[0])
    return writer.call("Mul", name, writer.call("Sigmoid", name))


def _prelu(writer: Writer, node: fx.Node) -> str:
    source, slope = arguments(node, None, None)
    value, rank = value_of(writer.module, slope), len(shape_of(source))
    if value is None or rank < 2:
        raise NotWrittenError("a learned slope that is no constant")
    shape = [1] if value.numel() == 1 else [value.numel(), *[1] * (rank - 2)]
    return writer.call("PRelu", writer.name(source), writer.constant(array_of(value.view(shape))))


def _layer_norm(writer: Writer, node: fx.Node) -> str:
    norm, place = cast("tuple[fx.Node, int]", node.args)
    if norm.target is not aten.native_layer_norm.default or place:
        raise NotWrittenError(f"{norm.target} result {place}")
    return _whole_norm(writer, norm)


def _whole_norm(writer: Writer, norm: fx.Node) -> str:
    source, sizes, weight, bias, epsilon, _ = arguments(norm, *[None] * 4, 1e-5, None)
    names = [writer.name(source)]
    names.append(
        writer.constant(np.ones(sizes, np.float32)) if weight is None else writer.name(weight)
    )
    names += [] if bias is None else [writer.name(bias)]
    axis = len(shape_of(source)) - len(sizes)
    return writer.call("LayerNormalization", *names, axis=axis, epsilon=float(epsilon))


def _later(_writer: Writer, _node: fx.Node) -> str:
    """Write nothing for a value that only ``getitem`` reads."""
    return ""


_AND = (aten.logical_and.default, aten.__and__.Tensor, aten.bitwise_and.Tensor)
_OR = (aten.logical_or.default, aten.__or__.Tensor, aten.bitwise_or.Tensor)
_NOT = (aten.logical_not.default, aten.bitwise_not.default)
VALUES: dict[Any, Rule] = {
    aten.linear.default: _linear,
    aten.addmm.default: _added_product,
    **dict.fromkeys((aten.mm.default, aten.bmm.default, aten.matmul.default), _binary("MatMul")),
    aten.add.Tensor: _binary("Add"),
    aten.sub.Tensor: _binary("Sub"),
    aten.mul.Tensor: _binary("Mul"),
    aten.div.Tensor: _binary("Div"),
    aten.maximum.default: _binary("Max"),
    aten.minimum.default: _binary("Min"),
    aten.rsub.Scalar: _turned("Sub"),
    **dict.fromkeys(_AND, _logical("And", _binary)),
    **dict.fromkeys(_OR, _logical("Or", _binary)),
    aten.pow.Tensor_Scalar: _power,
    aten.pow.Tensor_Tensor: _binary("Pow"),
    **dict.fromkeys((aten.eq.Scalar, aten.eq.Tensor), _binary("Equal")),
    **dict.fromkeys((aten.ne.Scalar, aten.ne.Tensor), _differ),
    **dict.fromkeys((aten.gt.Scalar, aten.gt.Tensor), _binary("Greater")),
    **dict.fromkeys((aten.lt.Scalar, aten.lt.Tensor), _binary("Less")),
    **dict.fromkeys((aten.ge.Scalar, aten.ge.Tensor), _binary("GreaterOrEqual")),
    **dict.fromkeys((aten.le.Scalar, aten.le.Tensor), _binary("LessOrEqual")),
    aten.neg.default: _unary("Neg"),
    aten.relu.default: _unary("Relu"),
    aten.sigmoid.default: _unary("Sigmoid"),
    aten.tanh.default: _unary("Tanh"),
    aten.exp.default: _unary("Exp"),
    aten.log.default: _unary("Log"),
    aten.abs.default: _unary("Abs"),
    aten.sqrt.default: _unary("Sqrt"),
    aten.rsqrt.default: _unary("Sqrt", "Reciprocal"),
    aten.reciprocal.default: _unary("Reciprocal"),
    **dict.fromkeys(_NOT, _logical("Not", _unary)),
    aten.gelu.default: _gelu,
    aten.silu.default: _silu,
    aten.leaky_relu.default: _leaky,
    aten.elu.default: _elu,
    aten.softplus.default: _softplus,
    aten.prelu.default: _prelu,
    aten._prelu_kernel.default: _prelu,  # noqa: SLF001
    **dict.fromkeys((aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default), _clip),
    aten._softmax.default: _softmax,  # noqa: SLF001
    aten.softmax.int: _softmax,
    aten.sum.dim_IntList: _reduced("ReduceSum"),
    aten.mean.dim: _reduced("ReduceMean"),
    aten.amax.default: _reduced("ReduceMax"),
    aten.amin.default: _reduced("ReduceMin"),
    aten.where.self: _where,
    aten.masked_fill.Scalar: _masked,
    aten.native_layer_norm.default: _later,
    aten.layer_norm.default: _whole_norm,
    operator.getitem: _layer_norm,
}
"""Operation to the rule that writes it."""
