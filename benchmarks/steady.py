"""Waits until a shared host gives every core its full speed, and tells when it did not.

A virtual machine's core runs at full speed, or at about half of it for seconds at a time while a
neighbour uses the other half of the physical core. So a fixed piece of work is timed on all cores
at once before and after each run, to see whether both were as fast as this host has ever been;
and what the host kept of the cores meanwhile is counted (see stalls.py). What is discarded
depends on these alone, never on what the run gave.
"""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

T = TypeVar("T")
TOLERANCE = 1.3
REPEATS = 3
BEST = 0.05
FIRST = 100
PATIENCE = 60
TRIES = 5
MOST_STOLEN_S = 0.006


class Steady:
    """Runs what is to be measured in steady moments.

    Attributes:
        kept: runs that ended at full speed, with no core taken away meanwhile; but for ``once``
            they began at full speed too.
        discarded: runs after which the probe was slow, or in which cores were taken away.
        missing: runs that were given up, the host being slow or restless for too long.
        unsteady: runs that count although they were not steady.
        pace_s: of the probes before and after the last run, on average; even at full
            speed a host is not always equally fast.
    """

    def __init__(
        self, probe: Callable[[], float], stolen: Callable[[], float], pause_s: float = 0.05
    ) -> None:
        """Learn what full speed is.

        Args:
            probe: takes the seconds of a fixed piece of work on the slowest core.
            stolen: tells for how many seconds so far the host kept cores to itself.
            pause_s: between two probes while waiting.
        """
        self.kept = self.discarded = self.missing = self.unsteady = 0
        self.pace_s = 0.0
        self._probe = probe
        self._stolen = stolen
        self._pause_s = pause_s
        self._probes: list[float] = []
        self._took = 0.0
        for _ in range(FIRST):
            self.full()
            time.sleep(pause_s)

    def full(self) -> bool:
        """Return whether all cores are at full speed now, beside the fastest twentieth so far."""
        took = self._took = self._probe()
        known = self._probes
        fast = not known or took <= TOLERANCE * known[int(BEST * len(known))]
        if fast or len(known) < FIRST:  # waiting for a slow host must not change what full speed is
            insort(known, took)
        return fast

    def through(self, run: Callable[[], T]) -> T | None:
        """Return what a run gave that began and ended at full speed; None if there was no such."""
        for _ in range(TRIES):
            if not self._await_full(PATIENCE):
                break
            found, steady = self._watched(run)
            if steady:
                self.kept += 1
                return found
            self.discarded += 1
        self.missing += 1
        return None

    def once(self, run: Callable[[], T]) -> T:
        """Return what a run gave, steady or not, and count which it was."""
        found, steady = self._watched(run)
        if steady:
            self.kept += 1
        else:
            self.unsteady += 1
        return found

    def at_last(self, run: Callable[[], T]) -> T:
        """Return what a steady run gave, or, where there was none, what one more run gave."""
        found = self.through(run)
        if found is not None:
            return found
        self.unsteady += 1
        return self._watched(run)[0]

    def _watched(self, run: Callable[[], T]) -> tuple[T, bool]:
        """Return what a run gave, and whether it had the cores to itself to its end."""
        before, stolen = self._took, self._stolen()
        found = run()
        taken = self._stolen() - stolen
        steady = self.full()
        self.pace_s = (before + self._took) / 2
        return found, steady and taken <= MOST_STOLEN_S

    def _await_full(self, probes: int) -> bool:
        for _ in range(probes):
            if self.full():
                return True
            time.sleep(self._pause_s)
        return False


def slowest(work: Sequence[Callable[[], object]]) -> float:
    """Return the seconds of the slowest of several callables, each in a thread of its own.

    Args:
        work: one for each core, of some milliseconds, the GIL released meanwhile.
    """
    took = [0.0] * len(work)
    together = threading.Barrier(len(work))

    def one(place: int) -> None:
        together.wait()
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            work[place]()
            times.append(time.perf_counter() - began)
        took[place] = median(times)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(took)
