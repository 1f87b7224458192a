"""The imported module against the file itself, run whole in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import helper

from headway.core import Bag, CaptureError, Column, Ragged, Schema, model_inputs, pad_sequence
from headway.core import Sequence as SequenceFeature
from headway.graph.capture import PartKind
from headway.graph.golden import example_columns
from headway.graph.onnx_import_inputs import Given
from headway.graph.onnx_import_module import OnnxModule

_TOLERANCE, _HALF_TOLERANCE = 1e-4, 2e-2


def check_against_file(
    path: Path,
    model: OnnxModule,
    given: Sequence[Given],
    fills: Mapping[str, int],
    links: Sequence[bool],
    *,
    half: bool,
) -> None:
    """Accept a module that scores drawn rows as the file does.

    Args:
        path: the file.
        model: what was made of it.
        given: the file's inputs.
        fills: id of the padding by feature, where it is padded.
        links: of each output of the file, whether its last sigmoid was taken off.
        half: whether the file computes with 16 bits.

    Raises:
        CaptureError: if the file cannot be run, or gives other outputs.
    """
    schema = model.schema
    columns = {
        name: _without_padding(column, fills.get(name), name, schema)
        for name, column in example_columns(schema, np.random.default_rng(0)).items()
    }
    wanted = _run(path, {g.name: _feed(g, columns[g.feature.name], fills) for g in given})
    found = _call(model, columns)
    tasks = len(schema.tasks)
    whole = np.concatenate([w.reshape(len(found), -1) for w in wanted], axis=1)
    taken = list(links) * (tasks if len(links) == 1 else 1)
    scores = np.where(taken, 1 / (1 + np.exp(-np.clip(found, -60, 60))), found)
    if whole.shape != scores.shape:
        raise CaptureError(
            f"{path} gives the shape {list(whole.shape)} for {len(found)} rows; it must give "
            f"[rows, {tasks}], a column per task of the schema"
        )
    scale = float(np.abs(whole).max(initial=0.0)) + 1e-6
    worst = float(np.abs(scores - whole).max(initial=0.0)) / scale
    if not worst <= (_HALF_TOLERANCE if half else _TOLERANCE):
        raise CaptureError(
            f"the model read from {path} differs from the file in ONNX Runtime by {worst:.2g} of "
            "its largest output; if the file fixes the number of rows somewhere, export it with "
            "dynamic rows, else report this as a bug"
        )


def _without_padding(column: Column, fill: int | None, name: str, schema: Schema) -> Column:
    feature = schema.feature(name)
    if not isinstance(column, Ragged) or fill != 0 or not isinstance(feature, Bag):
        return column
    return Ragged(
        np.maximum(column.values, min(1, schema.table(feature.table).rows - 1)), column.offsets
    )


def _feed(given: Given, column: Column, fills: Mapping[str, int]) -> NDArray[Any]:
    dtype, feature = helper.tensor_dtype_to_np_dtype(given.type), given.feature
    value: NDArray[Any]
    if not isinstance(column, Ragged):
        value = column.reshape([len(column), *[n or 1 for n in given.shape[1:]]])
    elif given.kind is PartKind.VALUES:
        value = column.values
    elif given.kind is PartKind.OFFSETS:
        value = column.offsets
    elif given.kind is PartKind.MASK and isinstance(feature, SequenceFeature):
        value = pad_sequence(column, feature.max_length)[1]
    else:
        longest: int = getattr(feature, "max_length", 1)
        value = column.padded(given.shape[1] or longest, fills.get(feature.name, 0))
    return value.astype(dtype)


def _run(path: Path, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found: list[NDArray[Any]] = session.run(None, feed)
    except Exception as error:
        raise CaptureError(
            f"{path} cannot be run in ONNX Runtime on drawn rows, so nothing proves what was read "
            f"of it: {str(error).strip()[:300]}; check that it runs there with any number of rows"
        ) from error
    return [np.asarray(value, np.float64) for value in found]


def _call(model: OnnxModule, columns: Mapping[str, Column]) -> NDArray[Any]:
    features: dict[str, Any] = {}
    for name, value in model_inputs(columns, model.schema).items():
        pair = value if isinstance(value, tuple) else (value,)
        tensors = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in pair)
        features[name] = tensors if isinstance(value, tuple) else tensors[0]
    with torch.no_grad():
        return np.asarray(model(features).numpy(), np.float64)
