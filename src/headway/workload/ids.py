"""Which rows of a table are asked for: uniform, by Zipf's law, and again what came before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.core import UsageError

DrawIds = Callable[[int, int, np.random.Generator], NDArray[np.int64]]
"""Draws (count, table rows, rng) ids, int64 ``[count]`` from 0 to rows - 1."""


def uniform_ids(count: int, rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw every row with the same probability: the worst case for caches."""
    return rng.integers(rows, size=count)


def zipf_ids(exponent: float = 1.05) -> DrawIds:
    """Return a source of ids by Zipf's law, popular ones spread over the table."""
    return lambda count, rows, rng: scatter(zipf_ranks(count, rows, exponent, rng), rows)


class Reuse(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often an id is one that came a short while before.

    Popularity alone makes ids repeat anywhere in a run; users' sessions make them repeat soon.
    Repeats are taken from what was drawn, so popularity stays what it was.

    Attributes:
        share: probability that an id is a repeat, 0 .. 1.
        window: from how many of the latest ids of the column a repeat is chosen, repeats among
            them; the column of one feature holds the ids of all queries one after the other.
    """

    share: float
    window: int = 10_000

    def __post_init__(self) -> None:
        """Refuse what is no share or window.

        Raises:
            UsageError: naming it.
        """
        if not (0 <= self.share <= 1 and self.window >= 1):
            raise UsageError(
                f"reuse needs a share of 0 to 1 and a window of at least 1 id: {self.share}, "
                f"{self.window}"
            )

    def over(self, draw: DrawIds) -> DrawIds:
        """Return a source of ids that are drawn by ``draw`` unless they repeat."""

        def repeated(count: int, rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
            return draw(count, rows, rng)[self._origins(count, rng)]

        return repeated

    def _origins(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return for each place the place whose fresh id stands there."""
        place = np.arange(count)
        back = rng.integers(1, np.clip(place, 1, self.window) + 1)
        origin = np.where(rng.random(count) < self.share, np.maximum(place - back, 0), place)
        # A repeat of a repeat: each round halves the way to the fresh one.
        while True:
            further = origin[origin]
            if np.array_equal(further, origin):
                return origin
            origin = further


def zipf_ranks(
    count: int, rows: int, exponent: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw ranks 0 .. rows - 1 with probability proportional to ``(rank + 1) ** -exponent``.

    Exact for any exponent >= 0, without a table of probabilities: rejection from the envelope
    of Hörmann and Derflinger, "Rejection-inversion to generate variates from monotone discrete
    distributions" (ACM TOMACS 1996), all draws at once.

    Args:
        count: how many.
        rows: how many ranks there are.
        exponent: of the law; 0 is uniform.
        rng: source of chance.

    Returns:
        int64 ``[count]``.
    """
    out = np.empty(count, np.int64)
    missing = np.arange(count)
    low = _area(1.5, exponent) - 1.0
    high = _area(rows + 0.5, exponent)
    while len(missing):
        under = rng.uniform(low, high, size=len(missing))
        rank = np.clip(np.floor(_inverse_area(under, exponent) + 0.5), 1, rows)
        kept = under >= _area(rank + 0.5, exponent) - rank**-exponent
        out[missing[kept]] = rank[kept].astype(np.int64) - 1
        missing = missing[~kept]
    return out


def scatter(ranks: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Spread ranks over a table one to one, so that popular rows do not lie side by side.

    Multiplication by a number that shares no factor with ``rows``; near the golden section of
    the table, neighbours in rank land far apart.
    """
    # The second bound keeps the product inside 64 bits.
    step = max(1, min(int(rows * 0.6180339887), 2**62 // rows))
    while np.gcd(step, rows) != 1:
        step += 1
    return ranks * step % rows


def _area(x: Any, exponent: float) -> Any:
    """Integral of ``x ** -exponent`` from 1."""
    if abs(exponent - 1) < 1e-9:
        return np.log(x)
    return np.expm1((1 - exponent) * np.log(x)) / (1 - exponent)


def _inverse_area(area: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    if abs(exponent - 1) < 1e-9:
        return np.exp(area)
    inside = np.maximum((1 - exponent) * area, -1 + 1e-16)
    return np.asarray(np.exp(np.log1p(inside) / (1 - exponent)))
