"""Slices of the judging rows, of which none may lose much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headway.compress.guard_evidence import Evidence, Slice
from headway.compress.guard_settings import GuardSettings
from headway.core import Schema, Scope, Sparse
from headway.data import Dataset
from headway.measure import delong_paired, log_loss_rows

_FEWEST_OF_A_CLASS = 20


@dataclass(frozen=True, slots=True)
class SliceLoss:
    """What a slice lost; differences are the optimised model's figure minus the original's.

    Attributes:
        name: of the slice.
        rows: in it.
        delta_auc: difference of AUC.
        low: its lower bound, corrected for the number of slices.
        high: its upper bound, likewise.
        delta_log_loss: difference of log loss.
    """

    name: str
    rows: int
    delta_auc: float
    low: float
    high: float
    delta_log_loss: float


def find_slices(test: Dataset, train: Dataset | None, settings: GuardSettings) -> tuple[Slice, ...]:
    """Return slices that a user or owner of items would miss: frequent ids, and new users.

    Of the features with one id a row, those of the ``slice_tables`` largest tables give their
    ``slice_ids`` most frequent ids. New users are the rows whose id of the largest query-level
    table stands in no training row; where rare ids were put together as one unknown id, only
    users without any training row count.

    Args:
        test: the judging rows.
        train: what the model learnt from, or None to leave new users out.
        settings: how many, and how large a slice must be.
    """
    if settings.margin_slice is None:
        return ()
    found = list(_frequent(test, settings))
    if train is not None and (user := _user_feature(test.schema)) is not None:
        own, known = _ids(test, user), np.unique(np.asarray(train.context[user.name]))
        rows = np.flatnonzero(~np.isin(own, known))
        found.append(Slice(f"{user.name} not in training", rows))
    return tuple(s for s in found if len(s.rows) >= settings.slice_rows)


def judge_slices(
    evidence: Evidence, settings: GuardSettings, confidence: float
) -> tuple[SliceLoss | None, int]:
    """Return the worst slice and how many had enough of both classes to be looked at.

    The worst is the one proven to have lost the most, else that with the lowest difference.

    Args:
        evidence: with slices.
        settings: the margin above which a proven loss vetoes.
        confidence: one-sided, shared by the slices (Bonferroni).
    """
    if settings.margin_slice is None:
        return None, 0
    usable = [s for s in evidence.slices if _usable(evidence, s)]
    if not usable:
        return None, 0
    error = (1 - confidence) / len(usable)
    losses = [_loss(evidence, s, 1 - 2 * error) for s in usable]
    margin = settings.margin_slice
    return min(losses, key=lambda s: (min(s.high, -margin), s.delta_auc)), len(usable)


def vetoes(worst: SliceLoss | None, settings: GuardSettings) -> bool:
    """Return whether the slice is proven to have lost more than slices may."""
    return (
        worst is not None
        and settings.margin_slice is not None
        and worst.high < -settings.margin_slice
    )


def _frequent(test: Dataset, settings: GuardSettings) -> Iterator[Slice]:
    sparse = [f for f in test.schema.features if isinstance(f, Sparse)]
    tables = sorted(
        {f.table for f in sparse}, key=lambda name: test.schema.table(name).rows, reverse=True
    )[: settings.slice_tables]
    for feature in sparse:
        if feature.table in tables:
            column = _ids(test, feature)
            ids, counts = np.unique(column, return_counts=True)
            for index in np.argsort(-counts, kind="stable")[: settings.slice_ids]:
                yield Slice(f"{feature.name} = {ids[index]}", np.flatnonzero(column == ids[index]))


def _user_feature(schema: Schema) -> Sparse | None:
    found = [f for f in schema.of_scope(Scope.QUERY) if isinstance(f, Sparse)]
    return max(found, key=lambda f: schema.table(f.table).rows, default=None)


def _ids(rows: Dataset, feature: Sparse) -> NDArray[np.int64]:
    if feature.scope is Scope.CANDIDATE:
        return np.asarray(rows.candidates[feature.name])
    return np.asarray(rows.context[feature.name])[rows.row_to_query]


def _usable(evidence: Evidence, own: Slice) -> bool:
    positive = np.asarray(evidence.labels)[own.rows] > 0.5
    groups = own.rows if evidence.groups is None else np.asarray(evidence.groups)[own.rows]
    return all(len(np.unique(groups[c])) >= _FEWEST_OF_A_CLASS for c in (positive, ~positive))


def _loss(evidence: Evidence, own: Slice, two_sided: float) -> SliceLoss:
    labels, a, b = (
        np.asarray(x)[own.rows] for x in (evidence.labels, evidence.baseline, evidence.optimized)
    )
    groups = None if evidence.groups is None else np.asarray(evidence.groups)[own.rows]
    found = delong_paired(labels, a, b, groups)
    low, high = found.interval(two_sided)
    rise = float((log_loss_rows(labels, b) - log_loss_rows(labels, a)).mean())
    return SliceLoss(own.name, len(labels), found.delta, low, high, rise)
