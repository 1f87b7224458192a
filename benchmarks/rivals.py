"""Whole models as other engines run them, one row per candidate: what Headway is compared with."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headway.core import Bag, Query, Runner, Schema, Sequence, model_inputs, take_rows
from headway.engine.torch_eager import TorchRunner
from headway.models import RankingModel

EAGER, COMPILED, ONNX, OPENVINO = "torch eager", "torch.compile", "ONNX Runtime", "OpenVINO"
Call = Callable[[dict[str, NDArray[Any]]], NDArray[np.float32]]


class _Flat(nn.Module):
    """A model that takes its inputs one by one, bags as ids ``[rows, length]``, all of them full.

    ``EmbeddingBag`` would become an ONNX ``Loop``, which no engine runs well.
    """

    def __init__(self, model: RankingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *given: Tensor) -> Tensor:
        features: dict[str, Any] = dict(zip(names_of(self.model.schema), given, strict=True))
        for feature in self.model.schema.features:
            if isinstance(feature, Sequence):
                mask = features.pop(f"{feature.name}_mask")
                features[feature.name] = (features[feature.name], mask)
        output: Tensor = self.model(features)
        return output


def _pooled(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def vector(model: RankingModel, feature: Any, value: Any) -> Tensor:
        if isinstance(feature, Bag) and isinstance(value, Tensor):
            return model.rows(feature, value).sum(1)
        return plain(feature, value)

    return vector


class _Engine(nn.Module):
    """Calls another engine with what a model is given."""

    def __init__(self, schema: Schema, call: Call) -> None:
        super().__init__()
        self._schema, self._call = schema, call

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        return torch.from_numpy(self._call(_arrays(features, self._schema)))


def _arrays(features: Mapping[str, Any], schema: Schema) -> dict[str, NDArray[Any]]:
    given: dict[str, NDArray[Any]] = {}
    for feature in schema.features:
        value = features[feature.name]
        if isinstance(feature, Bag):
            value = value[0].reshape(-1, feature.max_length)
        elif isinstance(feature, Sequence):
            value, mask = value
            given[f"{feature.name}_mask"] = mask.numpy()
        given[feature.name] = value.numpy()
    return given


def features_of(query: Query, schema: Schema) -> dict[str, Any]:
    """Return what a model is given for a query, its context repeated for each candidate."""
    rows = take_rows(query.context, np.zeros(query.size, np.int64)) | dict(query.candidates)
    return {
        name: tuple(map(torch.from_numpy, value))
        if isinstance(value, tuple)
        else torch.from_numpy(value)
        for name, value in model_inputs(rows, schema).items()
    }


def names_of(schema: Schema) -> list[str]:
    """Return the inputs of the whole graph."""
    names = []
    for feature in schema.features:
        names.append(feature.name)
        if isinstance(feature, Sequence):
            names.append(f"{feature.name}_mask")
    return names


def export_whole(model: RankingModel, features: Mapping[str, Any], path: Path) -> None:
    """Write a whole model as ONNX with any number of rows, its tables beside it."""
    schema = model.schema
    arrays = _arrays(features, schema)
    given = tuple(torch.from_numpy(arrays[name]) for name in names_of(schema))
    rows = torch.export.Dim("rows", min=2)
    quiet, plain = io.StringIO(), model.vector
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(quiet):
        warnings.simplefilter("ignore")
        model.vector = MethodType(_pooled(plain), model)
        torch.onnx.export(
            _Flat(model).eval(),
            given,
            path,
            input_names=names_of(schema),
            dynamic_shapes=((*[{0: rows} for _ in given],),),
            external_data=True,
            dynamo=True,
            verbose=False,
        )
        del model.vector


def onnx_runner(schema: Schema, path: Path) -> Runner:
    """Return the whole graph in ONNX Runtime, one thread, its defaults otherwise."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return TorchRunner(_Engine(schema, lambda given: session.run(None, given)[0]), schema)


def openvino_runner(schema: Schema, path: Path) -> Runner:
    """Return the whole graph in OpenVINO, float32, one thread, its defaults otherwise."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    request = openvino.compile_model(str(path), "CPU", settings).create_infer_request()

    def call(given: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        request.infer(given, share_inputs=True)
        found: NDArray[np.float32] = request.get_output_tensor(0).data
        return found

    return TorchRunner(_Engine(schema, call), schema)


def compiled_runner(model: RankingModel, schema: Schema) -> Runner:
    """Return the model under ``torch.compile`` with its weights frozen, for any number of rows."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    torch.compiler.reset()
    module: Any = torch.compile(model, dynamic=True)
    return TorchRunner(module, schema)
