"""Structured pruning: whole units go, and the module that comes out is smaller and ordinary."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from torch import nn

from headway.compress.passes.allocate import Budget, allocate
from headway.compress.passes.compensate import compensated
from headway.compress.passes.cut import (
    Kept,
    cut,
    positions_left,
    removable,
    replace_parameters,
    state_of,
    taken_from,
)
from headway.compress.passes.observe import Observed, magnitudes, observe
from headway.compress.passes.units import Units, find_units
from headway.core import Schema, check_fields
from headway.data import Dataset
from headway.models import mean_log_loss, predict

Share = Annotated[float, Meta(gt=0.0, le=1.0)]
Positive = Annotated[int, Meta(ge=1)]
Criterion = Literal["taylor", "l1", "measured"]
Tune = Callable[[nn.Module, float], None]
"""Trains a model in place, with a share of the training that the whole pass may have."""


class PruneSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is taken out, and how it is chosen.

    Attributes:
        flops: share of the operations in matrix products that may be left, as counted for one
            candidate and also with the query's work divided among ``query_rows`` candidates.
        criterion: what a unit is worth: ``taylor``, the first-order change of the loss; ``l1``,
            the absolute sum of its weights; or ``measured``: both are tried, and the one with
            the smaller loss on rows put aside is taken.
        rounds: steps in which the units go; between them the model is trained and observed
            again.
        multiple: widths are multiples of it, which kernels like.
        least: share of each layer's units that stays in any case.
        tables: whether columns of tables may go as well.
        query_rows: candidates of a query.
        rows: training rows that are observed.
    """

    flops: Share = 0.5
    criterion: Criterion = "measured"
    rounds: Positive = 1
    multiple: Positive = 16
    least: Share = 0.125
    tables: bool = False
    query_rows: Positive = 256
    rows: Positive = 16_384

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises:
            UsageError: naming the field and its value.
        """
        check_fields(self)


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """A smaller model.

    Attributes:
        model: an ordinary module.
        schema: of the model; tables may have another dim.
        widths: for each site that lost units, how many there were and are.
        criteria: what decided in each round.
        flops: share of the operations left for a candidate.
        kept: for linear layers that lost outputs, by module, which those left were at first.
        notes: what stays as wide as it is, and why.
    """

    model: nn.Module
    schema: Schema
    widths: Mapping[str, tuple[int, int]]
    criteria: tuple[str, ...]
    flops: float
    kept: Mapping[str, NDArray[np.int64]]
    notes: tuple[str, ...]


def prune(
    model: nn.Module,
    schema: Schema,
    rows: Dataset,
    settings: PruneSettings,
    rng: np.random.Generator,
    tune: Tune | None = None,
) -> Pruned:
    """Return a model with fewer units, its remaining weights refitted to make up for the rest.

    What goes together is found by ``find_units`` (after DepGraph), what a unit is worth by
    ``observe`` (Molchanov et al., 2019) or ``magnitudes``, and the refit is ``compensated`` (He et
    al., 2017); each names its source. ``distil`` trains what comes out.

    Args:
        model: trained; left as it was.
        schema: of the model.
        rows: training rows with labels; some are drawn.
        settings: how much and how.
        rng: draws them.
        tune: trains between rounds; after the last it is the caller's to do.

    Raises:
        CaptureError: if the model cannot be captured.
    """
    widths: dict[str, tuple[int, int]] = {}
    kept: dict[str, NDArray[np.int64]] = {}
    criteria: list[str] = []
    notes: tuple[str, ...] = ()
    current, current_schema, left = copy.deepcopy(model).eval(), schema, 1.0
    for turn in range(settings.rounds):
        # The copy is the model's equal at first, of which more may be known.
        found_in = model if turn == 0 else current
        units, said = removable(current, current_schema, find_units(found_in, current_schema))
        notes = notes or tuple(said)
        # Each round leaves the same share of what it finds.
        share = settings.flops ** ((turn + 1) / settings.rounds) / left
        step = _Step(current, current_schema, units, settings, min(1.0, share))
        criterion, found = step.best(rows, rng)
        criteria.append(criterion)
        current, current_schema, axes, after = found
        left *= units.flops(after) / units.flops()
        _note_widths(widths, units, after)
        _note_kept(kept, axes)
        if tune is not None and turn + 1 < settings.rounds:
            tune(current, 1 / settings.rounds)
    return Pruned(current, current_schema, widths, tuple(criteria), left, kept, notes)


_Found = tuple[nn.Module, Schema, Kept, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """One round of taking units out."""

    model: nn.Module
    schema: Schema
    units: Units
    settings: PruneSettings
    share: float

    def best(self, rows: Dataset, rng: np.random.Generator) -> tuple[str, _Found]:
        """Return the criterion taken and what it leaves."""
        drawn = rng.permutation(len(rows))[: self.settings.rows + self.settings.rows // 2]
        first = max(1, len(drawn) * 2 // 3)
        seen = observe(self.model, rows.take(drawn[:first]), self.units)
        wanted = self.settings.criterion
        names = ("taylor", "l1") if wanted == "measured" else (wanted,)
        found = {name: self._without(self._scores(name, seen), seen) for name in names}
        if len(found) == 1:
            return names[0], found[names[0]]
        aside = rows.take(drawn[first:]) if len(drawn) > first else rows.take(drawn)
        losses = {
            name: mean_log_loss(aside.labels, predict(result[0], aside))
            for name, result in found.items()
        }
        best = min(losses, key=lambda name: losses[name])
        return best, found[best]

    def _scores(self, name: str, seen: Observed) -> NDArray[np.float64]:
        return seen.taylor if name == "taylor" else magnitudes(self.model, self.units)

    def _without(self, scores: NDArray[np.float64], seen: Observed) -> _Found:
        settings = self.settings
        sites = [s for s in self.units.sites if settings.tables or not s.table]
        budget = Budget(self.share, settings.query_rows, settings.multiple, settings.least)
        after = allocate(self.units, scores, sites, budget)
        model, schema, left = cut(self.model, self.schema, self.units, after)
        better = compensated(
            self.model, positions_left(self.model, self.units, after), seen.moments
        )
        replace_parameters(model, {**state_of(model), **taken_from(better, left)})
        return model, schema, left, after


def _note_widths(
    widths: dict[str, tuple[int, int]], units: Units, after: NDArray[np.bool_]
) -> None:
    for site in units.sites:
        now = int(after[site.ids].sum())
        if now < len(site):
            widths[site.name] = (widths.get(site.name, (len(site), 0))[0], now)


def _note_kept(kept: dict[str, NDArray[np.int64]], left: Kept) -> None:
    """Follow which outputs of the first model the layers still have."""
    for (name, axis), positions in left.items():
        module = name.removesuffix(".weight")
        if axis == 0 and module != name:
            kept[module] = kept[module][positions] if module in kept else positions
