"""How finely queries are split at a load: the split size with the shortest predicted tail."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf

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
_MOST_SIZES = 128
_STEPS = 50
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
    marks = seen[np.minimum(len(seen) * np.array(_QUANTILES) // 100, len(seen) - 1)]
    if len(seen) > _MOST_SIZES:
        seen = seen[((np.arange(_MOST_SIZES) + 0.5) * len(seen) / _MOST_SIZES).astype(np.int64)]
    times = np.asarray(curve, np.float64)
    wanted = np.array([[s] for s in SPLITS if s < largest] + [[largest]])
    chunks, mark_chunks = -(-seen // wanted), -(-marks // wanted)
    one, mark_times = times[-(-seen // chunks)], times[-(-marks // mark_chunks)]
    count = chunks.sum(axis=1)
    whole = (chunks * one).sum(axis=1)
    work = whole - tower_ns * (count - len(seen))
    spread = (chunks * one * one).sum(axis=1) / count / (whole / count) ** 2 - 1
    alone = [
        tuple(zip(ns, cut, strict=True))
        for ns, cut in zip(mark_times.tolist(), mark_chunks.tolist(), strict=True)
    ]
    columns = zip(
        wanted[:, 0].tolist(),
        (count / len(seen)).tolist(),
        (work / seen.sum()).tolist(),
        (work / count).tolist(),
        np.maximum(spread, 0.0).tolist(),
        alone,
        strict=True,
    )
    return tuple(
        Split(size, cut, work_ns, chunk_ns, scatter, alone_ns, tower_ns)
        for size, cut, work_ns, chunk_ns, scatter, alone_ns in columns
    )


class Choice:
    """Which split size at which load; what loads mean is worked out once, in steps of 2 %.

    The split chosen is that whose largest queries are predicted to be done first. Above the load
    that any split can bear, the one with the least work per candidate is best. The present split
    stays while it bears the load and another would not be at least a twentieth sooner, so that
    the choice does not flap between neighbours.
    """

    __slots__ = ("_best", "_places", "_splits", "_step", "_tails")

    def __init__(self, splits: Sequence[Split], workers: int) -> None:
        """Foresee what each split means at each load.

        Args:
            splits: as ``splits_for`` made them.
            workers: of the machine.
        """
        self._splits = splits
        self._places = {split.size: place for place, split in enumerate(splits)}
        work = np.array([s.ns_per_candidate for s in splits])
        self._step = workers / float(work.min()) / _STEPS
        tails = tails_ns(splits, self._step * np.arange(_STEPS + 1, dtype=np.float64), workers)
        best = np.where(np.isinf(tails).all(axis=1), work.argmin(), tails.argmin(axis=1))
        self._tails: list[list[float]] = tails.tolist()
        self._best: list[int] = best.tolist()

    def at(self, rate: float, present: int | None = None) -> Split:
        """Return the split for a load.

        Args:
            rate: candidates per nanosecond that arrive, in the time scale of the splits.
            present: size of the split now in force, if any.
        """
        step = min(_STEPS, max(0, ceil(rate / self._step)))
        tails, best = self._tails[step], self._best[step]
        place = self._places.get(present or 0, best)
        if tails[place] * (1 - _WORTH) < tails[best]:
            return self._splits[place]
        return self._splits[best]


def tails_ns(
    splits: Sequence[Split], rates: NDArray[np.float64], workers: int
) -> NDArray[np.float64]:
    """Return when the largest queries are predicted to be done; infinite if too many arrive.

    Small chunks end sooner but cost more work, and with it more waiting. The wait of a query is
    that of Sakasegawa's approximation (Annals of the Institute of Statistical Mathematics 1977)
    for as many servers as whole queries fit side by side, its tail taken as exponential.

    Args:
        splits: as ``splits_for`` made them.
        rates: float64 ``[rates]``, candidates per nanosecond, in the time scale of the splits.
        workers: of the machine.

    Returns:
        float64 ``[rates, splits]``, nanoseconds.
    """
    work = np.array([s.ns_per_candidate for s in splits])
    load = rates[:, None] * work / workers
    free = np.maximum(1 - load, 1 - _FULL)  # what is over is overruled below
    tails = _alone(splits, workers * free, workers) + _wait(splits, load, free, workers)
    return np.where(load >= _FULL, inf, tails)


def _alone(splits: Sequence[Split], free: NDArray[np.float64], workers: int) -> NDArray[np.float64]:
    """Time of the slowest of some large queries, if it meets no other."""
    marks = np.array([s.alone_ns for s in splits])
    tower = np.array([[s.tower_ns] for s in splits])
    ns, chunks = marks[..., 0], marks[..., 1]
    slots = np.maximum(free, 1.0)[..., None]
    # However idle the machine, more chunks than workers take turns; those at first wait for the
    # query tower, which the others are spared.
    turns = np.maximum(np.ceil(chunks / workers), chunks / slots)
    found: NDArray[np.float64] = (tower + (ns - tower) * turns).max(axis=2)
    return found


def _wait(
    splits: Sequence[Split], load: NDArray[np.float64], free: NDArray[np.float64], workers: int
) -> NDArray[np.float64]:
    """Wait that only a few queries exceed."""
    chunks = np.array([s.chunks for s in splits])
    spread = np.array([s.spread for s in splits])
    lanes = np.maximum(1.0, workers / chunks)
    waits = np.minimum(load, _FULL) ** (np.sqrt(2 * (lanes + 1)) - 1)
    # A query of more chunks than workers takes them all, several times over.
    lane_ns = np.array([s.chunk_ns for s in splits]) * np.maximum(1.0, chunks / workers)
    mean = lane_ns * (1 + spread) / 2 / (lanes * free)
    found: NDArray[np.float64] = mean * np.log(np.maximum(waits, _TAIL) / _TAIL)
    return found


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
