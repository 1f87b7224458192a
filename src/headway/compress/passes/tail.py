"""Fewer rows in tables: rare ids share some, ids never seen share one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, cast

import msgspec
import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn

from headway.bundle import Fold, row_bytes
from headway.compress.passes.cluster import clusters, means
from headway.core import Ragged, Schema, Scope, Sparse, check_fields
from headway.data import Dataset
from headway.graph import capture, partition
from headway.models import batch_features, fold_module

Ids = NDArray[np.int64]
Positive = Annotated[int, Meta(ge=1)]
_IN_ORDER = 0.995
"""Share of the occurrences of the most frequent ids that the first ids must have to be taken in
their place: a map of them costs nothing."""
_CHECKED_ROWS = 256
_CLOSE = 1e-4


class TailSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many rows tables keep.

    Attributes:
        rows: most of each table's rows that stay, as a share.
        buckets: most rows that rare ids of a table share.
        least: tables of fewer rows stay as they are.
        rounds: batches that rare rows are grouped by.
        batch: rows of one.
    """

    rows: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.5
    buckets: Positive = 255
    least: Positive = 1000
    rounds: Positive = 50
    batch: Positive = 4096

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises:
            UsageError: naming the field and its value.
        """
        check_fields(self)


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A model whose tables have fewer rows.

    Attributes:
        model: an ordinary module; its tables still take every id.
        rows: for each table folded, its rows before and after.
        notes: what stays as it is, and why.
    """

    model: nn.Module
    rows: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...]


def fold_tables(
    model: nn.Module,
    schema: Schema,
    rows: Dataset,
    settings: TailSettings,
    rng: np.random.Generator,
) -> Folded:
    """Return a model whose rare ids share rows of their tables.

    The ids that occur most in the training rows keep their own rows, and so does id 0, which
    stands for what is unknown. Others share what mini-batch k-means over their rows finds alike
    (``cluster``). Ids that never occur share the mean of their rows: nothing trained those, so
    they hold what they were drawn with. Where all that occur fit, nothing learnt is lost.

    Args:
        model: trained; left as it was.
        schema: of the model; ids stay as they are.
        rows: training rows, which tell how often ids occur.
        settings: how many rows stay.
        rng: draws the batches.

    Raises:
        CaptureError: if the model cannot be captured.
    """
    smaller = copy.deepcopy(model).eval()
    looked_up = partition(capture(smaller, schema))
    found: dict[str, tuple[int, int]] = {}
    notes: list[str] = []
    for table in schema.tables:
        weight = looked_up.tables[table.name]
        if table.rows < settings.least or table.name in looked_up.places:
            continue
        counts = occurrences(rows, table.name)
        places, new = fold_rows(weight.detach().float().cpu().numpy(), counts, settings, rng)
        if not _saves(places, len(new), table.dim):
            notes.append(f"table {table.name!r}: a map of its ids is larger than what it saves")
            continue
        reason = _replace(smaller, weight, (torch.from_numpy(new), torch.from_numpy(places)), rows)
        if reason:
            notes.append(f"table {table.name!r}: {reason}")
        else:
            found[table.name] = (table.rows, len(new))
    return Folded(smaller, found, tuple(notes))


def occurrences(rows: Dataset, table: str) -> Ids:
    """Return how often each id of a table occurs in the impressions, by all its features."""
    total = np.zeros(rows.schema.table(table).rows, np.int64)
    impressions = np.bincount(rows.row_to_query, minlength=rows.queries)
    for feature in rows.schema.id_features():
        if feature.table != table:
            continue
        query = feature.scope is Scope.QUERY
        column = (rows.context if query else rows.candidates)[feature.name]
        times = impressions if query else np.ones(len(rows), np.int64)
        if isinstance(column, Ragged) and not isinstance(feature, Sparse):
            kept = column.last(feature.max_length)
            column, times = kept.values, np.repeat(times, kept.lengths())
        total += np.bincount(cast("Ids", column), times, len(total)).astype(np.int64)
    return total


def fold_rows(
    values: NDArray[np.float32],
    counts: Ids,
    settings: TailSettings,
    rng: np.random.Generator,
) -> tuple[Ids, NDArray[np.float32]]:
    """Return the place of each id, int64 ``[ids]``, and the rows, float32 ``[fewer, dim]``.

    Args:
        values: float32 ``[ids, dim]``.
        counts: how often each id occurs.
        settings: how many rows stay.
        rng: draws batches.
    """
    seen = counts > 0
    seen[0] = True
    unseen = int(not seen.all())
    budget = max(3, int(len(values) * settings.rows))
    buckets = max(1, min(settings.buckets, budget // 2))
    own = _all(seen, budget)
    if own.sum() + unseen > budget:
        own = _most(counts, seen, budget - buckets - unseen)
    kept = np.flatnonzero(own)
    rare, never = np.flatnonzero(seen & ~own), np.flatnonzero(~seen & ~own)
    places = np.empty(len(values), np.int64)
    places[kept] = np.arange(len(kept))
    parts = [values[kept]]
    if len(rare):
        weights = counts[rare].astype(np.float64)
        labels = clusters(values[rare], weights, buckets, (settings.rounds, settings.batch), rng)
        places[rare] = len(kept) + labels
        parts.append(means(values[rare], weights, labels))
    if len(never):
        places[never] = sum(map(len, parts))
        parts.append(values[never].mean(axis=0, keepdims=True))
    return places, np.concatenate(parts)


def _all(seen: NDArray[np.bool_], budget: int) -> NDArray[np.bool_]:
    """Return the ids that occur; with those between, where that is few enough to need no map."""
    last = int(np.flatnonzero(seen)[-1])
    return np.arange(len(seen)) <= last if last + 2 <= budget else seen.copy()


def _most(counts: Ids, seen: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Return the ids that occur most; or the first ones, if they occur as often."""
    ranked = np.where(seen, counts, -1)
    ranked[0] = np.iinfo(np.int64).max  # whatever is unknown
    best = np.argsort(-ranked, kind="stable")[:size]
    first = np.arange(size)
    if counts[first].sum() >= _IN_ORDER * counts[best].sum():
        best = first
    own = np.zeros(len(counts), np.bool_)
    own[best] = True
    return own


def _saves(places: Ids, records: int, dim: int) -> bool:
    """Tell whether a table is smaller with its map, even if its rows are int8."""
    size = row_bytes(dim, "int8")
    return records * size + Fold.of(places).codes.nbytes < len(places) * size


def _replace(model: nn.Module, weight: Tensor, folded: tuple[Tensor, Tensor], rows: Dataset) -> str:
    """Put folded tables where a parameter is looked up; returns why not, or nothing."""
    held = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        and module.weight.data_ptr() == weight.data_ptr()
    }
    new, places = folded
    made = {name: fold_module(module, new, places) for name, module in held.items()}
    if not made or not all(made.values()):
        return "only nn.Embedding and nn.EmbeddingBag that do nothing but look up can be folded"
    first = next(iter(made.values()))
    wanted = _written_out(model, weight, new[places], rows)
    for name, module in made.items():
        assert module is not None
        assert first is not None
        module.weight, module.places = first.weight, first.places  # as tied as they were
        _set(model, name, module)
    try:
        found = _outputs(model, rows)
    except (IndexError, RuntimeError):
        found = torch.full_like(wanted, torch.nan)
    if float((found - wanted).abs().max()) <= _CLOSE * (float(wanted.std()) or 1.0):
        return ""
    for name, module in held.items():
        _set(model, name, module)
    return "the model uses its parameter other than by calling its module"


def _written_out(model: nn.Module, weight: Tensor, spread: Tensor, rows: Dataset) -> Tensor:
    """Return the outputs with every id's row in its own place."""
    held = weight.detach().clone()
    with torch.no_grad():
        weight.copy_(spread)
        found = _outputs(model, rows)
        weight.copy_(held)
    return found


def _outputs(model: nn.Module, rows: Dataset) -> Tensor:
    with torch.no_grad():
        return cast("Tensor", model(batch_features(rows, slice(0, _CHECKED_ROWS)))).clone()


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)
