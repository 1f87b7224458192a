"""Fine-tuning under rounding: the last resort where rounding a trained model costs too much."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from headway.bundle import TableFormat, unpack_rows
from headway.compress.passes.distil import DistilSettings, Teacher, distil
from headway.compress.quantize import LEAST_WIDTH, Range, codes_of, fit_range
from headway.compress.quantize_tables import quantize_tables
from headway.core import check_fields
from headway.data import Dataset
from headway.models import TrainProgress, TrainResult, batch_features, mean_log_loss, predict

_REPEATS = 8
"""Most times that a table is rounded: int4 rows that moved at all stood still after four."""
_KEPT_VALUES = 1 << 18
_BATCH = 2048
_WEIGHT_CODES, _INPUT_CODES = 127, 255


class RoundingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model learns to bear rounding.

    Attributes:
        tables: what tables are rounded to before the others learn; f32 leaves them.
        dense: what wide linear layers are rounded to while they learn.
        rows: training rows that inputs of layers take their ranges from.
        learn: how they learn; tables stay as they are whatever it says.
    """

    tables: Literal["f32", "int8", "int4"] = "int8"
    dense: Literal["f32", "int8"] = "int8"
    rows: Annotated[int, Meta(ge=1)] = 8192
    learn: DistilSettings = DistilSettings(learning_rate=1e-4)

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises:
            UsageError: naming the field and its value.
        """
        check_fields(self)


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """A model that has learnt under rounding.

    Attributes:
        model: an ordinary float32 module; its tables are what their records give back.
        layers: linear layers that were rounded while it learnt.
        training: the epochs.
        loss: log loss on the valid rows through the rounding, before and after, a mean over tasks.
    """

    model: nn.Module
    layers: tuple[str, ...]
    training: TrainResult
    loss: tuple[float, float]


def learn_rounded(
    model: nn.Module,
    teacher: Teacher,
    rows: Dataset,
    valid: Dataset,
    settings: RoundingSettings,
    progress: Callable[[TrainProgress], None] | None = None,
) -> Rounded:
    """Return a copy of a model whose layers have adapted to rounded tables, weights and inputs.

    The layers compute with rounded weights and inputs, as int8 towers do, while gradients pass
    as if nothing were rounded, and not at all where an input is clipped: Jacob et al.,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
    (CVPR 2018), section 3. The passes that quantize then find weights to which rounding does
    little. They split layers over concatenations and fold norms into them, and fit ranges anew,
    so that what they round is not the same to the last code.

    The weights it came with stay if no epoch has a better valid AUC through the rounding.

    Args:
        model: any module of ``nn.Linear`` and tables; left as it was.
        teacher: the original and what it says of the training rows.
        rows: to train on.
        valid: chooses the epoch.
        settings: what is rounded, and how it learns.
        progress: called after each batch.

    Raises:
        DataError: if the loss is not finite, or the labels cannot be learnt from.
        UsageError: if a table holds NaN, or the teacher's outputs are of other rows.
    """
    student = copy.deepcopy(model).eval()
    if settings.tables != "f32":
        round_tables(student, settings.tables)
    ranges: Mapping[str, Range] = {}
    if settings.dense != "f32":
        ranges = input_ranges(student, rows.take(_spread(len(rows), settings.rows)))
    learn = msgspec.structs.replace(settings.learn, tables=False)
    with rounded_layers(student, ranges):
        before = _loss(student, valid)
        training = distil(student, teacher, rows, valid, learn, progress)
        after = _loss(student, valid)
    return Rounded(student.eval(), tuple(ranges), training, (before, after))


@torch.no_grad()
def round_tables(model: nn.Module, table_format: TableFormat) -> None:
    """Replace the tables of a model by what their stored form gives back.

    What a bundle later stores gives these very values again. An int4 row may find a better range
    once it is rounded, so rows are rounded until they stand still. An int8 row keeps its codes;
    its scale may move by a last digit of float32. Tables too narrow to gain stay as they are, as
    in ``quantize_tables``.

    Args:
        model: its ``nn.Embedding`` and ``nn.EmbeddingBag`` are changed in place.
        table_format: how they will be stored.

    Raises:
        UsageError: naming the table that holds NaN or infinity.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            values = module.weight.detach().float().cpu().numpy()
            module.weight.copy_(torch.from_numpy(_stored(name, values, table_format)))


def _stored(
    name: str, values: NDArray[np.float32], table_format: TableFormat
) -> NDArray[np.float32]:
    for _ in range(_REPEATS):
        part = quantize_tables({name: values}, table_format)[name]
        again = unpack_rows(part.records, part.format, values.shape[1])
        if np.array_equal(again, values):
            break
        values = again
    return values


def input_ranges(model: nn.Module, rows: Dataset) -> dict[str, Range]:
    """Return the range of the inputs of each wide linear layer that the rows reach, by its name.

    Wide is what ``quantize_dense`` takes for wide.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and min(module.weight.shape) >= LEAST_WIDTH
    }
    seen: dict[str, list[NDArray[np.float32]]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, given: seen.setdefault(name, []).append(_some(given[0].numpy()))

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        with torch.inference_mode():
            for start in range(0, len(rows), _BATCH):
                model(batch_features(rows, slice(start, start + _BATCH)))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: fit_range(_some(np.concatenate(kept))) for name, kept in seen.items()}


@contextmanager
def rounded_layers(model: nn.Module, ranges: Mapping[str, Range]) -> Iterator[None]:
    """Have linear layers compute with rounded weights and inputs; after it they are plain again.

    Args:
        model: changed in place for as long as it lasts.
        ranges: of the inputs of each layer to round, by its name.
    """
    layers = {name: model.get_submodule(name) for name in ranges}
    orders = {name: [n for n, _ in layer.named_parameters()] for name, layer in layers.items()}
    hooks = []
    try:
        for name, layer in layers.items():
            parametrize.register_parametrization(layer, "weight", _RoundedWeight())
            hooks.append(layer.register_forward_pre_hook(_input_rounder(ranges[name])))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
                _reorder(layer, orders[name])


def _reorder(layer: nn.Module, names: list[str]) -> None:
    """Put parameters in order again, for optimizers and checkpoints that go by it."""
    for name in names:
        parameter = getattr(layer, name)
        delattr(layer, name)
        setattr(layer, name, parameter)


class _RoundedWeight(nn.Module):
    """Weights as ``quantize_weight`` stores them; what is learnt are the weights behind."""

    def forward(self, weight: Tensor) -> Tensor:
        largest = weight.detach().abs().amax(dim=1)
        scales = torch.where(largest > 0, largest / _WEIGHT_CODES, torch.ones_like(largest))
        return torch.fake_quantize_per_channel_affine(
            weight, scales, torch.zeros_like(scales), 0, -_WEIGHT_CODES, _WEIGHT_CODES
        )


def _input_rounder(covered: Range) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    scale, zero = (float(n) for n in codes_of(covered))

    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values, *rest = given
        rounded = torch.fake_quantize_per_tensor_affine(values, scale, int(zero), 0, _INPUT_CODES)
        return rounded, *rest

    return hook


def _some(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a copy of at most so many values; the largest and smallest are always among them."""
    values = values.reshape(-1)
    taken = _spread(len(values), _KEPT_VALUES)
    return np.take(values, np.append(taken, [values.argmin(), values.argmax()]))


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Return at most so many places, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def _loss(model: nn.Module, rows: Dataset) -> float:
    raw = predict(model, rows)
    return mean_log_loss(rows.labels, raw)
