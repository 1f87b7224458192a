"""Puts the level and the spread of a smaller model's outputs back to those of the original."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headway.compress.passes.units import output_places
from headway.core import Schema
from headway.data import Dataset
from headway.measure import probabilities
from headway.models import predict

_STEPS, _CLOSE = 30, 1e-10
_TRIED, _MOVED = 256, 1e-3
Origin = tuple[str, tuple[int, ...], int]
"""A parameter, the shape of its part for an output, and the position of that part."""
Line = tuple[float, float]
"""What an output is multiplied by, and what is added then."""
_SAME: Line = (1.0, 0.0)


def level(
    model: nn.Module,
    schema: Schema,
    rows: Dataset,
    original: NDArray[np.float32],
    like: nn.Module | None = None,
) -> tuple[Line, ...]:
    """Scale and shift each task's output, in place, to fit the original's predictions best.

    Training on the original's outputs for the rows it was trained on, of which it is too sure,
    moves the mean on other rows by a per cent or so and makes predictions too bold: that ranks
    nothing otherwise, but prices every bid wrongly. The line is that of Platt (1999), fitted to
    the original's probabilities, which are less noisy than labels. Where the last weights are
    shared with something else, only the bias is shifted; where there is none, nothing happens.

    Args:
        model: the smaller one.
        schema: of the model.
        rows: that neither trained it nor will judge it.
        original: the original's raw outputs ``[rows, tasks]`` on them.
        like: a model of the same structure that was asked about before, which saves a trace.

    Returns:
        The line of each task.
    """
    raw = predict(model, rows).astype(np.float64)
    some = rows.take(np.arange(min(len(rows), _TRIED)))
    lines = []
    for task, places in enumerate(output_places(like or model, schema)):
        wanted = probabilities(original[:, task])
        steps = [(_line(raw[:, task], wanted), places)]
        biases = [place for place in places if place[1] == ()]
        steps.append(((1.0, _shift(raw[:, task], wanted)), biases[:1]))
        lines.append(_first_that_holds(model, some, task, steps))
    return tuple(lines)


def _first_that_holds(
    model: nn.Module,
    some: Dataset,
    task: int,
    steps: Sequence[tuple[Line, Sequence[Origin]]],
) -> Line:
    """Apply the first line that the model's output follows, and return it."""
    before = predict(model, some)[:, task]
    state = dict(model.named_parameters())
    for (scale, shift), places in steps:
        if not any(shape == () for _, shape, _ in places):
            continue
        held = {name: state[name].detach().clone() for name, _, _ in places}
        with torch.no_grad():
            for name, _, position in places:
                state[name][position] *= scale
            bias = next(place for place in places if place[1] == ())
            state[bias[0]][bias[2]] += shift
        if np.allclose(predict(model, some)[:, task], scale * before + shift, atol=_MOVED):
            return scale, shift
        with torch.no_grad():
            for name, tensor in held.items():
                state[name].copy_(tensor)
    return _SAME


def _line(raw: NDArray[np.float64], wanted: NDArray[np.float64]) -> Line:
    """Return the line that fits probabilities with the least cross entropy, by Newton's method."""
    design = np.stack([raw, np.ones_like(raw)], axis=1)
    found = np.array([1.0, 0.0])
    for _ in range(_STEPS):
        given = probabilities(design @ found)
        slope = design.T @ (wanted - given) / len(raw)
        bend = (design * (given * (1 - given))[:, None]).T @ design / len(raw)
        step = np.linalg.solve(bend + 1e-9 * np.eye(2), slope)
        found = found + step
        if float(np.abs(step).max()) < _CLOSE:
            break
    return (float(found[0]), float(found[1])) if found[0] > 0 else _SAME


def _shift(raw: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    """Return what added to raw outputs gives their probabilities the wanted mean."""
    shift = 0.0
    for _ in range(_STEPS):
        found = probabilities(raw + shift)
        missing = float(wanted.mean() - found.mean())
        if abs(missing) < _CLOSE:
            break
        shift += missing / max(float((found * (1 - found)).mean()), 1e-12)
    return shift
