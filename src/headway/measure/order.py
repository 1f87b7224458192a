"""Which order statistics enclose a quantile, whatever the distribution."""

from __future__ import annotations

from math import ceil, floor, log, sqrt

import numpy as np
from numpy.typing import NDArray

_MARGIN = 1.3


def order_ranks(count: int, quantile: float, confidence: float = 0.95) -> tuple[int, int]:
    """Return the 1-based ranks that enclose a quantile with at least the given confidence.

    The number of values below the true quantile is binomial, so ranks chosen from its tails
    enclose it for any continuous distribution: David and Nagaraja, "Order Statistics" (2003),
    section 7.1. Rank 0 and rank ``count + 1`` mean that the values give no bound on that side.

    Args:
        count: independent values.
        quantile: in (0, 1).
        confidence: of the two-sided interval; each tail gets half of the rest.
    """
    tail = (1 - confidence) / 2
    first, below = binomial_cdf(count, quantile)
    # P(value[low] > quantile) = P(X <= low - 1), and P(value[high] < quantile) = P(X >= high).
    low = first + int(np.searchsorted(below, tail, side="right"))
    high = first + int(np.searchsorted(below, 1 - tail, side="left")) + 1
    return max(0, low), min(count + 1, high)


def queries_needed(percentile: float, confidence: float = 0.95) -> int:
    """Return the fewest independent values for which a percentile has an upper bound.

    With fewer, even the largest value may lie below the percentile too often to be a bound.
    """
    return ceil(log((1 - confidence) / 2) / log(percentile / 100))


def queries_to_plan(percentile: float) -> int:
    """Return how many queries a run should be planned with, so that a percentile can be judged.

    Arrivals are counted by chance, and a run cut short by a few says nothing.
    """
    return ceil(_MARGIN * queries_needed(percentile))


def binomial_cdf(count: int, p: float) -> tuple[int, NDArray[np.float64]]:
    """Return a binomial's CDF, over the window of outcomes that holds all but 1e-15 of the mass.

    Returns:
        The window's first outcome, and the CDF from there on, float64 ``[outcomes]``.
    """
    centre, spread = count * p, 9 * sqrt(count * p * (1 - p)) + 20
    first, last = max(0, floor(centre - spread)), min(count, ceil(centre + spread))
    k = np.arange(first, last)
    # Ratios of neighbours avoid factorials; the sum of the window normalises them.
    steps = np.log((count - k) / (k + 1)) + log(p / (1 - p))
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    mass = np.exp(logs - logs.max())
    return first, np.cumsum(mass / mass.sum())
