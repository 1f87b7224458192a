"""Puts the level of a smaller model's outputs back to that of the original."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headway.compress.passes.units import output_biases
from headway.core import Schema
from headway.data import Dataset
from headway.measure import probabilities
from headway.models import predict

_STEPS = 30
_CLOSE = 1e-9
_TRIED, _MOVED = 256, 1e-3


def level(
    model: nn.Module, schema: Schema, rows: Dataset, original: NDArray[np.float32]
) -> tuple[float, ...]:
    """Shift each task's last bias, in place, so that the mean prediction is the original's.

    Training on the original's outputs for the rows it was trained on moves the mean on other
    rows by a per cent or so, which ranks nothing otherwise but prices every bid wrongly. A task
    whose output has no bias of its own stays as it is.

    Args:
        model: the smaller one.
        schema: of the model.
        rows: that neither trained it nor will judge it.
        original: the original's raw outputs ``[rows, tasks]`` on them.

    Returns:
        The shift of each task.
    """
    raw = predict(model, rows).astype(np.float64)
    named = dict(model.named_parameters())
    shifts = []
    for task, place in enumerate(output_biases(model, schema)):
        shift = 0.0
        if place is not None:
            shift = _shift(raw[:, task], float(probabilities(original[:, task]).mean()))
            bias = named[place[0]]
            held = bias.detach().clone()
            with torch.no_grad():
                bias[place[1]] += shift
            moved = predict(model, some := rows.take(np.arange(min(len(rows), _TRIED))))
            if not np.allclose(moved[:, task] - raw[: len(some), task], shift, atol=_MOVED):
                shift = 0.0  # it is no summand after all
                with torch.no_grad():
                    bias.copy_(held)
        shifts.append(shift)
    return tuple(shifts)


def _shift(raw: NDArray[np.float64], wanted: float) -> float:
    """Return what added to raw outputs gives their probabilities a mean, by Newton's method."""
    shift = 0.0
    for _ in range(_STEPS):
        found = probabilities(raw + shift)
        missing = wanted - float(found.mean())
        if abs(missing) < _CLOSE:
            break
        shift += missing / max(float((found * (1 - found)).mean()), 1e-12)
    return shift
