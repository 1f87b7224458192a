"""Pools of queries that take turns: which sizes they need, and which query comes when."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headway.core import UsageError
from headway.workload import Schedule


def sizes_for(
    schedule: Schedule, count: int, rng: np.random.Generator, most_candidates: int
) -> NDArray[np.int64]:
    """Return sizes of a pool from which a schedule can be played.

    Every size that occurs is there, and others as often as they occur.

    Args:
        schedule: of one model.
        count: queries of the pool; more if more sizes occur.
        rng: draws.
        most_candidates: of all queries together.

    Raises:
        UsageError: if the schedule is empty, mixes models or needs more candidates.
    """
    if not len(schedule) or schedule.models.any():
        raise UsageError("a schedule to be played has queries, all of one model")
    distinct = np.unique(schedule.sizes)
    if distinct.sum() > most_candidates:
        raise UsageError(
            f"a query of each of the schedule's {len(distinct):,} sizes makes {distinct.sum():,} "
            f"candidates; a pool holds at most {most_candidates:,}"
        )
    left = (most_candidates - int(distinct.sum())) // int(distinct[-1])
    more = max(0, min(count - len(distinct), left))
    return np.concatenate([distinct, rng.choice(schedule.sizes, size=more)])


def places_of(
    pool: NDArray[np.int64], sizes: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return for each size a random place in the pool that has it.

    Args:
        pool: int64 ``[places]``, sizes.
        sizes: int64 ``[queries]``.
        rng: draws.

    Raises:
        UsageError: if the pool has no query of a size.
    """
    order = np.argsort(pool, kind="stable")
    known = pool[order]
    first, last = (np.searchsorted(known, sizes, side) for side in ("left", "right"))
    if (first == last).any():
        missing = int(sizes[first == last][0])
        raise UsageError(f"the pool has no query of {missing} candidates; draw its sizes anew")
    places: NDArray[np.int64] = order[first + (rng.random(len(sizes)) * (last - first)).astype(int)]
    return places
