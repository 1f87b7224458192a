"""When queries arrive, drawn before the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from headway.core import DataError, UsageError, from_seconds
from headway.workload.sizes import Sizes

_SLACK = 6.0
MOST_QUERIES = 20_000_000
"""Longest schedule, in queries."""


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Intended arrivals, in order.

    Attributes:
        intended_ns: int64 ``[queries]``, from the start of the run.
        sizes: int64 ``[queries]``, candidates.
        duration_ns: how long the schedule lasts; rates refer to it.
    """

    intended_ns: NDArray[np.int64]
    sizes: NDArray[np.int64]
    duration_ns: int

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit together.

        Raises:
            DataError: naming what is off.
        """
        if len(self.intended_ns) != len(self.sizes):
            raise DataError(f"{len(self.intended_ns)} arrivals but {len(self.sizes)} sizes")
        if len(self) and (self.intended_ns[0] < 0 or (np.diff(self.intended_ns) < 0).any()):
            raise DataError("arrivals must not be negative and must stand in order")
        if len(self) and self.sizes.min() < 1:
            raise DataError("every query of a schedule needs at least one candidate")
        if self.duration_ns <= 0 or (len(self) and self.intended_ns[-1] > self.duration_ns):
            raise DataError(f"the schedule does not fit into its {self.duration_ns} ns")

    def __len__(self) -> int:
        return len(self.intended_ns)

    def save(self, path: Path) -> None:
        """Write the schedule to ``path`` as an npz file without pickled objects."""
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                intended_ns=self.intended_ns,
                sizes=self.sizes,
                duration_ns=np.int64(self.duration_ns),
            )

    @classmethod
    def load(cls, path: Path) -> Schedule:
        """Read what ``save`` wrote; nothing in the file is executed.

        Raises:
            DataError: if the file is something else.
        """
        try:
            # Our own handle: np.load leaves its own open when the content is no archive.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls(
                    intended_ns=arrays["intended_ns"].astype(np.int64, casting="safe"),
                    sizes=arrays["sizes"].astype(np.int64, casting="safe"),
                    duration_ns=int(arrays["duration_ns"]),
                )
        except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile) as error:
            raise DataError(f"{path} is not a schedule: {error}") from error


def draw_schedule(
    rate_qps: float, duration_s: float, sizes: Sizes, rng: np.random.Generator
) -> Schedule:
    """Draw a Poisson process: independent exponential gaps with mean ``1 / rate_qps``.

    Args:
        rate_qps: mean queries per second.
        duration_s: length of the run in seconds; every arrival falls inside it.
        sizes: source of query sizes.
        rng: source of chance.

    Raises:
        UsageError: if the rate or the duration is not positive, or there would be too many.
    """
    if not (rate_qps > 0 and duration_s > 0):
        raise UsageError(f"a schedule needs a positive rate and length: {rate_qps}, {duration_s}")
    expected = rate_qps * duration_s
    if not expected <= MOST_QUERIES:
        raise UsageError(
            f"{rate_qps:g} queries/s for {duration_s:g} s are {expected:.3g} queries; a schedule "
            f"holds at most {MOST_QUERIES:,}, so lower the rate or the length"
        )
    # Enough gaps that too few of them are out of the question; the loop is for that case.
    arrivals = np.empty(0)
    while not len(arrivals) or arrivals[-1] <= duration_s:
        count = int(expected + _SLACK * expected**0.5) + 16
        last = arrivals[-1] if len(arrivals) else 0.0
        gaps = rng.exponential(1 / rate_qps, size=count)
        arrivals = np.concatenate([arrivals, last + np.cumsum(gaps)])
    arrivals = arrivals[arrivals < duration_s]
    return Schedule(
        intended_ns=np.round(arrivals * 1e9).astype(np.int64),
        sizes=sizes(len(arrivals), rng),
        duration_ns=from_seconds(duration_s),
    )
