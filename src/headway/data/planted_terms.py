"""What makes a click likely in a planted world: effects, likings, histories and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from headway.core import (
    Bag,
    Column,
    IdFeature,
    Pooling,
    Ragged,
    Schema,
    Scope,
    Sequence,
    Sparse,
    slice_columns,
)
from headway.data.planted_world import RANK, Singles, World, alike
from headway.data.truth import Ids

# Shares of the logit's variance, of the kinds of terms that a schema has.
_QUERY_EFFECTS, _CANDIDATE_EFFECTS, _PAIRS, _HISTORIES, _NUMBERS = 0.1, 0.4, 0.06, 0.14, 0.15
_MOST_PAIRS = 2
_UNEVEN = 0.7  # how unlike the features' weights are: deviation of their logarithm
_RIDGES = 16  # bends in the function of dense values, each in a direction of its own
_SHARP, _RECENT = 1.5, 1.0  # how much likeness and recency lift a place of a history


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some queries with their rows; ``row_to_query`` counts from the first of these queries."""

    context: dict[str, Column]
    candidates: dict[str, Column]
    row_to_query: Ids

    def of(self, scope: Scope) -> dict[str, Column]:
        """Return the columns of a scope."""
        return self.context if scope is Scope.QUERY else self.candidates

    def spread(self, scope: Scope, values: Singles) -> Singles:
        """Return values of a scope with one row per impression."""
        return values[self.row_to_query] if scope is Scope.QUERY else values


Term = Callable[[Block], Singles]
"""Gives float32 ``[rows, tasks]``; its mean and deviation are whatever they are."""


def blocks(
    context: dict[str, Column], candidates: dict[str, Column], row_to_query: Ids, rows: int
) -> list[tuple[slice, Block]]:
    """Cut whole queries into blocks of about ``rows`` rows, as views with their places."""
    queries = int(row_to_query[-1]) + 1
    step = max(1, rows * queries // len(row_to_query))
    out = []
    for first in range(0, queries, step):
        last = min(queries, first + step)
        start, stop = (int(i) for i in np.searchsorted(row_to_query, [first, last]))
        mine = slice_columns(context, first, last), slice_columns(candidates, start, stop)
        out.append((slice(start, stop), Block(*mine, row_to_query[start:stop] - first)))
    return out


def terms_of(world: World, rng: np.random.Generator) -> list[tuple[float, Term]]:
    """Return the terms that a schema allows, each with its share of the logit's variance."""
    schema = world.schema
    found: list[tuple[float, Term]] = []
    for scope, share in ((Scope.QUERY, _QUERY_EFFECTS), (Scope.CANDIDATE, _CANDIDATE_EFFECTS)):
        if schema.id_features(scope):
            found.append((share, _effects(world, scope, rng)))
    likings = _partners(schema)
    histories = [(a, b) for a, b in likings if isinstance(a, Sequence) and a.table == b.table]
    pairs = [pair for pair in likings if pair not in histories][:_MOST_PAIRS]
    found += [(_HISTORIES / len(histories), _history(world, *p, rng)) for p in histories]
    found += [(_PAIRS / len(pairs), _liking(world, *p, rng)) for p in pairs]
    scopes = [scope for scope in Scope if schema.dense_features(scope)]
    found += [(_NUMBERS / len(scopes), _numbers(world, scope, rng)) for scope in scopes]
    return found


def _partners(schema: Schema) -> list[tuple[IdFeature, IdFeature]]:
    """Return which features like which: bags and histories that of their own table, if any."""
    left, right = schema.id_features(Scope.QUERY), schema.id_features(Scope.CANDIDATE)
    if not left or not right:
        both = left + right
        left, right = both[: len(both) // 2], both[len(both) // 2 :]
    targets = {f.table: f for f in reversed(right) if isinstance(f, Sparse)}
    kin = [f for f in left if not isinstance(f, Sparse) and f.table in targets]
    others = [f for f in left if f not in kin]
    pairs: list[tuple[IdFeature, IdFeature]] = [(f, targets[f.table]) for f in kin]
    return pairs + list(zip(others, right, strict=False))


def _effects(world: World, scope: Scope, rng: np.random.Generator) -> Term:
    """Each id counts; some features count more than others."""
    features = world.schema.id_features(scope)
    weights = np.exp(_UNEVEN * rng.standard_normal(len(features))).astype(np.float32)

    def term(block: Block) -> Singles:
        columns, total = block.of(scope), np.float32(0)
        for feature, weight in zip(features, weights, strict=True):
            effects = world.tables[feature.table].effects
            total = total + weight * _pooled(effects, feature, columns[feature.name])
        return block.spread(scope, cast("Singles", total))

    return term


def _liking(world: World, left: IdFeature, right: IdFeature, rng: np.random.Generator) -> Term:
    """Ids that are alike, by kind for the most part, go well together; bags by their mean."""
    mixing = 1 + alike(RANK, len(world.schema.tasks), rng) / 2

    def term(block: Block) -> Singles:
        both = [
            block.spread(
                f.scope,
                _mean(world.tables[f.table].latents, block.of(f.scope)[f.name]),
            )
            for f in (left, right)
        ]
        return cast("Singles", (both[0] * both[1]) @ mixing)

    return term


def _history(world: World, left: IdFeature, right: IdFeature, rng: np.random.Generator) -> Term:
    """A candidate is liked for its likeness to a history; like and recent places count more."""
    mixing = 1 + alike(RANK, len(world.schema.tasks), rng) / 2
    latents = world.tables[left.table].latents
    width = cast("Sequence", left).max_length

    def term(block: Block) -> Singles:
        past = cast("Ragged", block.of(left.scope)[left.name])
        there = np.arange(width) < past.lengths()[:, None]
        recent = _RECENT * np.arange(1, width + 1) / np.maximum(past.lengths(), 1)[:, None]
        lifted = np.where(there, np.exp(recent), 0).astype(np.float32)
        seen = block.spread(left.scope, _known(latents, past.padded(width, 0)))
        now = block.spread(right.scope, _mean(latents, block.of(right.scope)[right.name]))
        likeness = np.matmul(seen, now[:, :, None])[:, :, 0] * np.float32(_SHARP / RANK**0.5)
        # The ceiling keeps the exponential finite; likeness hardly ever comes near it.
        weights = np.exp(np.minimum(likeness, 20)) * block.spread(left.scope, lifted)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)
        interest = np.matmul(weights[:, None, :], seen)[:, 0]
        return cast("Singles", (interest * now) @ mixing)

    return term


def _numbers(world: World, scope: Scope, rng: np.random.Generator) -> Term:
    """A function with a bend in each of many directions of what lies behind dense values."""
    factors = len(world.dense[scope].deviation)
    directions = rng.standard_normal((factors, _RIDGES), np.float32)
    directions *= 1.5 / np.linalg.norm(directions, axis=0)
    shift = rng.standard_normal(_RIDGES, np.float32)
    weights = alike(_RIDGES, len(world.schema.tasks), rng)

    def term(block: Block) -> Singles:
        along = world.factors(scope, block.of(scope)) @ directions + shift
        bent = np.tanh(along)
        # Every second ridge is a valley: no linear function comes near it.
        bent[:, ::2] = np.abs(along[:, ::2])
        return block.spread(scope, cast("Singles", bent @ weights))

    return term


def _pooled(truth: Singles, feature: IdFeature, column: Column) -> Singles:
    """Return what a row's ids are worth, ``[rows, width]``: summed if the schema sums them."""
    if isinstance(feature, Bag) and feature.pooling is Pooling.SUM:
        return _sum(truth, cast("Ragged", column)) / np.float32(feature.max_length**0.5)
    return _mean(truth, column)


def _mean(truth: Singles, column: Column) -> Singles:
    if not isinstance(column, Ragged):
        return _known(truth, column)
    counts = np.maximum(column.lengths(), 1).astype(np.float32)
    return _sum(truth, column) / counts[:, None]


def _sum(truth: Singles, column: Ragged) -> Singles:
    some = column.lengths() > 0
    out = np.zeros((len(column), truth.shape[1]), np.float32)
    out[some] = np.add.reduceat(_known(truth, column.values), column.offsets[:-1][some], axis=0)
    return out


def _known(truth: Singles, ids: Ids) -> Singles:
    found: Singles = truth[np.minimum(ids, len(truth) - 1)]
    return found
