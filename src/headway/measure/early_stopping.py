"""How many queries prove a percentile: the early-stopping test of MLPerf's load generator."""

from __future__ import annotations

from math import ceil, inf, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.core import UsageError
from headway.measure.order import binomial_cdf

EARLY_STOPPING_CONFIDENCE = 0.99
"""What MLPerf Inference asks for, with a tolerance of 0 percentiles."""


def most_over_limit(
    queries: int, percentile: float, confidence: float = EARLY_STOPPING_CONFIDENCE
) -> int:
    """Return how many queries may be over the limit for the run to prove its percentile.

    If more than ``100 - percentile`` per cent of all queries ever sent were over the limit, a
    run would show this few of them with a chance of at most ``1 - confidence``. This is the
    one-sided binomial test of MLPerf Inference's LoadGen (``early_stopping.cc``; MLPerf
    inference rules, appendix on early stopping) with its tolerance at 0. It judges one run of
    independent queries, at its end.

    Args:
        queries: in the run, answered or not.
        percentile: of the SLA, in (0, 100).
        confidence: one-sided.

    Returns:
        The number, or -1 where even a run without any would prove nothing.

    Raises:
        UsageError: if the percentile or the confidence is out of range.
    """
    _check(percentile, confidence)
    if queries < 1:
        return -1
    first, chance = binomial_cdf(queries, 1 - percentile / 100)
    return first + int(np.searchsorted(chance, 1 - confidence, side="right")) - 1


def fewest_queries(
    over_limit: int, percentile: float, confidence: float = EARLY_STOPPING_CONFIDENCE
) -> int:
    """Return with how many queries in all a run proves its percentile, ``over_limit`` among them.

    Args:
        over_limit: queries that took longer than the limit, or had no answer.
        percentile: of the SLA, in (0, 100).
        confidence: one-sided.

    Raises:
        UsageError: if the percentile or the confidence is out of range.
    """
    _check(percentile, confidence)
    low = max(over_limit, ceil(log(1 - confidence) / log(percentile / 100)) - 1)
    high = low + 1
    while most_over_limit(high, percentile, confidence) < over_limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if most_over_limit(middle, percentile, confidence) < over_limit:
            low = middle
        else:
            high = middle
    return high


def early_stopping_estimate(
    durations_ns: NDArray[Any],
    percentile: float,
    confidence: float = EARLY_STOPPING_CONFIDENCE,
) -> float:
    """Return the percentile that a run proves, in milliseconds: an upper bound of the true one.

    LoadGen's estimate for its stream scenarios: where ``most_over_limit`` allows t queries, the
    t-th slowest. The run passes with this as its limit. It would with the next faster query's
    latency, too; LoadGen is cautious by that one rank, and so are we, to be comparable.

    Args:
        durations_ns: ``[queries]``, infinite where there was no answer.
        percentile: in (0, 100).
        confidence: one-sided.

    Returns:
        The estimate; infinite where the run has too few queries for one or too few answers.

    Raises:
        UsageError: if the percentile or the confidence is out of range.
    """
    allowed = most_over_limit(len(durations_ns), percentile, confidence)
    if allowed < 1:
        return inf
    place = len(durations_ns) - allowed
    return float(np.partition(np.asarray(durations_ns, np.float64), place)[place] / 1e6)


def _check(percentile: float, confidence: float) -> None:
    if not 0 < percentile < 100:
        raise UsageError(f"a percentile lies between 0 and 100, not at {percentile:g}")
    if not 0 < confidence < 1:
        raise UsageError(f"a confidence lies between 0 and 1, not at {confidence:g}")
