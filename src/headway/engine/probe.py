"""What this machine can do at best: memory read in order and at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.core import Clock, UsageError, from_seconds
from headway.engine.memory import huge_room
from headway.engine.probe_kernels import read_all, read_rows

AHEAD = (0, 16, 32, 64, 96)
"""How many rows ahead the cache is asked; the best is the machine's limit."""
BEST = 10
"""Percentile of times that counts as the least."""
_LEAST_ROUNDS = 3
_ROUND_BYTES = 8 << 20


class SequentialRead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reading a buffer of ``size_bytes`` from start to end, again and again, by one thread."""

    size_bytes: int
    bytes_per_s: float


class RandomRead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reading whole rows at random places of a region, by one thread."""

    row_bytes: int
    region_bytes: int
    huge_pages: bool
    ns_per_row: float


def least_ns(work: Callable[[int], object], clock: Clock, seconds: float) -> float:
    """Return the time of the fastest tenth of turns of ``work(turn)``; the first only warms up.

    A limit is what the machine can do, not what it does while others are at work.
    """
    work(0)
    samples: list[int] = []
    end = clock.now() + from_seconds(seconds)
    while len(samples) < _LEAST_ROUNDS or clock.now() < end:
        start = clock.now()
        work(len(samples))
        samples.append(clock.now() - start)
    return max(1.0, float(np.percentile(samples, BEST)))


def sequential_reads(
    sizes: Sequence[int], clock: Clock, *, seconds: float = 1.0
) -> tuple[SequentialRead, ...]:
    """Return the rate at which one thread reads buffers of some sizes.

    Args:
        sizes: bytes, rising; the largest is allocated.
        clock: what tells the time.
        seconds: for all sizes together.
    """
    room = huge_room(max(sizes)).view(np.int64)
    room[:] = 1  # pages that were never written are all the same one
    found = []
    for size in sizes:
        values, again = room[: size // 8], max(1, _ROUND_BYTES // size)

        def read(_turn: int, values: NDArray[np.int64] = values, again: int = again) -> None:
            for _ in range(again):
                read_all(values)

        taken = least_ns(read, clock, seconds / len(sizes))
        found.append(SequentialRead(size_bytes=size, bytes_per_s=size * again / taken * 1e9))
    return tuple(found)


def random_reads(
    row_bytes: Sequence[int],
    region_bytes: int,
    clock: Clock,
    rng: np.random.Generator,
    *,
    seconds: float = 1.0,
    huge_pages: bool = True,
) -> tuple[RandomRead, ...]:
    """Return the least time a row takes at random places: the ceiling of every lookup.

    Args:
        row_bytes: sizes of rows.
        region_bytes: memory that the rows lie in; larger than the caches for a worst case.
        clock: what tells the time.
        rng: draws the places.
        seconds: for all sizes together.
        huge_pages: lay the region in large pages, where the system has them.
    """
    room = huge_room(region_bytes, huge=huge_pages)
    room[:] = 1
    found = []
    for size in row_bytes:
        if not 0 < size <= region_bytes:
            raise UsageError(f"rows of {size} bytes cannot lie in {region_bytes}; give other sizes")
        ids = [rng.integers(region_bytes // size, size=1 << 16) for _ in range(8)]
        taken = rows_ns([(room, size, ids)], clock, seconds / len(row_bytes))
        found.append(
            RandomRead(
                row_bytes=size, region_bytes=region_bytes, huge_pages=huge_pages, ns_per_row=taken
            )
        )
    return tuple(found)


Region = tuple[NDArray[np.uint8], int, Sequence[NDArray[np.int64]]]
"""Memory, the bytes of a row in it, and lists of row numbers that are taken in turn."""


def rows_ns(regions: Sequence[Region], clock: Clock, seconds: float) -> float:
    """Return the least time per row, region after region, over all distances of asking ahead."""
    count = sum(len(ids) for _, _, lists in regions for ids in lists[:1])
    taken = []
    for ahead in AHEAD:

        def read(turn: int, ahead: int = ahead) -> None:
            for room, size, lists in regions:
                read_rows(room.ctypes.data, size, lists[turn % len(lists)], ahead)

        taken.append(least_ns(read, clock, seconds / len(AHEAD)))
    return min(taken) / max(1, count)
