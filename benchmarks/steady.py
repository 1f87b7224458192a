"""Repeats runs in which the host of a virtual machine stopped its cores.

What is discarded depends on the host's stalls alone (see stalls.py), never on what the run gave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
TRIES = 4
MOST_STALLED_S = 0.002


class Steady:
    """Runs what is to be measured, again if the host stopped the cores meanwhile.

    Attributes:
        kept: runs that had the cores to themselves.
        discarded: runs in which they were stopped for more than 2 ms, added up over the cores.
        unsteady: runs that count although they were stopped, after as many tries as there are.
    """

    def __init__(self, stalled_s: Callable[[], float]) -> None:
        """Take what tells for how many seconds so far the host has stopped cores."""
        self.kept = self.discarded = self.unsteady = 0
        self._stalled_s = stalled_s

    def through(self, run: Callable[[], T]) -> T:
        """Return what a run gave that the host let be, or, if it never does, what the last gave."""
        found, calm = self._watched(run)
        for _ in range(TRIES - 1):
            if calm:
                break
            self.discarded += 1
            found, calm = self._watched(run)
        self.kept += calm
        self.unsteady += not calm
        return found

    def _watched(self, run: Callable[[], T]) -> tuple[T, bool]:
        """Return what a run gave, and whether the host let it be."""
        before = self._stalled_s()
        found = run()
        return found, self._stalled_s() - before <= MOST_STALLED_S
