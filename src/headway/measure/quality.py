"""How good scores are: ranking, likelihood and calibration, on labels in {0, 1}."""

from __future__ import annotations

from math import log, log1p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.core import DataError

Array = NDArray[Any]


def auc(labels: Array, scores: Array) -> float:
    """Return the area under the ROC curve; a tie between classes counts one half.

    Args:
        labels: ``[rows]`` of 0 and 1.
        scores: ``[rows]`` on any monotone scale, so raw outputs will do.

    Raises:
        DataError: if the two do not fit together, a score is not finite or a class is missing.
    """
    positive = check_classes(labels, scores)
    m = int(positive.sum())
    ranks = midranks(np.asarray(scores))[positive]
    return float((ranks.sum() - m * (m + 1) / 2) / (m * (len(positive) - m)))


def log_loss_rows(labels: Array, raw: Array) -> NDArray[np.float64]:
    """Return the negative log likelihood of each row, in nats, from raw outputs (logits).

    No probability is formed, so a large logit neither overflows nor becomes log 0.

    Raises:
        DataError: if the two do not fit together or an output is not finite.
    """
    y, z = check_labelled(labels, raw)
    rows: NDArray[np.float64] = np.logaddexp(0.0, z) - y * z
    return rows


def log_loss(labels: Array, raw: Array) -> float:
    """Return the mean negative log likelihood in nats, from raw outputs (logits).

    Raises:
        DataError: as ``log_loss_rows``.
    """
    return float(log_loss_rows(labels, raw).mean())


def normalized_entropy(labels: Array, raw: Array) -> float:
    """Return log loss over that of always predicting the observed rate; below 1 is useful.

    He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook" (ADKDD 2014): it
    takes out how hard the base rate makes the task, so figures of unlike data compare.

    Args:
        labels: ``[rows]`` of 0 and 1.
        raw: outputs ``[rows]`` (logits).

    Raises:
        DataError: as ``log_loss_rows``, or if a class is missing.
    """
    positive = check_classes(labels, raw)
    rate = float(positive.mean())
    entropy = -(rate * log(rate) + (1 - rate) * log1p(-rate))
    return log_loss(labels, raw) / entropy


def probabilities(raw: Array) -> NDArray[np.float64]:
    """Return the logistic function of raw outputs, without overflow."""
    z = np.asarray(raw, np.float64)
    small = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0, 1.0, small) / (1.0 + small))


def calibration_ratio(labels: Array, predicted: Array) -> float:
    """Return the sum of predicted probabilities over the number of positives; 1 is right.

    Raises:
        DataError: if the two do not fit together or there is no positive.
    """
    y, p = check_labelled(labels, predicted)
    if not y.any():
        raise DataError("a calibration ratio needs at least one positive label")
    return float(p.sum() / y.sum())


def expected_calibration_error(labels: Array, predicted: Array, bins: int = 20) -> float:
    """Return the mean distance between predicted and observed rate over bins of equal mass.

    Equal-mass bins, because click probabilities crowd near zero, where bins of equal width
    would put nearly all rows in one. Equal predictions stay in one bin.

    Args:
        labels: ``[rows]`` of 0 and 1.
        predicted: probabilities ``[rows]``.
        bins: how many bins; weights are the rows that fall in each.

    Raises:
        DataError: if the two do not fit together.
    """
    y, p = check_labelled(labels, predicted)
    edges = np.quantile(p, np.arange(1, bins) / bins)
    place = np.searchsorted(edges, p, side="right")
    gap = np.bincount(place, weights=p - y, minlength=bins)
    return float(np.abs(gap).sum() / len(y))


def midranks(values: Array) -> NDArray[np.float64]:
    """Return ranks from 1, equal values sharing the mean of their ranks; O(n log n)."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse.reshape(-1)]
    return shared


def check_classes(labels: Array, *scores: Array) -> NDArray[np.bool_]:
    """Return which rows are positive.

    Raises:
        DataError: if a score does not fit the labels, is not finite, or a class is missing.
    """
    for score in scores:
        check_labelled(labels, score)
    positive = np.asarray(labels) > 0.5
    if positive.all() or not positive.any():
        raise DataError(
            f"AUC needs rows of both classes; all {len(positive)} labels are {int(positive.all())}"
        )
    return positive


def check_labelled(labels: Array, values: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return labels and values as float64 ``[rows]``.

    Raises:
        DataError: if shapes differ, there is no row, a value is not finite or a label is not 0
            or 1.
    """
    y, v = np.asarray(labels, np.float64), np.asarray(values, np.float64)
    if y.ndim != 1 or y.shape != v.shape or not len(y):
        raise DataError(
            f"labels {list(y.shape)} and values {list(v.shape)} must be one row each, and not "
            "empty; judge one task at a time"
        )
    if not np.isfinite(v).all():
        raise DataError(f"{int((~np.isfinite(v)).sum())} of {len(v)} values are not finite")
    if not ((y == 0) | (y == 1)).all():
        raise DataError("labels must be 0 or 1")
    return y, v
