"""How many candidates queries have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headway.core import UsageError
from headway.workload.files import read_sizes

Sizes = Callable[[int, np.random.Generator], NDArray[np.int64]]
"""Draws that many query sizes, int64 ``[count]``, each at least 1."""

LARGEST = 1024
_PARTS = 99
_SMALL, _BROAD, _LARGE = 8, 22, 5
_MLPERF = np.array([100] * 2 + [200] * 12 + [300] * 2 + [400, 500, 600, 700])


def production_sizes(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw sizes like those of a production ranking service: median 178, up to 999.

    The production histogram itself was never published. This is the mixture with which Li et
    al., "Kairos" (HPDC 2023), replay it: of 99 parts 8 are uniform on [1, 100), 22 on
    [200, 600), 5 on [600, 1000), and 64 lognormal(5.1, 0.2) kept to [100, 200], what falls
    outside being uniform on [190, 200).

    Args:
        count: how many.
        rng: source of chance.

    Returns:
        int64 ``[count]``.
    """
    part = rng.integers(_PARTS, size=count)
    sizes = np.exp(rng.normal(5.1, 0.2, size=count)).astype(np.int64)
    outside = (sizes < 100) | (sizes > 200)
    sizes[outside] = rng.integers(190, 200, size=int(outside.sum()))
    bounds = (0, _SMALL, _SMALL + _BROAD, _SMALL + _BROAD + _LARGE)
    ranges = ((1, 100), (200, 600), (600, 1000))
    for first, last, (low, high) in zip(bounds, bounds[1:], ranges, strict=False):
        chosen = (part >= first) & (part < last)
        sizes[chosen] = rng.integers(low, high, size=int(chosen.sum()))
    return sizes


def fixed_sizes(size: int) -> Sizes:
    """Return a source of one size only.

    Raises:
        UsageError: if the size is not positive.
    """
    if size < 1:
        raise UsageError(f"a query needs at least one candidate, not {size}")
    return lambda count, _: np.full(count, size, np.int64)


def lognormal_sizes(mu: float = 5.1, sigma: float = 0.2, largest: int = LARGEST) -> Sizes:
    """Return a source of lognormal sizes clipped to 1 .. ``largest``.

    The defaults are those of DeepRecSys' code (Gupta et al., ISCA 2020). The tail is lighter
    than production's: tuning on it flatters.

    Raises:
        UsageError: if sigma is negative or the largest size not positive.
    """
    if sigma < 0 or largest < 1:
        raise UsageError(f"lognormal sizes need sigma >= 0 and largest >= 1: {sigma}, {largest}")

    def draw(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return np.clip(np.exp(rng.normal(mu, sigma, size=count)), 1, largest).astype(np.int64)

    return draw


def normal_sizes(mean: float = 165, std: float = 16, largest: int = LARGEST) -> Sizes:
    """Return a source of normal sizes clipped to 1 .. ``largest``.

    The defaults are those of DeepRecSys' scripts (Gupta et al., ISCA 2020), which call the
    standard deviation a variance. There is no tail at all: tuning on it flatters.

    Raises:
        UsageError: if the standard deviation is negative or the largest size not positive.
    """
    if std < 0 or largest < 1:
        raise UsageError(f"normal sizes need std >= 0 and largest >= 1: {std}, {largest}")

    def draw(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return np.clip(rng.normal(mean, std, size=count), 1, largest).astype(np.int64)

    return draw


def mlperf_sizes(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw sizes of MLPerf Inference's DLRM-v2: one of 20 equally likely quantiles, mean 270.

    Args:
        count: how many.
        rng: source of chance.

    Returns:
        int64 ``[count]``, of 100 to 700.
    """
    return rng.choice(_MLPERF, size=count)


def histogram_sizes(path: Path) -> Sizes:
    """Return a source of the sizes in a csv of ``size,count``, as often as they are counted.

    Raises:
        DataError: if the file cannot be read, naming the line.
    """
    sizes, shares = read_sizes(path)
    return lambda count, rng: rng.choice(sizes, size=count, p=shares)
