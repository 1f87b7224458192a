"""Timing several things turn by turn, so that what slows the machine slows all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from headway.core import Clock

Samples = NDArray[np.int64]
"""Durations in nanoseconds, in the order measured."""


def take_turns(
    calls: Sequence[Callable[[int], object]],
    clock: Clock,
    nanoseconds: int,
    *,
    least: int = 5,
    warm: int = 3,
) -> list[Samples]:
    """Return how long each call took in every round, equally many for all.

    Args:
        calls: what to time; each is given the number of the round, to rotate its inputs by.
        clock: what tells the time.
        nanoseconds: when to end, counted from the first timed round.
        least: rounds at least.
        warm: rounds before that are not timed.
    """
    for call in calls:
        for turn in range(warm):
            call(turn)
    samples: list[list[int]] = [[] for _ in calls]
    end, turn = clock.now() + nanoseconds, 0
    while turn < least or clock.now() < end:
        for place in range(len(calls)):
            number = (turn + place) % len(calls)  # nobody is always the one after another
            start = clock.now()
            calls[number](turn)
            samples[number].append(clock.now() - start)
        turn += 1
    return [np.array(taken, np.int64) for taken in samples]
