"""Functions of vectors in LLVM's own form."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from headway.engine.tiles import LANES, call
from headway.engine.vectors import constant, multiply_add

_FLOATS, _INTS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)


def sigmoid(builder: Any, value: Any) -> Any:
    """Return the logistic function; relative error about 2e-7."""
    below = builder.fadd(exponential(builder, builder.fsub(_all(0.0), value)), _all(1.0))
    return builder.fdiv(_all(1.0), below)


def tanh(builder: Any, value: Any) -> Any:
    """Return the hyperbolic tangent; absolute error about 2e-7."""
    twice = sigmoid(builder, builder.fadd(value, value))
    return builder.fsub(builder.fadd(twice, twice), _all(1.0))


def exponential(builder: Any, value: Any) -> Any:
    """Return e to the value by splitting off powers of two; relative error about 1e-7."""
    for way, bound in (("<", -87.0), (">", 87.0)):  # NaN stays NaN
        beyond = builder.fcmp_ordered(way, value, _all(bound))
        value = builder.select(beyond, _all(bound), value)
    count = builder.fmul(value, _all(float(1 / np.log(2))))
    count = call(builder, "llvm.rint.v16f32", _FLOATS, count)
    whole = 0.693359375  # ln 2 in few bits, so that its multiples are exact
    rest = multiply_add(builder, count, _all(-whole), value)
    rest = multiply_add(builder, count, _all(-float(np.log(2) - whole)), rest)
    total = _all(1 / 5040)
    for divisor in (720, 120, 24, 6, 2, 1, 1):
        total = multiply_add(builder, total, rest, _all(1 / divisor))
    shift = builder.shl(builder.fptosi(count, _INTS), constant(_INTS, 23))
    return builder.bitcast(builder.add(builder.bitcast(total, _INTS), shift), _FLOATS)


def clamp(builder: Any, value: Any, low: float, high: float) -> Any:
    """Return the value within bounds, NaN as the lower one: an instruction each."""
    value = builder.select(builder.fcmp_ordered(">", value, _all(low)), value, _all(low))
    return builder.select(builder.fcmp_ordered("<", value, _all(high)), value, _all(high))


def _all(value: float) -> Any:
    return constant(_FLOATS, value)
