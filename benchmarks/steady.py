"""Waits until a shared host gives every core its full speed, and tells when it did not.

A virtual machine's core runs at full speed, or at about half of it for seconds at a time while a
neighbour uses the other half of the physical core. A figure taken across both is that of no
machine. So a fixed piece of work is timed on all cores at once before and after each run, and a
run counts if both were as fast as this host ever is. What is discarded depends on the probes
alone, never on what the run gave.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

import numpy as np

T = TypeVar("T")
TOLERANCE = 1.3
REPEATS = 3
FIRST_S = 6.0
PAUSE_S = 0.05
TRIES = 6


class Steady:
    """Runs what is to be measured in steady moments.

    Attributes:
        kept: runs between two probes at full speed.
        discarded: runs after which the probe was slow.
        unsteady: runs taken although none of several tries was steady.
    """

    def __init__(self, work: Sequence[Callable[[], object]], patience_s: float) -> None:
        """Learn what full speed is.

        Args:
            work: a callable per core, each of some milliseconds, the GIL released meanwhile.
            patience_s: longest wait for full speed before a run begins all the same.
        """
        self.kept = self.discarded = self.unsteady = 0
        self._work = work
        self._patience_s = patience_s
        self._probes: list[float] = []
        end = time.perf_counter() + FIRST_S
        while time.perf_counter() < end:
            self._probe()
            time.sleep(PAUSE_S)

    def full(self) -> bool:
        """Return whether all cores are at full speed now."""
        took = self._probe()
        return took <= TOLERANCE * float(np.percentile(self._probes, 5))

    def wait(self) -> None:
        """Return when all cores are at full speed, or when patience is at its end."""
        end = time.perf_counter() + self._patience_s
        while not self.full() and time.perf_counter() < end:
            time.sleep(PAUSE_S)

    def through(self, run: Callable[[], T]) -> T:
        """Return what a run gave that began and ended at full speed, or the last of several."""
        for left in reversed(range(TRIES)):
            self.wait()
            found = run()
            if self.full():
                self.kept += 1
                return found
            if left:
                self.discarded += 1
        self.unsteady += 1
        return found

    def _probe(self) -> float:
        """Return the seconds of the slowest core."""
        took = [0.0] * len(self._work)
        together = threading.Barrier(len(self._work))

        def one(place: int) -> None:
            together.wait()
            times = []
            for _ in range(REPEATS):
                began = time.perf_counter()
                self._work[place]()
                times.append(time.perf_counter() - began)
            took[place] = median(times)

        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(took))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._probes.append(max(took))
        return max(took)
