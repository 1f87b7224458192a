"""The seam between what computes scores and what decides when to compute them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headway.core.columns import Columns

Hidden = object
"""What a query tower leaves for the candidate tower; only its runner looks inside."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Candidates ``start:stop`` of one query, and where their outputs go.

    Attributes:
        hidden: what ``Runner.query`` returned for this query.
        candidates: candidate-level columns of the whole query.
        start: first candidate.
        stop: one past the last candidate.
        out: float32 ``[query size, tasks]``; rows ``start:stop`` are written.
    """

    hidden: Hidden
    candidates: Columns
    start: int
    stop: int
    out: NDArray[np.float32]


class Runner(Protocol):
    """Computes raw outputs (before the task's link); one per worker thread, not shared.

    Columns are taken as checked. Implementations release the GIL while computing, or compute
    in a process of their own.
    """

    def query(self, context: Columns) -> Hidden:
        """Run the work that depends on the query alone, once for one query."""
        ...

    def candidates(self, pieces: Sequence[Piece]) -> None:
        """Score the pieces, which may be of several queries, in one batch, into their slots."""
        ...

    def close(self) -> None:
        """Give back what the runner holds; it is not used again."""
        ...
