"""Poisson arrivals whose rate changes: bursts, the hours of a day, steps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, repeat
from math import ceil, isfinite

import numpy as np
from numpy.typing import NDArray

from headway.workload.arrivals import CHUNK, LONGEST_S, Process, require

Stretches = Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Lengths in seconds and rates per second of consecutive stretches, both ``[n]``."""

_STRETCHES = 1024
_LEAST = 1e-6


class Bursts(Process, frozen=True, forbid_unknown_fields=True, tag="bursts"):
    """A calm and a burst state that take turns at random: a Markov-modulated Poisson process.

    The mean rate asked for is that of both states together, in the long run; a run with few
    bursts strays from it. Lengths of both states are exponential, and the state at the start is
    a burst with the probability ``share``.

    Attributes:
        factor: rate in a burst over the rate in calm, at least 1.
        share: of the time that is burst, between 0 and 1.
        burst_s: mean length of a burst in seconds.
    """

    factor: float
    share: float
    burst_s: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what is no such process."""
        require(1 <= self.factor <= 1e6, f"a burst is 1 to 1e6 times the calm, not {self.factor:g}")
        require(
            _LEAST <= self.share < 1,
            f"bursts take a share between {_LEAST:g} and 1, not {self.share:g}",
        )
        require(
            _LEAST <= self.burst_s <= LONGEST_S,
            f"bursts last some seconds ({_LEAST:g} to {LONGEST_S:g}), not {self.burst_s:g}",
        )

    @classmethod
    def of_lengths(cls, factor: float, calm_s: float, burst_s: float) -> Bursts:
        """Return the process whose states last so long on average, in seconds."""
        require(calm_s > 0 and burst_s > 0, f"states last some seconds, not {calm_s}, {burst_s}")
        return cls(factor=factor, share=burst_s / (calm_s + burst_s), burst_s=burst_s)

    @property
    def calm_s(self) -> float:
        """Mean length of the calm between bursts in seconds."""
        return self.burst_s * (1 - self.share) / self.share

    def seconds(
        self, rate_qps: float, duration_s: float, rng: np.random.Generator
    ) -> Iterator[NDArray[np.float64]]:
        """Yield arrivals in seconds."""
        calm_qps = rate_qps / (1 - self.share + self.share * self.factor)
        rates = np.array([calm_qps, calm_qps * self.factor])
        means = np.array([self.calm_s, self.burst_s])
        if rng.random() < self.share:
            rates, means = rates[::-1], means[::-1]
        # An even number of stretches, so that the next begins with the same state.
        rates, means = np.tile(rates, _STRETCHES // 2), np.tile(means, _STRETCHES // 2)

        def stretches() -> Stretches:
            while True:
                yield rng.exponential(means), rates

        return poisson_along(stretches(), duration_s, rng)


class Diurnal(Process, frozen=True, forbid_unknown_fields=True, tag="diurnal"):
    """A rate that swings like a sine between night and day.

    The mean rate asked for is that of whole periods. Drawn by thinning (Lewis and Shedler,
    1979): exact for the curve, not for steps of it.

    Attributes:
        ratio: highest rate over the lowest, at least 1.
        period_s: length of a day in seconds; None fits one day into the run.
        phase: part of the period at which the run begins: 0 the lowest rate, 0.5 the highest.
    """

    ratio: float
    period_s: float | None = None
    phase: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no such curve."""
        require(1 <= self.ratio <= 1e6, f"a day swings by a ratio of 1 to 1e6, not {self.ratio:g}")
        require(
            self.period_s is None or _LEAST <= self.period_s <= LONGEST_S,
            f"a period lasts some seconds ({_LEAST:g} to {LONGEST_S:g}), not {self.period_s}",
        )
        require(isfinite(self.phase), f"a phase is a part of the period, not {self.phase}")

    def seconds(
        self, rate_qps: float, duration_s: float, rng: np.random.Generator
    ) -> Iterator[NDArray[np.float64]]:
        """Yield arrivals in seconds."""
        swing = (self.ratio - 1) / (self.ratio + 1)
        period = self.period_s or duration_s
        peak = np.array([rate_qps * (1 + swing)])
        for block in poisson_along(iter([(np.array([duration_s]), peak)]), duration_s, rng):
            angle = 2 * np.pi * (block / period + self.phase)
            kept = rng.random(len(block)) * (1 + swing) < 1 - swing * np.cos(angle)
            yield block[kept]


class Steps(Process, frozen=True, forbid_unknown_fields=True, tag="steps"):
    """A rate that changes at known moments, such as a tenfold burst of a minute.

    Attributes:
        steps: (seconds, factor) one after the other; the rate asked for is that of factor 1,
            whatever the mean over the run is. The last factor holds to the run's end.
    """

    steps: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        """Refuse steps without length and negative rates."""
        require(bool(self.steps), "a profile of steps needs at least one (seconds, factor)")
        for length, factor in self.steps:
            require(
                length > 0 and isfinite(length) and 0 <= factor <= 1e6,
                f"a step is (seconds above 0, factor of 0 to 1e6), not ({length:g}, {factor:g})",
            )

    def seconds(
        self, rate_qps: float, duration_s: float, rng: np.random.Generator
    ) -> Iterator[NDArray[np.float64]]:
        """Yield arrivals in seconds."""
        lengths, factors = self._within(duration_s)
        return poisson_along(iter([(lengths, factors * rate_qps)]), duration_s, rng)

    def expected(self, rate_qps: float, duration_s: float) -> float:
        """Return how many arrivals are to be expected."""
        lengths, factors = self._within(duration_s)
        return rate_qps * float(lengths @ factors)

    def _within(self, duration_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return lengths and factors that fill the run exactly."""
        lengths, factors = np.array(self.steps, np.float64).T
        ends = np.minimum(np.cumsum(lengths), duration_s)
        ends[-1] = duration_s
        return np.diff(ends, prepend=0.0), factors


def poisson_along(
    stretches: Stretches, duration_s: float, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """Yield a Poisson process with a rate of its own on each stretch.

    What arrives in one stretch is independent of all others, so nothing is carried over but the
    time.

    Args:
        stretches: lengths and rates; there must be enough of them for the run.
        duration_s: where the run ends.
        rng: source of chance.
    """
    start = 0.0
    for lengths, rates in _bounded(stretches):
        edges = np.minimum(start + np.concatenate([[0.0], np.cumsum(lengths)]), duration_s)
        load = np.cumsum(np.diff(edges) * rates)
        turns = np.flatnonzero(np.diff(load // CHUNK)) + 1
        for first, last in pairwise([0, *turns.tolist(), len(rates)]):
            yield _scattered(edges[first : last + 1], rates[first:last], rng)
        start = float(edges[-1])
        if start >= duration_s:
            return


def _bounded(stretches: Stretches) -> Stretches:
    """Cut stretches with more than ``CHUNK`` arrivals into equal parts, one after the other."""
    for lengths, rates in stretches:
        if (lengths * rates).max() <= CHUNK:
            yield lengths, rates
            continue
        for length, rate in zip(lengths.tolist(), rates.tolist(), strict=True):
            parts = max(1, ceil(length * rate / CHUNK))
            yield from repeat((np.array([length / parts]), np.array([rate])), parts)


def _scattered(
    edges: NDArray[np.float64], rates: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw how many arrive between edges and where: given their number, uniformly."""
    lengths = np.diff(edges)
    counts = rng.poisson(rates * lengths)
    at: NDArray[np.float64] = np.repeat(edges[:-1], counts) + rng.random(counts.sum()) * np.repeat(
        lengths, counts
    )
    at.sort()
    return at
