"""What exists in a planted world: what ids are worth and like, and how rows of it are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from headway.core import Bag, Column, Dense, IdFeature, Ragged, Schema, Scope, Sequence, Sparse
from headway.data.truth import Ids, zipf

Singles = NDArray[np.float32]

RANK = 3
"""Width of the space in which ids like each other."""
CLUSTERS = 8
"""Kinds of ids in a table: id k is of kind k % CLUSTERS, so that every kind has popular ids."""
KNOWN = 2**20
"""Ids beyond this one are worth the same: they are too rare for anyone to tell them apart."""

_LEANING = 0.7  # share of ids that are drawn from the kinds their row is interested in
_KIND, _OWN = 0.95, 0.3  # how much of an id's place in the space is its kind's and its own
_FREQUENT = 50.0  # ids of this rank have 0.7 of a first id's effect, rarer ones less and less
_FACTORS = 10  # numbers that lie behind the dense values of a row
_COMMON = 0.5  # share of a dense value's variance that the factors explain
_ALIKE = 0.6  # share of the variance that tasks have in common
_BLOCK = 2**24  # dense values drawn at once


@dataclass(frozen=True, slots=True, eq=False)
class TableTruth:
    """What the ids of a table are worth, and what they are like.

    Attributes:
        rows: ids there are; those from ``KNOWN`` on are alike.
        effects: float32 ``[min(rows, KNOWN), tasks]``.
        latents: float32 ``[min(rows, KNOWN), RANK]``.
    """

    rows: int
    effects: Singles
    latents: Singles

    @property
    def kinds(self) -> int:
        """How many kinds of ids there are."""
        return min(self.rows, CLUSTERS)


@dataclass(frozen=True, slots=True, eq=False)
class DenseTruth:
    """How the dense values of one scope hang together.

    Attributes:
        loadings: by feature, float32 ``[factors, width]``.
        deviation: float32 ``[factors]``, of a row's values times all loadings.
    """

    loadings: dict[str, Singles]
    deviation: Singles


class World:
    """What is drawn once and shared by all parts."""

    def __init__(self, schema: Schema, skew: float, rng: np.random.Generator) -> None:
        self.schema = schema
        self._skew = skew
        tasks = len(schema.tasks)
        self.tables = {t.name: _table(t.rows, tasks, rng) for t in schema.tables}
        self.dense = {s: _dense(schema.dense_features(s), rng) for s in Scope}

    def draw(self, scope: Scope, rows: int, rng: np.random.Generator) -> dict[str, Column]:
        """Draw the columns of a scope: rows have two interests that their ids lean towards."""
        interests = rng.integers(0, CLUSTERS, (rows, 2))
        columns: dict[str, Column] = dict(self._draw_dense(scope, rows, rng))
        for feature in self.schema.id_features(scope):
            if isinstance(feature, Sparse):
                columns[feature.name] = self._draw_ids(feature, interests[:, 0], rng)
            else:
                columns[feature.name] = self._draw_ragged(feature, interests, rng)
        return {f.name: columns[f.name] for f in self.schema.of_scope(scope)}

    def factors(self, scope: Scope, columns: dict[str, Column]) -> Singles:
        """Return what lies behind dense values as far as they show it, ``[rows, factors]``.

        Each has mean 0 and deviation 1.
        """
        truth = self.dense[scope]
        seen = [
            cast("Singles", columns[name]) @ loading.T for name, loading in truth.loadings.items()
        ]
        total: Singles = np.sum(seen, axis=0) / truth.deviation
        return total

    def _draw_dense(self, scope: Scope, rows: int, rng: np.random.Generator) -> dict[str, Singles]:
        truth = self.dense[scope]
        behind = rng.standard_normal((rows, len(truth.deviation)), np.float32)
        out: dict[str, Singles] = {}
        for name, loading in truth.loadings.items():
            width = loading.shape[1]
            values = np.empty((rows, width), np.float32)
            step = max(1, _BLOCK // width)
            for start in range(0, rows, step):
                block = values[start : start + step]
                rng.standard_normal(out=block, dtype=np.float32)
                block *= np.float32((1 - _COMMON) ** 0.5)
                block += behind[start : start + step] @ loading
            out[name] = values
        return out

    def _draw_ids(self, feature: IdFeature, wanted: Ids, rng: np.random.Generator) -> Ids:
        """Draw an id for each place, most of them of the kind that the place wants."""
        table = self.tables[feature.table]
        ids = zipf(table.rows, len(wanted), self._skew, rng)
        leaning = ids + wanted % table.kinds - ids % table.kinds
        kept = (rng.random(len(wanted), np.float32) >= _LEANING) | (leaning >= table.rows)
        return np.where(kept, ids, leaning)

    def _draw_ragged(
        self, feature: Bag | Sequence, interests: Ids, rng: np.random.Generator
    ) -> Ragged:
        """Draw up to the longest row; in a sequence the second interest follows the first."""
        lengths = rng.integers(0, feature.max_length + 1, len(interests))
        offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
        wanted = np.repeat(interests[:, 0], lengths)
        if isinstance(feature, Sequence):
            turn = (lengths * rng.random(len(lengths))).astype(np.int64) + offsets[:-1]
            late = np.arange(offsets[-1]) >= np.repeat(turn, lengths)
            wanted = np.where(late, np.repeat(interests[:, 1], lengths), wanted)
        return Ragged(self._draw_ids(feature, wanted, rng), offsets)


def alike(rows: int, tasks: int, rng: np.random.Generator) -> Singles:
    """Draw normal numbers ``[rows, tasks]`` that go together in a row, but are not the same."""
    common = rng.standard_normal((rows, 1), np.float32)
    if tasks == 1:
        return common
    own = rng.standard_normal((rows, tasks), np.float32)
    return np.float32(_ALIKE**0.5) * common + np.float32((1 - _ALIKE) ** 0.5) * own


def _table(rows: int, tasks: int, rng: np.random.Generator) -> TableTruth:
    known = min(rows, KNOWN)
    rank = np.arange(known, dtype=np.float32)[:, None]
    shrink = 1 / np.sqrt(1 + rank / np.float32(_FREQUENT))
    kinds = rng.standard_normal((min(rows, CLUSTERS), RANK), np.float32)
    own = rng.standard_normal((known, RANK), np.float32) * shrink
    place = np.float32(_KIND) * kinds[np.arange(known) % len(kinds)] + np.float32(_OWN) * own
    return TableTruth(rows=rows, effects=alike(known, tasks, rng) * shrink, latents=place)


def _dense(features: tuple[Dense, ...], rng: np.random.Generator) -> DenseTruth:
    width = sum(f.width for f in features)
    loading = rng.standard_normal((min(width, _FACTORS), width))
    loading *= np.sqrt(_COMMON / (loading**2).sum(axis=0, keepdims=True))
    gram = loading @ loading.T
    # The variance of x L' with x = z L + noise.
    variance = np.diag(gram @ gram + (1 - _COMMON) * gram)
    edges = np.cumsum([f.width for f in features])[:-1]
    pieces = np.split(loading.astype(np.float32), edges, axis=1)
    by_name = dict(zip((f.name for f in features), pieces, strict=False))
    return DenseTruth(loadings=by_name, deviation=np.sqrt(variance).astype(np.float32))
