"""The seam of the policies: where a query goes, in what pieces, in what order, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headway.core import Ns
from headway.scheduler.decisions import Work
from headway.scheduler.pools import Pool
from headway.scheduler.queries import Open


class Policy(Protocol):
    """Decides; keeps no queue and ends no query. Equal calls give equal answers.

    Pools are shown to be read. ``pools[0]`` are the cores; ``pools[1]``, where it exists, the
    accelerators.
    """

    @property
    def split(self) -> int:
        """Most candidates in a chunk for cores, at present."""
        ...

    @property
    def rate(self) -> float | None:
        """Candidates per second that arrived of late; None if they are not counted."""
        ...

    def wait_for(self, pool: Pool, now: Ns) -> float | None:
        """Return in how many nanoseconds a new query would be begun, or None if unknown."""
        ...

    def may_take(self, pool: Pool, size: int) -> bool:
        """Return whether a new query of so many candidates may be worked on by the pool."""
        ...

    def enter(self, query: Open, pools: Sequence[Pool], now: Ns) -> Ns | None:
        """Set the query's pool, step, predicted step time and bundle; it has candidates.

        Returns:
            None to let it in, or by how much it is foreseen to be late, to turn it away.
        """
        ...

    def place(self, query: Open, pool: Pool) -> None:
        """Set pool, step and step time of a query that will wait in ``pool``.

        It keeps its bundle if it has begun, or else where that bundle is to be had.
        """
        ...

    def key(self, query: Open) -> float:
        """Return the query's place in its queue: smaller goes first."""
        ...

    def budget(self, pool: Pool) -> int:
        """Return up to how many candidates chunks of several queries are put together."""
        ...

    def source(self, pool: Pool, pools: Sequence[Pool], now: Ns) -> Pool | None:
        """Return whose first query an idle worker of a pool with an empty queue takes over."""
        ...

    def observe(self, pool: Pool, work: Work, busy: int) -> None:
        """Take in that a worker was busy so many nanoseconds with a piece of work."""
        ...

    def time_for(self, candidates: int, pool: Pool) -> Ns | None:
        """Return how long a pool needs for so many candidates, or None if nothing is known."""
        ...
