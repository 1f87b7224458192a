"""Each quantity that the guard bounds, and how many rows would decide it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite, log, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEVER = 10**12
_NORMAL = NormalDist()

_NEAR = 0.5


@dataclass(frozen=True, slots=True)
class Units:
    """Independent draws among which a concentrated loss must show.

    Attributes:
        count: how many there are.
        name: what they are, in the plural.
    """

    count: float
    name: str


@dataclass(frozen=True, slots=True)
class Criterion:
    """A loss with its bounds, to be held under a margin.

    The bounds see only what the rows show. A loss that sits in few rows may have few of them
    here or none, and then looks smaller and steadier than it is. Where ``units`` are given, a
    proof also needs enough of them. Harming a share p of the units costs at most p. So a loss
    of the margin m is at least n m harmed among n: none are seen with a chance of at most
    exp(-n m), and as a Poisson count they vary by at least the root of n m. Required is that
    seeing none is rarer than the error allowed, and that the observed loss lies below m by
    ``z`` of those deviations (the score test, whose variance is that under the loss to be
    excluded, not the observed one, which is nothing if nothing was hit). Small changes on the
    rows seen say nothing of those unseen, so no look at the outputs can replace the number.

    Attributes:
        fell: what is said of it once proven, such as "AUC fell".
        may: what is said while it is open, such as "AUC may have fallen".
        loss: as observed; positive is worse.
        low: its lower bound.
        high: its upper bound.
        margin: what ``high`` must stay under.
        confidence: one-sided, of each bound.
        units: see above; None asks for none.
    """

    fell: str
    may: str
    loss: float
    low: float
    high: float
    margin: float
    confidence: float
    units: Units | None = None

    @property
    def lost(self) -> bool:
        """Whether the loss is proven to exceed the margin; NaN proves nothing."""
        return self.low > self.margin

    @property
    def kept(self) -> bool:
        """Whether the loss is proven to be smaller than the margin; NaN proves nothing."""
        enough = self.units is None or self.units.count >= self.units_needed
        return self.high < self.margin and enough

    @property
    def units_needed(self) -> int:
        """How many units exclude a concentrated loss beyond the margin."""
        left = self.margin - max(0.0, self.loss)
        if not left > 0:
            return NEVER
        z = _NORMAL.inv_cdf(self.confidence)
        seen = -log(1 - self.confidence) / self.margin
        return ceil(min(NEVER, max(seen, self.margin * (z / left) ** 2)))

    def doubt(self) -> str:
        """Return why it is not ``kept``."""
        if not self.high < self.margin or self.units is None:
            return f"{self.may} by {self.high:.5f}, more than {self.margin:g}"
        return (
            f"{int(self.units.count):,} {self.units.name} may hold too few of those that a "
            f"concentrated loss of {self.margin:g} would harm; at least "
            f"{self.units_needed:,} are needed"
        )

    def rows_to_lose(self, rows: int, power: float) -> float:
        """Return how many rows would prove the loss, if what was observed is true."""
        z, strong = _NORMAL.inv_cdf(self.confidence), _NORMAL.inv_cdf(power)
        error = (self.loss - self.low) / z
        return rows * ((z + strong) * error / max(self.loss - self.margin, 1e-12)) ** 2

    def rows_to_keep(self, rows: int, power: float) -> float:
        """Return how many rows would prove that no loss counts, if what was observed is true."""
        z, strong = _NORMAL.inv_cdf(self.confidence), max(0.0, _NORMAL.inv_cdf(power))
        error = (self.high - self.loss) / z
        needed = rows * ((z + strong) * error / max(self.margin - self.loss, 1e-12)) ** 2
        if self.units is None:
            return needed
        # The observed loss varies in the larger sample too, and so does the number of units.
        left = max(self.margin - max(0.0, self.loss), 1e-12)
        root = z * sqrt(self.margin) + strong * error * sqrt(self.units.count)
        units = max(-log(1 - self.confidence) / self.margin, (root / left) ** 2)
        return max(needed, rows * (units + strong * sqrt(units)) / self.units.count)


def independent_units(labels: NDArray[Any], groups: NDArray[Any] | None, auc: float) -> Units:
    """Return the draws among which a loss of AUC must show: rows, or whole queries.

    Two kinds of concentrated loss count. Rows of one class harmed on their own: dropping one
    of n costs at most 1 / n, so the rarer class counts. And queries whose outputs lose what
    they say about the labels: query g then costs at most (2 auc - 1) c, c the mean of its
    shares of positives and of negatives, and by Kish's rule (Survey Sampling, 1965) unequal
    queries are worth 1 / sum(c^2) equal ones.
    """
    positive = np.asarray(labels) > 0.5
    rarer = float(min(positive.sum(), (~positive).sum()))
    rows = Units(rarer, "rows of the rarer class")
    if groups is None:
        return rows
    place = np.unique(groups, return_inverse=True)[1].reshape(-1)
    shares = [np.bincount(place, weights=c) / max(1, c.sum()) for c in (positive, ~positive)]
    worth = 1 / float(np.square((shares[0] + shares[1]) / 2).sum())
    queries = Units(worth / max(0.1, 2 * auc - 1), "queries (by their worth)")
    return min(rows, queries, key=lambda units: units.count)


def query_units(cost: NDArray[np.float64]) -> Units:
    """Return the queries among which a loss of NDCG must show, by what each can lose.

    A query loses the most when its positives come last, and in a short query that is not much.
    With costs c of n queries, a loss of m is then at least n m / mean(c) harmed ones, and has
    the variance of n mean(c) / mean(c^2) queries that can lose everything.

    Args:
        cost: NDCG less the lowest that an order has ``[queries]``.
    """
    squares = float(np.square(cost).mean())
    worth = len(cost) * float(cost.mean()) / squares if squares else float(NEVER)
    return Units(min(worth, float(NEVER)), "queries with both classes (by their worth)")


def rows_to_decide(
    criteria: Sequence[Criterion], rows: int, power: float, fewest: int
) -> int | None:
    """Return how many rows would decide if what was observed is true; None if none would.

    One loss beyond its margin decides for a fail, so the sooner of those counts. Otherwise a
    pass is ahead and waits for every criterion that is still open. Those that need nearly as many
    rows as the one that needs most share the chance of missing, kept or not, since in another
    sample they may not be.

    Args:
        criteria: of the verdict.
        rows: that they were found on.
        power: chance that the rows decide.
        fewest: rows that are needed in any case.
    """
    still = [c for c in criteria if not c.kept]
    if not all(isfinite(c.loss) and isfinite(c.low) and isfinite(c.high) for c in still):
        return None
    fails = [c.rows_to_lose(rows, power) for c in still if c.loss > c.margin]
    needs = [c.rows_to_keep(rows, power) for c in criteria]
    near = sum(n >= _NEAR * max(needs) for n in needs)
    each = 1 - (1 - power) / max(1, near)
    needed = min(fails) if fails else max((c.rows_to_keep(rows, each) for c in still), default=0)
    return min(NEVER, max(rows + 1, fewest, ceil(min(needed, NEVER))))
