"""Groups of rows that are alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
_BLOCK = 1 << 22
"""Distances worked out at once."""


def clusters(
    rows: Rows,
    weights: Floats,
    count: int,
    effort: tuple[int, int],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return the group of each row, numbered from 0 without gaps.

    Mini-batch k-means: Sculley, "Web-Scale K-Means Clustering" (WWW 2010), with rows drawn by
    their weight, so that those that occur more are fitted better.

    Args:
        rows: float32 ``[rows, dim]``.
        weights: of the rows; above 0.
        count: most groups.
        effort: how many batches, and rows of each.
        rng: draws first centres and batches.
    """
    if len(rows) <= count:
        return np.arange(len(rows))
    chances = weights / weights.sum()
    centres = rows[rng.choice(len(rows), count, replace=False, p=chances)].astype(np.float64)
    seen = np.zeros(count)
    rounds, batch = effort
    for _ in range(rounds):
        drawn = rows[rng.choice(len(rows), batch, p=chances)]
        labels = nearest(drawn, centres)
        met = np.bincount(labels, minlength=count)
        seen += met
        # Every row moves its centre by one over all the rows the centre has met.
        sums = _sums(drawn, labels, count)
        centres += (sums - met[:, None] * centres) / np.maximum(seen, 1)[:, None]
    return np.asarray(np.unique(nearest(rows, centres), return_inverse=True)[1], np.int64)


def means(rows: Rows, weights: Floats, labels: NDArray[np.int64]) -> Rows:
    """Return the weighted mean of each group's rows, float32 ``[groups, dim]``."""
    count = int(labels.max()) + 1
    totals = np.bincount(labels, weights, count)
    sums = _sums(rows * weights[:, None], labels, count)
    return (sums / totals[:, None]).astype(np.float32)


def nearest(rows: Rows, centres: Floats) -> NDArray[np.int64]:
    """Return which centre is nearest to each row."""
    step = max(1, _BLOCK // len(centres))
    narrow = centres.astype(np.float32)
    half = np.square(narrow).sum(axis=1) / 2
    found = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        found[start : start + step] = (half - block @ narrow.T).argmin(axis=1)
    return found


def _sums(rows: NDArray[np.floating], labels: NDArray[np.int64], count: int) -> Floats:
    columns = [np.bincount(labels, column, count) for column in rows.T]
    return np.stack(columns, axis=1)
