"""How far predicted probabilities moved away from observed rates."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.core import DataError
from headway.measure.quality import check_labelled

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CalibrationShift:
    """By how much model b is worse calibrated than model a; negative where it is better.

    Attributes:
        rise: as observed.
        low: lower bound.
        high: upper bound.
    """

    rise: float
    low: float
    high: float


def calibration_shift(
    labels: Array,
    a: Array,
    b: Array,
    *,
    bins: int | None = 20,
    confidence: float = 0.95,
    groups: Array | None = None,
) -> CalibrationShift:
    """Return how much the distance between predicted and observed rates rose, with bounds.

    The distance is the sum over bins of equal mass (of a's predictions) of the gap between
    predicted and observed rate, weighted by rows: the expected calibration error (Guo et al.,
    "On Calibration of Modern Neural Networks", ICML 2017). Without bins it is the distance of
    predicted over observed rate from 1, and its bounds know that the observed rate is an
    estimate, too. Chance alone gives a bin a gap, and a shift smaller than that gap moves the
    observed error by nothing on average: a plain interval of the two errors would find nothing.
    So a bin's shift counts as for the worse in ``high``, and as for the better in ``low``,
    unless the rows prove on which side of the observed rate a stands. Half of the error allowed
    goes to those gaps (shared by the bins), half to the sampling of the shift.

    Args:
        labels: ``[rows]`` of 0 and 1.
        a: probabilities ``[rows]`` of the baseline.
        b: probabilities ``[rows]`` of the other model.
        bins: how many; None compares predicted over observed rate of all rows.
        confidence: two-sided, of the bounds.
        groups: optional ids ``[rows]`` of the query or user of each row.

    Raises:
        DataError: if shapes differ, a value does not fit, or there is no positive to divide by.
    """
    y, p = check_labelled(labels, a)
    _, other = check_labelled(labels, b)
    if groups is not None and np.shape(groups) != y.shape:
        raise DataError(f"groups have shape {list(np.shape(groups))}, not [{len(y)}]")
    if bins is None and not y.any():
        raise DataError("predicted over observed rate needs at least one positive label")
    count = bins or 1
    bin_of = np.searchsorted(np.quantile(p, np.arange(1, count) / count), p, side="right")
    gap = np.bincount(bin_of, weights=p - y, minlength=count)
    move = np.bincount(bin_of, weights=other - p, minlength=count)
    error = (1 - confidence) / 2
    reach = NormalDist().inv_cdf(1 - error / 2 / count) * _gap_errors(bin_of, p - y, groups, count)
    ends = [np.abs(g + move) - np.abs(g) for g in (gap - reach, gap + reach)]
    signed = np.sign(move)[bin_of] * (other - p)
    if bins is None:
        # The ratio of two sums varies as the residuals of the upper on the lower one.
        signed = signed - signed.sum() / y.sum() * y
    noise = NormalDist().inv_cdf(1 - error / 2) * _sum_error(signed, groups)
    unit = len(y) if bins else float(y.sum())
    return CalibrationShift(
        rise=float(np.sum(np.abs(gap + move) - np.abs(gap)) / unit),
        low=float((np.minimum(*ends).sum() - noise) / unit),
        high=float((np.maximum(*ends).sum() + noise) / unit),
    )


def _gap_errors(bin_of: Array, gaps: Floats, groups: Array | None, bins: int) -> Floats:
    """Return the standard error of each bin's sum; rows of a group count as one draw."""
    if groups is not None:
        place = np.unique(groups, return_inverse=True)[1].reshape(-1)
        keys, at = np.unique(place * bins + bin_of, return_inverse=True)
        gaps = np.bincount(at.reshape(-1), weights=gaps).astype(np.float64)
        bin_of = keys % bins
    squares = np.bincount(bin_of, weights=np.square(gaps), minlength=bins)
    return np.asarray(np.sqrt(squares), np.float64)


def _sum_error(values: Floats, groups: Array | None) -> float:
    if groups is None:
        return sqrt(len(values)) * float(values.std())
    centred = values - values.mean()
    place = np.unique(groups, return_inverse=True)[1].reshape(-1)
    return sqrt(float(np.square(np.bincount(place, weights=centred)).sum()))
