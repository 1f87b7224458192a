"""Towers with an operation that no rule writes go through the exporter of torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch.export import Dim, export

from headway.core import CaptureError
from headway.graph.builder import ROW_TO_QUERY
from headway.graph.layout import Tower
from headway.graph.recurrent import unrolled

EXAMPLE_ROWS = 3
EXAMPLE_QUERIES = 2


def export_onnx(tower: Tower, scope: str) -> onnx.ModelProto:
    """Return a tower as ONNX that runs with any number of rows, also none.

    Args:
        tower: in float32; its recurrent layers are unrolled.
        scope: ``query`` or ``candidate``.

    Raises:
        CaptureError: if it holds an operation that ONNX has not.
    """
    unrolled(tower.module)
    model = _export(tower, scope)
    _name_dims(model)
    _gather_directly(model)
    _count_axes_from_the_front(model)
    _forget_origins(model)
    return model


def _export(tower: Tower, scope: str) -> onnx.ModelProto:
    rows, queries = Dim("rows", min=2), Dim("queries", min=2)
    examples: list[torch.Tensor] = []
    dims: list[dict[int, Any]] = []
    places = tower.module.graph.find_nodes(op="placeholder")
    for name, node in zip(tower.inputs, places, strict=True):
        value = node.meta["val"]
        hidden = scope == "candidate" and name.startswith("hidden.")
        count = EXAMPLE_QUERIES if hidden else EXAMPLE_ROWS
        dtype = torch.float32 if value.dtype.is_floating_point else value.dtype
        one = hidden and tower.per_query
        examples.append(torch.zeros((1 if one else count, *value.shape[1:]), dtype=dtype))
        dims.append({} if one else {0: queries if hidden else rows})
    with _quiet():
        try:
            program = export(
                tower.module, tuple(examples), dynamic_shapes=tuple(dims), strict=False
            )
            made = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                input_names=list(tower.inputs),
                output_names=list(tower.outputs),
            )
        except Exception as error:
            raise CaptureError(
                f"the {scope} tower cannot be written as ONNX: {type(error).__name__}: {error}"
            ) from error
    if made is None:
        raise CaptureError(f"the {scope} tower gave no ONNX program; this is a bug of Headway")
    return made.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name_dims(model: onnx.ModelProto) -> None:
    """Call the symbolic axes of inputs and outputs what they are."""
    known: dict[str, str] = {}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and dim.dim_param not in known:
                known[dim.dim_param] = "queries" if value.name.startswith("hidden.") else "rows"
            if dim.dim_param:
                dim.dim_param = known[dim.dim_param]


def _count_axes_from_the_front(model: onnx.ModelProto) -> None:
    """Write negative axes of reductions as positive ones.

    ONNX Runtime 1.31 leaves an empty input as it is when the axis is negative.
    """
    shapes: dict[str, int] = {}
    for value in (*model.graph.input, *model.graph.value_info):
        shapes[value.name] = len(value.type.tensor_type.shape.dim)
    constants = {c.name: c for c in model.graph.initializer}
    for node in model.graph.node:
        if not node.op_type.startswith("Reduce") or len(node.input) < 2:
            continue
        axes = numpy_helper.to_array(constants[node.input[1]])
        rank = shapes.get(node.input[0])
        if rank is None or (axes >= 0).all():
            continue
        name = f"{node.output[0]}_axes"
        model.graph.initializer.append(numpy_helper.from_array(axes % rank, name))
        node.input[1] = name


def _gather_directly(model: onnx.ModelProto) -> None:
    """Take out the reshape of ``row_to_query`` to what it is already."""
    graph = model.graph
    for node in [n for n in graph.node if n.op_type == "Reshape" and n.input[0] == ROW_TO_QUERY]:
        for user in graph.node:
            for i, name in enumerate(user.input):
                if name == node.output[0]:
                    user.input[i] = ROW_TO_QUERY
        graph.node.remove(node)


def _forget_origins(model: onnx.ModelProto) -> None:
    """Drop notes of source lines: a bundle says nothing of the machine that made it."""
    graph = model.graph
    constants = {c.name for c in graph.initializer}
    # Shapes noted twice contradict each other once a quantizer turns a weight around.
    for value in [v for v in graph.value_info if v.name in constants]:
        graph.value_info.remove(value)
    holders: list[Any] = [model, graph, *graph.node, *graph.value_info, *graph.input]
    for holder in (*holders, *graph.output, *graph.initializer):
        del holder.metadata_props[:]
        holder.doc_string = ""
