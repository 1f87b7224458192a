"""From a data set to tensors, a batch at a time; and scores for a whole data set."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core import Column, ModelInput, Schema, model_inputs
from headway.data import Dataset

TensorFeatures = dict[str, Tensor | tuple[Tensor, Tensor]]


def batch_features(dataset: Dataset, rows: NDArray[np.int64] | slice) -> TensorFeatures:
    """Return what ``forward`` takes for the given impressions, in the given order."""
    return tensors(dataset.flat(rows), dataset.schema)


def tensors(columns: dict[str, Column], schema: Schema) -> TensorFeatures:
    """Return columns as tensors that share their memory where they can."""
    return {name: _tensor(value) for name, value in model_inputs(columns, schema).items()}


def predict(model: torch.nn.Module, dataset: Dataset, batch: int = 8192) -> NDArray[np.float32]:
    """Return raw outputs for every impression, float32 ``[rows, tasks]``.

    The model is left in evaluation mode.
    """
    model.eval()
    out = np.empty((len(dataset), len(dataset.schema.tasks)), np.float32)
    with torch.inference_mode():
        for start in range(0, len(dataset), batch):
            rows = slice(start, start + batch)
            out[rows] = model(batch_features(dataset, rows)).numpy()
    return out


def _tensor(value: ModelInput) -> Tensor | tuple[Tensor, Tensor]:
    if isinstance(value, tuple):
        first, second = value
        return _shared(first), _shared(second)
    return _shared(value)


def _shared(array: NDArray[np.generic]) -> Tensor:
    # Torch warns about arrays it could write to but must not, such as views of a mapped file.
    return torch.from_numpy(array if array.flags.writeable else array.copy())
