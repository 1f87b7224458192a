"""Fewer columns in tables, their old space folded into the layers that read them."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headway.compress.passes.cut import cut, replace_parameters, state_of
from headway.compress.passes.observe import Observed
from headway.compress.passes.tail import occurrences
from headway.compress.passes.units import Place, Site, Units
from headway.core import Schema
from headway.data import Dataset

Floats = NDArray[np.float64]
_DAMPING = 1e-4
_FLATTEST = 1e-3
"""Least singular value that a column is scaled by, as a share of the largest."""


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """A table and its readers, seen along the directions that matter most.

    Attributes:
        site: the table's columns.
        table: name of its parameter.
        forth: ``[dim, dim]``; rows of the table times it are rows in the new basis.
        back: ``[dim, dim]``; the readers' weights times it read the new basis.
        energy: of each new column in the readers' outputs, falling.
    """

    site: Site
    table: str
    forth: Floats
    back: Floats
    energy: Floats


def narrow_tables(
    model: nn.Module,
    schema: Schema,
    units: Units,
    seen: Observed,
    energy: float,
    *,
    multiple: int = 4,
) -> tuple[nn.Module, Schema, dict[str, tuple[int, int]]]:
    """Return a model whose tables keep the directions that carry what their readers take up.

    A table whose vectors meet nothing but linear layers can be turned: ``W e = (W B)(F e)`` for
    any ``B F = 1``. The turn taken is the one whose first k columns give the readers' outputs
    with the least squared error for every k: the singular vectors of ``D W L``, where ``L L'``
    are the second moments of what the readers are fed and ``D`` how far each output reaches into
    the loss. All tables share one budget, so that one that matters little loses more. One none of
    whose columns is worth keeping still keeps some; see ``level_tables``.

    Args:
        model: left as it was.
        schema: of the model.
        units: of the model.
        seen: by ``observe``, of this model.
        energy: share that is kept of what the tables add to the readers' outputs, squared.
        multiple: dims are multiples of it.

    Returns:
        The model, its schema, and for each table narrowed its dim before and after.

    Raises:
        CaptureError: if the model's code depends on the dims.
    """
    turned = copy.deepcopy(model)
    turns = _turns(model, units, seen)
    if not turns:
        return turned, schema, {}
    state = state_of(turned)
    for turn in turns:
        _apply(state, turn)
    replace_parameters(turned, state)
    kept = np.ones(units.count, np.bool_)
    dims: dict[str, tuple[int, int]] = {}
    for turn, columns in zip(turns, _wanted(turns, energy), strict=True):
        dim = min(len(turn.site), max(1, -(-columns // multiple)) * multiple)
        kept[turn.site.ids[dim:]] = False
        if dim < len(turn.site):
            dims[units.tables[turn.table]] = (len(turn.site), dim)
    smaller, small_schema, _ = cut(turned, schema, units, kept)
    return smaller, small_schema, dims


def useless_tables(
    model: nn.Module, units: Units, seen: Observed, energy: float
) -> tuple[str, ...]:
    """Return the tables whose ids make next to no difference to the layers that read them.

    What counts is how far ids move the readers' outputs, squared, by how far each reaches into the
    loss; what a table adds whatever the id is no loss, since one row can add it. The tables that
    do least go while they do less than the share of all that need not be kept.

    Args:
        model: of the units.
        units: of the model.
        seen: by ``observe``, of this model.
        energy: share of what tables do that is kept.
    """
    found = {
        units.tables[turn.table]: _moved(model, turn, seen) for turn in _turns(model, units, seen)
    }
    order = sorted(found, key=lambda name: found[name])
    lost = np.cumsum([found[name] for name in order])
    return tuple(
        n for n, total in zip(order, lost, strict=True) if total <= (1 - energy) * lost[-1]
    )


def _moved(model: nn.Module, turn: _Turn, seen: Observed) -> float:
    """Return the variance that a table's columns bring to their readers' outputs."""
    named = dict(model.named_parameters())
    total = 0.0
    for (name, _), positions in turn.site.places.items():
        if name == turn.table:
            continue
        weight = named[name].detach().double().numpy() * seen.reach[name][:, None]
        moments = seen.moments[name]
        for columns in positions.T:
            mean = moments[columns, -1]
            spread = moments[np.ix_(columns, columns)] - np.outer(mean, mean)
            total += float(np.einsum("oi,ij,oj->", weight[:, columns], spread, weight[:, columns]))
    return max(total, 0.0)


@torch.no_grad()
def level_tables(model: nn.Module, units: Units, tables: Collection[str], rows: Dataset) -> None:
    """Give all ids of some tables one row, the mean of those that occur.

    A table like that is stored as a single row, and read from the cache. The feature stays in the
    schema, so that whoever sends its ids need not know.

    Args:
        model: changed in place.
        units: of the model, or of the one it was narrowed from.
        tables: their names.
        rows: tell how often ids occur.
    """
    for name, table in units.tables.items():
        if table in tables:
            weights = torch.from_numpy(occurrences(rows, table).astype(np.float64))
            values = model.get_parameter(name)
            mean = weights @ values.double() / weights.sum().clamp(min=1)
            values[:] = mean.to(values.dtype)


def _turns(model: nn.Module, units: Units, seen: Observed) -> list[_Turn]:
    found = (_turn(model, site, units, seen) for site in units.sites)
    return [turn for turn in found if turn is not None]


def _turn(model: nn.Module, site: Site, units: Units, seen: Observed) -> _Turn | None:
    """Return how to turn a table, or None if something but linear layers reads it."""
    tables = [place for place in site.places if place[0] in units.tables]
    readers = [place for place in site.places if place not in tables]
    if not site.linear or len(tables) != 1 or tables[0][1] != 1:
        return None
    if not all(axis == 1 and name in seen.moments for name, axis in readers):
        return None
    if not np.array_equal(site.places[tables[0]][:, 0], np.arange(len(site))):
        return None
    weights, moments = _read(model, site, readers, seen)
    dim = len(site)
    root = np.linalg.cholesky(moments + np.eye(dim) * _DAMPING * max(np.trace(moments) / dim, 1e-9))
    _, values, directions = np.linalg.svd(weights @ root, full_matrices=False)
    if len(values) < dim:  # fewer outputs than columns
        whole = np.linalg.svd(weights @ root, full_matrices=True)[2]
        values, directions = np.append(values, np.zeros(dim - len(values))), whole
    scale = np.sqrt(np.maximum(values, max(values[0], 1e-12) * _FLATTEST))
    forth = scale[:, None] * directions @ np.linalg.inv(root)
    back = root @ directions.T / scale
    return _Turn(site, tables[0][0], forth.T, back, np.square(values))


def _read(
    model: nn.Module, site: Site, readers: list[Place], seen: Observed
) -> tuple[Floats, Floats]:
    """Return all weights over the table, by how far they reach, and what they are fed.

    Returns:
        ``[outputs, dim]``, and second moments ``[dim, dim]``.
    """
    named = dict(model.named_parameters())
    rows, total = [], np.zeros((len(site), len(site)))
    for name, axis in readers:
        weight = named[name].detach().double().numpy() * seen.reach[name][:, None]
        for columns in site.places[name, axis].T:
            rows.append(weight[:, columns])
            total += seen.moments[name][np.ix_(columns, columns)]
    return np.concatenate(rows), total


def _apply(state: dict[str, torch.Tensor], turn: _Turn) -> None:
    for (name, _), positions in turn.site.places.items():
        old = state[name].detach()
        if name == turn.table:
            state[name] = (old.double() @ torch.from_numpy(turn.forth)).to(old.dtype)
            continue
        new = old.double()
        for columns in positions.T:
            new[:, columns] = new[:, columns] @ torch.from_numpy(turn.back)
        state[name] = new.to(old.dtype)


def _wanted(turns: list[_Turn], energy: float) -> list[int]:
    """Return how many columns each table needs; the weakest of all tables go first."""
    values = np.concatenate([turn.energy for turn in turns])
    falling = np.sort(values)
    lost = np.cumsum(falling) <= (1 - energy) * falling.sum()
    limit = falling[lost.sum() - 1] if lost.any() else -1.0
    return [int((turn.energy > limit).sum()) for turn in turns]
