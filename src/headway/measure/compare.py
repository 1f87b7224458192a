"""How much two models differ on the same rows, with the uncertainty of that difference."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.core import DataError
from headway.measure.quality import check_classes, midranks

Array = NDArray[Any]
_DRAWS_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class AucDifference:
    """AUC of two scorings of the same rows; ``delta`` is b minus a.

    Attributes:
        auc_a: AUC of the first.
        auc_b: AUC of the second.
        delta: ``auc_b - auc_a``; negative when the second is worse.
        standard_error: of ``delta``; 0 when both rank all rows alike.
    """

    auc_a: float
    auc_b: float
    delta: float
    standard_error: float

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the two-sided normal interval of ``delta``.

        Its lower end at 0.95 is the one-sided 97.5 % bound.
        """
        reach = NormalDist().inv_cdf(0.5 + confidence / 2) * self.standard_error
        return self.delta - reach, self.delta + reach


@dataclass(frozen=True, slots=True)
class MeanDifference:
    """A mean with its percentile bootstrap interval.

    Attributes:
        mean: of the given rows.
        low: lower end of the interval.
        high: upper end of the interval.
        standard_error: standard deviation of the resampled means.
    """

    mean: float
    low: float
    high: float
    standard_error: float


def delong_paired(labels: Array, a: Array, b: Array, groups: Array | None = None) -> AucDifference:
    """Return the difference of two correlated AUCs and its standard error.

    DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated ROC
    curves" (Biometrics 1988), computed from midranks in O(n log n) as in Sun and Xu, "Fast
    implementation of DeLong's algorithm" (IEEE Signal Processing Letters 2014). Rows of one
    query or user are not independent: with ``groups`` the variance is summed over groups, as in
    Obuchowski, "Nonparametric analysis of clustered ROC curve data" (Biometrics 1997).

    Args:
        labels: ``[rows]`` of 0 and 1.
        a: scores ``[rows]`` of the baseline.
        b: scores ``[rows]`` of the other model on the same rows.
        groups: optional ids ``[rows]`` of the query or user of each row.

    Raises:
        DataError: if shapes differ, a class is missing or has a single row (or group).
    """
    positive = check_classes(labels, a, b)
    auc_a, wins_a = _placements(positive, np.asarray(a))
    auc_b, wins_b = _placements(positive, np.asarray(b))
    delta = auc_b - auc_a
    centred = wins_b - wins_a - delta
    ids = np.arange(len(positive)) if groups is None else np.asarray(groups)
    if ids.shape != positive.shape:
        raise DataError(f"groups have shape {list(ids.shape)}, not [{len(positive)}]")
    return AucDifference(auc_a, auc_b, delta, sqrt(_group_variance(positive, centred, ids)))


def paired_bootstrap(
    differences: Array,
    rng: np.random.Generator,
    *,
    rounds: int = 2000,
    confidence: float = 0.95,
    groups: Array | None = None,
) -> MeanDifference:
    """Return the mean of per-row differences with its percentile bootstrap interval.

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. Pairing is in
    the differences: both models' losses of a row are drawn together. Memory stays under some
    tens of MB however many rows and rounds there are.

    Args:
        differences: ``[rows]``, e.g. loss of b minus loss of a.
        rng: source of the resamples.
        rounds: how many resamples.
        confidence: of the two-sided interval.
        groups: optional ids ``[rows]``; whole groups are drawn then, as rows of one query or
            user are not independent.

    Raises:
        DataError: if there are no rows or the groups do not fit.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or not len(values):
        raise DataError(f"differences must be one per row, not of shape {list(values.shape)}")
    sums: NDArray[np.float64] = values
    sizes: NDArray[np.float64] | None = None
    if groups is not None:
        if np.shape(groups) != values.shape:
            raise DataError(f"groups have shape {list(np.shape(groups))}, not [{len(values)}]")
        _, place = np.unique(groups, return_inverse=True)
        sums = np.bincount(place, weights=values).astype(np.float64)
        sizes = np.bincount(place).astype(np.float64)
    means = _resampled_means(sums, sizes, rng, rounds)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return MeanDifference(float(values.mean()), float(low), float(high), float(means.std(ddof=1)))


def _placements(positive: NDArray[np.bool_], scores: Array) -> tuple[float, NDArray[np.float64]]:
    """Return the AUC, and for each row the share of the other class that it is ordered right to."""
    m = int(positive.sum())
    n = len(positive) - m
    ranks = midranks(scores)
    share = np.empty(len(positive))
    share[positive] = (ranks[positive] - midranks(scores[positive])) / n
    share[~positive] = 1 - (ranks[~positive] - midranks(scores[~positive])) / m
    return float(share[positive].mean()), share


def _group_variance(positive: NDArray[np.bool_], centred: Array, ids: Array) -> float:
    """Return the variance of a mean of placements; a group of one row each is DeLong's own."""
    _, place = np.unique(ids, return_inverse=True)
    total = int(place.max()) + 1
    own = np.bincount(place[positive], weights=centred[positive], minlength=total)
    other = np.bincount(place[~positive], weights=centred[~positive], minlength=total)
    with_own = len(np.unique(place[positive]))
    with_other = len(np.unique(place[~positive]))
    if min(with_own, with_other) < 2:
        raise DataError("DeLong's variance needs at least two rows (or groups) of each class")
    m, n = int(positive.sum()), int((~positive).sum())
    variance = with_own / (with_own - 1) * (own @ own) / m**2
    variance += with_other / (with_other - 1) * (other @ other) / n**2
    variance += 2 * total / (total - 1) * (own @ other) / (m * n)
    return max(0.0, float(variance))


def _resampled_means(
    sums: NDArray[np.float64],
    sizes: NDArray[np.float64] | None,
    rng: np.random.Generator,
    rounds: int,
) -> NDArray[np.float64]:
    count = len(sums)
    means = np.empty(rounds)
    step = max(1, _DRAWS_AT_ONCE // count)
    for start in range(0, rounds, step):
        stop = min(rounds, start + step)
        drawn = rng.integers(count, size=(stop - start, count), dtype=np.int32)
        rows = count if sizes is None else sizes[drawn].sum(axis=1)
        means[start:stop] = sums[drawn].sum(axis=1) / rows
    return means
