"""Recurrent layers as steps of a program: each position is a few products and maps of rows."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray

from headway.bundle import Concat, Map, Product, Slice
from headway.compress.program_histories import Histories
from headway.compress.program_values import Dims, UncoveredError, given

_GATES = 3
_FRONT, _BACK = [1, 0, 2], [2, 0, 1, 3]
"""How positions come to the front for the recurrence, and go back."""
Name = str


class Recurrent(Histories):
    """Reads a GRU, and the positions of what it gives.

    Around a GRU the graph adds a row and turns axes; neither changes a row's own values.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        self._around: dict[Name, tuple[Name, Dims]] = {}
        self._columns: dict[Name, tuple[Name, int, int]] = {}

    def _value(self, name: str) -> str:
        if name in self._columns:
            raise UncoveredError
        return super()._value(name)

    def _pass_around(self, node: onnx.NodeProto) -> bool:
        """Note an added row or turned axes around a recurrence; False if it is none."""
        source, kind = node.input[0], node.op_type
        if kind == "Concat":
            rows = self._constants.get(node.input[1])
            apart = len(node.input) == 2 and given(node)["axis"] == 0 and rows is not None
            if not apart:
                return False
            self._around[node.output[0]] = self._value(source), self._dims[source]
            return True
        if source not in self._around:
            return False
        if kind == "Transpose" and list(given(node)["perm"]) not in (_FRONT, _BACK):
            return False
        self._around[node.output[0]] = self._around[source]
        return True

    def _drop_row(self, node: onnx.NodeProto, bounds: tuple[int, ...]) -> bool:
        """Take the added row away again; False if it is none."""
        if node.input[0] not in self._around or bounds[:3] != (0, -1, 0):
            return False
        value, dims = self._around[node.input[0]]
        self._rename(node, value, dims)
        return True

    def _gru(self, node: onnx.NodeProto) -> None:
        told = given(node)
        constants = [self._constants.get(name) for name in node.input[1:4]]
        plain = set(told) == {"hidden_size", "linear_before_reset"} and len(node.input) == 4
        if not plain or not told["linear_before_reset"] or node.input[0] not in self._around:
            raise UncoveredError
        weights = tuple(c[0] for c in constants if c is not None)
        if len(weights) != len(constants):
            raise UncoveredError
        value, (places, _) = self._around[node.input[0]]
        name = node.output[0]
        self._unroll(name, value, weights, places)
        self._around[name] = name, (places, told["hidden_size"])

    def _unroll(
        self, name: Name, source: Name, weights: tuple[NDArray[np.float32], ...], places: int
    ) -> None:
        """Add the steps of a GRU whose gates are update, reset and new.

        ``h' = n + z * (h - n)`` with ``z, r = sigmoid(x W + h R)`` and ``n = tanh(x W + r * h R)``.
        """
        inputs, recurrent, biases = weights
        hidden = recurrent.shape[1]
        both = _GATES * hidden
        start, again = biases[:both].copy(), biases[both:]
        start[: 2 * hidden] += again[: 2 * hidden]
        gates, new = recurrent[: 2 * hidden], recurrent[2 * hidden :]
        self._tensors |= {
            f"{name}.start": start,
            f"{name}.inputs": np.ascontiguousarray(inputs.T),
            f"{name}.gates": np.ascontiguousarray(gates.T),
            f"{name}.new": np.ascontiguousarray(new.T),
            f"{name}.again": again[2 * hidden :].copy(),
        }
        fed = Product(
            result=f"{name}.fed",
            source=source,
            weight=f"{name}.inputs",
            bias=f"{name}.start",
            groups=places,
        )
        self._make(fed, (places, both))
        first = self._cut(f"{name}.first", fed.result, 2 * hidden, both)
        state = f"{name}.nothing"
        zeros = Map(result=state, source=first, other=first, combine="subtract")
        self._make(zeros, (hidden,))
        states = []
        for place in range(places):
            state = self._step(name, state, place, hidden)
            states.append(state)
        self._make(Concat(result=name, sources=tuple(states)), (places, hidden))

    def _step(self, name: Name, state: Name, place: int, hidden: int) -> Name:
        """Add the steps of one position; return the state behind it."""
        at, before = f"{name}.{place}", place * _GATES * hidden
        gates_in = self._cut(f"{at}.gates_in", f"{name}.fed", before, before + 2 * hidden)
        new_in = self._cut(
            f"{at}.new_in", f"{name}.fed", before + 2 * hidden, before + _GATES * hidden
        )
        gates = Product(
            result=f"{at}.gates",
            source=state,
            weight=f"{name}.gates",
            other=gates_in,
            activation="sigmoid",
        )
        self._make(gates, (2 * hidden,))
        update = self._cut(f"{at}.update", gates.result, 0, hidden)
        reset = self._cut(f"{at}.reset", gates.result, hidden, 2 * hidden)
        kept = Product(
            result=f"{at}.kept",
            source=state,
            weight=f"{name}.new",
            bias=f"{name}.again",
            other=reset,
            combine="multiply",
        )
        new = Map(result=f"{at}.new", source=kept.result, other=new_in, activation="tanh")
        left = Map(result=f"{at}.left", source=state, other=new.result, combine="subtract")
        part = Map(result=f"{at}.part", source=left.result, other=update, combine="multiply")
        after = Map(result=f"{at}.state", source=part.result, other=new.result)
        for made in (kept, new, left, part, after):
            self._make(made, (hidden,))
        return after.result

    def _cut(self, name: Name, source: Name, start: int, stop: int) -> Name:
        self._make(Slice(result=name, source=source, start=start, stop=stop), (stop - start,))
        return name

    def _cut_pieces(self, node: onnx.NodeProto, bounds: tuple[int, ...]) -> bool:
        """Take columns of all pieces, or some pieces; False if it is neither."""
        (result,), source = node.output, node.input[0]
        start, stop, axis, *step = bounds
        dims = self._dims.get(source, ())
        if len(dims) != 2 or step not in ([], [1]) or start < 0 or stop < 0:
            return False
        if axis in {2, -1}:
            base = self._columns.get(source, (self._value(source), 0, 0))
            if source in self._columns:
                return False
            self._columns[result] = base[0], start, min(stop, dims[1])
            self._dims[result] = dims[0], min(stop, dims[1]) - start
            return True
        stop = min(stop, dims[0])
        if axis != 1:
            return False
        self._take(result, source, start, stop)
        return True

    def _take_place(self, node: onnx.NodeProto) -> bool:
        """Take one position by its number; False if it is none."""
        index = self._constants.get(node.input[1])
        dims = self._dims.get(node.input[0], ())
        if index is None or index.shape != () or given(node).get("axis") != 1 or len(dims) != 2:
            return False
        place = int(index) % dims[0]
        self._take(node.output[0], node.input[0], place, place + 1)
        self._dims[node.output[0]] = self._dims[node.output[0]][1:]
        return True

    def _take(self, result: Name, source: Name, start: int, stop: int) -> None:
        places, width = self._dims[source]
        if source not in self._columns:
            base = self._value(source)
            self._cut(result, base, start * width, stop * width)
        else:
            base, first, last = self._columns[source]
            if stop - start != 1:
                raise UncoveredError
            whole = prod(self._dims[base]) // places
            self._cut(result, base, start * whole + first, start * whole + last)
        self._dims[result] = stop - start, width
