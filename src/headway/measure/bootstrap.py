"""The paired bootstrap of two models' AUC and of a mean, from the same resamples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from headway.core import DataError
from headway.measure.compare import MeanDifference
from headway.measure.quality import check_classes

Array = NDArray[Any]
Floats = NDArray[np.float64]
_DRAWS_AT_ONCE = 2_000_000
_ROWS_IN_ALL = 250_000_000
_FEWEST_ROUNDS = 200


@dataclass(frozen=True, slots=True, eq=False)
class PairedBootstrap:
    """What resampling says of two models on the same rows; differences are b minus a.

    Attributes:
        delta_auc: difference of the AUCs.
        delta_mean: mean of the differences that were handed in, such as those of log loss.
        aucs: the resampled differences of the AUCs ``[rounds]``.
        means: the resampled means ``[rounds]``.
    """

    delta_auc: float
    delta_mean: float
    aucs: Floats
    means: Floats

    @property
    def rounds(self) -> int:
        """How many resamples were drawn; fewer than asked for where rows are many."""
        return len(self.aucs)

    def auc(self, confidence: float = 0.95) -> MeanDifference:
        """Return the AUC difference with its two-sided percentile interval."""
        return _summary(self.delta_auc, self.aucs, confidence)

    def mean(self, confidence: float = 0.95) -> MeanDifference:
        """Return the mean difference with its two-sided percentile interval."""
        return _summary(self.delta_mean, self.means, confidence)


def bootstrap_pair(
    labels: Array,
    scores: tuple[Array, Array],
    differences: Array,
    rng: np.random.Generator,
    *,
    rounds: int = 2000,
    groups: Array | None = None,
) -> PairedBootstrap:
    """Return bootstrap resamples of an AUC difference and of a mean of rows.

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; whole groups
    are drawn as in Field and Welsh, "Bootstrapping clustered data" (J. R. Statist. Soc. B
    2007). Rows are sorted once per model. A resample is then a weight per row or group, and its
    AUC a sum along that order, so a round costs no sorting: 500,000 rows take under 10 ms. Where
    rows times rounds exceed 2.5e8, fewer rounds are drawn, but at least 200. The GIL is released.

    Args:
        labels: ``[rows]`` of 0 and 1.
        scores: ``[rows]`` of model a and of model b.
        differences: ``[rows]``, e.g. log loss of b minus that of a.
        rng: source of the resamples.
        rounds: how many resamples to draw.
        groups: optional ids ``[rows]`` of the query or user of each row; whole groups are drawn
            then, as their rows are not independent.

    Raises:
        DataError: if shapes differ, a value is not finite or a class is missing.
    """
    positive = check_classes(labels, *scores, differences)
    values = np.asarray(differences, np.float64)
    place = _places(np.asarray(scores[0]), groups)
    walks = np.stack([_walk(positive, np.asarray(s), place) for s in scores])
    ones = np.ones(len(values))
    totals = np.array([np.bincount(place, weights=w) for w in (values, ones)], np.float64)
    fitting = max(_FEWEST_ROUNDS, _ROWS_IN_ALL // len(positive))
    found = _draw(walks, totals, rng, min(rounds, fitting))
    once = np.ones(totals.shape[1], np.int32)
    return PairedBootstrap(
        delta_auc=float(_auc_kernel(walks[1], once) - _auc_kernel(walks[0], once)),
        delta_mean=float(values.mean()),
        aucs=found[:, 0],
        means=found[:, 1],
    )


def _places(scores: Array, groups: Array | None) -> NDArray[np.int64]:
    """Return what is drawn with each row; single rows numbered along the order of scores.

    The models nearly agree on the order, so walking along either finds weights side by side.
    """
    if groups is None:
        place = np.empty(len(scores), np.int64)
        place[np.argsort(scores, kind="stable")] = np.arange(len(scores))
        return place
    if np.shape(groups) != np.shape(scores):
        raise DataError(f"groups have shape {list(np.shape(groups))}, not [{len(scores)}]")
    return np.unique(groups, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _walk(
    positive: NDArray[np.bool_], scores: Array, place: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Return the rows in rising order of scores: group, class, and whether a tie ends there."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    codes: NDArray[np.int64] = place[order] << 2 | positive[order] << 1 | last
    return codes.astype(np.int32)


def _draw(
    walks: NDArray[np.int32], totals: Floats, rng: np.random.Generator, rounds: int
) -> Floats:
    count = totals.shape[1]
    found = np.empty((rounds, 2))
    step = max(1, _DRAWS_AT_ONCE // count)
    for start in range(0, rounds, step):
        stop = min(rounds, start + step)
        drawn = rng.integers(count, size=(stop - start, count), dtype=np.int32)
        _resample(drawn, walks, totals, found[start:stop])
    return found


def _summary(point: float, resampled: Floats, confidence: float) -> MeanDifference:
    """Leave out resamples without both classes; where rows suffice there are none."""
    known = resampled[np.isfinite(resampled)]
    if len(known) < 2:
        raise DataError("hardly a resample holds both classes; there are too few rows of one")
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return MeanDifference(point, float(low), float(high), float(known.std(ddof=1)))


def _weighted_auc(walk: Any, weights: Any) -> Any:
    """Return the AUC of rows with whole weights, or NaN where a class has none."""
    wins = below = own = other = positives = 0
    for code in walk:
        weight = np.int64(weights[code >> 2])
        hit = weight * ((code >> 1) & 1)
        own += hit
        other += weight - hit
        if code & 1:
            # A pair in order counts two, a tied one counts one.
            wins += own * (2 * below + other)
            below += other
            positives += own
            own = other = 0
    if positives == 0 or below == 0:
        return np.nan
    return wins / (2.0 * positives * below)


_auc_kernel = njit(nogil=True, cache=True)(_weighted_auc)


def _resample_rounds(drawn: Any, walks: Any, totals: Any, out: Any) -> None:
    weights = np.empty(drawn.shape[1], np.int32)
    for index in range(drawn.shape[0]):
        weights[:] = 0
        for group in drawn[index]:
            weights[group] += 1
        total = rows = 0.0
        for group in range(len(weights)):
            total += weights[group] * totals[0, group]
            rows += weights[group] * totals[1, group]
        out[index, 0] = _auc_kernel(walks[1], weights) - _auc_kernel(walks[0], weights)
        out[index, 1] = total / rows


_resample = njit(nogil=True, cache=True)(_resample_rounds)
