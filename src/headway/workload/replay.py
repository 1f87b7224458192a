"""Arrivals as they were recorded: a trace of moments, or counts per minute."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, pairwise, repeat
from math import ceil, isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headway.core import UsageError
from headway.workload.arrivals import CHUNK, Process, require
from headway.workload.files import read_counts, read_moments
from headway.workload.modulated import poisson_along

_MOST_COPIES = 10_000
_FEWEST_MINUTES = 1024


class Counts(Process, frozen=True, forbid_unknown_fields=True, tag="counts"):
    """The course of a day from a file of counts per minute, at the mean rate asked for.

    Counts say how a rate changed, not when queries came: within a minute arrivals are Poisson,
    and so are their numbers, which keeps the process right at any scale.

    Attributes:
        path: csv or csv.gz; see ``read_counts``.
        speed: how many seconds of the file pass in one; None fits the whole file into the run.
            With a speed the file is repeated where the run is longer, and where it is shorter
            the rate asked for is still the mean of the whole file.
    """

    path: str
    speed: float | None = None

    def __post_init__(self) -> None:
        """Refuse a speed that is none."""
        _check_speed(self.speed)

    def seconds(
        self, rate_qps: float, duration_s: float, rng: np.random.Generator
    ) -> Iterator[NDArray[np.float64]]:
        """Yield arrivals in seconds."""
        counts = read_counts(Path(self.path))
        minute_s = 60 / self.speed if self.speed else duration_s / len(counts)
        rates = counts * (rate_qps / counts.mean())
        if self.speed:
            rates = np.tile(rates, ceil(_FEWEST_MINUTES / len(rates)))
        stretches = repeat((np.full(len(rates), minute_s), rates))
        return poisson_along(stretches, duration_s, rng)

    def check(self) -> None:
        """Read the file."""
        read_counts(Path(self.path))


class Trace(Process, frozen=True, forbid_unknown_fields=True, tag="trace"):
    """Recorded moments, again and again until the run is over.

    Without a speed, time is compressed until the mean rate is the one asked for: every gap
    keeps its place and its proportion to the others, so the gaps' variation and all clusters
    stay, only on another scale of time. Nothing is drawn then.

    With a speed, time is compressed by that much and the rate is scaled at that pace: to less
    by thinning, each arrival being kept with the same probability; to more by superposing
    copies of the trace, shifted by random times around it, the last of them thinned. So waves
    of minutes stay waves of minutes, which compressing more would not do; the price is that
    gaps come nearer to Poisson's in both cases (Palm and Khintchine), and that with many copies
    the waves themselves level out. Repeating arrivals at once instead would invent a
    burst at every arrival.

    Attributes:
        path: csv or csv.gz; see ``read_moments``.
        speed: how many seconds of the trace pass in one; None finds the one for the rate.
    """

    path: str
    speed: float | None = None

    def __post_init__(self) -> None:
        """Refuse a speed that is none."""
        _check_speed(self.speed)

    def seconds(
        self, rate_qps: float, duration_s: float, rng: np.random.Generator
    ) -> Iterator[NDArray[np.float64]]:
        """Yield arrivals in seconds."""
        moments = read_moments(Path(self.path))
        # A mean gap between the last and the first where the trace begins again.
        span = float(moments[-1]) * len(moments) / (len(moments) - 1)
        own_qps = len(moments) / span
        speed = self.speed or rate_qps / own_qps
        # Rounded: what is one copy but for an error in the last place is one copy.
        factor = round(rate_qps / (own_qps * speed), 9)
        if factor > _MOST_COPIES:
            raise UsageError(
                f"{rate_qps:g} queries/s take {factor:.3g} copies of {self.path} at speed "
                f"{speed:g}; at most {_MOST_COPIES:,} are superposed, so raise the speed"
            )
        moments, span = moments / speed, span / speed
        turns = min(ceil(CHUNK / len(moments)), ceil(duration_s / span))
        moments = (moments + np.arange(turns)[:, None] * span).ravel()
        return _superposed(moments, span * turns, factor, duration_s, rng)

    def check(self) -> None:
        """Read the file."""
        read_moments(Path(self.path))


def _superposed(
    moments: NDArray[np.float64],
    span: float,
    factor: float,
    duration_s: float,
    rng: np.random.Generator,
) -> Iterator[NDArray[np.float64]]:
    """Yield ``factor`` copies of a circle of moments, window by window, round after round."""
    copies = max(1, ceil(factor))
    shifts = np.append(0.0, rng.uniform(0, span, size=copies - 1))
    kept = np.ones(copies)
    kept[-1] = factor - (copies - 1)
    # Moments on two turns of the circle, so that no window wraps around.
    twice = np.concatenate([moments - span, moments])
    edges = np.linspace(0, span, max(1, ceil(len(moments) * factor / CHUNK)) + 1)
    for turn in count():
        for start, stop in pairwise(edges.tolist()):
            if turn * span + start >= duration_s:
                return
            first = np.searchsorted(twice, start - shifts)
            found = np.searchsorted(twice, stop - shifts) - first
            place = np.arange(found.sum()) - np.repeat(np.cumsum(found) - found - first, found)
            at = twice[place] + np.repeat(shifts, found)
            if kept[-1] < 1:
                at = at[rng.random(len(at)) < np.repeat(kept, found)]
            yield turn * span + np.sort(at)


def _check_speed(speed: float | None) -> None:
    require(
        speed is None or (speed > 0 and isfinite(speed)), f"a speed is a positive factor: {speed}"
    )
