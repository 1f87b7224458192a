"""Waits until a shared host gives every core its full speed, and tells when it did not.

A virtual machine's core runs at full speed, or at about half of it for seconds at a time while a
neighbour uses the other half of the physical core. A figure taken across both is that of no
machine. So a fixed piece of work is timed on all cores at once before and after each run, and a
run counts if both were as fast as this host has ever been. What is discarded depends on the
probes alone, never on what the run gave.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

T = TypeVar("T")
TOLERANCE = 1.3
REPEATS = 3
FIRST_S = 6.0
PAUSE_S = 0.05
TRIES = 8
BEST = 3


class Steady:
    """Runs what is to be measured in steady moments.

    Attributes:
        kept: runs between two probes at full speed.
        discarded: runs after which the probe was slow.
        missing: runs that were given up, the host being slow or restless for too long.
    """

    def __init__(self, work: Sequence[Callable[[], object]], patience_s: float) -> None:
        """Learn what full speed is.

        Args:
            work: a callable per core, each of some milliseconds, the GIL released meanwhile.
            patience_s: longest wait for full speed before a run is given up.
        """
        self.kept = self.discarded = self.missing = 0
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
        return took <= TOLERANCE * sorted(self._probes)[:BEST][-1]

    def through(self, run: Callable[[], T]) -> T | None:
        """Return what a run gave that began and ended at full speed; None if there was no such."""
        for _ in range(TRIES):
            if not self._await_full():
                break
            found = run()
            if self.full():
                self.kept += 1
                return found
            self.discarded += 1
        self.missing += 1
        return None

    def _await_full(self) -> bool:
        end = time.perf_counter() + self._patience_s
        while not self.full():
            if time.perf_counter() > end:
                return False
            time.sleep(PAUSE_S)
        return True

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
