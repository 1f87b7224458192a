"""The lighter network: narrower layers, thin products, fewer columns in tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from torch import nn

from headway.compress.passes.low_rank import low_rank
from headway.compress.passes.narrow_tables import (
    level_tables,
    narrow_tables,
    useless_tables,
)
from headway.compress.passes.observe import observe
from headway.compress.passes.prune import PruneSettings, prune
from headway.compress.passes.units import find_units
from headway.core import Schema, check_fields
from headway.data import Dataset

Share = Annotated[float, Meta(gt=0.0, le=1.0)]
Positive = Annotated[int, Meta(ge=1)]


class LightweightSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How light the network becomes; 1 leaves a part as it is.

    Attributes:
        table_energy: share that is kept of what tables add, squared, to the layers that read
            them; columns without use go, their space is folded into those layers.
        layer_energy: share of each linear layer's squared outputs that two thin products in its
            place must give.
        width: share of every hidden layer's units that stays, the same for all layers.
        table_multiple: dims are multiples of it.
        multiple: widths and ranks are multiples of it.
        rows: training rows that are observed.
    """

    table_energy: Share = 0.999
    layer_energy: Share = 0.999
    width: Share = 1.0
    table_multiple: Positive = 4
    multiple: Positive = 16
    rows: Positive = 16_384

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises:
            UsageError: naming the field and its value.
        """
        check_fields(self)


@dataclass(frozen=True, slots=True, eq=False)
class Lightened:
    """A lighter model.

    Attributes:
        model: an ordinary module.
        schema: of the model; tables may have another dim.
        dims: for each table narrowed, its dim before and after.
        ranks: for each layer made thin, its full rank and the one it has.
        widths: for each layer narrowed, its units before and after.
        notes: what stays as it is, and why; and tables whose ids share one row now.
    """

    model: nn.Module
    schema: Schema
    dims: Mapping[str, tuple[int, int]]
    ranks: Mapping[str, tuple[int, int]]
    widths: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...]


def lighten(
    model: nn.Module,
    schema: Schema,
    rows: Dataset,
    settings: LightweightSettings,
    rng: np.random.Generator,
) -> Lightened:
    """Return a lighter model, whose weights come from those of the first.

    Tables are narrowed, then layers, then layers are made thin; what each part is fed is
    observed anew. The model that comes out is close to the first without training; ``distil``
    brings it closer.

    Args:
        model: trained; left as it was.
        schema: of the model.
        rows: training rows with labels; some are drawn.
        settings: how light.
        rng: draws them.

    Raises:
        CaptureError: if the model cannot be captured.
    """
    model = model.eval()
    some = rows.take(rng.permutation(len(rows))[: settings.rows])
    dims: dict[str, tuple[int, int]] = {}
    ranks: dict[str, tuple[int, int]] = {}
    widths: Mapping[str, tuple[int, int]] = {}
    notes: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    if settings.table_energy < 1:
        units = find_units(model, schema)
        seen = observe(model, some, units)
        useless = useless_tables(model, units, seen, settings.table_energy)
        model, schema, dims = narrow_tables(
            model, schema, units, seen, settings.table_energy, multiple=settings.table_multiple
        )
        some = some.narrowed(schema)
        level_tables(model, units, useless, some)
        empty = tuple(f"table {n!r}: its ids made no difference, all share a row" for n in useless)
    if settings.width < 1:
        model, schema, widths, notes = _narrow(model, schema, some, settings, rng)
    if settings.layer_energy < 1:
        seen = observe(model, some, find_units(model, schema))
        model, ranks = low_rank(model, seen, settings.layer_energy, multiple=settings.multiple)
    return Lightened(model, schema, dims, ranks, widths, (*empty, *notes))


def _narrow(
    model: nn.Module,
    schema: Schema,
    rows: Dataset,
    settings: LightweightSettings,
    rng: np.random.Generator,
) -> tuple[nn.Module, Schema, Mapping[str, tuple[int, int]], tuple[str, ...]]:
    """Take the same share of units out of every layer."""
    # No budget stops it before every layer is down to the least it may have.
    nothing = PruneSettings(
        flops=1e-9, least=settings.width, multiple=settings.multiple, rows=settings.rows
    )
    found = prune(model, schema, rows, nothing, rng)
    return found.model, found.schema, found.widths, found.notes
