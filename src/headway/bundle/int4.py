"""How rows become 4-bit codes: the range they cover is searched, row by row, in compiled code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

_ZERO_STEP, _LEAST_ZERO, _MOST_ZERO = 1 / 16, -24.5, 39.4375
"""Where value 0 may lie among the codes: in sixteenths, and up to 24 codes outside 0 to 15."""
_TAIL_BYTES = 3
_SMALLEST_SCALE = 2.0**-120
_DIGITS = 64
"""A scale is one of so many steps between two powers of two: six bits, and the leading one."""
_TRIED = 100
"""The greedy search moves an end by one in so many parts of the whole range."""
_LONGEST, _PATIENCE = 50, 8
"""It ends after so many moves, or when so many together brought no better range."""
_FITS = 4


def _compiled(**given: Any) -> Callable[[Callable[..., Any]], Any]:
    def compile_it(function: Callable[..., Any]) -> Any:
        try:
            return njit(nogil=True, cache=True, error_model="numpy", **given)(function)
        except RuntimeError:  # no folder can be written: compile anew in every process
            return njit(nogil=True, error_model="numpy", **given)(function)

    return compile_it


@_compiled(fastmath={"reassoc", "nsz", "contract", "nnan", "ninf"})
def _squares(values, scale, zero):
    """Return the squared error of a row's codes; without the flags no vector code sums it."""
    inverse, total = np.float32(1) / scale, np.float32(0)
    for index in range(len(values)):
        code = np.rint(values[index] * inverse + zero)
        code = min(max(code, np.float32(0)), np.float32(15))
        error = (code - zero) * scale - values[index]
        total += error * error
    return total


@_compiled()
def _scale(share, digits):
    """Return a share of the first scale, which has ``digits``, as another that a tail can hold."""
    wanted = share * digits
    unit = 1.0
    while wanted * unit < _DIGITS:
        unit *= 2.0
    while wanted * unit > 2 * _DIGITS:
        unit /= 2.0
    return np.float32(np.rint(wanted * unit) / unit / digits)


@_compiled()
def _zero(low, scale):
    """Return the code of value 0 that a tail can hold, if code 0 is to stand for ``low``."""
    zero = np.rint((-low / scale - _LEAST_ZERO) / _ZERO_STEP) * _ZERO_STEP + _LEAST_ZERO
    return np.float32(min(max(zero, _LEAST_ZERO), _MOST_ZERO))


@_compiled()
def _searched(values, low, digits):
    """Return scale and zero of the best range, its ends drawn in greedily, and its error."""
    high, step = low + 15.0, 15.0 / _TRIED
    best_scale = np.float32(1)
    best_zero = _zero(low, best_scale)
    best = _squares(values, best_scale, best_zero)
    since = 0
    for _ in range(_LONGEST):
        scale = _scale((high - low - step) / 15.0, digits)
        above, below = _zero(low + step, scale), _zero(low, scale)
        from_low, from_high = _squares(values, scale, above), _squares(values, scale, below)
        if from_low < from_high:
            low, error, zero = low + step, from_low, above
        else:
            high, error, zero = high - step, from_high, below
        since += 1
        if error < best:
            best, best_scale, best_zero, since = error, scale, zero, 0
        if since == _PATIENCE:
            break
    return best_scale, best_zero, best


@_compiled()
def _fitted(values, start, digits):
    """Return scale and zero with the least squared error for their codes, while that helps."""
    best_scale, best_zero, best = start
    for _ in range(_FITS):
        codes = squares = total = products = 0.0
        inverse = np.float32(1) / best_scale
        for value in values:
            code = min(max(np.rint(value * inverse + best_zero), 0.0), 15.0)
            codes, squares = codes + code, squares + code * code
            total, products = total + value, products + value * code
        spread = len(values) * squares - codes * codes
        slope = (len(values) * products - codes * total) / spread if spread > 0 else 0.0
        if not 0.01 < slope < 2.0:
            break
        scale = _scale(slope, digits)
        zero = _zero((total - slope * codes) / len(values), scale)
        error = _squares(values, scale, zero)
        if not error < best:
            break
        best_scale, best_zero, best = scale, zero, error
    return best_scale, best_zero


@_compiled()
def _same(value):
    """Return exponent and digits of the scale, and zero, for a row that holds one value only.

    The range has no width to share out, so the whole tail is spent on coming close to the value.
    """
    best, best_exponent, best_digits, best_steps = math.inf, 0, 0.0, 0
    most = int((15 - _LEAST_ZERO) / _ZERO_STEP)
    for steps in range(most // 2, most):
        mantissa, exponent = math.frexp(abs(value) / (steps * _ZERO_STEP))
        digits = np.rint(mantissa * 2 * _DIGITS)
        found = math.ldexp(digits / _DIGITS, exponent - 1) * (steps * _ZERO_STEP)
        if abs(found - abs(value)) < best:
            best, best_exponent = abs(found - abs(value)), exponent - 1
            best_digits, best_steps = digits, steps
    zero = 15 - best_steps * _ZERO_STEP if value > 0 else best_steps * _ZERO_STEP
    return best_exponent, best_digits, np.float32(zero)


@_compiled()
def _write(values, scale, zero, record):
    """Write codes into zeros, the first of two in the lower half of their byte."""
    inverse = np.float32(1) / scale
    for index in range(len(values)):
        code = min(max(np.rint(values[index] * inverse + zero), 0.0), 15.0)
        record[index // 2] |= np.uint8(code) << (4 * (index % 2))


@_compiled()
def _write_tail(exponent, digits, zero, record):
    """Write scale and zero; see ``bundle.TableEntry``."""
    while digits < _DIGITS - 0.25:
        digits, exponent = digits * 2.0, exponent - 1
    while digits > 2 * _DIGITS - 0.5:
        digits, exponent = digits / 2.0, exponent + 1
    tail = (exponent + 127) << 16 | (int(np.rint(digits)) - _DIGITS) << 10
    tail |= int(np.rint((zero - _LEAST_ZERO) / _ZERO_STEP))
    for index in range(_TAIL_BYTES):
        record[len(record) - _TAIL_BYTES + index] = tail >> (8 * index) & 255


@_compiled()
def _pack_row(values, low, high, units, record):
    """Write one row, whose ends are given; ``units`` is room for its values in steps."""
    # Ranges far from zero get wider steps, until zero can be told.
    scale = max((high - low) / 15, low / -_LEAST_ZERO, -high / (_MOST_ZERO - 15))
    if scale < _SMALLEST_SCALE:
        return
    if low == high:
        exponent, digits, zero = _same(low)
        for index in range(len(units)):
            units[index] = 15 if low > 0 else 0
        _write(units, np.float32(1), np.float32(0), record)
        _write_tail(exponent, digits, zero, record)
        return
    mantissa, exponent = math.frexp(scale)
    digits = np.rint(mantissa * 2 * _DIGITS)
    scale = math.ldexp(digits / _DIGITS, exponent - 1)
    for index in range(len(units)):
        units[index] = values[index] / scale
    found, zero = _fitted(units, _searched(units, low / scale, digits), digits)
    _write(units, found, zero, record)
    _write_tail(exponent - 1, digits * np.float64(found), zero, record)


@_compiled()
def pack_int4(values, records):
    """Write rows as int4 records.

    The range of a row starts as its smallest to its largest value. One end at a time is drawn in,
    that which leaves the smaller squared error, and the best range on the way is kept (Guan et
    al., "Post-Training 4-bit Quantization on Embedding Tables", 2019, section 3.2). Then scale and
    zero are fitted to the codes by least squares. Both take only values that a record can hold, so
    the codes make up for their rounding, and no row has a larger squared error than its smallest
    and largest value would give it in such a record.

    Args:
        values: float32 ``[rows, dim]``, finite, none beyond 2**126.
        records: uint8 ``[rows, (dim + 1) // 2 + 3]``, zeros, to be written.
    """
    units = np.empty(values.shape[1], np.float32)
    for row in range(len(values)):
        low = high = np.float64(values[row, 0])
        for value in values[row]:
            low, high = min(low, value), max(high, value)
        _pack_row(values[row], low, high, units, records[row])
