"""ONNX files for tests: zoo models as torch exports them, and graphs made by hand."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.export import Dim

from headway.core import Bag, Dense, Ragged, Schema, Sparse, model_inputs
from headway.core import Sequence as SequenceFeature
from headway.graph import example_columns

Array = NDArray[Any]


class Flat(nn.Module):
    """A module whose forward takes tensors in the schema's order."""

    def __init__(self, model: nn.Module, schema: Schema) -> None:
        super().__init__()
        self.model = model
        self._schema = schema

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        features: dict[str, Any] = {}
        waiting = iter(tensors)
        for feature in self._schema.features:
            pair = not isinstance(feature, Dense | Sparse)
            value = next(waiting)
            features[feature.name] = (value, next(waiting)) if pair else value
        out: torch.Tensor = self.model(features)
        return out


def export(model: nn.Module, schema: Schema, path: Path, *, dynamo: bool = True) -> None:
    """Write a module as its user would, bags as values and offsets, sequences with masks.

    Args:
        model: of the zoo.
        schema: of the model.
        path: the file to write.
        dynamo: with torch's newer exporter; the older one traces, which is faster.
    """
    columns = model_inputs(example_columns(schema, np.random.default_rng(0)), schema)
    rows = Dim("rows", min=2)
    tensors, names, dims = [], [], []
    for feature in schema.features:
        value = columns[feature.name]
        ends = ["", ".mask"] if isinstance(feature, SequenceFeature) else [""]
        ends = [".values", ".offsets"] if isinstance(feature, Bag) else ends
        for end, array in zip(ends, value if isinstance(value, tuple) else (value,), strict=True):
            tensors.append(torch.from_numpy(np.ascontiguousarray(array)))
            names.append(feature.name + end)
            axis = {".values": Dim(f"total_{feature.name}", min=2), ".offsets": rows + 1}
            dims.append({0: axis.get(end, rows)})
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Flat(model, schema).eval(),
            tuple(tensors),
            path,
            dynamo=dynamo,
            input_names=names,
            verbose=False,
            external_data=False,
            **(
                {"dynamic_shapes": (tuple(dims),)}
                if dynamo
                else {"dynamic_axes": {n: [0] for n in names}, "opset_version": 17}
            ),
        )


Nodes = Sequence[onnx.NodeProto]


def make(
    path: Path,
    nodes: Nodes,
    inputs: Mapping[str, tuple[int, Any]],
    constants: Mapping[str, Any],
    outputs: Sequence[str] = ("output",),
    opset: int = 18,
) -> Path:
    """Write a graph made by hand."""
    graph = helper.make_graph(
        list(nodes),
        "model",
        [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", None])
            for name in outputs
        ],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
    )
    return path


def run(path: Path, feed: Mapping[str, Any]) -> list[Array]:
    """Return what ONNX Runtime gives for the file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, feed)
    return found


def call(model: nn.Module, schema: Schema, columns: dict[str, Any]) -> Array:
    """Return what a module gives for columns with one row per candidate."""
    features: dict[str, Any] = {}
    for name, value in model_inputs(columns, schema).items():
        pair = value if isinstance(value, tuple) else (value,)
        tensors = tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in pair)
        features[name] = tensors if isinstance(value, tuple) else tensors[0]
    with torch.no_grad():
        return np.asarray(model(features).numpy())


def padded(column: Ragged, width: int, fill: int) -> Array:
    """Return a ragged column as a file's input wants it."""
    return column.padded(width, fill)
