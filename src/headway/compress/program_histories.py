"""What a tower does with histories, which are pieces side by side in a row of a program."""

from __future__ import annotations

from math import prod
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from headway.bundle import Product, QueryDots, QueryProduct, Weave
from headway.compress.program_values import UncoveredError, Values

_MOST_SCALED = 64
"""Columns of a product whose weights are made for each row: they are one block."""


class Histories(Values):
    """Reads attention: what is multiplied by a query's history, or by each row's own.

    ``history * candidate``, and that beside the history, are never made: a product with such a
    value is one with the history whose weights are scaled by the candidate.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        self._scaled: dict[str, tuple[str, str]] = {}
        self._beside: dict[str, tuple[str, str, tuple[bool, ...]]] = {}

    def _value(self, name: str) -> str:
        if name in self._scaled or name in self._beside:
            raise UncoveredError
        return super()._value(name)

    def _scale(self, node: onnx.NodeProto) -> bool:
        """Note a history multiplied by one vector; False if it is none."""
        for history, one in (node.input, node.input[::-1]):
            dims, vector = self._dims.get(history, ()), self._dims.get(one, ())
            if len(dims) == 2 and dims[0] > 1 and vector in {(1, dims[1]), (dims[1],)}:
                self._scaled[node.output[0]] = self._value(history), self._value(one)
                self._dims[node.output[0]] = dims
                return True
        return False

    def _join(self, node: onnx.NodeProto, axis: int) -> bool:
        """Note a history beside itself multiplied by one vector; False if it is none."""
        scaled = {self._scaled[name] for name in node.input if name in self._scaled}
        if len(scaled) != 1 or axis not in {2, -1}:
            return False
        ((history, one),) = scaled
        kinds = tuple(name in self._scaled for name in node.input)
        if any(not k and self._value(n) != history for n, k in zip(node.input, kinds, strict=True)):
            return False
        self._beside[node.output[0]] = history, one, kinds
        self._dims[node.output[0]] = self._dims[history][0], len(kinds) * self._dims[history][1]
        return True

    def _multiply_history(self, node: onnx.NodeProto, weight: NDArray[Any]) -> bool:
        """Multiply a history that was noted; False if it is none."""
        (result,), source = node.output, node.input[0]
        noted = self._beside.get(source)
        if source in self._scaled:
            noted = *self._scaled[source], (True,)
        if noted is None:
            return False
        history, one, kinds = noted
        places, inner = self._dims[history]
        if weight.shape[0] != inner * len(kinds) or weight.shape[1] > _MOST_SCALED:
            raise UncoveredError
        blocks = weight.reshape(len(kinds), inner, -1)
        names = {True: f"{result}.weight", False: f"{result}.shift"}
        for kind, name in names.items():
            chosen = [block for block, k in zip(blocks, kinds, strict=True) if k == kind]
            self._tensors[name] = np.sum(chosen or [np.zeros_like(blocks[0])], axis=0)
        step = Product(
            result=result,
            source=history,
            weight=names[True],
            shift=names[False],
            scaled_by=one,
            groups=places,
        )
        self._make(step, (places, weight.shape[1]))
        return True

    def _multiply_matrix(self, node: onnx.NodeProto) -> bool:
        """Multiply by a matrix of the query, or of the row; False if the second input is none."""
        left, right = node.input[:2]
        (result,), dims, other = node.output, self._dims[left], self._dims.get(right, ())
        source = self._value(left)
        if len(dims) == 2 and dims[0] > 1 and other == (dims[-1], 1):
            dots = QueryDots(result=result, source=self._value(right), matrix=source)
            self._make(dots, (*dims[:-1], 1))
            return True
        matrix, shape = self._matrices.get(right, (right, other))
        fed = right in self._matrices or (right in self._inputs and not right.startswith("hidden."))
        if not fed or len(shape) != 2 or shape[0] == 1:
            return False
        if prod(dims) != shape[0]:
            raise UncoveredError
        step = QueryProduct(result=result, source=source, matrix=matrix)
        self._make(step, (*dims[:-1], shape[1]))
        return True

    def _weave(self, node: onnx.NodeProto, value: str, weight: NDArray[Any]) -> bool:
        inner, places = self._dims[value]
        if weight.ndim != 3 or weight.shape[:2] != (inner, 1) or weight.dtype != np.float32:
            return False
        name, columns = f"{node.output[0]}.weight", weight.shape[2]
        self._tensors[name] = np.ascontiguousarray(weight[:, 0])
        step = Weave(result=node.output[0], source=self._turned[value], weight=name)
        self._make(step, (inner, places, columns))
        return True

    def _shift_woven(self, node: onnx.NodeProto, last: Weave, shift: NDArray[Any]) -> bool:
        dims, name = self._dims[last.result], f"{node.output[0]}.shift"
        if last.shift or shift.shape != (dims[0], 1, dims[2]) or shift.dtype != np.float32:
            return False
        self._tensors[name] = np.ascontiguousarray(shift[:, 0])
        self._steps.pop()
        self._make(msgspec.structs.replace(last, result=node.output[0], shift=name), dims)
        return True
