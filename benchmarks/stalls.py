"""Tells for how long the host of a virtual machine stopped its cores, to the millisecond.

On each core a process of the highest priority sleeps for a millisecond at a time. Nothing on this
machine can keep it from waking, so when it wakes late, the host had stopped the core: because a
neighbour had its turn, or because this machine had used up its share of the host's time, which
stops all its cores at once for 10 ms to 30 ms. ``/proc/stat`` counts part of that, in ticks of
10 ms; a process per core costs about a hundredth of the core.
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from math import fsum
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

SLEEP_S = 0.001
LEAST_S = 0.001
PRIORITY = 50
_CELL = struct.Struct("d")
_READY, _DENIED = b"ready\n", b"denied\n"


class Stalls:
    """Counts the seconds for which cores were stopped, from now on."""

    def __init__(self, cores: Sequence[int]) -> None:
        """Start watching.

        Args:
            cores: their numbers; each has a process until this object is collected or closed.

        Raises:
            PermissionError: this user may not have processes of real-time priority.
        """
        with TemporaryFile() as file:
            file.truncate(_CELL.size * len(cores))
            self._cells = mmap.mmap(file.fileno(), 0)
            self._watchers = [_start(core, place, file) for place, core in enumerate(cores)]
        self.close = weakref.finalize(self, _end, self._watchers)
        said = [w.stdout.readline() for w in self._watchers if w.stdout is not None]
        if said != [_READY] * len(cores):
            self.close()
            raise PermissionError("watching cores for stalls needs real-time priority: ulimit -r")

    def __call__(self) -> float:
        """Return the seconds so far, added up over the cores; stalls under 1 ms are left out."""
        return fsum(seconds for (seconds,) in _CELL.iter_unpack(self._cells[:]))


@cache
def stalls() -> Callable[[], float]:
    """Return what tells the seconds so far for which the host kept cores of this machine to itself.

    Watchers of all usable cores where the user may have them; else what the system counts.
    """
    try:
        return Stalls(sorted(os.sched_getaffinity(0)))
    except (AttributeError, PermissionError):
        return stolen_s


def stolen_s() -> float:
    """Return for how many seconds the host kept a core of this machine to itself; 0 if unknown."""
    try:
        cores = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    return int(cores[8]) / os.sysconf("SC_CLK_TCK") if len(cores) > 8 else 0.0


def _start(core: int, place: int, cells: IO[bytes]) -> subprocess.Popen[bytes]:
    number = cells.fileno()
    told = [str(n) for n in (core, place, number, os.getpid())]
    return subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__).resolve()), *told],
        stdout=subprocess.PIPE,
        pass_fds=[number],
    )


def _end(watchers: list[subprocess.Popen[bytes]]) -> None:
    for watcher in watchers:
        watcher.kill()
        watcher.communicate()


def _watch(core: int, place: int, number: int, parent: int) -> None:
    """Add up in a cell of a file by how much sleeps were too long, while the parent lives."""
    try:
        os.sched_setaffinity(0, [core])
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError:
        os.write(1, _DENIED)
        return
    os.write(1, _READY)
    cells = mmap.mmap(number, 0)
    total, last = 0.0, time.monotonic()
    while os.getppid() == parent:
        time.sleep(SLEEP_S)
        now = time.monotonic()
        late = now - last - SLEEP_S
        last = now
        if late > LEAST_S:
            total += late
            _CELL.pack_into(cells, place * _CELL.size, total)


if __name__ == "__main__":
    _watch(*(int(word) for word in sys.argv[1:]))
