"""When queries arrive and how large they are, drawn before the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from headway.core import DataError, UsageError, from_seconds
from headway.workload.arrivals import Poisson, Process
from headway.workload.sizes import Sizes

MOST_QUERIES = 20_000_000
"""Longest schedule in one piece, in queries."""
BLOCK = 65_536
"""Queries in a block of a streamed schedule."""
_POISSON = Poisson()


def _no_models() -> NDArray[np.int16]:
    return np.empty(0, np.int16)


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Intended arrivals, in order.

    Attributes:
        intended_ns: int64 ``[queries]``, from the start of the run.
        sizes: int64 ``[queries]``, candidates.
        duration_ns: how long the schedule lasts; rates refer to it. A block of a streamed
            schedule carries the length of the whole.
        models: int16 ``[queries]``, which of several models a query is for; if left empty, all
            are for model 0.
    """

    intended_ns: NDArray[np.int64]
    sizes: NDArray[np.int64]
    duration_ns: int
    models: NDArray[np.int16] = field(default_factory=_no_models)

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit together.

        Raises:
            DataError: naming what is off.
        """
        if not len(self.models):
            object.__setattr__(self, "models", np.zeros(len(self.intended_ns), np.int16))
        for what, column in (("sizes", self.sizes), ("models", self.models)):
            if len(self.intended_ns) != len(column):
                raise DataError(f"{len(self.intended_ns)} arrivals but {len(column)} {what}")
        if len(self) and (self.intended_ns[0] < 0 or (np.diff(self.intended_ns) < 0).any()):
            raise DataError("arrivals must not be negative and must stand in order")
        if len(self) and self.sizes.min() < 1:
            raise DataError("every query of a schedule needs at least one candidate")
        if len(self) and self.models.min() < 0:
            raise DataError("models are counted from 0")
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
                models=self.models,
            )

    @classmethod
    def load(cls, path: Path) -> Schedule:
        """Read what ``save`` wrote, of an older version too; nothing in the file is executed.

        Raises:
            DataError: if the file is something else.
        """
        try:
            with path.open("rb") as file:
                archive = is_zipfile(file)
        except OSError as error:
            raise DataError(f"{path} is not a schedule: {error}") from error
        if not archive:
            raise DataError(
                f"{path} is not a schedule: it is no npz archive, as headway bench --rate RATE "
                "--save-schedule writes one"
            )
        try:
            # Our own handle: np.load leaves its own open when the content is no archive.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                models = arrays["models"] if "models" in arrays else _no_models()
                return cls(
                    intended_ns=arrays["intended_ns"].astype(np.int64, casting="safe"),
                    sizes=arrays["sizes"].astype(np.int64, casting="safe"),
                    duration_ns=int(arrays["duration_ns"]),
                    models=models.astype(np.int16, casting="safe"),
                )
        except DataError:
            raise
        except Exception as error:  # what decoders make of a damaged file is of any kind
            raise DataError(f"{path} is not a schedule: {error}") from error


def draw_schedule(
    rate_qps: float,
    duration_s: float,
    sizes: Sizes,
    rng: np.random.Generator,
    arrivals: Process = _POISSON,
) -> Schedule:
    """Draw a whole run: all arrivals first, then all sizes in one call.

    Args:
        rate_qps: mean queries per second.
        duration_s: length of the run in seconds; every arrival falls inside it.
        sizes: source of query sizes.
        rng: source of chance.
        arrivals: the process; Poisson unless told otherwise.

    Raises:
        UsageError: if the rate or the duration is not positive, or there would be too many.
        DataError: if a file that is replayed cannot be read.
    """
    expected = arrivals.expected(rate_qps, duration_s) if duration_s > 0 else 0.0
    if expected > MOST_QUERIES:
        raise UsageError(
            f"{rate_qps:g} queries/s for {duration_s:g} s are {expected:.3g} queries; a schedule "
            f"holds at most {MOST_QUERIES:,}, so lower the rate or the length, or stream it"
        )
    intended = arrivals.draw(rate_qps, duration_s, rng)
    return Schedule(
        intended_ns=intended,
        sizes=sizes(len(intended), rng),
        duration_ns=from_seconds(duration_s),
    )


def stream_schedule(
    rate_qps: float,
    duration_s: float,
    sizes: Sizes,
    rng: np.random.Generator,
    arrivals: Process = _POISSON,
    block: int = BLOCK,
) -> Iterator[Schedule]:
    """Return an iterator over consecutive parts of a run of any length, with flat memory.

    The process goes on from block to block: together they are one run, and its arrivals depend
    neither on the sizes nor on the length of blocks.

    Args:
        rate_qps: mean queries per second.
        duration_s: length of the run in seconds.
        sizes: source of query sizes, called once per block.
        rng: source of chance; arrivals and sizes each get a source of their own from it.
        arrivals: the process; Poisson unless told otherwise.
        block: queries in every block but the last.

    Raises:
        UsageError: if the rate, the duration or the block is not positive.
        DataError: if a file that is replayed cannot be read.
    """
    if block < 1:
        raise UsageError(f"a block holds at least one query, not {block}")
    when, how_large = rng.spawn(2)
    parts = _in_blocks(arrivals.stream(rate_qps, duration_s, when), block)
    duration_ns = from_seconds(duration_s)
    return (Schedule(part, sizes(len(part), how_large), duration_ns) for part in parts)


def _in_blocks(parts: Iterator[NDArray[np.int64]], block: int) -> Iterator[NDArray[np.int64]]:
    """Yield the same numbers, ``block`` at a time."""
    waiting: list[NDArray[np.int64]] = []
    held = 0
    for part in parts:
        waiting.append(part)
        held += len(part)
        if held < block:
            continue
        joined = np.concatenate(waiting)
        full = held - held % block
        yield from np.split(joined[:full], range(block, full, block))
        waiting, held = [joined[full:]], held - full
    if held:
        yield np.concatenate(waiting)
