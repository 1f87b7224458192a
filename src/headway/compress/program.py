"""From a tower in ONNX to a program of Headway's own dense engine, where its steps suffice."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.bundle import Codes, Map, Product, Program, QueryProduct, Step, Weave
from headway.compress.quantize import LEAST_WIDTH, Range, codes_of, quantize_weight
from headway.core import MissingDependencyError

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
        return Reader(onnx.load_from_string(graph)).read()
    except UncoveredError:
        return None


def quantize_program(program: Program, ranges: Mapping[str, Range]) -> Program:
    """Return the program with its wide products in int8, weights with one scale per output.

    Activations have one fixed scale per value, as in ``quantize_dense``, and for its reason.

    Args:
        program: in float32.
        ranges: range of every value that a wide product takes.
    """
    tensors: dict[str, NDArray[Any]] = dict(program.tensors)
    steps: list[Step] = []
    for step in program.steps.steps:
        wide = isinstance(step, Product) and min(tensors[step.weight].shape) >= LEAST_WIDTH
        if isinstance(step, Product) and wide and step.groups == 1 and step.source in ranges:
            name = f"{step.result}.codes"
            codes, scales = quantize_weight(np.asarray(program.tensors[step.weight], np.float32))
            tensors[name], tensors[f"{name}.scale"] = codes, scales
            scale, zero = codes_of(ranges[step.source])
            rounding = Codes(scale=float(scale), zero=int(zero))
            steps.append(msgspec.structs.replace(step, weight=name, codes=rounding))
        else:
            steps.append(step)
    used: set[str] = set()
    for made in steps:
        if isinstance(made, Product):
            used |= {made.weight, f"{made.weight}.scale", made.shift}
        if isinstance(made, Product | QueryProduct | Map):
            used |= {made.bias, made.slope}
        if isinstance(made, Weave):
            used |= {made.weight, made.shift}
    kept = {name: tensor for name, tensor in tensors.items() if name in used}
    return Program(msgspec.structs.replace(program.steps, steps=tuple(steps)), kept)
