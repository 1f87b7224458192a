"""How finely queries are split at a load: the split size with the shortest predicted tail."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf, log, sqrt

import msgspec
import numpy as np
from numpy.typing import NDArray

SPLITS = (
    *(8, 12, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640),
    *(768, 1024, 1536, 2048, 4096),
)
_TAIL = 0.02
_FULL = 0.97
_INEFFICIENT = 1.05
_WORTH = 0.05
_QUANTILES = (50, 75, 90, 95, 97, 99, 100)


class Split(msgspec.Struct, frozen=True, gc=False):
    """What a split size means for the sizes seen.

    Attributes:
        size: largest chunk, candidates.
        chunks: of a query on average.
        ns_per_candidate: work of one candidate on average.
        chunk_ns: time of a chunk on average.
        spread: squared coefficient of variation of a chunk's time.
        alone_ns: for some large queries, (time of one chunk, number of chunks).
        tower_ns: part of a first chunk's time that later ones are spared.
    """

    size: int
    chunks: float
    ns_per_candidate: float
    chunk_ns: float
    spread: float
    alone_ns: tuple[tuple[float, int], ...]
    tower_ns: float = 0.0


def splits_for(
    sizes: Sequence[int], curve: Sequence[float], largest: int, tower_ns: float = 0.0
) -> tuple[Split, ...]:
    """Return what each split size up to ``largest`` would mean.

    Args:
        sizes: of queries seen, candidates; some hundreds describe a distribution well enough.
        curve: nanoseconds of a worker by number of candidates, at least to ``largest``.
        largest: no split above it is of use.
        tower_ns: part of each that only the first chunk of a query takes.
    """
    seen = np.sort(np.asarray(sizes, np.int64))
    times = np.asarray(curve, np.float64)
    marks = seen[np.minimum(len(seen) * np.array(_QUANTILES) // 100, len(seen) - 1)]
    wanted = [s for s in SPLITS if s < largest] + [largest]
    return tuple(_split(s, seen, times, marks, tower_ns) for s in wanted)


def _split(
    size: int,
    seen: NDArray[np.int64],
    times: NDArray[np.float64],
    marks: NDArray[np.int64],
    tower_ns: float,
) -> Split:
    chunks = -(-seen // size)
    one = times[-(-seen // chunks)]
    count = int(chunks.sum())
    mean = float((chunks * one).sum()) / count
    work = mean * count - tower_ns * (count - len(seen))
    mark_chunks = -(-marks // size)
    mark_times = times[-(-marks // mark_chunks)]
    return Split(
        size=size,
        chunks=count / len(seen),
        ns_per_candidate=work / int(seen.sum()),
        chunk_ns=work / count,
        spread=max(0.0, float((chunks * one * one).sum()) / count / mean**2 - 1),
        alone_ns=tuple(zip(mark_times.tolist(), mark_chunks.tolist(), strict=True)),
        tower_ns=tower_ns,
    )


class Choice:
    """Which split size at which load; what a load means is worked out once, in steps of 1 %.

    The split chosen is that whose largest queries are predicted to be done first. Above the load
    that any split can bear, the one with the least work per candidate is best. The present split
    stays while it bears the load and another would not be at least a twentieth sooner, so that
    the choice does not flap between neighbours.
    """

    __slots__ = ("_known", "_splits", "_step", "_workers")

    def __init__(self, splits: Sequence[Split], workers: int) -> None:
        """Describe no load yet.

        Args:
            splits: as ``splits_for`` made them.
            workers: of the machine.
        """
        self._splits = splits
        self._workers = workers
        self._step = workers / min(s.ns_per_candidate for s in splits) / 100
        self._known: dict[int, tuple[float, ...]] = {}

    def at(self, rate: float, present: int | None = None) -> Split:
        """Return the split for a load.

        Args:
            rate: candidates per nanosecond that arrive, in the time scale of the splits.
            present: size of the split now in force, if any.
        """
        step = min(100, ceil(rate / self._step))
        predicted = self._known.get(step)
        if predicted is None:
            loads = (tail_ns(s, step * self._step, self._workers) for s in self._splits)
            predicted = self._known[step] = tuple(loads)
        best_ns = min(predicted)
        if best_ns == inf:
            return min(self._splits, key=lambda s: s.ns_per_candidate)
        for split, ns in zip(self._splits, predicted, strict=True):
            if split.size == present and ns * (1 - _WORTH) < best_ns:
                return split
        return self._splits[predicted.index(best_ns)]


def tail_ns(split: Split, rate: float, workers: int) -> float:
    """Return when the largest queries are predicted to be done; infinite if too many arrive.

    Small chunks end sooner but cost more work, and with it more waiting. The wait of a query is
    that of Sakasegawa's approximation (Annals of the Institute of Statistical Mathematics 1977)
    for as many servers as whole queries fit side by side, its tail taken as exponential.

    Args:
        split: as ``splits_for`` made it.
        rate: candidates per nanosecond that arrive, in the time scale of the split.
        workers: of the machine.
    """
    load = rate * split.ns_per_candidate / workers
    if load >= _FULL:
        return inf
    return _alone(split, workers * (1 - load), workers) + _wait(split, load, workers)


def _alone(split: Split, free: float, workers: int) -> float:
    """Time of the slowest of some large queries, if it meets no other."""
    slots = max(free, 1.0)
    tower = split.tower_ns
    # However idle the machine, more chunks than workers take turns; those at first wait for the
    # query tower, which the others are spared.
    return max(
        tower + (ns - tower) * max(-(-chunks // workers), chunks / slots)
        for ns, chunks in split.alone_ns
    )


def _wait(split: Split, load: float, workers: int) -> float:
    """Wait that only a few queries exceed."""
    lanes = max(1.0, workers / split.chunks)
    waits = load ** (sqrt(2 * (lanes + 1)) - 1)
    if waits <= _TAIL:
        return 0.0
    # A query of more chunks than workers takes them all, several times over.
    lane_ns = split.chunk_ns * max(1.0, split.chunks / workers)
    mean = lane_ns * (1 + split.spread) / 2 / (lanes * (1 - load))
    return mean * log(waits / _TAIL)


def largest_useful(curve: Sequence[float], limit_ns: float, most: int) -> int:
    """Return the largest chunk worth making: it fits into the limit and is not dear.

    Where time grows faster than the number of candidates (caches overflow), larger chunks than
    the cheapest per candidate are a loss.

    Args:
        curve: nanoseconds by number of candidates, to ``most`` at least.
        limit_ns: that a chunk may take.
        most: candidates.
    """
    times = np.asarray(curve[1 : most + 1], np.float64)
    rows = np.arange(1, most + 1)
    fits = times <= limit_ns
    if not fits.any():
        return min(SPLITS[0], most)
    cost = times[fits] / rows[fits]
    return int(rows[fits][cost <= cost.min() * _INEFFICIENT].max())
