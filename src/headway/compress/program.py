"""From a tower in ONNX to a program of Headway's own dense engine, where its steps suffice."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.bundle import Codes, Product, Program, Rest, Step
from headway.compress.quantize import LEAST_WIDTH, MOST_CLIP, Range, codes_of, quantize_weight
from headway.core import BundleError, MissingDependencyError

if find_spec("onnx") is None:
    raise MissingDependencyError("onnx", "optimize", "turning a dense tower into a program")

import onnx

from headway.compress.program_reader import Reader
from headway.compress.program_values import UncoveredError


def to_program(graph: bytes) -> Program | None:
    """Return the steps of a float32 tower, or None if it holds an operation that no step does.

    Steps are products with constant weights, of rows or of all places of a history alike; products
    with a matrix of the query, and the making of that matrix; sums, differences and products of
    values; ReLU, PReLU, sigmoid, tanh and softmax; concatenations and slices of columns. What
    follows a product goes into it. Values keep the names they have in the graph.

    Args:
        graph: ONNX bytes of a float32 tower.
    """
    try:
        program = Reader(onnx.load_from_string(graph)).read()
        program.widths()
    except (UncoveredError, BundleError):
        return None
    return program


def quantize_program(
    program: Program, ranges: Mapping[str, Range], fine: Mapping[str, Range] | None = None
) -> Program:
    """Return the program with its wide products in int8, weights with one scale per output.

    Activations have one fixed scale per value, as in ``quantize_dense``, and for its reason. Those
    in ``fine`` are rounded twice, the second time what the first left: 16 bits in two products.

    Args:
        program: in float32.
        ranges: range of every value that a wide product takes in 8 bits.
        fine: likewise in 16.
    """
    tensors: dict[str, NDArray[Any]] = dict(program.tensors)
    steps: list[Step] = []
    for step in program.steps.steps:
        source = step.source if isinstance(step, Product) and _is_wide(step, tensors) else ""
        if isinstance(step, Product) and source in ranges:
            narrow = _narrow(step, tensors, program)
            steps.append(msgspec.structs.replace(narrow, codes=_codes(ranges[source])))
        elif isinstance(step, Product) and source in (fine or {}) and step.combine == "add":
            steps += _twice(_narrow(step, tensors, program), (fine or {})[source])
        else:
            steps.append(step)
    used = {name for step in steps for name in _tensors_of(step)}
    kept = {name: tensor for name, tensor in tensors.items() if name in used}
    return Program(msgspec.structs.replace(program.steps, steps=tuple(steps)), kept)


def _is_wide(step: Product, tensors: Mapping[str, NDArray[Any]]) -> bool:
    return step.groups == 1 and min(tensors[step.weight].shape) >= LEAST_WIDTH


def _tensors_of(step: Step) -> list[str]:
    names = [getattr(step, field, "") for field in ("weight", "bias", "slope", "shift")]
    return [*names, f"{names[0]}.scale"]


def _narrow(step: Product, tensors: dict[str, NDArray[Any]], program: Program) -> Product:
    """Return the product with int8 weights, which are added to the tensors."""
    name = f"{step.result}.codes"
    weight = np.asarray(program.tensors[step.weight], np.float32)
    tensors[name], tensors[f"{name}.scale"] = quantize_weight(weight)
    return msgspec.structs.replace(step, weight=name)


def _codes(covered: Range) -> Codes:
    scale, zero = codes_of(covered)
    return Codes(scale=float(scale), zero=int(zero))


def _twice(step: Product, covered: Range) -> list[Step]:
    """Return the product with coarse codes, and with codes of what those leave added to it."""
    # The range was chosen for 8 bits and may clip; there are bits enough to cover all.
    coarse = _codes(Range(covered.low / MOST_CLIP, covered.high / MOST_CLIP))
    rest, first = f"{step.result}.rest", f"{step.result}.coarse"
    change = msgspec.structs.replace
    return [
        Rest(result=rest, source=step.source, codes=coarse),
        change(step, result=first, codes=coarse, activation="", slope=""),
        change(
            step,
            source=rest,
            bias="",
            other=first,
            codes=Codes(scale=coarse.scale / 255, zero=128),
        ),
    ]
