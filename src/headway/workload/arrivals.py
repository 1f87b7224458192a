"""When queries arrive: processes without a memory of the hour, and what all processes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isfinite

import msgspec
import numpy as np
from numpy.typing import NDArray

from headway.core import UsageError, from_seconds

CHUNK = 65_536
"""Arrivals drawn at a time, about: what keeps memory flat however long a run is."""
LONGEST_S = 1e9
"""Longest run in seconds: as many nanoseconds fit into 64 bits with room to spare."""
_SLACK = 6.0


class Process(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An arrival process; what differs between them is ``seconds``."""

    def stream(
        self, rate_qps: float, duration_s: float, rng: np.random.Generator
    ) -> Iterator[NDArray[np.int64]]:
        """Return an iterator over consecutive runs of arrivals, with flat memory.

        Args:
            rate_qps: mean queries per second.
            duration_s: length of the run in seconds; every arrival falls inside it.
            rng: source of chance.

        Returns:
            int64 arrays of nanoseconds from the start of the run, in order within and across
            arrays; none is empty, their lengths differ.

        Raises:
            UsageError: if the rate or the duration is not positive, or one is too large.
            DataError: if a file that the process replays cannot be read.
        """
        if not (rate_qps > 0 and isfinite(rate_qps) and 0 < duration_s <= LONGEST_S):
            raise UsageError(
                "a schedule needs a positive rate and length, of at most "
                f"{LONGEST_S:g} s: {rate_qps}, {duration_s}"
            )
        return _in_nanoseconds(self.seconds(rate_qps, duration_s, rng), duration_s)

    def draw(
        self, rate_qps: float, duration_s: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Draw all arrivals of a run: the arrays of ``stream`` as one, with its errors."""
        return np.concatenate([np.empty(0, np.int64), *self.stream(rate_qps, duration_s, rng)])

    def seconds(
        self, rate_qps: float, duration_s: float, rng: np.random.Generator
    ) -> Iterator[NDArray[np.float64]]:
        """Yield arrivals in seconds, in order, up to ``duration_s`` or a little beyond."""
        raise NotImplementedError

    def expected(self, rate_qps: float, duration_s: float) -> float:
        """Return how many arrivals are to be expected."""
        return rate_qps * duration_s

    def check(self) -> None:
        """Look into the file that is replayed, if there is one.

        Raises:
            DataError: if it cannot be read.
        """


class Poisson(Process, frozen=True, forbid_unknown_fields=True, tag="poisson"):
    """Independent exponential gaps: many users who know nothing of each other."""

    def seconds(
        self, rate_qps: float, duration_s: float, rng: np.random.Generator
    ) -> Iterator[NDArray[np.float64]]:
        """Yield arrivals in seconds."""
        return renewal(
            lambda count: rng.exponential(1 / rate_qps, size=count),
            self.expected(rate_qps, duration_s),
            duration_s,
        )


class Gamma(Process, frozen=True, forbid_unknown_fields=True, tag="gamma"):
    """Independent gamma gaps: as regular or as clustered as asked, on the scale of a gap.

    The process is in equilibrium from the start, not begun by an arrival: the first gap is a
    uniform part of one that is drawn in proportion to its length (Cox, "Renewal Theory", 1962,
    section 2.2), so the mean rate holds for short runs too.

    Attributes:
        cv: coefficient of variation of the gaps; 1 is Poisson, 0.01 .. 20.
    """

    cv: float

    def __post_init__(self) -> None:
        """Refuse what has no such gaps."""
        require(0.01 <= self.cv <= 20, f"gamma gaps need a CV of 0.01 to 20, not {self.cv:g}")

    def seconds(
        self, rate_qps: float, duration_s: float, rng: np.random.Generator
    ) -> Iterator[NDArray[np.float64]]:
        """Yield arrivals in seconds."""
        shape = self.cv**-2
        scale = 1 / (rate_qps * shape)
        started = False

        def gaps(count: int) -> NDArray[np.float64]:
            nonlocal started
            drawn = rng.gamma(shape, scale, size=count)
            if not started:
                drawn[0] = rng.random() * rng.gamma(shape + 1, scale)
                started = True
            return drawn

        return renewal(gaps, self.expected(rate_qps, duration_s), duration_s)


class DeepRecSysCompat(Process, frozen=True, forbid_unknown_fields=True, tag="deeprecsys-compat"):
    """Gaps drawn from the Poisson *distribution* in whole milliseconds: only to reproduce.

    The load generator of DeepRecSys' code (Gupta et al., ISCA 2020) draws each gap so. That is
    no Poisson process: the gaps' coefficient of variation is ``1 / sqrt(mean gap in ms)``, 0.2
    at 25 ms instead of 1, so queries hardly ever cluster and queues hardly build up. It
    flatters: in a single-server queue p99 came out 1.6 to 2.9 times too low. Compare nothing
    but DeepRecSys' own figures with what this measures.
    """

    def seconds(
        self, rate_qps: float, duration_s: float, rng: np.random.Generator
    ) -> Iterator[NDArray[np.float64]]:
        """Yield arrivals in seconds."""
        return renewal(
            lambda count: rng.poisson(1e3 / rate_qps, size=count) / 1e3,
            self.expected(rate_qps, duration_s),
            duration_s,
        )


def renewal(
    gaps: Callable[[int], NDArray[np.float64]], expected: float, duration_s: float
) -> Iterator[NDArray[np.float64]]:
    """Yield the sums of gaps until they are past the end.

    Args:
        gaps: draws that many gaps in seconds, going on where it stopped.
        expected: about how many there will be.
        duration_s: where the run ends.
    """
    # Mostly enough at once for a short run; the loop is for long ones.
    count = int(min(CHUNK, expected + _SLACK * expected**0.5 + 16))
    last = 0.0
    while last <= duration_s:
        times = last + np.cumsum(gaps(count))
        last = float(times[-1])
        yield times


def _in_nanoseconds(
    blocks: Iterator[NDArray[np.float64]], duration_s: float
) -> Iterator[NDArray[np.int64]]:
    """Yield what falls inside the run, as nanoseconds."""
    last, end = 0, max(0, from_seconds(duration_s) - 1)
    for block in blocks:
        inside = block[: np.searchsorted(block, duration_s)]
        if len(inside):
            # Where blocks meet, sums in another order may differ in the last place.
            # Rounding must lead none beyond the end.
            arrivals = np.clip(np.round(inside * 1e9).astype(np.int64), last, end)
            last = int(arrivals[-1])
            yield arrivals


def require(fits: object, message: str) -> None:
    """Raise a UsageError with the message unless it fits."""
    if not fits:
        raise UsageError(message)
