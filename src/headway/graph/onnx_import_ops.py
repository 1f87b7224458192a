"""ONNX operations on tensors, in torch's own words so that capture sees what it knows."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from headway.core import CaptureError

Sizes = list[Any]
"""Shapes and positions, which may be symbolic: never tensors, so that capture can follow them."""
Value = Any
"""A tensor, ``Sizes``, one size, or None for an input that is left out."""
_FLOATS = {1, 10, 11, 16}
_INTEGERS = {6: torch.int32, 7: torch.int64, 9: torch.bool, 2: torch.uint8, 3: torch.int8}


@dataclass(frozen=True, slots=True)
class RawShape:
    """Stands for ids that only a lookup may read: all that is left of them is their shape."""

    shape: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One node to run."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    given: dict[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        return self.given.get(name, default)


_NO_STEP = Step("", "", (), (), {})
Op = Callable[[Step, Sequence[Value]], Value]


def tensor(value: Value, like: Tensor | None = None) -> Tensor:
    """Return a value as a tensor; sizes become int64."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, device=None if like is None else like.device)


def sizes(value: Value) -> Sizes:
    """Return axes, positions or a shape as a list.

    Raises:
        CaptureError: if they are computed from features.
    """
    if isinstance(value, Tensor):
        raise CaptureError("a shape, axis or position is computed from values of features")
    return value if isinstance(value, list) else [value]


def _unary(function: Callable[[Tensor], Tensor]) -> Op:
    return lambda _, x: function(tensor(x[0]))


def _binary(function: Callable[[Any, Any], Any]) -> Op:
    """Let single numbers be numbers: a power of 2 is a square only if capture sees the 2."""

    def run(_: Step, x: Sequence[Value]) -> Value:
        a, b = (v if isinstance(v, int | float) else tensor(v) for v in x)
        return function(a, b)

    return run


def _logical(function: Callable[[Tensor, Tensor], Tensor]) -> Op:
    return lambda _, x: function(tensor(x[0]), tensor(x[1]))


def _chain(function: Callable[[Tensor, Tensor], Tensor]) -> Op:
    def run(_: Step, x: Sequence[Value]) -> Value:
        result = tensor(x[0])
        for other in x[1:]:
            result = function(result, tensor(other))
        return result

    return run


def _reduction(function: Callable[[Tensor, Sizes, bool], Tensor]) -> Op:
    def run(step: Step, x: Sequence[Value]) -> Value:
        value, keep = tensor(x[0]), bool(step.get("keepdims", 1))
        axes = sizes(x[1]) if len(x) > 1 and x[1] is not None else list(step.get("axes", ()))
        if not axes and step.get("noop_with_empty_axes", 0):
            return value
        axes = [int(a) % value.dim() for a in axes] or list(range(value.dim()))
        return function(value, axes, keep)

    return run


def _divide(step: Step, x: Sequence[Value]) -> Value:
    del step
    if any(isinstance(v, float) or _is_float(v) for v in x):
        return _binary(operator.truediv)(_NO_STEP, x)
    return torch.div(tensor(x[0]), tensor(x[1]), rounding_mode="trunc")


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    if a.dim() == b.dim() == 3 and a.shape[0] == b.shape[0]:
        return torch.bmm(a, b)  # as models have it, so that one rule covers both
    return torch.matmul(a, b)


def _clip(step: Step, x: Sequence[Value]) -> Value:
    del step
    low, high = [*x[1:], None, None][:2]
    value = tensor(x[0])
    if low is not None:
        value = torch.maximum(value, tensor(low).to(value.dtype))
    if high is not None:
        value = torch.minimum(value, tensor(high).to(value.dtype))
    return value


def _gemm(step: Step, x: Sequence[Value]) -> Value:
    a, b = tensor(x[0]), tensor(x[1])
    bias = tensor(x[2]) if len(x) > 2 and x[2] is not None else None
    a = a.t() if step.get("transA", 0) else a
    weight = b if step.get("transB", 0) else b.t()
    alpha, beta = step.get("alpha", 1.0), step.get("beta", 1.0)
    weight = weight if alpha == 1.0 else weight * alpha
    if bias is None:
        return functional.linear(a, weight)
    bias = bias if beta == 1.0 else bias * beta
    if bias.numel() == weight.shape[0]:
        return functional.linear(a, weight, bias.reshape(-1))
    return functional.linear(a, weight) + bias


def _batch_norm(step: Step, x: Sequence[Value]) -> Value:
    scale, bias, mean, variance = (tensor(v) for v in x[1:5])
    eps = step.get("epsilon", 1e-5)
    return functional.batch_norm(tensor(x[0]), mean, variance, scale, bias, eps=eps)


def _layer_norm(step: Step, x: Sequence[Value]) -> Value:
    value, scale = tensor(x[0]), tensor(x[1])
    axis = int(step.get("axis", -1)) % value.dim()
    shape = [int(n) for n in value.shape[axis:]]
    bias = tensor(x[2]).expand(shape) if len(x) > 2 and x[2] is not None else None
    return functional.layer_norm(value, shape, scale.expand(shape), bias, step.get("epsilon", 1e-5))


def _cast(step: Step, x: Sequence[Value]) -> Value:
    kind, value = int(step.get("to", 1)), x[0]
    if kind in _FLOATS:  # of one width throughout: the module's own
        return tensor(value).to(torch.get_default_dtype()) if not _is_float(value) else value
    if kind not in _INTEGERS:
        raise CaptureError(f"a cast to the type {kind} is not read; cast to float or int64")
    return tensor(value).to(_INTEGERS[kind])


def _is_float(value: Value) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _softmax(function: Callable[..., Tensor]) -> Op:
    return lambda step, x: function(tensor(x[0]), dim=int(step.get("axis", -1)))


def _prelu(step: Step, x: Sequence[Value]) -> Value:
    del step
    value, slope = tensor(x[0]), tensor(x[1])
    if slope.numel() == 1:
        return functional.prelu(value, slope.reshape(1))
    return torch.where(value > 0, value, value * slope)


def _gelu(step: Step, x: Sequence[Value]) -> Value:
    kind = step.get("approximate", b"none")
    return functional.gelu(tensor(x[0]), approximate=_text(kind))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _einsum(step: Step, x: Sequence[Value]) -> Value:
    return torch.einsum(_text(step.get("equation")), *[tensor(v) for v in x])


def _where(step: Step, x: Sequence[Value]) -> Value:
    del step
    return torch.where(tensor(x[0]).bool(), tensor(x[1]), tensor(x[2]))


def _linear(step: Step, x: Sequence[Value]) -> Value:
    """Run a product with a constant matrix and the sum with a constant that follows it as one."""
    del step
    return functional.linear(tensor(x[0]), tensor(x[1]).t(), tensor(x[2]).reshape(-1))


def _gru(step: Step, x: Sequence[Value]) -> Value:
    """Run a GRU; ONNX orders its gates update, reset, new, and torch reset, update, new."""
    if _text(step.get("direction", b"forward")) != "forward" or step.get("layout", 0):
        raise CaptureError("only a forward GRU with layout 0 is read; export two of them apart")
    if step.get("activations") or step.get("clip") or (len(x) > 4 and x[4] is not None):
        raise CaptureError("a GRU with own activations, clip or sequence lengths is not read")
    if not step.get("linear_before_reset", 0):
        raise CaptureError("a GRU is read with linear_before_reset=1 only, as torch has it")
    source, weight, recurrent = tensor(x[0]), tensor(x[1])[0], tensor(x[2])[0]
    size = recurrent.shape[1]
    bias = tensor(x[3])[0] if len(x) > 3 and x[3] is not None else weight.new_zeros(6 * size)
    if len(x) > 5 and x[5] is not None:
        hidden = tensor(x[5])
    else:
        hidden = source.new_zeros((1, source.shape[1], size))
    parts = [weight, recurrent, bias[: 3 * size], bias[3 * size :]]
    ordered = [torch.cat([p[size : 2 * size], p[:size], p[2 * size :]]) for p in parts]
    made, last = torch.gru(source, hidden, ordered, True, 1, 0.0, False, False, False)  # noqa: FBT003
    return made.unsqueeze(1), last


def _dropout(step: Step, x: Sequence[Value]) -> Value:
    del step
    return x[0]


LINEAR = "MatMul and Add"
TENSOR_OPS: dict[str, Op] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(operator.add),
    "And": _logical(torch.logical_and),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Div": _divide,
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Elu": lambda step, x: functional.elu(tensor(x[0]), step.get("alpha", 1.0)),
    "Equal": _binary(operator.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "GRU": _gru,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "Greater": _binary(operator.gt),
    "GreaterOrEqual": _binary(operator.ge),
    "HardSigmoid": lambda step, x: torch.clamp(
        tensor(x[0]) * step.get("alpha", 0.2) + step.get("beta", 0.5), 0, 1
    ),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda step, x: functional.leaky_relu(tensor(x[0]), step.get("alpha", 0.01)),
    "Less": _binary(operator.lt),
    "LessOrEqual": _binary(operator.le),
    LINEAR: _linear,
    "Log": _unary(torch.log),
    "LogSoftmax": _softmax(functional.log_softmax),
    "MatMul": _logical(_matmul),
    "Max": _chain(torch.maximum),
    "Mean": lambda step, x: cast("Tensor", _chain(torch.add)(step, x)) / len(x),
    "Min": _chain(torch.minimum),
    "Mul": _binary(operator.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _logical(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _binary(operator.pow),
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL2": _reduction(lambda v, a, k: v.square().sum(dim=a, keepdim=k).sqrt()),
    "ReduceMax": _reduction(lambda v, a, k: v.amax(dim=a, keepdim=k)),
    "ReduceMean": _reduction(lambda v, a, k: v.mean(dim=a, keepdim=k)),
    "ReduceMin": _reduction(lambda v, a, k: v.amin(dim=a, keepdim=k)),
    "ReduceSum": _reduction(lambda v, a, k: v.sum(dim=a, keepdim=k)),
    "ReduceSumSquare": _reduction(lambda v, a, k: v.square().sum(dim=a, keepdim=k)),
    "Relu": _unary(torch.relu),
    "Selu": _unary(functional.selu),
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Softmax": _softmax(functional.softmax),
    "Softplus": _unary(functional.softplus),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(operator.sub),
    "Sum": _chain(torch.add),
    "Tanh": _unary(torch.tanh),
    "Where": _where,
}
